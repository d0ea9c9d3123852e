"""The relation "is assignable to" between types, as the typing specification has it.

`reading` reads an annotation into a form, `assignable` compares two forms by the `rules`, `solve` finds what type
variables stand for, `writing` writes a form in a message. Nothing here knows of steps or pipelines.
"""
