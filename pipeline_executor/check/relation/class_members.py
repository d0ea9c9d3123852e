"""The attributes and methods of a type, for protocols.

Source: https://typing.python.org/en/latest/spec/protocol.html
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, get_origin

from pipeline_executor.check.relation.annotations import class_scope, own_annotations, resolve
from pipeline_executor.check.relation.base_classes import (
    as_instance_of,
    builtin_member,
    class_of,
    direct_bases,
    stored_attributes,
)
from pipeline_executor.check.relation.callables import ANY_FUNCTION, function_form, signature_form
from pipeline_executor.check.relation.read_annotation import parameters_of, read
from pipeline_executor.check.relation.stdlib_stubs import PROTOCOL_MEMBERS, is_described_by_stubs, stub_of
from pipeline_executor.check.relation.type_forms import (
    ANY,
    AnyClass,
    Form,
    Function,
    Instance,
    Parameters,
    TypedDictForm,
    substitute,
)

__all__ = ["Member", "constructor_of", "is_protocol", "member_of", "members_of_protocol"]


@dataclass(frozen=True, slots=True)
class Member:
    """One attribute or method.

    Attributes:
        form: its type. The type of a method does not include `self`.
        is_settable: whether the attribute may be assigned to.
        is_method: whether it is a function of the class.
    """

    form: Form
    is_settable: bool = False
    is_method: bool = False


#: Names in the namespace of a protocol class that are not members of the protocol.
_NEVER_MEMBERS = frozenset(
    {
        *vars(types.new_class("_", (Protocol,))),
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__class_getitem__",
        "__conditional_annotations__",
        "__doc__",
        "__firstlineno__",
        "__init__",
        "__match_args__",
        "__new__",
        "__non_callable_proto_members__",
        "__orig_bases__",
        "__parameters__",
        "__protocol_attrs__",
        "__slots__",
        "__static_attributes__",
        "__type_params__",
        "_is_runtime_protocol",
    }
)


def is_protocol(class_: AnyClass) -> bool:
    """Tell whether a class is a protocol, so that it is compared by its members."""
    return class_ in PROTOCOL_MEMBERS or bool(getattr(class_, "_is_protocol", False))


def members_of_protocol(class_: AnyClass) -> tuple[str, ...]:
    """Return the names of the members that a protocol requires."""
    if class_ in PROTOCOL_MEMBERS:
        return tuple(PROTOCOL_MEMBERS[class_])
    names: dict[str, None] = {}
    for base in class_.__mro__:
        if base in PROTOCOL_MEMBERS:
            names |= dict.fromkeys(PROTOCOL_MEMBERS[base])
        elif is_protocol(base) and base not in (Generic, Protocol):
            names |= dict.fromkeys(own_annotations(base))
            names |= dict.fromkeys(name for name in vars(base) if name not in _NEVER_MEMBERS)
    return tuple(names)


def member_of(form: Form, name: str, *, self_form: Form | None = None) -> Member | None:
    """Find an attribute or a method of a type.

    Arguments:
        form: the type.
        name: name of the attribute.
        self_form: the type that `Self` stands for. Default: `form`.

    Returns:
        The member; None if the class has no such attribute.
    """
    if isinstance(form, TypedDictForm):
        (form,) = direct_bases(form)  # a TypedDict has the methods of a Mapping, not those of a dict
    own = class_of(form)
    if own is None:
        return None
    for class_ in own.__mro__:
        declared = PROTOCOL_MEMBERS.get(class_, {})
        if name not in declared and name not in vars(class_) and name not in own_annotations(class_):
            continue
        if name.startswith("__") and vars(class_).get(name, ...) is None and not _keeps_hash(name, class_):
            return None  # a class sets a special method to None to say that it does not have it
        variables: dict[object, Form] = {typing.Self: form if self_form is None else self_form}
        base = as_instance_of(form, class_)
        if isinstance(base, (Instance, TypedDictForm)):
            variables |= zip(parameters_of(class_), base.arguments, strict=False)
        if name in declared:
            return Member(read(declared[name], variables), is_method=True)
        if is_described_by_stubs(class_) or class_ is object:
            found = _builtin(form, class_, name)
        else:
            found = _own_member(class_, name)
        if found is None:
            return None
        return Member(substitute(found.form, variables), found.is_settable, found.is_method)
    return Member(ANY, is_settable=True) if _is_made_at_run_time(own, name) else None


def _keeps_hash(name: str, class_: AnyClass) -> bool:
    """Tell whether type checkers treat a class as hashable although Python set its `__hash__` to None.

    Python does that for a class that defines `__eq__`. Type checkers ignore it, except where a stub says so.
    """
    equality = vars(class_).get("__eq__")
    is_told = stub_of(class_) is not None and not isinstance(equality, types.FunctionType)
    return name == "__hash__" and equality is not None and not is_told


def _builtin(form: Form, class_: AnyClass, name: str) -> Member | None:
    value = vars(class_)[name]
    known = builtin_member(form, name)
    if known is None and callable(value) and not isinstance(value, type):
        known = _signature_of(value, class_)
    return Member(ANY if known is None else known, is_settable=True, is_method=known is not None)


def _signature_of(method: Callable[..., Any], class_: AnyClass) -> Form | None:
    """Return the type of a builtin method from its signature, which has parameters but mostly no annotations."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return None
    return signature_form(signature, class_scope(class_), skip_first=True)


def _own_member(class_: AnyClass, name: str) -> Member:
    annotations, value = own_annotations(class_), vars(class_).get(name)
    scope = class_scope(class_)
    if name in annotations:
        annotation = resolve(annotations[name], scope)
        is_final = annotation is Final or get_origin(annotation) is Final or _is_read_only(class_)
        bare = annotation is Final or annotation is ClassVar
        return Member(ANY if bare else read(annotation), is_settable=not is_final)
    if isinstance(value, property):
        getter = value.fget
        form = function_form(getter, scope).result if isinstance(getter, types.FunctionType) else ANY
        return Member(form, is_settable=value.fset is not None)
    if isinstance(value, functools.cached_property) and isinstance(value.func, types.FunctionType):
        return Member(function_form(value.func, scope).result, is_settable=True)
    if isinstance(value, (classmethod, staticmethod)) and isinstance(value.__func__, types.FunctionType):
        skip_first = isinstance(value, classmethod)
        return Member(function_form(value.__func__, scope, skip_first=skip_first), is_method=True)
    if isinstance(value, types.FunctionType):
        return Member(function_form(value, scope, skip_first=True), is_method=True)
    if type(value) in (bool, bytes, float, int, str):
        return Member(Instance(type(value)), is_settable=True)
    return Member(ANY, is_settable=True)


def _is_read_only(class_: AnyClass) -> bool:
    return hasattr(class_, "_fields") or bool(getattr(getattr(class_, "__dataclass_params__", None), "frozen", False))


def _is_made_at_run_time(own: AnyClass, name: str) -> bool:
    """Tell whether an attribute may exist only at run time: set by a method, or provided by `__getattr__`."""
    for class_ in own.__mro__:
        if class_ is object:
            continue
        if "__getattr__" in vars(class_) or name in vars(class_).get("__slots__", ()):
            return True
        methods = (value for value in vars(class_).values() if isinstance(value, types.FunctionType))
        if not is_protocol(class_) and any(name in stored_attributes(method) for method in methods):
            return True
    return False


def constructor_of(form: Form) -> Function:
    """Return the type of a class as the function that creates its instances.

    https://typing.python.org/en/latest/spec/constructors.html#converting-a-constructor-to-callable
    """
    own = class_of(form)
    if own is None or isinstance(form, TypedDictForm) or type(own).__call__ is not type.__call__:
        return Function(ANY_FUNCTION.parameters, form)
    for class_ in own.__mro__:
        for name in ("__init__", "__new__"):
            method: Any = vars(class_).get(name)
            if isinstance(method, staticmethod):
                method = method.__func__
            if isinstance(method, types.FunctionType):
                parameters = function_form(method, class_scope(class_), skip_first=True).parameters
                variables = dict.fromkeys(parameters_of(class_), ANY)
                return Function(substitute(parameters, variables), form)
            if method is not None and class_ is not object:
                return Function(ANY_FUNCTION.parameters, form)
    return Function(Parameters(), form)
