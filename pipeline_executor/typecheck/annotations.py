"""Annotations as values: how they are resolved, unwrapped and written out in a message.

Nothing here raises for an odd annotation: users write whatever their type checker takes, and more.
"""

from __future__ import annotations

import collections.abc
import enum
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["Absent", "Scope", "Unresolved", "is_union", "peel", "resolve", "show", "unresolved_names"]

# Far above any annotation that a person writes; bounds the time that a self-referring one can cost.
_MAX_LAYERS = 100


class Absent(enum.Enum):
    """Stands where an annotation or an item type would, when there is none."""

    ANNOTATION = "no annotation"
    STREAM = "not a stream"


class Unresolved:
    """Stands for a name that does not exist at run time (imported under `TYPE_CHECKING`).

    It takes part in any expression that an annotation may hold, and equals another of the same text,
    so that two steps which name the same unknown type still agree.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __getattr__(self, name: str) -> Unresolved:
        # `typing` probes its operands for dunder names; they must look absent.
        if name.startswith("__"):
            raise AttributeError(name)
        return Unresolved(f"{self._text}.{name}")

    def __getitem__(self, arguments: object) -> Unresolved:
        items = arguments if isinstance(arguments, tuple) else (arguments,)
        return Unresolved(f"{self._text}[{', '.join(show(item) for item in items)}]")

    def __or__(self, other: object) -> object:
        return _union(self, other)

    def __ror__(self, other: object) -> object:
        return _union(other, self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unresolved) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return self._text


def _union(left: Any, right: Any) -> object:
    return Union[left, right]  # noqa: UP007 - `|` is what is being implemented


class Scope(typing.NamedTuple):
    """Where the names of an annotation are looked up.

    Attributes:
        module_names: the global names of the step's module.
        inner_names: names that hide them: closure variables and type parameters.
        last_resort: names that are tried when neither knows one: those of the step's class.
    """

    module_names: dict[str, Any]
    inner_names: dict[str, Any]
    last_resort: Mapping[str, object]


def resolve(annotation: object, scope: Scope) -> object:
    """Turn an annotation as it was written into the type that it means.

    Names that cannot be found become `Unresolved`. An annotation that cannot be understood at all
    becomes `Unresolved` as a whole.
    """
    inner_names = dict(scope.inner_names)
    if isinstance(annotation, ForwardRef):
        # From 3.14 on it brings along the parts of its expression that could be evaluated.
        inner_names.update(getattr(annotation, "__extra_names__", None) or {})
        annotation = annotation.__forward_arg__
    written = annotation if isinstance(annotation, str) else None
    # One annotation at a time, so that a bad name in it spoils no other argument's.
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    for _ in range(_MAX_LAYERS):
        try:
            return get_type_hints(holder, scope.module_names, inner_names, include_extras=True)["it"]
        except NameError as error:
            found = _substitute_for(error.name, scope, placeholder=written is not None)
            if error.name is None or error.name in inner_names or found is None:
                break
            inner_names[error.name] = found
        except Exception:  # an annotation is arbitrary code
            break
    return annotation if written is None else Unresolved(written)


def _substitute_for(name: str | None, scope: Scope, *, placeholder: bool) -> object:
    if name is None:
        return None
    if name in scope.last_resort:
        return scope.last_resort[name]
    # Linters move `from collections.abc import Iterable` under TYPE_CHECKING. Without this most of
    # such a module's steps would lose their check.
    if name in collections.abc.__all__:
        return getattr(collections.abc, name)
    # `typing` remembers what a ForwardRef object was evaluated to. Only for text, where the object is
    # our own, may that be a placeholder: nobody else must ever see one.
    return Unresolved(name) if placeholder else None


def peel(annotation: object) -> object:
    """Take off what does not matter to assignability: `Annotated`, qualifiers, type aliases."""
    for _ in range(_MAX_LAYERS):
        if annotation is None:
            return types.NoneType
        origin = get_origin(annotation)
        if origin is Annotated or origin in _QUALIFIERS:
            annotation = get_args(annotation)[0]
        elif _is_alias(annotation):
            annotation = annotation.__value__  # type: ignore[attr-defined]
        elif origin is not None and _is_alias(origin):
            annotation = _expand(origin, get_args(annotation))
        else:
            return annotation
    return Any


_QUALIFIERS: tuple[object, ...] = tuple(
    getattr(typing, name)
    for name in ("ClassVar", "Final", "NotRequired", "ReadOnly", "Required")
    if hasattr(typing, name)
)


def _is_alias(annotation: object) -> bool:
    # By name: `typing` has the class from 3.12 on, typing_extensions its own twin.
    return type(annotation).__name__ == "TypeAliasType"


def _expand(alias: Any, arguments: tuple[object, ...]) -> object:
    value = alias.__value__
    given = dict(zip(alias.__type_params__, arguments, strict=False))
    parameters = getattr(value, "__parameters__", ())
    # The value lists its parameters in the order of their use, the alias in that of their declaration.
    return value[tuple(given[parameter] for parameter in parameters)] if parameters else value


def is_union(annotation: object) -> bool:
    """True for `A | B`, `Union[A, B]` and `Optional[A]`."""
    return get_origin(annotation) in (Union, types.UnionType)


def unresolved_names(annotation: object) -> tuple[str, ...]:
    """The parts of an annotation that could not be resolved, as text, without repetition."""
    found: dict[str, None] = {}

    def visit(part: object, layers_left: int) -> None:
        if layers_left == 0:
            return
        if isinstance(part, Unresolved):
            found[repr(part)] = None
        elif isinstance(part, ForwardRef):
            found[part.__forward_arg__] = None
        elif isinstance(part, str):
            found[part] = None
        elif isinstance(part, list):
            for argument in part:
                visit(argument, layers_left - 1)
        elif get_origin(part) is Annotated:
            visit(get_args(part)[0], layers_left - 1)
        elif get_origin(part) is not Literal:
            for argument in get_args(part):
                visit(argument, layers_left - 1)

    try:
        visit(annotation, _MAX_LAYERS)
    except Exception:  # an object that only looks like an annotation
        return tuple(found)
    return tuple(found)


def show(annotation: object, *, qualified: bool = False, max_chars: int = 200) -> str:
    """Write an annotation the way its author would.

    Arguments:
        annotation: any object.
        qualified: put the module before the name of each class, to tell two of the same name apart.
        max_chars: longer texts are cut.
    """
    try:
        text = _text(annotation, qualified)
    except Exception:  # __repr__, __name__ and __module__ are the user's code
        text = f"<{type(annotation).__name__}>"
    return text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."


def _text(annotation: Any, qualified: bool) -> str:
    if annotation is None or annotation is types.NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    if isinstance(annotation, list):
        return f"[{', '.join(_text(item, qualified) for item in annotation)}]"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None:
        return _name(annotation, qualified)
    if is_union(annotation):
        return " | ".join(_text(argument, qualified) for argument in arguments)
    if origin is Literal:
        return f"Literal[{', '.join(repr(value) for value in arguments)}]"
    if origin is Annotated:
        return _text(arguments[0], qualified)
    name = _name(origin, qualified)
    if not arguments:
        return f"{name}[()]" if origin is tuple and annotation is not typing.Tuple else name  # noqa: UP006
    star = "*" if getattr(annotation, "__unpacked__", False) else ""
    return f"{star}{name}[{', '.join(_text(argument, qualified) for argument in arguments)}]"


def _name(annotation: Any, qualified: bool) -> str:
    if isinstance(annotation, type):
        prefix = f"{annotation.__module__}." if qualified and annotation.__module__ != "builtins" else ""
        return prefix + annotation.__qualname__
    name = getattr(annotation, "__name__", None)
    return name if isinstance(name, str) else repr(annotation).removeprefix("typing.")
