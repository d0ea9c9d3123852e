"""Values of every kind that an edge may carry; module-level, so that every process can import their types."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import pathlib
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Colour(enum.IntEnum):
    RED = 1


class Mood(enum.Enum):
    CALM = "calm"


class Flags(enum.Flag):
    A = 1
    B = 2


class Int(int):
    pass


class Float(float):
    pass


class Str(str):
    __slots__ = ()


class Bytes(bytes):
    pass


class Tuple(tuple[Any, ...]):
    __slots__ = ()


class Pair(NamedTuple):
    first: int
    second: str


@dataclass
class Record:
    name: str
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float


SIMPLE: dict[str, Any] = {
    "none": None,
    "false": False,
    "true": True,
    "zero": 0,
    "minus one": -1,
    "largest 64 bit": 2**63 - 1,
    "smallest 64 bit": -(2**63),
    "above 64 bit": 2**63,
    "below 64 bit": -(2**63) - 1,
    "huge int": 3**5000,
    "huge negative int": -(3**5000),
    "int subclass": Int(5),
    "int enum": Colour.RED,
    "enum": Mood.CALM,
    "flags": Flags.A | Flags.B,
    "float": 0.1,
    "zero float": 0.0,
    "minus zero": -0.0,
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "smallest float": 5e-324,
    "float subclass": Float(0.5),
    "complex": complex(1, -0.0),
    "str subclass": Str("abc"),
    "bytes subclass": Bytes(b"abc"),
    "tuple subclass": Tuple((1, 2)),
    "named tuple": Pair(1, "a"),
    "lone surrogate": "a\ud800b",
    "only surrogates": "\udfff" * 50,
    "nul in str": "a\0b",
    "astral": "😀" * 10,
    "long non-ascii": "ä" * 100_000,
    "big str": "x" * 5_000_000,
    "big bytes": b"x" * 5_000_000,
    "bytearray": bytearray(b"abc"),
    "empty bytearray": bytearray(),
    "big bytearray": bytearray(range(256)) * 1000,
    "empty tuple": (),
    "flat tuple": (None, True, False, 1, -1, 0.5, "a", b"b"),
    "tuple of nine": tuple(range(9)),
    "tuple of thousand": tuple(range(1000)),
    "tuple with empty": ("", b"", 0),
    "tuple with huge int": (1, 2**70),
    "tuple with surrogate": (1, "\ud800"),
    "tuple with 255 bytes": (b"x" * 255, "y" * 255),
    "tuple with 256 bytes": (b"x" * 256,),
    "tuple at the scratch limit": (b"x" * 254, b"y" * 254),
    "tuple past the scratch limit": (b"x" * 255, b"y" * 253),
    "tuple with subclass": (Int(1), Colour.RED, Str("a"), Bytes(b"a"), Float(1.0)),
    "nested tuple": (1, (2, (3, ("four", b"five")))),
    "tuple of containers": ([1], {2: 3}, {4}),
    "list": [1, "a", None],
    "empty list": [],
    "dict": {"a": 1, 2: [3], None: {}},
    "empty dict": {},
    "ordered dict": collections.OrderedDict(b=1, a=2),
    "default dict": collections.defaultdict(list, {"a": [1]}),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2], maxlen=3),
    "set": {1, 2, 3},
    "frozenset": frozenset({"a", "b"}),
    "range": range(1, 10, 2),
    "slice": slice(1, None, 2),
    "ellipsis": ...,
    "not implemented": NotImplemented,
    "dataclass": Record("a", [1.0, 2.0]),
    "slotted dataclass": Point(1.0, -1.0),
    "datetime": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
    "decimal": decimal.Decimal("1.10"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=7),
    "path": pathlib.PurePosixPath("/a/b"),
    "array of doubles": array.array("d", [1.0, 2.0]),
    "large array of ints": array.array("q", range(10_000)),
    "type": int,
    "own type": Record,
    "function": len,
    **{f"str of {size} bytes": "x" * size for size in (0, 1, 39, 40, 41, 255, 256, 257, 65_535, 65_536, 65_537)},
    **{f"bytes of {size} bytes": b"x" * size for size in (0, 1, 39, 40, 41, 255, 256, 257, 65_535, 65_536, 65_537)},
}


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    """New ones for each call, because some tests write to them."""
    base = np.arange(4096, dtype=np.float64).reshape(64, 64)
    read_only = base.copy()
    read_only.flags.writeable = False
    small_read_only = np.arange(5)
    small_read_only.flags.writeable = False
    structured = np.zeros(300, dtype=[("a", "<i4"), ("b", "<f8", (2,)), ("c", "S5")])
    structured["a"] = range(300)
    return {
        "C order": base.copy(),
        "Fortran order": np.asfortranarray(base),
        "one dimension": np.arange(1000, dtype=np.int16),
        "small": np.arange(5),
        "127 items": np.arange(127),
        "128 items": np.arange(128),
        "strided": base[::2, ::3],
        "reversed": base[::-1],
        "transposed": base.reshape(16, 16, 16).transpose(2, 0, 1),
        "broadcast": np.broadcast_to(np.arange(64), (64, 64)),
        "no items": np.empty((3, 0, 2), dtype=np.float32),
        "zero dimensions": np.array(3.5),
        "structured": structured,
        "objects": np.array([None, "a", [1, 2], {"b": 3}], dtype=object),
        "strings": np.array(["a", "bcd"]),
        "bools": np.arange(2000) % 3 == 0,
        "complex": np.arange(200) * 1j,
        "big endian": np.arange(500, dtype=">i4"),
        "dates": np.array(["2024-02-29"], dtype="datetime64[D]"),
        "read-only": read_only,
        "small read-only": small_read_only,
        "read-only Fortran order": np.asfortranarray(read_only),
        "unaligned": np.frombuffer(b"x" + bytes(4096), dtype=np.uint8)[1:].view(np.float64),
        "large": np.arange(1_000_000, dtype=np.float64),
    }


ARRAY_NAMES = list(arrays())
