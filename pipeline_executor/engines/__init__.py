"""Engines: each takes a plan and runs it. All code of this folder runs in the process that called `execute`.

`registry` lists the engines. `sequential` chains the steps in the calling process. `local` gives each replica a process
or a thread of its own, and the code that runs there is in `replica`.
"""
