"""The rules of the relation, one for each pair of kinds of type; `assignable` has the table of when each applies.

Every rule is given the relation, to ask it of the parts, and returns whether it holds; None leaves the question to the
next line of the table. Each names the section of the typing specification that it implements.
"""

from __future__ import annotations

import collections.abc as abc
import enum
import types

from pipeline_executor.check.relation.base_classes import as_instance_of, class_of, variances_of
from pipeline_executor.check.relation.callables import can_be_called_as
from pipeline_executor.check.relation.class_members import constructor_of, is_protocol, member_of, members_of_protocol
from pipeline_executor.check.relation.read_annotation import expand
from pipeline_executor.check.relation.relation import Relation
from pipeline_executor.check.relation.stdlib_stubs import is_described_by_stubs, stub_of
from pipeline_executor.check.relation.tuples import is_tuple_assignable
from pipeline_executor.check.relation.type_forms import (
    ANY,
    OBJECT,
    Alias,
    AnyClass,
    AnyForm,
    ClassObject,
    Form,
    Function,
    Instance,
    LiteralValue,
    NeverForm,
    NewTypeForm,
    Parameters,
    Tuple,
    TypedDictForm,
    UnionForm,
    Variable,
    union_of,
    variables_in,
)
from pipeline_executor.check.relation.typed_dicts import is_typed_dict_assignable

__all__ = [
    "any_type",
    "between_class_objects",
    "between_functions",
    "between_literals",
    "between_new_types",
    "between_parameters",
    "between_tuples",
    "between_typed_dicts",
    "equal",
    "from_alias",
    "from_class_object",
    "from_literal",
    "from_new_type",
    "from_union",
    "from_variable",
    "function_to_protocol",
    "never",
    "nominal",
    "promoted",
    "to_alias",
    "to_class_object",
    "to_function",
    "to_literal",
    "to_new_type",
    "to_object",
    "to_protocol",
    "to_tuple",
    "to_union",
    "to_variable",
]


def equal(relation: Relation, produced: Form, accepted: Form) -> bool | None:
    """Every type is assignable to itself.

    https://typing.python.org/en/latest/spec/concepts.html#summary-of-type-relations
    """
    return True if produced == accepted else None


def to_variable(relation: Relation, produced: Form, accepted: Variable) -> bool:
    """A variable of what accepts stands for at least what is produced.

    https://typing.python.org/en/latest/spec/generics.html#introduction
    """
    return relation.at_least(accepted, produced)


def from_variable(relation: Relation, produced: Variable, accepted: Form) -> bool:
    """In the parameters of a function the directions are reversed, so that a variable may be on this side.

    https://typing.python.org/en/latest/spec/generics.html#introduction
    """
    return relation.at_most(produced, accepted)


def any_type(relation: Relation, produced: Form, accepted: Form) -> bool:
    """`Any` is assignable to every type, and every type to it; a variable that is given it stands for it.

    https://typing.python.org/en/latest/spec/special-types.html#any
    """
    return all(relation.at_least(variable, ANY) for variable in variables_in(accepted))


def never(relation: Relation, produced: NeverForm, accepted: Form) -> bool:
    """`Never` has no values, so all of them are of every type.

    https://typing.python.org/en/latest/spec/special-types.html#never
    """
    return True


def from_alias(relation: Relation, produced: Alias, accepted: Form) -> bool:
    """A type alias means what it was defined as.

    https://typing.python.org/en/latest/spec/aliases.html#type-statement
    """
    return relation.assuming(produced, accepted, lambda: relation.holds(expand(produced), accepted))


def to_alias(relation: Relation, produced: Form, accepted: Alias) -> bool:
    """A type alias means what it was defined as.

    https://typing.python.org/en/latest/spec/aliases.html#type-statement
    """
    return relation.assuming(produced, accepted, lambda: relation.holds(produced, expand(accepted)))


def from_union(relation: Relation, produced: UnionForm, accepted: Form) -> bool:
    """Every member of what is produced must be accepted.

    https://typing.python.org/en/latest/spec/concepts.html#union-types
    """
    alternatives = accepted.members if isinstance(accepted, UnionForm) else ()
    variables = [member for member in alternatives if isinstance(member, Variable)]
    if not variables:
        return all(relation.holds(member, accepted) for member in produced.members)
    # What `T | None` does not have of its own is for T, as a whole.
    own = [member for member in alternatives if member not in variables]
    rest = union_of(tuple(member for member in produced.members if not relation.any_holds(member, own)))
    return relation.any_holds(rest, variables)


def to_union(relation: Relation, produced: Form, accepted: UnionForm) -> bool:
    """One member of what is accepted suffices.

    https://typing.python.org/en/latest/spec/concepts.html#union-types
    """
    # What needs no variable is asked first: None is no hint of what T is in `T | None`.
    members = sorted(accepted.members, key=lambda member: isinstance(member, Variable))
    if relation.any_holds(produced, members):
        return True
    values = _values_of(produced)
    return values is not None and relation.holds(values, accepted)


def to_object(relation: Relation, produced: Form, accepted: Instance) -> bool | None:
    """Everything is an object.

    https://typing.python.org/en/latest/spec/concepts.html#summary-of-type-relations
    """
    return True if accepted.class_ is object else None


def between_new_types(relation: Relation, produced: NewTypeForm, accepted: NewTypeForm) -> bool | None:
    """A `NewType` is a subclass of what it was made from, of which nothing else is an instance.

    https://typing.python.org/en/latest/spec/aliases.html#newtype
    """
    return True if produced == accepted else relation.holds(produced.base, accepted)


def from_new_type(relation: Relation, produced: NewTypeForm, accepted: Form) -> bool:
    """A `NewType` is a subclass of what it was made from.

    https://typing.python.org/en/latest/spec/aliases.html#newtype
    """
    return relation.holds(produced.base, accepted)


def to_new_type(relation: Relation, produced: Form, accepted: NewTypeForm) -> bool:
    """Nothing but itself is an instance of a `NewType`.

    https://typing.python.org/en/latest/spec/aliases.html#newtype
    """
    return False


def between_literals(relation: Relation, produced: LiteralValue, accepted: LiteralValue) -> bool:
    """Literals agree by type and value.

    https://typing.python.org/en/latest/spec/literal.html
    """
    return produced == accepted


def from_literal(relation: Relation, produced: LiteralValue, accepted: Form) -> bool:
    """A literal is a value of its type.

    https://typing.python.org/en/latest/spec/literal.html
    """
    return relation.holds(Instance(type(produced.value)), accepted)


def to_literal(relation: Relation, produced: Form, accepted: LiteralValue) -> bool:
    """An enumeration of one member is that member.

    https://typing.python.org/en/latest/spec/enums.html#enum-literal-expansion
    """
    values = _values_of(produced)
    return values is not None and relation.holds(values, accepted)


def _values_of(form: Form) -> Form | None:
    """A type as the union of its literals, or of its classes, where it is one.

    https://typing.python.org/en/latest/spec/enums.html#enum-literal-expansion
    """
    if isinstance(form, ClassObject) and isinstance(form.of, UnionForm):
        return union_of(tuple(ClassObject(member) for member in form.of.members))
    class_ = form.class_ if isinstance(form, Instance) else None
    if class_ is bool:
        return union_of((LiteralValue(True), LiteralValue(False)))
    if isinstance(class_, enum.EnumMeta) and list(class_):
        return union_of(tuple(LiteralValue(value) for value in class_))
    return None


def between_typed_dicts(relation: Relation, produced: TypedDictForm, accepted: TypedDictForm) -> bool:
    """Typed dictionaries are compared by their keys.

    https://typing.python.org/en/latest/spec/typeddict.html#assignability
    """
    return relation.assuming(
        produced,
        accepted,
        lambda: is_typed_dict_assignable(produced, accepted, relation.holds, relation.holds_both_ways),
    )


def between_tuples(relation: Relation, produced: Tuple, accepted: Tuple) -> bool:
    """Tuples are compared item by item.

    https://typing.python.org/en/latest/spec/tuples.html#type-compatibility-rules
    """
    return is_tuple_assignable(produced, accepted, relation.holds)


def to_tuple(relation: Relation, produced: Instance, accepted: Tuple) -> bool:
    """A subclass of a tuple, a named one for example, is one.

    https://typing.python.org/en/latest/spec/namedtuples.html#type-compatibility-rules
    """
    base = as_instance_of(produced, tuple)
    return base is not None and relation.holds(base, accepted)


def between_functions(relation: Relation, produced: Function, accepted: Function) -> bool:
    """A function takes at least the arguments, and returns at most the values.

    https://typing.python.org/en/latest/spec/callables.html#assignability-rules-for-callables
    """
    return relation.holds(produced.result, accepted.result) and relation.holds(produced.parameters, accepted.parameters)


def between_parameters(relation: Relation, produced: Parameters, accepted: Parameters) -> bool:
    """As part of a function: `produced` takes every call that `accepted` allows.

    https://typing.python.org/en/latest/spec/callables.html#assignability-rules-for-callables
    """
    return can_be_called_as(produced, accepted, relation.holds, relation.at_least)


def to_function(relation: Relation, produced: Form, accepted: Function) -> bool:
    """Classes are called to make instances, and instances by their `__call__`.

    https://typing.python.org/en/latest/spec/constructors.html#converting-a-constructor-to-callable
    """
    if isinstance(produced, ClassObject):
        return isinstance(produced.of, (AnyForm, Variable)) or relation.holds(constructor_of(produced.of), accepted)
    if isinstance(produced, Instance) and issubclass(produced.class_, type):
        return True
    call = member_of(produced, "__call__")
    return call is not None and relation.holds(call.form, accepted)


def between_class_objects(relation: Relation, produced: ClassObject, accepted: ClassObject) -> bool:
    """`type` is covariant.

    https://typing.python.org/en/latest/spec/special-types.html#type
    """
    return relation.holds(produced.of, accepted.of)


def to_class_object(relation: Relation, produced: Instance, accepted: ClassObject) -> bool:
    """Instances of a metaclass are classes, nobody knows which.

    https://typing.python.org/en/latest/spec/special-types.html#type
    """
    return issubclass(produced.class_, type) and accepted.of in (OBJECT, ANY)


def from_class_object(relation: Relation, produced: ClassObject, accepted: Form) -> bool:
    """A class object is an instance of its metaclass, and has the attributes of its class.

    https://typing.python.org/en/latest/spec/protocol.html#type-and-class-objects-vs-protocols
    """
    class_, to_class = class_of(produced.of), class_of(accepted)
    if to_class is None:
        return False
    if class_ is None:
        return relation.holds(Instance(type), accepted)
    if isinstance(class_, enum.EnumMeta):
        for as_stream in (abc.Collection, abc.Reversible):
            stream = Instance(as_stream, (produced.of,))
            if as_instance_of(stream, to_class) is not None:
                return relation.holds(stream, accepted)
    if is_protocol(to_class):
        # Special methods are looked up on the class of an object; that of a class is its metaclass.
        names = members_of_protocol(to_class)
        return all(hasattr(type(class_) if name.startswith("__") else class_, name) for name in names)
    return relation.holds(Instance(type(class_)), accepted)


def to_protocol(relation: Relation, produced: Form, accepted: Instance) -> bool | None:
    """A class implements a protocol by its members, whatever it derives from.

    https://typing.python.org/en/latest/spec/protocol.html#assignability-relationships-with-protocols
    """
    if not is_protocol(accepted.class_):
        return None
    base = as_instance_of(produced, accepted.class_)
    if base is not None:
        return relation.holds(base, accepted) if base != produced else None
    return relation.assuming(produced, accepted, lambda: _has_members(relation, produced, accepted))


def _has_members(relation: Relation, produced: Form, accepted: Instance) -> bool:
    for name in members_of_protocol(accepted.class_):
        mine = member_of(produced, name)
        theirs = member_of(accepted, name, self_form=produced)
        if mine is None:
            return False
        if theirs is None or relation.holds(mine.form, theirs.form):
            if theirs is None or theirs.is_method or not theirs.is_settable:
                continue
            # https://typing.python.org/en/latest/spec/protocol.html#mutability
            if mine.is_method or (mine.is_settable and relation.holds(theirs.form, mine.form)):
                continue
        return False
    return True


def function_to_protocol(relation: Relation, produced: Function, accepted: Instance) -> bool:
    """A function implements a protocol that asks for a `__call__` alone.

    https://typing.python.org/en/latest/spec/callables.html#callback-protocols
    """
    if not is_protocol(accepted.class_):
        return False
    for name in members_of_protocol(accepted.class_):
        theirs = member_of(accepted, name, self_form=produced)
        if name == "__call__" and theirs is not None:
            if not relation.holds(produced, theirs.form):
                return False
        elif not hasattr(types.FunctionType, name):
            return False
    return True


def promoted(relation: Relation, produced: Instance, accepted: Instance) -> bool | None:
    """`float` means `float | int` in an annotation, and `complex` means `complex | float | int`.

    https://typing.python.org/en/latest/spec/special-types.html#special-cases-for-float-and-complex
    """
    promoted = {float: (int,), complex: (int, float)}.get(accepted.class_, ())
    return True if issubclass(produced.class_, promoted) else None


def nominal(relation: Relation, produced: Form, accepted: Instance | TypedDictForm) -> bool:
    """A class is a subclass of its bases, with the type arguments that follow from them.

    https://typing.python.org/en/latest/spec/generics.html#variance
    """
    base = as_instance_of(produced, accepted.class_)
    if base is None:
        return _stubs_may_derive(class_of(produced), accepted.class_)
    if not isinstance(base, (Instance, TypedDictForm)):
        return relation.holds(base, accepted)
    if len(base.arguments) != len(accepted.arguments):  # one of the two is bare
        return True
    variances = variances_of(accepted.class_, len(accepted.arguments))
    return all(map(relation.holds_for, variances, base.arguments, accepted.arguments))


def _stubs_may_derive(from_class: AnyClass | None, to_class: AnyClass) -> bool:
    """True where only stubs that are not at hand could tell that one class derives from the other."""
    if from_class is None:
        return False
    # In its stubs numpy's sized numbers are aliases of the abstract ones: floating[Any] may be float32.
    if from_class.__module__ == "numpy" and from_class in to_class.__mro__[1:]:
        return from_class.__name__ in ("floating", "signedinteger", "unsignedinteger", "complexfloating")
    # A compiled class that is registered as a sequence is declared as one in its stubs, if it has any.
    if is_described_by_stubs(from_class) or stub_of(from_class) is not None or to_class.__module__ != "collections.abc":
        return False
    is_compiled = "__dict__" not in vars(from_class) and types.FunctionType not in map(type, vars(from_class).values())
    return is_compiled and issubclass(from_class, to_class)
