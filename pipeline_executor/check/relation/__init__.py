"""The relation "is assignable to" between types, as the typing specification defines it.

    annotations      resolve an annotation, and write it in a message; `type_checking_imports` finds names under
                     `if TYPE_CHECKING:`
    type_forms       `Form`: one class for each kind of type
    read_annotation  turn an annotation into a `Form`
    write_type       write a `Form` in a message
    assignable       the entry `is_assignable`, and the table of which rule decides which pair of kinds
    rules            the rules; those for `tuples`, `typed_dicts` and `callables` are in modules of their own
    relation         apply the table to two types and their parts, with limits on time and depth
    type_variables   find what the type variables of a step stand for
    base_classes     the base classes of a type with their type arguments, and the variance of type parameters
    class_members    the attributes and methods of a type, for protocols
    stdlib_stubs     what only type stubs tell about the classes of the standard library

Nothing here knows about steps or pipelines.
"""
