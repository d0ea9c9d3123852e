"""The code that runs in a replica's process or thread.

`child` is the main function of a replica's process. `worker` runs the step, in a process or in a thread. Objects that
the caller makes for a child to use are here, too: `early_setup`, `lifeline`, `stacks`, `run_tracker`. Nothing here
imports from `engines`, which is the caller's side.
"""
