"""Write a `Form` in a message."""

from __future__ import annotations

import enum
import types

from pipeline_executor.check.relation.stdlib_stubs import class_path
from pipeline_executor.check.relation.type_forms import (
    ANY,
    Alias,
    AnyClass,
    AnyForm,
    ClassObject,
    Form,
    Function,
    Instance,
    LiteralValue,
    NewTypeForm,
    Parameter,
    ParameterKind,
    Parameters,
    Tuple,
    TypedDictForm,
    UnionForm,
    Variable,
)

__all__ = ["write"]


def write(form: Form, *, qualified: bool = False, max_chars: int = 200) -> str:
    """Write a type as an annotation.

    Arguments:
        form: the type.
        qualified: whether to write classes with their modules, to distinguish two classes of the same name.
        max_chars: maximum length of the text; a longer one is cut.
    """
    text = _text(form, qualified)
    return text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."


def _text(form: Form, qualified: bool) -> str:
    match form:
        case AnyForm():
            return form.name
        case Instance(class_=types.NoneType):
            return "None"
        case Instance() | TypedDictForm():
            return _subscripted(_class(form.class_, qualified), form, qualified)
        case Tuple():
            return _tuple(form, qualified)
        case LiteralValue():
            return f"Literal[{_literal(form.value)}]"
        case UnionForm():
            return _union(form, qualified)
        case NewTypeForm():
            return str(getattr(form.marker, "__name__", "NewType"))
        case ClassObject():
            return f"type[{_text(form.of, qualified)}]"
        case Variable() | Alias():
            return _subscripted(str(getattr(form.of, "__name__", form.of)), form, qualified)
        case Parameters():
            return _parameters(form, qualified)
        case Function():
            return f"Callable[{_text(form.parameters, qualified)}, {_text(form.result, qualified)}]"
        case _:
            return "Never"


def _class(class_: AnyClass, qualified: bool) -> str:
    prefix = f"{class_.__module__}." if qualified and class_.__module__ != "builtins" else ""
    return prefix + class_.__qualname__


def _subscripted(name: str, form: Form, qualified: bool) -> str:
    parts = form.parts()
    if all(part == ANY for part in parts):
        return name
    if isinstance(form, Instance) and class_path(form.class_) == "numpy.ndarray" and parts[1].parts():
        return f"NDArray[{_text(parts[1].parts()[0], qualified)}]"
    return f"{name}[{', '.join(_text(part, qualified) for part in parts)}]"


def _literal(value: object) -> str:
    return f"{type(value).__qualname__}.{value.name}" if isinstance(value, enum.Enum) else repr(value)


def _tuple(form: Tuple, qualified: bool) -> str:
    before, after = ([_text(part, qualified) for part in parts] for parts in (form.before, form.after))
    if form.rest is None:
        return f"tuple[{', '.join(before) or '()'}]"
    rest = f"{_text(form.rest, qualified)}, ..."
    if before or after:
        rest = f"*tuple[{rest}]"
    return "tuple" if form == Tuple((), ANY) else f"tuple[{', '.join([*before, rest, *after])}]"


def _union(form: UnionForm, qualified: bool) -> str:
    literals = [member for member in form.members if isinstance(member, LiteralValue)]
    texts = [_text(member, qualified) for member in form.members if member not in literals]
    if literals:
        texts.insert(0, f"Literal[{', '.join(_literal(literal.value) for literal in literals)}]")
    return " | ".join(texts)


def _parameters(form: Parameters, qualified: bool) -> str:
    if isinstance(form.tail, AnyForm) and not form.items:
        return "..."
    texts = [_parameter(item, qualified) for item in form.items]
    if form.tail is not None:
        texts.append(f"**{form.tail.of.__name__}" if isinstance(form.tail, Variable) else "...")
    return f"[{', '.join(texts)}]"


def _parameter(item: Parameter, qualified: bool) -> str:
    text = _text(item.form, qualified)
    if item.kind is ParameterKind.STAR:
        return f"*{text}"
    if item.kind is ParameterKind.DOUBLE_STAR:
        return f"**{text}"
    name = f"{item.name}: " if item.kind is ParameterKind.BY_NAME else ""
    return f"{name}{text}{' = ...' if item.has_default else ''}"
