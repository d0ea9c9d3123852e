"""The pure-Python core: the same names and behaviour as the compiled `_core`, over multiprocessing.

It runs on every system, and serves where the compiled core is not available. Tests compare the two cores, so that no
behaviour is an accident of one of them. A section of docs/protocol.md says how this core differs inside.
"""

from __future__ import annotations

from pipeline_executor.fallback.codec import message_check
from pipeline_executor.fallback.link import open_link, run_as, running_step
from pipeline_executor.fallback.run import open_run
from pipeline_executor.fallback.signals import set_handler

__all__ = ["NAME", "message_check", "open_link", "open_run", "run_as", "running_step", "set_handler"]

NAME = "pure"
