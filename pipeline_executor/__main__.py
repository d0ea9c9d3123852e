"""The command line `python -m pipeline_executor replay FILE [MODULE:FUNCTION] [--pdb]`; `replay` implements it."""

from __future__ import annotations

import sys

from pipeline_executor.replay import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
