"""What type stubs say about the classes of the standard library, and the classes themselves do not.

At run time, `list` has no base class but `object` and no annotations. For a type checker it is a `MutableSequence[T]`.
The tables here state that as the stubs do. The variance of a type parameter is that of its `TypeVar`.

Source: https://github.com/python/typeshed/tree/main/stdlib
"""

# mypy: disable-error-code="valid-type, misc"
# The tables use type variables outside of any class or function, which mypy reports as errors.

from __future__ import annotations

import collections
import collections.abc as abc
import contextlib
import enum
import io
import os
import re
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from pipeline_executor.check.relation.type_forms import AnyClass

__all__ = ["BUILTIN_MEMBERS", "PROTOCOL_MEMBERS", "Stub", "class_path", "is_described_by_stubs", "stub_of"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
K = TypeVar("K")
V = TypeVar("V")
K_co = TypeVar("K_co", covariant=True)
V_co = TypeVar("V_co", covariant=True)
Send_contra = TypeVar("Send_contra", contravariant=True)
Return_co = TypeVar("Return_co", covariant=True)


class Stub(NamedTuple):
    """What the stubs say about a class.

    Attributes:
        parameters: its type parameters.
        bases: its base classes, as annotations that may use these parameters.
    """

    parameters: tuple[Any, ...] = ()
    bases: tuple[Any, ...] = ()


def stub_of(class_: AnyClass) -> Stub | None:
    """Return what the stubs say about a class; None if it is not in the tables."""
    return _STUBS.get(class_) or _STUBS_BY_PATH.get(class_path(class_))


def class_path(class_: AnyClass) -> str:
    """Return the module and name of a class: "numpy.ndarray"."""
    return f"{class_.__module__}.{class_.__qualname__}"


def is_described_by_stubs(class_: AnyClass) -> bool:
    """Tell whether only stubs have the types of a class's methods, as for the interpreter's own classes."""
    return class_.__module__ in _INTERPRETER_MODULES or class_ in _STUBS


_INTERPRETER_MODULES = frozenset(
    {"builtins", "collections", "collections.abc", "typing", "types", "re", "io", "_io", "enum"}
)

_STUBS: dict[object, Stub] = {
    # collections.abc
    abc.Container: Stub((T_co,)),
    abc.Iterable: Stub((T_co,)),
    abc.Iterator: Stub((T_co,), (abc.Iterable[T_co],)),
    abc.Reversible: Stub((T_co,), (abc.Iterable[T_co],)),
    abc.Collection: Stub((T_co,), (abc.Sized, abc.Iterable[T_co], abc.Container[T_co])),
    abc.Sequence: Stub((T_co,), (abc.Reversible[T_co], abc.Collection[T_co])),
    abc.MutableSequence: Stub((T,), (abc.Sequence[T],)),
    abc.Set: Stub((T_co,), (abc.Collection[T_co],)),
    abc.MutableSet: Stub((T,), (abc.Set[T],)),
    abc.Mapping: Stub((K, V_co), (abc.Collection[K],)),
    abc.MutableMapping: Stub((K, V), (abc.Mapping[K, V],)),
    abc.MappingView: Stub((), (abc.Sized,)),
    abc.KeysView: Stub((K_co,), (abc.MappingView, abc.Set[K_co])),
    abc.ItemsView: Stub((K_co, V_co), (abc.MappingView, abc.Set[tuple[K_co, V_co]])),
    abc.ValuesView: Stub((V_co,), (abc.MappingView, abc.Collection[V_co])),
    abc.Generator: Stub((T_co, Send_contra, Return_co), (abc.Iterator[T_co],)),
    abc.Awaitable: Stub((T_co,)),
    abc.Coroutine: Stub((T_co, Send_contra, Return_co), (abc.Awaitable[Return_co],)),
    abc.AsyncIterable: Stub((T_co,)),
    abc.AsyncIterator: Stub((T_co,), (abc.AsyncIterable[T_co],)),
    abc.AsyncGenerator: Stub((T_co, Send_contra), (abc.AsyncIterator[T_co],)),
    # builtins
    str: Stub((), (abc.Sequence[str],)),
    bytes: Stub((), (abc.Sequence[int],)),
    bytearray: Stub((), (abc.MutableSequence[int],)),
    memoryview: Stub((), (abc.Sequence[int],)),
    range: Stub((), (abc.Sequence[int],)),
    list: Stub((T,), (abc.MutableSequence[T],)),
    set: Stub((T,), (abc.MutableSet[T],)),
    frozenset: Stub((T_co,), (abc.Set[T_co],)),
    dict: Stub((K, V), (abc.MutableMapping[K, V],)),
    type: Stub(),
    enumerate: Stub((T,), (abc.Iterator[tuple[int, T]],)),
    filter: Stub((T,), (abc.Iterator[T],)),
    map: Stub((T,), (abc.Iterator[T],)),
    reversed: Stub((T,), (abc.Iterator[T],)),
    zip: Stub((T_co,), (abc.Iterator[T_co],)),
    # collections, types
    collections.ChainMap: Stub((K, V), (abc.MutableMapping[K, V],)),
    collections.Counter: Stub((T,), (dict[T, int],)),
    collections.OrderedDict: Stub((K, V), (dict[K, V], abc.Reversible[K])),
    collections.UserDict: Stub((K, V), (abc.MutableMapping[K, V],)),
    collections.UserList: Stub((T,), (abc.MutableSequence[T],)),
    collections.UserString: Stub((), (abc.Sequence[collections.UserString],)),
    collections.defaultdict: Stub((K, V), (dict[K, V],)),
    collections.deque: Stub((T,), (abc.MutableSequence[T],)),
    types.AsyncGeneratorType: Stub((T_co, Send_contra), (abc.AsyncGenerator[T_co, Send_contra],)),
    types.CoroutineType: Stub((T_co, Send_contra, Return_co), (abc.Coroutine[T_co, Send_contra, Return_co],)),
    types.GeneratorType: Stub((T_co, Send_contra, Return_co), (abc.Generator[T_co, Send_contra, Return_co],)),
    types.MappingProxyType: Stub((K_co, V_co), (abc.Mapping[K_co, V_co],)),
    # other modules that are always loaded
    contextlib.AbstractAsyncContextManager: Stub((T_co,)),
    contextlib.AbstractContextManager: Stub((T_co,)),
    io.BufferedRandom: Stub((), (io.BufferedIOBase, typing.BinaryIO)),
    io.BufferedReader: Stub((), (io.BufferedIOBase, typing.BinaryIO)),
    io.BufferedWriter: Stub((), (io.BufferedIOBase, typing.BinaryIO)),
    io.BytesIO: Stub((), (io.BufferedIOBase, typing.BinaryIO)),
    io.FileIO: Stub((), (io.RawIOBase, typing.BinaryIO)),
    io.IOBase: Stub((), (abc.Iterator[bytes],)),
    io.StringIO: Stub((), (io.TextIOBase, typing.TextIO)),
    io.TextIOBase: Stub((), (io.IOBase, abc.Iterator[str])),
    io.TextIOWrapper: Stub((), (io.TextIOBase, typing.TextIO)),
    os.PathLike: Stub((T_co,)),
    re.Match: Stub((T,)),
    re.Pattern: Stub((T,)),
    typing.BinaryIO: Stub((), (typing.IO[bytes],)),
    typing.TextIO: Stub((), (typing.IO[str],)),
    typing.IO: Stub((T,), (abc.Iterator[T],)),
}

# Found by name, so that their modules need not be imported: an annotation can use a class only if its module is loaded.
_STUBS_BY_PATH: dict[str, Stub] = {
    "_asyncio.Task": Stub((T_co,), (abc.Awaitable[T_co],)),
    "_asyncio.Future": Stub((T,), (abc.Awaitable[T],)),
    "array.array": Stub((T,), (abc.MutableSequence[T],)),
    "functools.partial": Stub((T,)),
    "itertools.chain": Stub((T,), (abc.Iterator[T],)),
    "numpy.dtype": Stub((T_co,)),
    "numpy.ndarray": Stub((T_co, V_co)),
    "pathlib.PurePath": Stub((), (os.PathLike[str],)),
    "pathlib._local.PurePath": Stub((), (os.PathLike[str],)),
    "posix.DirEntry": Stub((T,), (os.PathLike[T],)),
    "nt.DirEntry": Stub((T,), (os.PathLike[T],)),
    "sqlite3.Row": Stub((), (abc.Sequence[Any],)),
    "tempfile.SpooledTemporaryFile": Stub((T,), (typing.IO[T],)),
    "tempfile._TemporaryFileWrapper": Stub((T,), (typing.IO[T],)),
}

#: The members of the classes that are protocols in the stubs. The classes themselves have no annotations.
PROTOCOL_MEMBERS: dict[object, dict[str, Any]] = {
    abc.AsyncIterable: {"__aiter__": Callable[[], abc.AsyncIterator[T_co]]},
    abc.AsyncIterator: {
        "__aiter__": Callable[[], abc.AsyncIterator[T_co]],
        "__anext__": Callable[[], abc.Awaitable[T_co]],
    },
    abc.Awaitable: {"__await__": Callable[[], abc.Generator[Any, Any, T_co]]},
    abc.Collection: {
        "__contains__": Callable[[object], bool],
        "__iter__": Callable[[], abc.Iterator[T_co]],
        "__len__": Callable[[], int],
    },
    abc.Container: {"__contains__": Callable[[object], bool]},
    abc.Hashable: {"__hash__": Callable[[], int]},
    abc.Iterable: {"__iter__": Callable[[], abc.Iterator[T_co]]},
    abc.Iterator: {"__iter__": Callable[[], abc.Iterator[T_co]], "__next__": Callable[[], T_co]},
    abc.Reversible: {
        "__iter__": Callable[[], abc.Iterator[T_co]],
        "__reversed__": Callable[[], abc.Iterator[T_co]],
    },
    abc.Sized: {"__len__": Callable[[], int]},
    contextlib.AbstractAsyncContextManager: {
        "__aenter__": Callable[[], abc.Awaitable[T_co]],
        "__aexit__": Callable[[Any, Any, Any], Any],
    },
    contextlib.AbstractContextManager: {
        "__enter__": Callable[[], T_co],
        "__exit__": Callable[[Any, Any, Any], Any],
    },
    os.PathLike: {"__fspath__": Callable[[], T_co]},
}
if hasattr(abc, "Buffer"):
    PROTOCOL_MEMBERS[abc.Buffer] = {"__buffer__": Callable[[int], memoryview]}

#: The types of some methods of builtin classes, for protocols that require them, such as `SupportsAbs[int]`.
BUILTIN_MEMBERS: dict[tuple[object, str], Any] = {
    (int, "__abs__"): Callable[[], int],
    (int, "__round__"): Callable[[], int],
    (int, "__index__"): Callable[[], int],
    (int, "__int__"): Callable[[], int],
    (float, "__abs__"): Callable[[], float],
    (float, "__int__"): Callable[[], int],
    (complex, "__abs__"): Callable[[], float],
    (abc.Sequence, "__getitem__"): Callable[[int], T_co],
    (abc.Sequence, "__len__"): Callable[[], int],
    (abc.Mapping, "__getitem__"): Callable[[K], V_co],
    (abc.Mapping, "keys"): Callable[[], abc.KeysView[K]],
    (abc.Mapping, "values"): Callable[[], abc.ValuesView[V_co]],
    (abc.Mapping, "items"): Callable[[], abc.ItemsView[K, V_co]],
    (abc.MutableSequence, "append"): Callable[[T], None],
    (abc.MutableSet, "add"): Callable[[T], None],
    (set, "__len__"): Callable[[], int],
    (frozenset, "__len__"): Callable[[], int],
    (dict, "__len__"): Callable[[], int],
    (dict, "__reversed__"): Callable[[], abc.Iterator[K]],
    (types.MappingProxyType, "__reversed__"): Callable[[], abc.Iterator[K_co]],
    (enum.Flag, "__iter__"): Callable[[], abc.Iterator[typing.Self]],
    (list, "copy"): Callable[[], list[T]],
    (dict, "copy"): Callable[[], dict[K, V]],
    (set, "copy"): Callable[[], set[T]],
}
