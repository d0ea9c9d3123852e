"""`Form` and its subclasses: one class for each kind of type that the relation knows.

`typing` has dozens of objects for some ten kinds of type. A form is the same for all annotations with the same meaning,
so each rule of the relation is written once. `Optional[int]`, `Union[int, None]` and `int | None` have the same
`UnionForm`, and a bare `list` is `list[Any]`. A form is an immutable value.

    annotation                   form
    Any, an unresolved name      AnyForm
    Never, NoReturn              NeverForm
    a class, list[int]           Instance
    a TypedDict                  TypedDictForm
    tuple[int, str]              Tuple
    Literal[1]                   LiteralValue
    int | str                    UnionForm
    NewType("UserId", int)       NewTypeForm
    type[int]                    ClassObject
    a TypeVar, Self              Variable
    Callable[[int], str]         Function, whose parameters are a Parameters
    type Tree = list[Tree]       Alias

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

#: Any class.
AnyClass: TypeAlias = type[Any]

#: The form that each type variable stands for.
Variables: TypeAlias = Mapping[object, "Form"]


class Form:
    """Base class: one type."""

    __slots__ = ()

    def parts(self) -> tuple[Form, ...]:
        """Return the forms that this form consists of: for `list[int]`, that of `int`."""
        return ()

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        """Return the same kind of form with other parts."""
        return self


@final
@dataclass(frozen=True)
class AnyForm(Form):
    """`Any`, or a type that is not known. It is assignable to every type, and every type to it.

    Attributes:
        name: how the annotation was written, such as a name that could not be resolved.
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
        class_: any class except `tuple` and TypedDicts, which have forms of their own.
        arguments: one form for each type parameter; `AnyForm` if no type argument was written.
    """

    class_: AnyClass
    arguments: tuple[Form, ...] = ()

    # Classes are compared by identity, because a metaclass may define an `__eq__` of its own.
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
    """The dictionaries of a `TypedDict`; the attributes are those of `Instance`."""

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
    """`tuple[*before, *tuple[rest, ...], *after]`. If `rest` is None, a tuple of fixed length."""

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
    """`Literal[value]` with a single value."""

    value: object

    # The type of the value counts as well: `Literal[1]` is not `Literal[True]`, although 1 == True.
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
    """`A | B`: at least two members, none of which is a union."""

    members: tuple[Form, ...]

    def parts(self) -> tuple[Form, ...]:
        return self.members

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        return union_of(parts)


@final
@dataclass(frozen=True, eq=False)
class NewTypeForm(Form):
    """A type made by `NewType`.

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
    """`type[of]`: the class `of` itself, or a subclass of it."""

    of: Form

    def parts(self) -> tuple[Form, ...]:
        return (self.of,)

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        return ClassObject(*parts)


@final
@dataclass(frozen=True, eq=False)
class Variable(Form):
    """A `TypeVar` or `Self`: it stands for a type that is not known yet."""

    of: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variable) and other.of is self.of

    def __hash__(self) -> int:
        return id(self.of)


class ParameterKind(enum.Enum):
    """How an argument can be passed."""

    BY_POSITION = enum.auto()
    EITHER = enum.auto()
    BY_NAME = enum.auto()
    STAR = enum.auto()
    DOUBLE_STAR = enum.auto()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        name: the parameter's name; "" if no call can use it.
        form: the type of the argument; for `*args`, of each argument.
        kind: how the argument can be passed.
        has_default: whether a call may leave the argument out.
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
        items: the parameters that are known, in order.
        tail: the parameters after them: None if there are none, a `Variable` for a `ParamSpec`, `AnyForm` for "...".
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
        if isinstance(tail, Parameters):  # the parameters that a ParamSpec stands for
            return Parameters((*items, *tail.items), tail.tail)
        return Parameters(items, tail if isinstance(tail, Variable) else ANY)


@final
@dataclass(frozen=True)
class Function(Form):
    """`Callable[parameters, result]`, and the type of every function."""

    parameters: Form
    result: Form

    def parts(self) -> tuple[Form, ...]:
        return (self.parameters, self.result)

    def rebuilt(self, parts: tuple[Form, ...]) -> Form:
        return Function(*parts)


@final
@dataclass(frozen=True, eq=False)
class Alias(Form):
    """A type alias. It is expanded only when a rule needs that, because it may refer to itself."""

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
    """Return the union of forms: nested unions are flattened, duplicates and `Never` are removed."""
    members: dict[Form, None] = {}
    for form in forms:
        for member in form.members if isinstance(form, UnionForm) else (form,):
            if member != NEVER:
                members[member] = None
    if not members:
        return NEVER
    return next(iter(members)) if len(members) == 1 else UnionForm(tuple(members))


def substitute(form: Form, variables: Variables) -> Form:
    """Replace each type variable by the form that it stands for. Variables that are not in `variables` remain."""
    if isinstance(form, Variable):
        return variables.get(form.of, form)
    parts = form.parts()
    if not parts or not variables:
        return form
    changed = tuple(substitute(part, variables) for part in parts)
    return form if all(new is old for new, old in zip(changed, parts, strict=True)) else form.rebuilt(changed)


def variables_in(form: Form) -> Iterator[Variable]:
    """Yield every type variable of a form, as often as it occurs."""
    if isinstance(form, Variable):
        yield form
    for part in form.parts():
        yield from variables_in(part)
