"""How objects are pickled as messages where pickle's own way would break a promise. A leaf, used by both cores."""

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
    """How many reducers the program has registered with `copyreg`. A table that was made before another is too old."""
    return len(copyreg.dispatch_table)


def plain_table() -> Table:
    """The dispatch table of a pickler of messages: ours, and whatever is registered with `copyreg` at the moment.

    A plain dict, because a pickler asks it for each object that is not of a built-in type.
    """
    return {**copyreg.dispatch_table, **look_alikes(), **_connections(), **_tensor_reducers()}


def own_arrays_table() -> Table | None:
    """The same, under which a read-only array arrives as the reader's own and writable.

    Pickle makes an array read-only again where it was so for the sender. A received array is its reader's alone, so
    nothing speaks for that; and whether `frombuffer` or `broadcast_to` made an array is nothing that the next step
    should notice.

    Returns:
        The table; None where numpy is not loaded: there are no arrays then.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    return {**plain_table(), numpy.ndarray: _reduce_own, numpy.memmap: _reduce_own}


def _reduce_own(array: Any) -> Any:
    return (array if array.flags.writeable else array.copy(order="K")).__reduce_ex__(5)


# ---- what would arrive as something else


def look_alikes() -> Table:
    """For what cloudpickle would make something else of: bytes of a memoryview, a StringIO of an open file."""
    return {memoryview: _reduce_memoryview, io.TextIOWrapper: _refuse_file}


def _connections() -> Table:
    """For what pickle copies although it holds the number of a descriptor."""
    from multiprocessing import connection

    kinds = (getattr(connection, name, None) for name in ("Connection", "PipeConnection"))  # the latter on Windows
    return dict.fromkeys((kind for kind in kinds if kind is not None), _refuse_connection)


def _reduce_memoryview(view: memoryview) -> Any:
    """Carried with its format and shape."""
    shape = view.shape or ()
    data = view if view.c_contiguous and view.nbytes else bytearray(view.tobytes())
    try:
        _rebuild_memoryview(data, view.format, shape, view.readonly)
    except (TypeError, ValueError) as error:
        raise pickle.PicklingError(
            f"cannot pickle a memoryview of format {view.format!r} and shape {shape}: {error}"
        ) from error
    return _rebuild_memoryview, (pickle.PickleBuffer(data), view.format, shape, view.readonly)


def _rebuild_memoryview(buffer: Any, format: str, shape: tuple[int, ...], readonly: bool) -> memoryview:  # noqa: A002
    view: Any = memoryview(buffer)
    view = view if view.format == "B" and view.ndim == 1 else view.cast("B")
    if math.prod(shape):
        view = view.cast(format) if len(shape) == 1 else view.cast(format, shape)
    elif len(shape) != 1:
        raise ValueError("there is no empty view of several dimensions")
    else:
        view = view.cast(format)
    made: memoryview = view.toreadonly() if readonly else view
    return made


def _refuse_file(file: io.TextIOWrapper) -> NoReturn:
    raise TypeError(f"cannot pickle an open file ({file.name!r}): yield its path or what it contains")


def _refuse_connection(connection: Any) -> NoReturn:
    raise TypeError(
        f"cannot pickle a {type(connection).__name__}: its descriptor means another file in another process. "
        "Make the connection before the run, and pass it as a constant"
    )


# ---- PyTorch, whose own pickling copies a tensor's whole storage through `torch.save`, several times


def torch_is_loaded() -> bool:
    """Whether tensors can exist in this process."""
    return hasattr(sys.modules.get("torch"), "nn")  # one of the last names that `import torch` gives it


def _tensor_reducers() -> Table:
    if not torch_is_loaded():
        return {}
    torch: Any = sys.modules["torch"]
    return {torch.Tensor: _reduce_tensor, torch.nn.Parameter: _reduce_tensor}


def _reduce_tensor(tensor: Any) -> Any:
    """A tensor in this machine's memory travels as an array of what it shows, not of its whole storage."""
    torch: Any = sys.modules["torch"]
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.__dict__ or tensor._backward_hooks:
        return tensor.__reduce_ex__(5)
    if tensor.layout is torch.sparse_coo:
        # torch's own way keeps every tensor that is unpickled in a list, which only torch.load empties.
        parts = tensor.detach()
        return _rebuild_sparse, (parts._indices(), parts._values(), parts.shape, parts.is_coalesced(), *_rest(tensor))
    if tensor.layout is not torch.strided:
        return tensor.__reduce_ex__(5)
    plain = tensor.detach().resolve_conj().resolve_neg()
    # The order of its dimensions in memory decides which of torch's kernels run, and how fast: it is kept.
    order = sorted(range(plain.dim()), key=plain.stride, reverse=True)
    plain = plain.permute(order)
    if not plain.is_contiguous():
        plain = plain.contiguous()
    try:
        array = plain.numpy()
    except (TypeError, RuntimeError):  # numpy has no such type, as bfloat16
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


def _rebuild_sparse(
    indices: Any, values: Any, shape: Any, is_coalesced: bool, requires_grad: bool, is_parameter: bool
) -> Any:
    import torch

    tensor = torch.sparse_coo_tensor(indices, values, shape, check_invariants=False, is_coalesced=is_coalesced)
    return _finish(tensor, requires_grad, is_parameter)


def _finish(tensor: Any, requires_grad: bool, is_parameter: bool) -> Any:
    import torch

    return torch.nn.Parameter(tensor, requires_grad) if is_parameter else tensor.requires_grad_(requires_grad)


def _integers_of(itemsize: int) -> Any:
    torch: Any = sys.modules["torch"]
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[itemsize]
