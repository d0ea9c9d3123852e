"""Annotations as Python objects: resolve their names, strip qualifiers, and write them in a message.

No function here raises for an unusual annotation, because users write whatever their type checker accepts, and more.
"""

from __future__ import annotations

import collections.abc
import enum
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin, get_type_hints

from pipeline_executor.check.relation.type_checking_imports import type_checking_import

__all__ = [
    "Absent",
    "Scope",
    "Unresolved",
    "class_scope",
    "is_alias",
    "module_scope",
    "own_annotations",
    "resolve",
    "show",
    "strip_qualifiers",
    "type_parameters",
    "unresolved_names",
]

# Maximum nesting that is followed. No person writes such an annotation, but one may refer to itself.
_MAX_LAYERS = 100


class Absent(enum.Enum):
    """Takes the place of an annotation or of an item type if there is none."""

    ANNOTATION = "no annotation"
    STREAM = "not a stream"


class Unresolved:
    """Takes the place of a name that does not exist at run time, because it is imported under `TYPE_CHECKING`.

    It supports every operation that an annotation may contain. Two of them are equal if their texts are equal, so two
    steps that name the same unknown type fit together.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __getattr__(self, name: str) -> Unresolved:
        # `typing` looks for special attributes in its operands. It must not find any here.
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
    """The names that an annotation can use.

    Attributes:
        module_names: the global names of the step's module.
        inner_names: names that hide the global ones: closure variables and type parameters.
        last_resort: names to use if the other two have none: those of the step's class.
        is_class_body: whether the annotation is in the body of a class, where `ClassVar` and `Final` are allowed.
    """

    module_names: dict[str, Any]
    inner_names: dict[str, Any]
    last_resort: Mapping[str, object]
    is_class_body: bool = False


def resolve(annotation: object, scope: Scope) -> object:
    """Turn an annotation as it was written into the type that it means.

    Names that cannot be found become `Unresolved`. An annotation that cannot be evaluated becomes `Unresolved` as a
    whole.
    """
    if type(annotation) is type:
        return annotation  # a fast path: most annotations are plain classes
    inner_names = dict(scope.inner_names)
    module_names = scope.module_names
    if isinstance(annotation, ForwardRef):
        # A ForwardRef in a TypedDict's base class names the module that it was written in.
        module = sys.modules.get(str(annotation.__forward_module__))
        module_names = module_names if module is None else vars(module)
        # From 3.14 on, a ForwardRef has the parts of its expression that could be evaluated.
        inner_names.update(getattr(annotation, "__extra_names__", None) or {})
        annotation = annotation.__forward_arg__
    written = annotation if isinstance(annotation, str) else None
    # `get_type_hints` gets one annotation at a time, so that an unknown name in it does not affect the other arguments.
    holder: object = types.SimpleNamespace(__annotations__={"it": annotation})
    if scope.is_class_body and written is not None:
        holder = type("holder", (), {"__annotations__": {"it": annotation}})
    for _ in range(_MAX_LAYERS):
        try:
            return get_type_hints(holder, module_names, inner_names, include_extras=True)["it"]
        except NameError as error:
            found = _substitute_for(error.name, scope, module_names, placeholder=written is not None)
            if error.name is None or error.name in inner_names or found is None:
                break
            inner_names[error.name] = found
        except Exception:  # evaluating an annotation runs the user's code
            break
    return annotation if written is None else Unresolved(written)


def _substitute_for(name: str | None, scope: Scope, module_names: dict[str, Any], *, placeholder: bool) -> object:
    if name is None:
        return None
    if name in scope.last_resort:
        return scope.last_resort[name]
    imported = type_checking_import(name, module_names)
    if imported is not None:
        return imported
    # Linters move `from collections.abc import Iterable` under TYPE_CHECKING. Without this rule, most steps of such a
    # module would not be checked.
    if name in collections.abc.__all__:
        return getattr(collections.abc, name)
    # `typing` stores the value of a ForwardRef in that object. A ForwardRef that belongs to the user must not get a
    # placeholder, which other code could then find. A str is evaluated by an object of our own.
    return Unresolved(name) if placeholder else None


def class_scope(class_: type[Any]) -> Scope:
    """Return the scope of annotations in the body of a class."""
    inner = {name: value for name, value in vars(class_).items() if isinstance(value, type)}
    module_names = module_scope(class_.__module__).module_names
    return Scope(module_names, type_parameters(class_), {class_.__name__: class_, **inner}, is_class_body=True)


def module_scope(name: str | None) -> Scope:
    """Return the scope of annotations in a module; an empty scope if the module is not loaded."""
    module = sys.modules.get(name or "")
    return Scope({} if module is None else vars(module), {}, {})


def type_parameters(generic: object) -> dict[str, Any]:
    """Return the type parameters that `class C[T]` or `def f[T]` declares, by name."""
    # Python before 3.12 has no such attribute. In the interpreter's own classes it is a descriptor.
    parameters = getattr(generic, "__type_params__", ())
    return {parameter.__name__: parameter for parameter in parameters} if isinstance(parameters, tuple) else {}


def own_annotations(class_: type[Any]) -> Mapping[str, Any]:
    """Return the annotations in the body of a class, without those of its base classes."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(class_, format=annotationlib.Format.FORWARDREF)
    else:
        annotations = vars(class_).get("__annotations__", {})
        return annotations if isinstance(annotations, dict) else {}


def strip_qualifiers(annotation: object) -> object:
    """Remove `Annotated` and qualifiers such as `Final`, which do not matter to assignability."""
    for _ in range(_MAX_LAYERS):
        if annotation is None:
            return types.NoneType
        origin = get_origin(annotation)
        if origin is not Annotated and getattr(origin, "_name", None) not in _QUALIFIERS:
            return annotation
        annotation = get_args(annotation)[0]
    return Any


# Compared by name, because typing_extensions defines those that an older Python lacks.
_QUALIFIERS = frozenset({"ClassVar", "Final", "NotRequired", "ReadOnly", "Required"})


def is_alias(annotation: object) -> bool:
    """Tell whether an annotation is a type alias made by a `type` statement."""
    # Compared by name: `typing` has the class from Python 3.12 on, and typing_extensions has another one.
    return type(annotation).__name__ == "TypeAliasType"


def unresolved_names(annotation: object) -> tuple[str, ...]:
    """Return the parts of an annotation that could not be resolved, as text, each once."""
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
    """Write an annotation as a user would write it.

    Arguments:
        annotation: any object.
        qualified: whether to write classes with their modules, to distinguish two classes of the same name.
        max_chars: maximum length of the text; a longer one is cut.
    """
    try:
        text = _text(annotation, qualified)
    except Exception:  # __repr__, __name__ and __module__ may run the user's code
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
    if origin in (Union, types.UnionType):
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
