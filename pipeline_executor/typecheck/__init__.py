"""The check before start: what the steps say of themselves, and whether they fit together.

`signature` reads one step, `check` judges a list of them, `assignable` is the relation between what
one step yields and what the next takes.
"""

from pipeline_executor.typecheck.check import check_definition
from pipeline_executor.typecheck.signature import StepSignature, inspect_step

__all__ = ["StepSignature", "check_definition", "inspect_step"]
