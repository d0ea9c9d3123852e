"""Annotations read into the few kinds of type between which the relation decides.

`typing` has dozens of objects for some ten kinds of type. Each is read into one `Form` here, so that every rule of the
relation is written once: `Optional[int]`, `Union[int, None]` and `int | None` are one `Union`, and a bare `list` is a
`list[Any]`. A form is an immutable value, compared by what it means.

Source: https://typing.python.org/en/latest/spec/type-system.html
"""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

__all__ = [
    "ANY",
    "NEVER",
    "NONE",
    "OBJECT",
    "Alias",
    "AnyClass",
    "AnyForm",
    "ClassObject",
    "Form",
    "Function",
    "Instance",
    "LiteralValue",
    "NeverForm",
    "NewTypeForm",
    "Parameter",
    "ParameterKind",
    "Parameters",
    "Tuple",
    "TypedDictForm",
    "UnionForm",
    "Variable",
    "Variables",
    "substitute",
    "union_of",
    "variables_in",
]

#: Any class at all; what it makes of its instances is of no interest here.
AnyClass: TypeAlias = type[Any]

#: What each type variable, by identity, stands for.
Variables: TypeAlias = Mapping[object, "Form"]


class Form:
    """One type, as the relation sees it."""

    __slots__ = ()

    def parts(self) -> tuple[Form, ...]:
        """The forms that this one is made of."""
        return ()

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        """The same form, made of other parts."""
        return self


@final
@dataclass(frozen=True)
class AnyForm(Form):
    """`Any`, and whatever is not known: it is assignable in both directions.

    Attributes:
        name: how it was written; a name that could not be resolved, for one.
    """

    name: str = "Any"


@final
@dataclass(frozen=True)
class NeverForm(Form):
    """`Never`: the type without values."""


@final
@dataclass(frozen=True, eq=False)
class Instance(Form):
    """The instances of a class.

    Attributes:
        class_: any class but `tuple` and typed dictionaries, which have forms of their own.
        arguments: one form for each type parameter; `AnyForm` where none was written.
    """

    class_: AnyClass
    arguments: tuple[Form, ...] = ()

    # Classes by identity: a metaclass may define an equality of its own.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instance) and other.class_ is self.class_ and other.arguments == self.arguments

    def __hash__(self) -> int:
        return hash((id(self.class_), self.arguments))

    def parts(self) -> tuple[Form, ...]:
        return self.arguments

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        return Instance(self.class_, parts)


@final
@dataclass(frozen=True, eq=False)
class TypedDictForm(Form):
    """The dictionaries of a `TypedDict`."""

    class_: AnyClass
    arguments: tuple[Form, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypedDictForm) and other.class_ is self.class_ and other.arguments == self.arguments

    def __hash__(self) -> int:
        return hash((id(self.class_), self.arguments))

    def parts(self) -> tuple[Form, ...]:
        return self.arguments

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        return TypedDictForm(self.class_, parts)


@final
@dataclass(frozen=True)
class Tuple(Form):
    """`tuple[*before, *tuple[rest, ...], *after]`; without `rest`, a tuple of known length."""

    before: tuple[Form, ...]
    rest: Form | None = None
    after: tuple[Form, ...] = ()

    def parts(self) -> tuple[Form, ...]:
        return (*self.before, *(() if self.rest is None else (self.rest,)), *self.after)

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        count = len(self.before)
        if self.rest is None:
            return Tuple(parts)
        return Tuple(parts[:count], parts[count], parts[count + 1 :])


@final
@dataclass(frozen=True, eq=False)
class LiteralValue(Form):
    """`Literal[value]`, of one value."""

    value: object

    # By type and value: `Literal[1]` and `Literal[True]` differ.
    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LiteralValue)
            and type(other.value) is type(self.value)
            and bool(other.value == self.value)
        )

    def __hash__(self) -> int:
        return hash((id(type(self.value)), self.value))


@final
@dataclass(frozen=True)
class UnionForm(Form):
    """`A | B`: two members or more, none of them a union."""

    members: tuple[Form, ...]

    def parts(self) -> tuple[Form, ...]:
        return self.members

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        return union_of(parts)


@final
@dataclass(frozen=True, eq=False)
class NewTypeForm(Form):
    """What a `NewType` names.

    Attributes:
        marker: the object that `NewType()` returned.
        base: the type that it was made from.
    """

    marker: object
    base: Form

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NewTypeForm) and other.marker is self.marker

    def __hash__(self) -> int:
        return id(self.marker)


@final
@dataclass(frozen=True)
class ClassObject(Form):
    """`type[of]`: the class itself, or a subclass of it."""

    of: Form

    def parts(self) -> tuple[Form, ...]:
        return (self.of,)

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        return ClassObject(*parts)


@final
@dataclass(frozen=True, eq=False)
class Variable(Form):
    """A `TypeVar`, or `Self`, that stands for a type which is not known yet."""

    of: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variable) and other.of is self.of

    def __hash__(self) -> int:
        return id(self.of)


class ParameterKind(enum.Enum):
    """How an argument is passed."""

    BY_POSITION = enum.auto()
    EITHER = enum.auto()
    BY_NAME = enum.auto()
    STAR = enum.auto()
    DOUBLE_STAR = enum.auto()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        name: "" where a caller cannot use it.
        form: the type of its values; for `*args` that of one.
        has_default: whether a caller may leave it out.
    """

    name: str
    form: Form
    kind: ParameterKind = ParameterKind.BY_POSITION
    has_default: bool = False


@final
@dataclass(frozen=True)
class Parameters(Form):
    """The parameters of a function.

    Attributes:
        items: those that are known, in their order.
        tail: what follows them: None for nothing, a `Variable` for a `ParamSpec`, a `AnyForm` for "...".
    """

    items: tuple[Parameter, ...] = ()
    tail: Variable | AnyForm | None = None

    def parts(self) -> tuple[Form, ...]:
        return (*(item.form for item in self.items), *(() if self.tail is None else (self.tail,)))

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        items = tuple(
            Parameter(item.name, form, item.kind, item.has_default)
            for item, form in zip(self.items, parts[: len(self.items)], strict=True)
        )
        if self.tail is None:
            return Parameters(items)
        tail = parts[-1]
        if isinstance(tail, Parameters):  # what a ParamSpec was found to stand for
            return Parameters((*items, *tail.items), tail.tail)
        return Parameters(items, tail if isinstance(tail, Variable) else ANY)


@final
@dataclass(frozen=True)
class Function(Form):
    """`Callable[parameters, result]`, and every function."""

    parameters: Form
    result: Form

    def parts(self) -> tuple[Form, ...]:
        return (self.parameters, self.result)

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        return Function(*parts)


@final
@dataclass(frozen=True, eq=False)
class Alias(Form):
    """A type alias that may refer to itself, so that it is looked into only where that is needed."""

    of: Any
    arguments: tuple[Form, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alias) and other.of is self.of and other.arguments == self.arguments

    def __hash__(self) -> int:
        return hash((id(self.of), self.arguments))

    def parts(self) -> tuple[Form, ...]:
        return self.arguments

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        return Alias(self.of, parts)


ANY = AnyForm()
NEVER = NeverForm()
NONE = Instance(types.NoneType)
OBJECT = Instance(object)


def union_of(forms: tuple[Form, ...]) -> Form:
    """The union of forms: flat, without repetition, `Never` left out."""
    members: dict[Form, None] = {}
    for form in forms:
        for member in form.members if isinstance(form, UnionForm) else (form,):
            if member != NEVER:
                members[member] = None
    if not members:
        return NEVER
    return next(iter(members)) if len(members) == 1 else UnionForm(tuple(members))


def substitute(form: Form, variables: Variables) -> Form:
    """The form with each variable replaced by what it stands for; others stay."""
    if isinstance(form, Variable):
        return variables.get(form.of, form)
    parts = form.parts()
    if not parts or not variables:
        return form
    changed = tuple(substitute(part, variables) for part in parts)
    return form if all(new is old for new, old in zip(changed, parts, strict=True)) else form.rebuilt(changed)


def variables_in(form: Form) -> Iterator[Variable]:
    """Every variable of a form, as often as it occurs."""
    if isinstance(form, Variable):
        yield form
    for part in form.parts():
        yield from variables_in(part)
