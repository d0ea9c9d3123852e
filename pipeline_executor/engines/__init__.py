"""Engines: each takes a plan and runs it somewhere.

`sequential` chains the steps in the calling process; `local` gives each replica a process of its own.
"""
