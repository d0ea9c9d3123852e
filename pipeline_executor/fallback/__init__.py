"""The pure-Python core: the same names and behaviour as the compiled `_core`, over multiprocessing.

It serves where the compiled core is not available, on every system, and shows in tests that the behaviour is the
design's and not an accident of one core. docs/protocol.md has a section on how it differs inside.
"""

from __future__ import annotations

from pipeline_executor.fallback.codec import message_check
from pipeline_executor.fallback.link import open_link, run_as, running_step
from pipeline_executor.fallback.run import open_run
from pipeline_executor.fallback.signals import set_handler

__all__ = ["NAME", "message_check", "open_link", "open_run", "run_as", "running_step", "set_handler"]

NAME = "pure"
