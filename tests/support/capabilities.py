"""What this system can do. Tests and their steps ask here, so that a new platform is described in one place.

Each name says what a test needs, not which system has it. Few imports: children that are spawned load this module, too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

_IS_LINUX = sys.platform.startswith("linux")
_IS_POSIX = os.name == "posix"

# ---- processes

#: A process can be copied, by `os.fork` and by multiprocessing.
CAN_FORK = "fork" in multiprocessing.get_all_start_methods()

#: A process can be held by a descriptor, which stays valid when its process id is used again.
HAS_PIDFDS = hasattr(os, "pidfd_open")

#: A child's end can be seen without reaping it.
CAN_PEEK_AT_CHILDREN = hasattr(os, "waitid")

HAS_PROCESS_GROUPS = hasattr(os, "setpgid")

HAS_SESSIONS = hasattr(os, "getsid")

#: A process can be bound to some of the processors.
CAN_CHOOSE_PROCESSORS = hasattr(os, "sched_setaffinity")

#: What a process has used, such as its context switches, can be asked for when it has ended.
HAS_USAGE_OF_ENDED_PROCESSES = _IS_POSIX

# ---- signals

#: Signals as POSIX has them: each has a default action, can be handled, and is in the exit code of what it killed.
HAS_SIGNALS = _IS_POSIX

#: The signals that a program may use as it likes.
HAS_USER_SIGNALS = hasattr(signal, "SIGUSR1")

#: The signal of a terminal that is gone.
HAS_SIGHUP = hasattr(signal, "SIGHUP")

#: A thread can hold signals back.
HAS_SIGNAL_MASKS = hasattr(signal, "pthread_sigmask")

#: A signal can be sent to one thread.
CAN_SIGNAL_THREADS = hasattr(signal, "pthread_kill")

# ---- the compiled core

#: The headers in `_core/include` have a platform layer for this system, above all a futex to sleep on.
HAS_FUTEX = _IS_LINUX

#: The compiled core exists for this system and this interpreter, so a test may demand it.
HAS_COMPILED_CORE = HAS_FUTEX and sys.implementation.name == "cpython"

# ---- memory and files

#: /proc tells the memory, the mappings and the descriptors of each process, and /dev/shm holds named shared memory.
HAS_PROC = _IS_LINUX

#: Open descriptors have small numbers, are counted, and have an upper limit that a program can lower.
COUNTS_DESCRIPTORS = _IS_POSIX

#: `resource.RLIMIT_AS` really bounds the address space.
LIMITS_ADDRESS_SPACE = _IS_LINUX

#: Addresses can be had without memory behind them.
CAN_RESERVE_ADDRESSES = _IS_LINUX

#: A file or a folder that is in use can be deleted.
CAN_DELETE_WHAT_IS_USED = _IS_POSIX

# ---- programs

#: Terminals that a program can open (`pty`).
HAS_PSEUDO_TERMINALS = _IS_POSIX

#: `cat`, `sh` and the like.
HAS_POSIX_TOOLS = _IS_POSIX

#: The other libraries that the benchmarks compare with can be run as they are run there.
RUNS_BENCHMARKS = _IS_LINUX

#: `os.uname` tells the machine's name.
HAS_UNAME = hasattr(os, "uname")
