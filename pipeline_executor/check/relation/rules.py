"""The rules of the relation, one for each pair of kinds of type. The table in `assignable` says when each applies.

A rule tells whether `produced` is assignable to `accepted`. It asks the relation about the parts of the two types. None
leaves the decision to the next line of the table. Each rule names the section of the typing specification that it
implements.
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
    """A type variable in the accepted type must stand for a type that includes the produced type.

    https://typing.python.org/en/latest/spec/generics.html#introduction
    """
    return relation.at_least(accepted, produced)


def from_variable(relation: Relation, produced: Variable, accepted: Form) -> bool:
    """A type variable on the produced side must stand for a type that the accepted type includes.

    That happens in the parameters of a function, where the two sides are exchanged.

    https://typing.python.org/en/latest/spec/generics.html#introduction
    """
    return relation.at_most(produced, accepted)


def any_type(relation: Relation, produced: Form, accepted: Form) -> bool:
    """`Any` is assignable to every type, and every type to `Any`. A type variable that is given `Any` stands for `Any`.

    https://typing.python.org/en/latest/spec/special-types.html#any
    """
    return all(relation.at_least(variable, ANY) for variable in variables_in(accepted))


def never(relation: Relation, produced: NeverForm, accepted: Form) -> bool:
    """`Never` has no values, so it is assignable to every type.

    https://typing.python.org/en/latest/spec/special-types.html#never
    """
    return True


def from_alias(relation: Relation, produced: Alias, accepted: Form) -> bool:
    """A type alias is equivalent to the type that it was defined as.

    https://typing.python.org/en/latest/spec/aliases.html#type-statement
    """
    return relation.assuming(produced, accepted, lambda: relation.holds(expand(produced), accepted))


def to_alias(relation: Relation, produced: Form, accepted: Alias) -> bool:
    """A type alias is equivalent to the type that it was defined as.

    https://typing.python.org/en/latest/spec/aliases.html#type-statement
    """
    return relation.assuming(produced, accepted, lambda: relation.holds(produced, expand(accepted)))


def from_union(relation: Relation, produced: UnionForm, accepted: Form) -> bool:
    """Every member of the produced union must be assignable to the accepted type.

    https://typing.python.org/en/latest/spec/concepts.html#union-types
    """
    alternatives = accepted.members if isinstance(accepted, UnionForm) else ()
    variables = [member for member in alternatives if isinstance(member, Variable)]
    if not variables:
        return all(relation.holds(member, accepted) for member in produced.members)
    # With `T | None`, the produced members that None does not accept go to T together, as one union.
    own = [member for member in alternatives if member not in variables]
    rest = union_of(tuple(member for member in produced.members if not relation.any_holds(member, own)))
    return relation.any_holds(rest, variables)


def to_union(relation: Relation, produced: Form, accepted: UnionForm) -> bool:
    """The produced type must be assignable to one member of the accepted union.

    https://typing.python.org/en/latest/spec/concepts.html#union-types
    """
    # Members without type variables are tried first. With `T | None`, a produced None says nothing about T.
    members = sorted(accepted.members, key=lambda member: isinstance(member, Variable))
    if relation.any_holds(produced, members):
        return True
    values = _values_of(produced)
    return values is not None and relation.holds(values, accepted)


def to_object(relation: Relation, produced: Form, accepted: Instance) -> bool | None:
    """Every type is assignable to `object`.

    https://typing.python.org/en/latest/spec/concepts.html#summary-of-type-relations
    """
    return True if accepted.class_ is object else None


def between_new_types(relation: Relation, produced: NewTypeForm, accepted: NewTypeForm) -> bool | None:
    """A `NewType` is a subtype of its base, and only of its base.

    https://typing.python.org/en/latest/spec/aliases.html#newtype
    """
    return True if produced == accepted else relation.holds(produced.base, accepted)


def from_new_type(relation: Relation, produced: NewTypeForm, accepted: Form) -> bool:
    """A `NewType` is a subtype of its base.

    https://typing.python.org/en/latest/spec/aliases.html#newtype
    """
    return relation.holds(produced.base, accepted)


def to_new_type(relation: Relation, produced: Form, accepted: NewTypeForm) -> bool:
    """No other type is assignable to a `NewType`.

    https://typing.python.org/en/latest/spec/aliases.html#newtype
    """
    return False


def between_literals(relation: Relation, produced: LiteralValue, accepted: LiteralValue) -> bool:
    """Two literals must have the same type and the same value.

    https://typing.python.org/en/latest/spec/literal.html
    """
    return produced == accepted


def from_literal(relation: Relation, produced: LiteralValue, accepted: Form) -> bool:
    """A literal is assignable to what the class of its value is assignable to.

    https://typing.python.org/en/latest/spec/literal.html
    """
    return relation.holds(Instance(type(produced.value)), accepted)


def to_literal(relation: Relation, produced: Form, accepted: LiteralValue) -> bool:
    """An enum or `bool` is the union of its literals, so an enum with one member is assignable to that literal.

    https://typing.python.org/en/latest/spec/enums.html#enum-literal-expansion
    """
    values = _values_of(produced)
    return values is not None and relation.holds(values, accepted)


def _values_of(form: Form) -> Form | None:
    """Expand `bool` and enums into the union of their literals, and `type[A | B]` into `type[A] | type[B]`.

    Return None for other types.

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
    """Two TypedDicts are compared key by key.

    https://typing.python.org/en/latest/spec/typeddict.html#assignability
    """
    return relation.assuming(
        produced,
        accepted,
        lambda: is_typed_dict_assignable(produced, accepted, relation.holds, relation.holds_both_ways),
    )


def between_tuples(relation: Relation, produced: Tuple, accepted: Tuple) -> bool:
    """Two tuples are compared item by item.

    https://typing.python.org/en/latest/spec/tuples.html#type-compatibility-rules
    """
    return is_tuple_assignable(produced, accepted, relation.holds)


def to_tuple(relation: Relation, produced: Instance, accepted: Tuple) -> bool:
    """A subclass of `tuple`, such as a named tuple, is assignable to what its base is assignable to.

    https://typing.python.org/en/latest/spec/namedtuples.html#type-compatibility-rules
    """
    base = as_instance_of(produced, tuple)
    return base is not None and relation.holds(base, accepted)


def between_functions(relation: Relation, produced: Function, accepted: Function) -> bool:
    """The produced function must take every argument of the accepted one, and its result must be assignable.

    https://typing.python.org/en/latest/spec/callables.html#assignability-rules-for-callables
    """
    return relation.holds(produced.result, accepted.result) and relation.holds(produced.parameters, accepted.parameters)


def between_parameters(relation: Relation, produced: Parameters, accepted: Parameters) -> bool:
    """The produced parameters must allow every call that the accepted parameters allow.

    https://typing.python.org/en/latest/spec/callables.html#assignability-rules-for-callables
    """
    return can_be_called_as(produced, accepted, relation.holds, relation.at_least)


def to_function(relation: Relation, produced: Form, accepted: Function) -> bool:
    """A class is a function that returns its instances. Any other type is a function if it has `__call__`.

    https://typing.python.org/en/latest/spec/constructors.html#converting-a-constructor-to-callable
    """
    if isinstance(produced, ClassObject):
        return isinstance(produced.of, (AnyForm, Variable)) or relation.holds(constructor_of(produced.of), accepted)
    if isinstance(produced, Instance) and issubclass(produced.class_, type):
        return True
    call = member_of(produced, "__call__")
    return call is not None and relation.holds(call.form, accepted)


def between_class_objects(relation: Relation, produced: ClassObject, accepted: ClassObject) -> bool:
    """`type[A]` is assignable to `type[B]` if A is assignable to B.

    https://typing.python.org/en/latest/spec/special-types.html#type
    """
    return relation.holds(produced.of, accepted.of)


def to_class_object(relation: Relation, produced: Instance, accepted: ClassObject) -> bool:
    """An instance of a metaclass is some class, so only `type[object]` and `type[Any]` accept it.

    https://typing.python.org/en/latest/spec/special-types.html#type
    """
    return issubclass(produced.class_, type) and accepted.of in (OBJECT, ANY)


def from_class_object(relation: Relation, produced: ClassObject, accepted: Form) -> bool:
    """A class object is an instance of its metaclass, and it has the attributes of the class.

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
        # Python looks up special methods on the type of an object. The type of a class is its metaclass.
        names = members_of_protocol(to_class)
        return all(hasattr(type(class_) if name.startswith("__") else class_, name) for name in names)
    return relation.holds(Instance(type(class_)), accepted)


def to_protocol(relation: Relation, produced: Form, accepted: Instance) -> bool | None:
    """A class implements a protocol if it has its members, whatever its base classes are.

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
    """A function implements a protocol that requires `__call__` and otherwise only attributes that functions have.

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
    """In an annotation, `float` means `float | int`, and `complex` means `complex | float | int`.

    https://typing.python.org/en/latest/spec/special-types.html#special-cases-for-float-and-complex
    """
    promoted = {float: (int,), complex: (int, float)}.get(accepted.class_, ())
    return True if issubclass(produced.class_, promoted) else None


def nominal(relation: Relation, produced: Form, accepted: Instance | TypedDictForm) -> bool:
    """A class is assignable to its base classes, if their type arguments fit by variance.

    https://typing.python.org/en/latest/spec/generics.html#variance
    """
    base = as_instance_of(produced, accepted.class_)
    if base is None:
        return _stubs_may_derive(class_of(produced), accepted.class_)
    if not isinstance(base, (Instance, TypedDictForm)):
        return relation.holds(base, accepted)
    if len(base.arguments) != len(accepted.arguments):  # one of the two was written without type arguments
        return True
    variances = variances_of(accepted.class_, len(accepted.arguments))
    return all(map(relation.holds_for, variances, base.arguments, accepted.arguments))


def _stubs_may_derive(from_class: AnyClass | None, to_class: AnyClass) -> bool:
    """Tell whether one class may derive from another according to type stubs that are not available here."""
    if from_class is None:
        return False
    # In numpy's stubs, float32 is an alias of floating[_32Bit]. So a value annotated `floating` may be a float32.
    if from_class.__module__ == "numpy" and from_class in to_class.__mro__[1:]:
        return from_class.__name__ in ("floating", "signedinteger", "unsignedinteger", "complexfloating")
    # A compiled class that is registered as a Sequence, for example, has that base class in its stubs.
    if is_described_by_stubs(from_class) or stub_of(from_class) is not None or to_class.__module__ != "collections.abc":
        return False
    is_compiled = "__dict__" not in vars(from_class) and types.FunctionType not in map(type, vars(from_class).values())
    return is_compiled and issubclass(from_class, to_class)
