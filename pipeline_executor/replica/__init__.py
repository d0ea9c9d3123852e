"""What runs where a step runs: in a replica's process, or in its thread.

`child` is a process's life from its first line of ours to its exit, `worker` runs the step in it, or in a thread. What
the caller makes for a child, and the child then uses, is here too: `early_setup`, `lifeline`, `stacks`, `run_tracker`.
Nothing here imports from `engines`, which is the caller's side.
"""
