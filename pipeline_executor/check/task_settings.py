"""The check of a task's settings: counts, limits, mappings and switches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from pipeline_executor.check.defects import Finding
from pipeline_executor.task import PipelineTask

__all__ = ["setting_findings"]

_MAX_REPR_CHARS = 60


def setting_findings(task: PipelineTask[Any, Any], *, is_source: bool) -> Iterator[Finding]:
    """Find every setting of a task that has a wrong type, is out of range, or contradicts another setting.

    Arguments:
        task: the task. Its generator is not checked here.
        is_source: whether it is the first task of the pipeline.
    """
    # The annotations promise valid types, but nothing enforces them at run time.
    name: object = task.name
    if name is not None and (not isinstance(name, str) or not name):
        yield Finding(
            f"name is {_repr(name)}, not a non-empty str",
            "Give a non-empty str, or leave it out to use the generator's own name.",
        )
    yield from _counts(task, is_source=is_source)
    for option in ("max_buffer_bytes", "max_message_size"):
        value = getattr(task, option)
        if value is not None and not _is_positive_int(value):
            yield _not_a_count(option, value, "bytes")
    yield from _switches(task, is_source=is_source)
    yield from _constants(task.constants)
    yield from _env(task.env)
    yield from _resources(task.resources)


def _counts(task: PipelineTask[Any, Any], *, is_source: bool) -> Iterator[Finding]:
    replicas: list[int] = []
    for option in ("num_procs", "num_threads"):
        value = getattr(task, option)
        if value is None and option == "num_threads":
            continue
        if not _is_positive_int(value):
            yield _not_a_count(option, value, "replicas")
            continue
        replicas.append(value)
        if is_source and value != 1:
            yield Finding(
                f"{option} is {value}, but the first step has exactly one replica: "
                "the source must run once, or items would be duplicated",
                f"Set {option}=1 here, and move the work to be done in parallel into the next step.",
            )
    if task.num_threads is not None and _is_positive_int(task.num_procs) and task.num_procs > 1:
        yield Finding(
            f"num_procs is {task.num_procs} and num_threads is set too, but a step runs in processes or in threads",
            "Leave one of them out.",
        )
    packets = task.packets_in_flight
    if packets is None:
        return
    if not _is_positive_int(packets):
        yield _not_a_count("packets_in_flight", packets, "items")
    elif replicas and packets < max(replicas):
        yield Finding(
            f"packets_in_flight is {packets}, so {max(replicas)} replicas could never all work at the same time",
            f"Set packets_in_flight to at least {max(replicas)}, or have fewer replicas.",
        )
    elif task.ordered is True and replicas and 1 < max(replicas) == packets:
        yield Finding(
            f"packets_in_flight is {packets}, but {max(replicas)} replicas with ordered=True need one more: every "
            "replica may hold an item, and one more item must be able to leave in its order",
            f"Set packets_in_flight to at least {max(replicas) + 1}, or have fewer replicas.",
        )


def _switches(task: PipelineTask[Any, Any], *, is_source: bool) -> Iterator[Finding]:
    for option in ("ordered", "may_stop_early"):
        value = getattr(task, option)
        if not isinstance(value, bool):
            yield Finding(f"{option} is {_repr(value)}, not a bool", f"Set {option} to True or False.")
    if is_source and task.may_stop_early is True:
        yield Finding(
            "may_stop_early is set, but the first step has no input that it could leave unread",
            "Leave it out: a source may always return early.",
        )


def _constants(constants: object) -> Iterator[Finding]:
    if constants is None:
        return
    advice = 'Give a mapping from argument names to values: constants={"size": 32}.'
    if not isinstance(constants, Mapping):
        yield Finding(f"constants is of type {type(constants).__name__}, not a mapping", advice)
        return
    for name in constants:
        if not isinstance(name, str):
            yield Finding(f"constants has the key {_repr(name)}, which is not the name of an argument", advice)


def _env(env: object) -> Iterator[Finding]:
    if env is None:
        return
    advice = 'Give a mapping from str to str: env={"OMP_NUM_THREADS": "1"}.'
    if not isinstance(env, Mapping):
        yield Finding(f"env is of type {type(env).__name__}, not a mapping", advice)
        return
    for name, value in env.items():
        # The operating system refuses such names and values, but only later, in the step's process.
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            yield Finding(f"env has the key {_repr(name)}, which cannot name an environment variable", advice)
        elif not isinstance(value, str) or "\0" in value:
            # The value is not shown, because environment variables often hold secrets.
            kind = "a str with a NUL character" if isinstance(value, str) else f"of type {_type(value)}"
            yield Finding(f"env[{name!r}] is {kind}, not a value for an environment variable", advice)


def _resources(resources: object) -> Iterator[Finding]:
    if resources is None:
        return
    advice = 'Give a mapping from names to amounts: resources={"num_gpus": 1}.'
    if not isinstance(resources, Mapping):
        yield Finding(f"resources is of type {type(resources).__name__}, not a mapping", advice)
        return
    for name, amount in resources.items():
        if not isinstance(name, str) or not name:
            yield Finding(f"resources has the key {_repr(name)}, which is not the name of a resource", advice)
        elif not _is_amount(amount):
            yield Finding(f"resources[{name!r}] is {_repr(amount)}, not a finite number of at least 0", advice)


def _is_amount(amount: object) -> bool:
    if isinstance(amount, bool) or not isinstance(amount, Real):
        return False
    return 0 <= float(amount) < math.inf


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _not_a_count(option: str, value: object, unit: str) -> Finding:
    # An integer of another library, such as np.int64, only has to be converted.
    is_other_integer = hasattr(value, "__index__") and not isinstance(value, (int, bool))
    return Finding(
        f"{option} is {_repr(value)}, not a whole number of {unit} of at least 1",
        f"Convert it: {option}=int(...)." if is_other_integer else f"Set {option} to an int of 1 or more.",
    )


def _type(value: object) -> str:
    return type(value).__name__


def _repr(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # repr() runs the user's code
        text = f"<{_type(value)}>"
    return text if len(text) <= _MAX_REPR_CHARS else f"{text[: _MAX_REPR_CHARS - 3]}..."
