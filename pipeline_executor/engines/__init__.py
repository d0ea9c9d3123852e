"""Engines: each takes a plan and runs it somewhere. All of this runs in the process that called `execute`.

`registry` names them: `sequential` chains the steps in the calling process; `local` gives each replica a process, or a
thread, of its own. What then runs there is in `replica`.
"""
