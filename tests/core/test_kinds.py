"""Arrays, frames, tables and tensors of all kinds: they arrive as they were, writable, and as the reader's own.

What every edge carries is in `messages.py` and `test_queue.py`; here are the kinds that lie in buffers of their own,
in a size that is copied and in one that the compiled core lets the receiver view where it lies. Those of pandas,
pyarrow and torch are tested where these are installed.
"""

from __future__ import annotations

import array
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_rig import carry, open_edge, put

linux_only = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="shared memory is found by means of /proc")

#: Items of an array that is copied, and of one that is viewed whatever its dtype.
SMALL, LARGE = 60, 30_000
#: Bytes; of a large message's buffers, smaller ones are copied.
MIN_VIEWED_BYTES = 8192

SIZES = pytest.mark.parametrize("n", [SMALL, LARGE], ids=["small", "large"])


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_EXECUTOR_CORE", "compiled")


def is_in_shared_memory(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:pipeline_executor" in line:
            first, end = (int(bound, 16) for bound in line.split(maxsplit=1)[0].split("-"))
            if first <= address < end:
                return True
    return False


def reuse_memory(sender: Any, receiver: Any) -> None:
    """Others come and go in the blocks that are free."""
    for number in range(10):
        put(sender, np.full(LARGE, number), np.full(SMALL, number))
        for _ in range(2):
            assert (receiver.poll()[1] == number).all()


# ---- numpy


def structured(n: int) -> np.ndarray[Any, Any]:
    made = np.zeros(n, dtype=[("a", "<i4"), ("b", "<f8", (2,)), ("c", "S5")])
    made["a"] = range(n)
    made["b"][:, 1] = range(n)
    made["c"] = b"abc"
    return made


def read_only(made: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    made.flags.writeable = False
    return made


def mapped(folder: Path, n: int, mode: Any) -> np.ndarray[Any, Any]:
    file = folder / f"mapped {len(list(folder.iterdir()))}"
    np.arange(n, dtype=np.float64).tofile(file)
    return np.memmap(file, dtype=np.float64, mode=mode, shape=(n,))


ARRAYS: dict[str, Callable[[int, Path], Any]] = {
    "Fortran order": lambda n, _: np.asfortranarray(np.arange(n).reshape(-1, 20)),
    "strided": lambda n, _: np.arange(4 * n).reshape(-1, 20)[::2, ::2],
    "reversed": lambda n, _: np.arange(n)[::-1],
    "transposed": lambda n, _: np.arange(n).reshape(5, 4, -1).transpose(2, 0, 1),
    "a column": lambda n, _: np.arange(20 * n).reshape(-1, 20)[:, 3],
    "a slice": lambda n, _: np.arange(2 * n)[n:],
    "broadcast": lambda n, _: np.broadcast_to(np.arange(n // 10), (10, n // 10)),
    "one value broadcast": lambda n, _: np.broadcast_to(np.float64(2.5), (n,)),
    "no items, much of them": lambda n, _: np.empty((n, 0, n), dtype=np.int16),
    "zero dimensions": lambda n, _: np.full(n, 7)[n - 1 :].reshape(()),
    "zero dimensions, an object": lambda n, _: np.array({"a": list(range(n))}, dtype=object),
    "structured": lambda n, _: structured(n),
    "a field of a structured one": lambda n, _: structured(n)["b"],
    "records": lambda n, _: structured(n).view(np.recarray),
    "objects": lambda n, _: np.array([None, "a", 2**70] * (n // 3), dtype=object),
    "strings": lambda n, _: np.array([str(number) for number in range(n)]),
    "bytes": lambda n, _: np.array([b"%d" % number for number in range(n)]),
    "void": lambda n, _: np.arange(2 * n).view("V16"),
    "datetime64": lambda n, _: np.arange(n).astype("datetime64[ms]"),
    "timedelta64 with not-a-time": lambda n, _: np.array([*range(1, n), "NaT"], dtype="timedelta64[us]"),
    "bool": lambda n, _: np.arange(10 * n) % 3 == 0,
    "float16": lambda n, _: (np.arange(4 * n) % 1000).astype(np.float16),
    "long double with nan": lambda n, _: np.where(np.arange(n) % 2, np.longdouble(1) / 3, np.longdouble("nan")),
    "complex64": lambda n, _: (np.arange(n) * (1 - 2j)).astype(np.complex64),
    "big endian": lambda n, _: np.arange(n).astype(">f8"),
    "read-only": lambda n, _: read_only(np.arange(n)),
    "read-only Fortran order": lambda n, _: read_only(np.asfortranarray(np.arange(n).reshape(-1, 20))),
    "read-only over bytes": lambda n, _: np.frombuffer(bytes(range(256)) * (n // 10), dtype=np.uint8),
    "unaligned": lambda n, _: np.frombuffer(bytearray(8 * n + 1), dtype=np.uint8)[1:].view(np.int64),
    "mapped": lambda n, folder: mapped(folder, n, "r+"),
    "mapped read-only": lambda n, folder: mapped(folder, n, "r"),
    "masked": lambda n, _: np.ma.masked_greater(np.arange(n), n // 2),
    "masked, no mask": lambda n, _: np.ma.masked_array(np.arange(n), fill_value=-5),
    "of a type of one's own": lambda n, _: np.arange(n).reshape(-1, 20).view(Grid),
}

#: Those whose bytes numpy hands over beside the pickle.
VIEWED = [
    "Fortran order",
    "a slice",
    "structured",
    "strings",
    "bytes",
    "void",
    "bool",
    "float16",
    "long double with nan",
    "complex64",
    "big endian",
    "read-only",
    "read-only Fortran order",
    "read-only over bytes",
    "unaligned",
]


class Grid(np.ndarray[Any, Any]):
    """A type of array that somebody made."""


def assert_same_array(received: Any, expected: Any) -> None:
    assert type(received) is type(expected)
    assert received.dtype == expected.dtype
    assert received.shape == expected.shape
    np.testing.assert_array_equal(received, expected)
    if isinstance(expected, np.ma.MaskedArray):
        np.testing.assert_array_equal(np.ma.getmaskarray(received), np.ma.getmaskarray(expected))
        np.testing.assert_array_equal(received.data, expected.data)
        assert received.fill_value == expected.fill_value


def overwrite(written: Any) -> None:
    """Through what it is an array of, where it cannot be written itself."""
    while not written.flags.writeable and isinstance(written.base, np.ndarray):
        written = written.base
    if written.flags.writeable:
        written[...] = np.zeros((), dtype=written.dtype)[()]


@SIZES
@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_arrives_as_it_was_at_the_send_and_writable(core: str, kind: str, n: int, tmp_path: Path) -> None:
    with open_edge() as (_, [sender], [receiver]):
        sent, before = ARRAYS[kind](n, tmp_path), ARRAYS[kind](n, tmp_path)
        put(sender, sent, {"in a value": [sent]})
        overwrite(sent)
        put(sender, np.ones(n))
        _, received = receiver.poll()
        assert_same_array(received, before)
        if before.flags.c_contiguous or before.flags.f_contiguous:
            assert received.flags.c_contiguous == before.flags.c_contiguous
            assert received.flags.f_contiguous == before.flags.f_contiguous
        assert received.flags.writeable
        overwrite(received)
        _, other = receiver.poll()
        assert_same_array(other["in a value"][0], before)
        assert_same_array(receiver.poll()[1], np.ones(n))


@pytest.mark.parametrize("kind", [kind for kind in ARRAYS if not kind.startswith("zero dimensions")])
def test_a_part_of_a_large_array_outlives_the_whole_and_the_run(core: str, kind: str, tmp_path: Path) -> None:
    with open_edge() as (_, [sender], [receiver]):
        sent = ARRAYS[kind](LARGE, tmp_path)
        put(sender, sent, sent)
        part = receiver.poll()[1][1::2]
        _, whole = receiver.poll()
        reuse_memory(sender, receiver)
        np.testing.assert_array_equal(part, sent[1::2])
    np.testing.assert_array_equal(part, sent[1::2])
    assert_same_array(whole, sent)


@linux_only
@pytest.mark.parametrize("kind", VIEWED)
def test_a_large_array_is_viewed_where_its_message_lies(compiled: None, kind: str, tmp_path: Path) -> None:
    received = carry(ARRAYS[kind](LARGE, tmp_path))
    first, end = np.lib.array_utils.byte_bounds(received)
    assert is_in_shared_memory(first)
    assert is_in_shared_memory(end - 1)


SCALARS: dict[str, Any] = {
    "float64": np.float64(0.1),
    "float32": np.float32(0.1),
    "float16": np.float16(0.1),
    "long double": np.longdouble(1) / 3,
    "int8": np.int8(-128),
    "uint64": np.uint64(2**64 - 1),
    "bool": np.bool_(True),
    "complex64": np.complex64(1 - 2j),
    "str": np.str_("aä"),
    "bytes": np.bytes_(b"ab"),
    "datetime64": np.datetime64("2024-02-29T12:00", "s"),
    "timedelta64": np.timedelta64(5, "D"),
    "void": np.void(b"abcd"),
    "a record": structured(3)[1],
}


@pytest.mark.parametrize("kind", SCALARS)
def test_a_numpy_scalar_keeps_its_type(core: str, kind: str) -> None:
    sent = SCALARS[kind]
    for received in (carry(sent), carry((sent, 1))[0]):
        assert type(received) is type(sent)
        assert received.dtype == sent.dtype
        np.testing.assert_array_equal(received, sent)


def test_numpy_singletons_and_types_are_the_same_objects_again(core: str) -> None:
    assert carry(np.ma.masked) is np.ma.masked
    assert carry(np.float32) is np.float32
    assert carry(np.add) is np.add
    assert carry(np.dtype("<i4")) == np.dtype("<i4")


def test_a_generator_of_random_numbers_goes_on_where_it_was(core: str) -> None:
    generator = np.random.default_rng(5)
    generator.random(3)
    received = carry(generator)
    assert received.random() == generator.random()


# ---- buffers of the standard library


class OverMemory:
    """Holds a memoryview, and hands its bytes over beside the pickle."""

    def __init__(self, data: Any) -> None:
        self.view = memoryview(data)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OverMemory, (pickle.PickleBuffer(self.view),)


@SIZES
def test_a_class_that_holds_a_memoryview_gets_a_buffer_of_its_own(core: str, n: int) -> None:
    with open_edge() as (_, [sender], [receiver]):
        data = bytearray(number % 251 for number in range(n))
        before = bytes(data)
        put(sender, OverMemory(data), [OverMemory(data)])
        data[:] = bytes(n)
        _, received = receiver.poll()
        assert bytes(received.view) == before
        assert not received.view.readonly
        received.view[:] = bytes(n)
        assert bytes(receiver.poll()[1][0].view) == before
        part = received.view[n // 2 :]
        part[:] = b"x" * len(part)
        del received
        reuse_memory(sender, receiver)
    assert bytes(part) == b"x" * len(part)


@SIZES
def test_a_class_that_holds_a_read_only_memoryview_gets_its_bytes(core: str, n: int) -> None:
    data = bytes(number % 251 for number in range(n))
    assert bytes(carry(OverMemory(data)).view) == data


@SIZES
def test_the_bytes_of_a_memoryview_arrive(core: str, n: int) -> None:
    data = bytes(number % 251 for number in range(n))
    assert bytes(carry(memoryview(data))) == data
    assert bytes(carry([memoryview(bytearray(data))])[0]) == data


@SIZES
@pytest.mark.parametrize("code", ["b", "H", "i", "q", "f", "d", "u" if sys.version_info < (3, 13) else "w"])
def test_an_array_of_the_standard_library_is_kept(core: str, code: str, n: int) -> None:
    with open_edge() as (_, [sender], [receiver]):
        values: Any = "aä€" * (n // 3) if code in "uw" else [number % 100 for number in range(n)]
        sent = array.array(code, values)
        before = sent[:]
        put(sender, sent)
        sent[0] = sent[1]
        del sent[2:]
        _, received = receiver.poll()
        assert type(received) is array.array
        assert received.typecode == code
        assert received == before
        received.append(received[0])


# ---- pandas


@pytest.fixture(scope="session")
def pandas() -> Any:
    """For the session: it is imported before what is left behind after a test is counted."""
    return pytest.importorskip("pandas")


def two_level_index(pd: Any, n: int) -> Any:
    return pd.MultiIndex.from_product([range(n // 20), [f"a{number}" for number in range(20)]], names=["first", None])


#: pandas refuses to change it where it was made.
READ_ONLY_FRAME = "over a read-only array"

FRAMES: dict[str, Callable[[Any, int], Any]] = {
    "ints": lambda pd, n: pd.DataFrame({"a": np.arange(n), "b": np.arange(n, dtype=np.int8)}),
    "floats, one block": lambda pd, n: pd.DataFrame(np.arange(4.0 * n).reshape(n, 4), columns=list("abcd")),
    "mixed": lambda pd, n: pd.DataFrame({"a": np.arange(n), "b": np.arange(n) / 7, "c": np.arange(n) % 2 == 0}),
    "strings": lambda pd, n: pd.DataFrame({"a": [f"text ä {number}" for number in range(n)], "b": range(n)}),
    "objects": lambda pd, n: pd.DataFrame({"a": [None, "a", 2.5] * (n // 3)}, dtype=object),
    "categories": lambda pd, n: pd.DataFrame({"a": pd.Categorical(["x", "y", None] * (n // 3), categories=["y", "x"])}),
    "ordered categories": lambda pd, n: pd.DataFrame(
        {"a": pd.Categorical(["low", "high"] * (n // 2), categories=["low", "high"], ordered=True)}
    ),
    "datetime index": lambda pd, n: pd.DataFrame(
        {"a": np.arange(n)}, index=pd.date_range("2024-02-28", periods=n, freq="min", name="when")
    ),
    "datetime index with a zone": lambda pd, n: pd.DataFrame(
        {"a": np.arange(n)}, index=pd.date_range("2024-02-28", periods=n, freq="h", tz="UTC")
    ),
    "datetimes and missing ones": lambda pd, n: pd.DataFrame({"a": pd.to_datetime(["2024-02-29", None] * (n // 2))}),
    "nullable": lambda pd, n: pd.DataFrame(
        {"a": pd.array([1, None] * (n // 2), dtype="Int32"), "b": pd.array([True, None] * (n // 2), dtype="boolean")}
    ),
    "two-level index": lambda pd, n: pd.DataFrame({"a": np.arange(n)}, index=two_level_index(pd, n)),
    "a view of every second row": lambda pd, n: pd.DataFrame({"a": np.arange(2 * n), "b": np.arange(2.0 * n)})[::2],
    READ_ONLY_FRAME: lambda pd, n: pd.DataFrame(read_only(np.arange(4.0 * n).reshape(n, 4)), copy=False),
    "no rows": lambda pd, n: pd.DataFrame({"a": np.arange(n), "b": [str(number) for number in range(n)]})[:0],
    "series of floats": lambda pd, n: pd.Series(np.arange(n) / 3, name="values"),
    "series of strings": lambda pd, n: pd.Series([f"text {number}" for number in range(n)]),
    "series of datetimes": lambda pd, n: pd.Series(pd.date_range("2024-02-28", periods=n, freq="s")),
    "series of intervals": lambda pd, n: pd.Series(pd.interval_range(0, n)),
    "index of strings": lambda pd, n: pd.Index([f"label {number}" for number in range(n)], name="labels"),
}


def assert_same_frame(pd: Any, received: Any, expected: Any) -> None:
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(received, expected)
    elif isinstance(expected, pd.Series):
        pd.testing.assert_series_equal(received, expected)
    else:
        pd.testing.assert_index_equal(received, expected)


def change(pd: Any, frame: Any) -> None:
    """In place: a value of each column, where it has any."""
    if isinstance(frame, pd.Series):
        frame.iloc[0] = frame.iloc[1]
    elif isinstance(frame, pd.DataFrame) and len(frame):
        for column in range(frame.shape[1]):
            frame.iloc[0, column] = frame.iloc[1, column]


@SIZES
@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_arrives_as_it_was_at_the_send_and_can_be_changed(core: str, kind: str, n: int, pandas: Any) -> None:
    with open_edge() as (_, [sender], [receiver]):
        sent, before = FRAMES[kind](pandas, n), FRAMES[kind](pandas, n)
        put(sender, sent, {"in a value": sent})
        if kind != READ_ONLY_FRAME:
            change(pandas, sent)
        _, received = receiver.poll()
        assert_same_frame(pandas, received, before)
        change(pandas, received)
        changed = before.copy()
        change(pandas, changed)
        assert_same_frame(pandas, received, changed)
        assert_same_frame(pandas, receiver.poll()[1]["in a value"], before)


@pytest.mark.parametrize("kind", FRAMES)
def test_a_part_of_a_large_frame_outlives_the_whole_and_the_run(core: str, kind: str, pandas: Any) -> None:
    with open_edge() as (_, [sender], [receiver]):
        sent = FRAMES[kind](pandas, LARGE)
        put(sender, sent)
        _, received = receiver.poll()
        part = received[5:50]
        del received
        reuse_memory(sender, receiver)
        assert_same_frame(pandas, part, sent[5:50])
    assert_same_frame(pandas, part, sent[5:50])


@linux_only
def test_the_numbers_of_a_large_frame_are_viewed_where_their_message_lies(compiled: None, pandas: Any) -> None:
    received = carry(FRAMES["floats, one block"](pandas, LARGE))
    column = received["c"].to_numpy()
    assert is_in_shared_memory(column.__array_interface__["data"][0])
    np.testing.assert_array_equal(column, np.arange(4.0 * LARGE)[2::4])


# ---- pyarrow


@pytest.fixture(scope="session")
def pyarrow() -> Any:
    return pytest.importorskip("pyarrow")


def table(pa: Any, n: int) -> Any:
    return pa.table(
        {
            "ints": pa.array(range(n)),
            "some": pa.array([1.5, None] * (n // 2)),
            "text": pa.array([f"text ä {number}" for number in range(n)]),
            "lists": pa.array([[number] * (number % 3) for number in range(n)]),
        },
        metadata={"made by": "a test"},
    )


TABLES: dict[str, Callable[[Any, int], Any]] = {
    "table": table,
    "table in chunks": lambda pa, n: pa.concat_tables([table(pa, n), table(pa, n)]),
    "a slice of a table": lambda pa, n: table(pa, 2 * n).slice(n // 2, n),
    "table without rows": lambda pa, n: table(pa, n).slice(0, 0),
    "record batch": lambda pa, n: table(pa, n).to_batches()[0],
    "ints": lambda pa, n: pa.array(range(n)),
    "ints and missing ones": lambda pa, n: pa.array([1, None, 3] * (n // 3), type=pa.int16()),
    "bools": lambda pa, n: pa.array([True, False, None] * (n // 3)),
    "strings": lambda pa, n: pa.array([f"text {number}" for number in range(n)]),
    "dictionary": lambda pa, n: pa.array(["x", "y", None] * (n // 3)).dictionary_encode(),
    "structs": lambda pa, n: pa.array([{"a": number, "b": str(number)} for number in range(n)]),
    "timestamps": lambda pa, n: pa.array(range(n), type=pa.timestamp("us", tz="UTC")),
    "chunked": lambda pa, n: pa.chunked_array([range(n), range(n, 2 * n)]),
    "buffer": lambda pa, n: pa.py_buffer(bytes(range(250)) * (n // 10)),
}


@SIZES
@pytest.mark.parametrize("kind", TABLES)
def test_a_table_arrives_as_it_was(core: str, kind: str, n: int, pyarrow: Any) -> None:
    sent = TABLES[kind](pyarrow, n)
    received = carry({"in a value": [sent]})["in a value"][0]
    for found in (carry(sent), received):
        assert type(found) is type(sent)
        assert found.equals(sent)
        if hasattr(found, "validate"):
            found.validate(full=True)
        if hasattr(sent, "schema"):
            assert found.schema.equals(sent.schema, check_metadata=True)


@pytest.mark.parametrize("kind", TABLES)
def test_a_part_of_a_large_table_outlives_the_whole_and_the_run(core: str, kind: str, pyarrow: Any) -> None:
    with open_edge() as (_, [sender], [receiver]):
        sent = TABLES[kind](pyarrow, LARGE)
        put(sender, sent)
        _, received = receiver.poll()
        part = received.slice(100, 1000) if hasattr(received, "slice") else received
        del received
        reuse_memory(sender, receiver)
        expected = sent.slice(100, 1000) if hasattr(sent, "slice") else sent
        assert part.equals(expected)
    assert part.equals(expected)


@SIZES
def test_a_table_is_a_snapshot_when_the_array_below_it_changes(core: str, n: int, pyarrow: Any) -> None:
    with open_edge() as (_, [sender], [receiver]):
        below = np.arange(n)
        column = pyarrow.Array.from_buffers(pyarrow.int64(), n, [None, pyarrow.py_buffer(below)])
        put(sender, pyarrow.table({"a": column}))
        below[:] = -1
        assert column[1].as_py() == -1  # it does lie over the array
        assert receiver.poll()[1]["a"].to_pylist() == list(range(n))


@linux_only
def test_the_columns_of_a_large_table_are_viewed_where_their_message_lies(compiled: None, pyarrow: Any) -> None:
    received = carry(table(pyarrow, LARGE))
    for name in ("ints", "some", "text"):
        for buffer in received[name].chunk(0).buffers():
            if buffer is not None and buffer.size >= MIN_VIEWED_BYTES:
                assert is_in_shared_memory(buffer.address)


# ---- torch


@pytest.fixture(scope="session")
def torch() -> Any:
    return pytest.importorskip("torch")


TENSORS: dict[str, Callable[[Any, int], Any]] = {
    "contiguous": lambda torch, n: torch.arange(n, dtype=torch.float32).reshape(-1, 20),
    "transposed": lambda torch, n: torch.arange(n).reshape(-1, 20).t(),
    "three dimensions permuted": lambda torch, n: torch.arange(n).reshape(5, 4, -1).permute(2, 0, 1),
    "strided": lambda torch, n: torch.arange(4 * n).reshape(-1, 20)[::2, ::2],
    "a slice": lambda torch, n: torch.arange(3 * n)[n : 2 * n],
    "expanded": lambda torch, n: torch.arange(n // 10).expand(10, n // 10),
    "channels last": lambda torch, n: (
        torch.arange(n).reshape(1, 5, 4, -1).contiguous(memory_format=torch.channels_last)
    ),
    "bfloat16": lambda torch, n: (torch.arange(2 * n) % 200).to(torch.bfloat16),
    "float16": lambda torch, n: (torch.arange(2 * n) % 200).to(torch.float16),
    "float64": lambda torch, n: torch.arange(n, dtype=torch.float64) / 3,
    "int8": lambda torch, n: (torch.arange(10 * n) % 100).to(torch.int8),
    "bool": lambda torch, n: torch.arange(10 * n) % 3 == 0,
    "complex64": lambda torch, n: torch.complex(torch.arange(n) / 3, torch.arange(n) / 7),
    "a complex one's conjugate": lambda torch, n: torch.complex(torch.arange(n) / 3, torch.arange(n) / 7).conj(),
    "the imaginary part of it": lambda torch, n: torch.complex(torch.arange(n) / 3, torch.arange(n) / 7).conj().imag,
    "uint16": lambda torch, n: torch.arange(2 * n).to(torch.uint16),
    "zero dimensions, bfloat16": lambda torch, n: torch.tensor(2.5, dtype=torch.bfloat16),
    "bfloat16, strided": lambda torch, n: (torch.arange(4 * n) % 200).to(torch.bfloat16)[::3],
    "a result with a gradient": lambda torch, n: (torch.arange(n) / 3).requires_grad_() * 2,
    "needs a gradient": lambda torch, n: (torch.arange(n) / 3).requires_grad_(),
    "parameter": lambda torch, n: torch.nn.Parameter(torch.arange(n).reshape(-1, 20) / 3),
    "parameter without gradient": lambda torch, n: torch.nn.Parameter(torch.arange(n) / 3, requires_grad=False),
    "over a numpy array": lambda torch, n: torch.from_numpy(np.arange(n)),
    "no items": lambda torch, n: torch.empty((n, 0, 3)),
    "zero dimensions": lambda torch, n: torch.tensor(3.5),
    "one of a large storage": lambda torch, n: torch.arange(n)[n // 2],
    "sparse": lambda torch, n: torch.eye(n // 20).to_sparse(),
}


def assert_same_tensor(torch: Any, received: Any, expected: Any) -> None:
    assert type(received) is type(expected)
    assert received.dtype == expected.dtype
    assert received.shape == expected.shape
    assert received.layout == expected.layout
    assert received.device == expected.device
    assert received.requires_grad == expected.requires_grad
    assert received.is_leaf
    if received.layout == torch.strided:
        assert torch.equal(received, expected)
    else:
        assert torch.equal(received.to_dense(), expected.to_dense())


def overwrite_tensor(torch: Any, tensor: Any) -> None:
    if tensor.layout == torch.strided:
        with torch.no_grad():
            (tensor if tensor._base is None else tensor._base).fill_(1)


@SIZES
@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_arrives_as_it_was_at_the_send_and_writable(core: str, kind: str, n: int, torch: Any) -> None:
    with open_edge() as (_, [sender], [receiver]):
        sent, before = TENSORS[kind](torch, n), TENSORS[kind](torch, n)
        put(sender, sent, [sent])
        overwrite_tensor(torch, sent)
        _, received = receiver.poll()
        assert_same_tensor(torch, received, before)
        assert received.layout != torch.strided or received.is_contiguous() or not before.is_contiguous()
        overwrite_tensor(torch, received)
        assert received.layout != torch.strided or bool((received == 1).all())
        assert_same_tensor(torch, receiver.poll()[1][0], before)


@pytest.mark.parametrize("kind", TENSORS)
def test_large_tensors_outlive_the_message_and_the_run(core: str, kind: str, torch: Any) -> None:
    with open_edge() as (_, [sender], [receiver]):
        sent = TENSORS[kind](torch, LARGE)
        put(sender, [sent, torch.full((LARGE,), 7)], sent)
        _, (first, _) = receiver.poll()
        _, second = receiver.poll()
        part = second.detach()[1:2] if sent.dim() and sent.layout == torch.strided else None
        del second
        reuse_memory(sender, receiver)
    assert_same_tensor(torch, first, sent)
    if part is not None:
        assert torch.equal(part, sent.detach()[1:2])


@SIZES
def test_tensors_in_a_value_are_kept(core: str, n: int, torch: Any) -> None:
    sent = {
        "weights": torch.arange(n) / 3,
        "pair": (torch.arange(n).to(torch.bfloat16), "between", torch.nn.Parameter(torch.ones(n))),
        "array": np.arange(n),
        "shape": torch.Size([1, 2]),
        "kind": torch.float16,
    }
    received = carry(sent)
    assert list(received) == list(sent)
    assert_same_tensor(torch, received["weights"], sent["weights"])
    assert_same_tensor(torch, received["pair"][0], sent["pair"][0])
    assert_same_tensor(torch, received["pair"][2], sent["pair"][2])
    np.testing.assert_array_equal(received["array"], sent["array"])
    assert received["shape"] == sent["shape"]
    assert type(received["shape"]) is torch.Size
    assert received["kind"] is torch.float16
    for tensor in (received["weights"], received["pair"][0]):
        tensor += 1


@SIZES
@pytest.mark.parametrize("kind", ["transposed", "three dimensions permuted", "channels last"])
def test_the_memory_order_of_a_tensor_is_kept(core: str, kind: str, n: int, torch: Any) -> None:
    # Which of a model's kernels run, and how fast, depends on it.
    sent = TENSORS[kind](torch, n)
    received = carry(sent)
    assert torch.equal(received, sent)
    assert received.stride() == sent.stride()


def test_an_attribute_of_a_tensor_is_kept(core: str, torch: Any) -> None:
    sent = torch.arange(SMALL)
    sent.label = "noted"
    received = carry(sent)
    assert torch.equal(received, sent)
    assert received.label == "noted"


def test_one_tensor_twice_in_a_message_is_one_tensor_again(core: str, torch: Any) -> None:
    tensor = torch.arange(LARGE)
    first, second = carry([tensor, tensor])
    assert first is second
    layer = torch.nn.Linear(3, 3)
    received = carry(torch.nn.Sequential(layer, torch.nn.ReLU(), layer))
    assert received[0].weight is received[2].weight


@SIZES
def test_a_module_arrives_with_its_parameters(core: str, n: int, torch: Any) -> None:
    sent = torch.nn.Sequential(torch.nn.Linear(n // 20, 20), torch.nn.BatchNorm1d(20)).eval()
    received = carry(sent)
    assert [name for name, _ in received.named_parameters()] == [name for name, _ in sent.named_parameters()]
    for name, expected in sent.state_dict().items():
        assert torch.equal(received.state_dict()[name], expected)
    batch = torch.arange(3.0 * (n // 20)).reshape(3, -1)
    assert torch.equal(received(batch), sent(batch))
    loss = received.train()(batch).sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in received.parameters())


@pytest.mark.parametrize("kind", ["slice", "column", "item"])
def test_a_slice_of_a_large_storage_does_not_carry_the_whole_storage(core: str, kind: str, torch: Any) -> None:
    whole = torch.arange(1_000_000).reshape(1000, 1000)
    sent = {"slice": whole[500], "column": whole[:, 500], "item": whole[500, 500]}[kind]
    with open_edge(max_message_bytes=20_000) as (_, [sender], [receiver]):
        put(sender, sent, {"in a value": [sent]})
        assert_same_tensor(torch, receiver.poll()[1], sent)
        assert_same_tensor(torch, receiver.poll()[1]["in a value"][0], sent)


@linux_only
@pytest.mark.parametrize(
    "kind", ["contiguous", "a slice", "bfloat16", "bool", "complex64", "needs a gradient", "parameter"]
)
def test_a_large_tensor_is_viewed_where_its_message_lies(compiled: None, kind: str, torch: Any) -> None:
    received = carry(TENSORS[kind](torch, LARGE))
    assert is_in_shared_memory(received.data_ptr())
