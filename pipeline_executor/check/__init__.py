"""The check of a definition before anything starts: what the steps say of themselves, and whether they fit together.

`definition` checks a whole pipeline, `signature` reads one step, `edges` compares what one step yields with what the
next takes. Whether one type may stand where another is asked for is the relation's to say: see `relation`.
"""

from pipeline_executor.check.definition import check_definition
from pipeline_executor.check.signature import StepSignature, inspect_step

__all__ = ["StepSignature", "check_definition", "inspect_step"]
