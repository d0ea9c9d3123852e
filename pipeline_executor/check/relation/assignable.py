"""The relation "is assignable to": its entry `is_assignable`, and its table.

The table is read from top to bottom. The first line whose kinds match both types decides, by its rule. Each rule names
the section of the typing specification that it implements.

Source: https://typing.python.org/en/latest/spec/concepts.html#summary-of-type-relations
"""

from __future__ import annotations

from pipeline_executor.check.relation import rules
from pipeline_executor.check.relation.read_annotation import read
from pipeline_executor.check.relation.relation import Case, Relation, VariableLimits
from pipeline_executor.check.relation.type_forms import (
    Alias,
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
)

__all__ = ["is_assignable", "new_relation"]


def is_assignable(produced: object, accepted: object) -> bool:
    """Tell whether every value of type `produced` is also a value of type `accepted`.

    A type variable is treated as an unknown type here. `type_variables.solve` finds what variables stand for.

    Arguments:
        produced: the type of what is handed over, as a resolved annotation or a `Form`.
        accepted: the type that is required, likewise.

    Raises:
        TooLargeError: the comparison exceeded the limits on time or depth.

    Shown by tests/check/test_assignable.py, test_pairs.py and test_against_mypy.py.
    """
    return new_relation().holds(read(produced), read(accepted))


def new_relation(limits: VariableLimits | None = None) -> Relation:
    """Make the relation for one question; see `Relation`."""
    return Relation(_CASES, limits)


_CASES = (
    Case(Form, Form, rules.equal),
    Case(Form, Variable, rules.to_variable),
    Case(Form, AnyForm, rules.any_type),
    Case(AnyForm, Form, rules.any_type),
    Case(Variable, Form, rules.from_variable),
    Case(NeverForm, Form, rules.never),
    Case(Form, Instance, rules.to_object),
    Case(Alias, Form, rules.from_alias),
    Case(Form, Alias, rules.to_alias),
    Case(UnionForm, Form, rules.from_union),
    Case(Form, UnionForm, rules.to_union),
    Case(NewTypeForm, NewTypeForm, rules.between_new_types),
    Case(NewTypeForm, Form, rules.from_new_type),
    Case(Form, NewTypeForm, rules.to_new_type),
    Case(LiteralValue, LiteralValue, rules.between_literals),
    Case(LiteralValue, Form, rules.from_literal),
    Case(Form, LiteralValue, rules.to_literal),
    Case(TypedDictForm, TypedDictForm, rules.between_typed_dicts),
    Case(Tuple, Tuple, rules.between_tuples),
    Case(Instance, Tuple, rules.to_tuple),
    Case(Function, Function, rules.between_functions),
    Case(Parameters, Parameters, rules.between_parameters),
    Case(Form, Function, rules.to_function),
    Case(ClassObject, ClassObject, rules.between_class_objects),
    Case(Instance, ClassObject, rules.to_class_object),
    Case(Function, Instance, rules.function_to_protocol),
    Case(ClassObject, Form, rules.from_class_object),
    Case(Form, Instance, rules.to_protocol),
    Case(Instance, Instance, rules.promoted),
    Case(Form, Instance, rules.nominal),
    Case(Form, TypedDictForm, rules.nominal),
)
