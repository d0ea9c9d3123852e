"""Reducers for objects in messages for which pickle's own way would break a promise. A leaf, used by both cores."""

from __future__ import annotations

import copyreg
import io
import math
import pickle
import sys
from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["Table", "look_alikes", "own_arrays_table", "plain_table", "registered", "torch_is_loaded"]

Table = dict[type, Callable[[Any], Any]]


def registered() -> int:
    """Return how many reducers are registered with `copyreg`. If the number has changed, a table must be made anew."""
    return len(copyreg.dispatch_table)


def plain_table() -> Table:
    """Return the dispatch table for pickling messages: this module's reducers and those registered with `copyreg`.

    It is a plain dict, for speed: a pickler looks up each object that is not of a built-in type.
    """
    return {**copyreg.dispatch_table, **look_alikes(), **_connections(), **_tensor_reducers()}


def own_arrays_table() -> Table | None:
    """Return `plain_table` with reducers by which a read-only numpy array arrives writable.

    Pickle by itself keeps an array read-only. But a received array belongs to its reader alone, and the reader should
    not notice that the sender made the array by `frombuffer` or `broadcast_to`.

    Returns:
        The table; None if numpy is not loaded, because then there are no arrays.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    return {**plain_table(), numpy.ndarray: _reduce_own, numpy.memmap: _reduce_own}


def _reduce_own(array: Any) -> Any:
    return (array if array.flags.writeable else array.copy(order="K")).__reduce_ex__(5)


# ---- objects that would arrive as something else


def look_alikes() -> Table:
    """Return reducers for objects that cloudpickle would turn into others.

    It would make bytes of a memoryview, and a StringIO of an open file.
    """
    return {memoryview: _reduce_memoryview, io.TextIOWrapper: _refuse_file}


def _connections() -> Table:
    """Return reducers that refuse connections: pickle would copy the descriptor's number, which is wrong elsewhere."""
    from multiprocessing import connection

    kinds = (getattr(connection, name, None) for name in ("Connection", "PipeConnection"))  # the latter on Windows
    return dict.fromkeys((kind for kind in kinds if kind is not None), _refuse_connection)


def _reduce_memoryview(view: memoryview) -> Any:
    """Pickle a memoryview with its format and shape."""
    shape = view.shape or ()
    data = view if view.c_contiguous and view.nbytes else bytearray(view.tobytes())
    try:
        _rebuild_memoryview(data, view.format, shape, view.readonly)
    except (TypeError, ValueError) as error:
        raise pickle.PicklingError(
            f"cannot pickle a memoryview of format {view.format!r} and shape {shape}: {error}. Yield bytes or an array"
        ) from error
    return _rebuild_memoryview, (pickle.PickleBuffer(data), view.format, shape, view.readonly)


def _rebuild_memoryview(buffer: Any, format: str, shape: tuple[int, ...], readonly: bool) -> memoryview:  # noqa: A002
    view: Any = memoryview(buffer)
    view = view if view.format == "B" and view.ndim == 1 else view.cast("B")
    if math.prod(shape):
        view = view.cast(format) if len(shape) == 1 else view.cast(format, shape)
    elif len(shape) != 1:
        raise ValueError("an empty memoryview of several dimensions cannot be rebuilt")
    else:
        view = view.cast(format)
    made: memoryview = view.toreadonly() if readonly else view
    return made


def _refuse_file(file: io.TextIOWrapper) -> NoReturn:
    raise TypeError(f"cannot pickle an open file ({file.name!r}): yield its path or its content")


def _refuse_connection(connection: Any) -> NoReturn:
    raise TypeError(
        f"cannot pickle a {type(connection).__name__}: in another process its descriptor is another file. "
        "Make the connection before execute() is called, and pass it as a constant"
    )


# ---- PyTorch: its own pickling copies a tensor's whole storage several times, through `torch.save`


def torch_is_loaded() -> bool:
    """Whether torch has been imported completely, so that tensors can exist in this process."""
    return hasattr(sys.modules.get("torch"), "nn")  # one of the last names that `import torch` sets


def _tensor_reducers() -> Table:
    if not torch_is_loaded():
        return {}
    torch: Any = sys.modules["torch"]
    return {torch.Tensor: _reduce_tensor, torch.nn.Parameter: _reduce_tensor}


def _reduce_tensor(tensor: Any) -> Any:
    """Pickle a CPU tensor as a numpy array of its elements, without the rest of its storage."""
    torch: Any = sys.modules["torch"]
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.__dict__ or tensor._backward_hooks:
        return tensor.__reduce_ex__(5)
    if tensor.layout is torch.sparse_coo:
        # torch's own unpickling would keep every such tensor in a list, which only torch.load empties.
        parts = tensor.detach()
        return _rebuild_sparse, (parts._indices(), parts._values(), parts.shape, parts.is_coalesced(), _rest(tensor))
    if tensor.layout is not torch.strided:
        return tensor.__reduce_ex__(5)
    plain = tensor.detach().resolve_conj().resolve_neg()
    # The order of the dimensions in memory is kept, because it decides which of torch's kernels run, and how fast.
    order = sorted(range(plain.dim()), key=plain.stride, reverse=True)
    plain = plain.permute(order)
    if not plain.is_contiguous():
        plain = plain.contiguous()
    try:
        array = plain.numpy()
    except (TypeError, RuntimeError):  # a type that numpy does not have, such as bfloat16
        array = plain.view(_integers_of(plain.dtype.itemsize)).numpy()
    return _rebuild_tensor, (array, tensor.dtype, order, *_rest(tensor))


def _rest(tensor: Any) -> tuple[bool, bool]:
    return tensor.requires_grad, type(tensor) is sys.modules["torch"].nn.Parameter


def _rebuild_tensor(array: Any, dtype: Any, order: list[int], requires_grad: bool, is_parameter: bool) -> Any:
    import torch

    tensor = torch.from_numpy(array)
    if tensor.dtype != dtype:
        tensor = tensor.view(dtype)
    back = [order.index(dimension) for dimension in range(len(order))]
    return _finish(tensor.permute(back), requires_grad, is_parameter)


def _rebuild_sparse(indices: Any, values: Any, shape: Any, is_coalesced: bool, rest: tuple[bool, bool]) -> Any:
    import torch

    tensor = torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, is_coalesced=is_coalesced)
    return _finish(tensor, *rest)


def _finish(tensor: Any, requires_grad: bool, is_parameter: bool) -> Any:
    import torch

    return torch.nn.Parameter(tensor, requires_grad) if is_parameter else tensor.requires_grad_(requires_grad)


def _integers_of(itemsize: int) -> Any:
    torch: Any = sys.modules["torch"]
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[itemsize]
