"""The check of a pipeline's definition, before anything starts.

    definition      the entry: check a whole pipeline and report every defect at once
    signature       read one step: its stream, its constants, what it returns; `sync_or_async` tells how it runs
    task_settings   check counts, limits, mappings and switches of a task
    exact_match     skip the comparison of types where they are plainly equal
    edges           compare what one step yields with what the next step takes; `item_types` finds both types
    constants       check the values of constants against their annotations
    defects         the text of a defect, and the error that lists them

Advice in the messages comes from `why_not_assignable`, `common_mistakes` and `conversion_advice`. `uncheckable` warns
where an annotation cannot be checked. The package `relation` decides whether one type is assignable to another.
"""

from pipeline_executor.check.definition import check_definition
from pipeline_executor.check.signature import StepSignature, inspect_step

__all__ = ["StepSignature", "check_definition", "inspect_step"]
