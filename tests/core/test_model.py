"""A model check of the compiled core's lock-free code: `model/checker.hpp` says how it works and what it leaves out.

The real headers are compiled against an `atomic.hpp` and a `platform.hpp` of the checker, and it tries all orders of
steps and all values that the memory model allows, for small numbers of threads and messages and within bounds on how
often a thread is preempted and how often a load returns an old value.

A checker that finds nothing proves little, so the headers are also weakened in one place at a time, and it must say
what is wrong then. And `model/litmus.cpp` asks the checker for the outcomes of programs whose outcomes are known.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from capabilities import HAS_FUTEX

pytest.importorskip("fcntl")
from made_once import made_once

MODEL = Path(__file__).parent / "model"
INCLUDE = Path(__file__).parents[2] / "_core" / "include"

pytestmark = [
    pytest.mark.skipif(not HAS_FUTEX, reason="the headers are for Linux only"),
    pytest.mark.skipif(not INCLUDE.is_dir(), reason="the tests run without the sources of the core"),
]

THOROUGH = pytest.mark.thorough
UNBOUNDED = "preemptions=255 stale_loads=255"
# A consumer leaves when another has taken all that came so far: it has lost nothing (rule R3).
QUIT_LATE = "quit_late leave_after=0 consumers=2 limit=2 preemptions=3 stale_loads=1"
# A consumer may die while it copies a message out of the cell that a producer waits for.
DEATH_IN_COPY = "death deaths=1 consumers=2 messages=3 limit=2 preemptions=1 stale_loads=0"
# Several wait for the same bytes.
LINE = "complete producers=2 limit=2 max_bytes=16 preemptions=1 stale_loads=1"
LINE_WITH_ROOM = "complete producers=3 limit=3 max_bytes=32 preemptions=1 stale_loads=1"
LINE_TWICE = "complete producers=2 messages=2 limit=4 max_bytes=32 preemptions=1 stale_loads=1"
GIVES_UP = "gives_up producers=2 limit=2 max_bytes=16 interruptions=1 preemptions=1 stale_loads=1"
GIVES_UP_IN_THE_MIDDLE = "gives_up producers=3 limit=3 max_bytes=16 interruptions=1"
STOPS_LINE = "stop leave_after=0 producers=2 limit=2 max_bytes=16 preemptions=1 stale_loads=1"

# Those with bounds would take too long without. The numbers in `Bounds` apply unless others are given. A scenario whose
# check takes seconds is checked twice: within smaller bounds by default, within its own with `-m thorough`.
CHECKS: list[Any] = [
    f"complete {UNBOUNDED}",
    pytest.param("complete messages=2 preemptions=3 stale_loads=2 weak_failures=1 interruptions=1", marks=THOROUGH),
    "complete messages=3 limit=2 preemptions=2 stale_loads=2",
    "complete messages=2 limit=2 blocks=1",
    "complete messages=20 limit=16 preemptions=1 stale_loads=1",  # sleeping producers are not woken for each credit
    "complete messages=2 limit=2 max_bytes=16 interruptions=1 preemptions=1 stale_loads=1",
    pytest.param("complete messages=2 limit=2 max_bytes=16 interruptions=1", marks=THOROUGH),
    pytest.param("complete producers=2 preemptions=2 stale_loads=1", marks=THOROUGH),
    "complete producers=2 preemptions=1 stale_loads=0 weak_failures=1",
    pytest.param("complete producers=2 preemptions=1 stale_loads=1 weak_failures=1", marks=THOROUGH),
    pytest.param("complete producers=2 preemptions=1 stale_loads=1 interruptions=1", marks=THOROUGH),
    "complete producers=2 preemptions=1 stale_loads=0 interruptions=1",
    LINE,
    "complete producers=3 limit=3 max_bytes=16 preemptions=0 stale_loads=1",
    pytest.param("complete producers=3 limit=3 max_bytes=16 preemptions=1 stale_loads=0", marks=THOROUGH),
    LINE_TWICE,
    pytest.param(LINE_WITH_ROOM, marks=THOROUGH),
    GIVES_UP,
    f"{GIVES_UP_IN_THE_MIDDLE} preemptions=0 stale_loads=1",
    pytest.param(f"{GIVES_UP_IN_THE_MIDDLE} preemptions=1 stale_loads=0", marks=THOROUGH),
    "complete consumers=2 stale_loads=1",
    pytest.param("complete consumers=2", marks=THOROUGH),
    pytest.param("complete consumers=2 messages=3 limit=2 preemptions=1 stale_loads=2", marks=THOROUGH),
    "complete producers=2 consumers=2 preemptions=0 stale_loads=1",
    "both_work producers=2 consumers=2 limit=2 preemptions=1 stale_loads=1",
    pytest.param("both_work producers=2 consumers=2 limit=2 preemptions=1 stale_loads=2", marks=THOROUGH),
    f"quit leave_after=0 {UNBOUNDED}",
    f"quit leave_after=1 {UNBOUNDED}",
    "quit leave_after=1 messages=2",
    pytest.param("quit leave_after=1 messages=2 preemptions=3 stale_loads=3", marks=THOROUGH),
    "quit leave_after=0 producers=2 preemptions=1",
    pytest.param("quit leave_after=0 producers=2", marks=THOROUGH),
    "quit leave_after=1 producers=2 limit=2 preemptions=1",
    "quit leave_after=1 messages=2 consumers=2 preemptions=1 stale_loads=1",
    pytest.param("quit leave_after=1 messages=2 consumers=2 preemptions=1", marks=THOROUGH),
    "quit leave_after=0 leavers=2 consumers=2",
    QUIT_LATE,
    f"stop leave_after=0 messages=2 {UNBOUNDED}",
    "stop leave_after=1 messages=2 producers=2 preemptions=1",
    "stop leave_after=1 messages=2 consumers=2 preemptions=1 stale_loads=1",
    pytest.param("stop leave_after=1 messages=2 consumers=2 preemptions=1", marks=THOROUGH),
    "stop leave_after=0 messages=2 limit=2 max_bytes=16",
    STOPS_LINE,
    "abort messages=2 limit=2 max_bytes=16 preemptions=1 stale_loads=1",
    pytest.param("abort messages=2 limit=2 max_bytes=16 stale_loads=1", marks=THOROUGH),
    pytest.param("abort messages=2 limit=2 max_bytes=16", marks=THOROUGH),
    "abort interruptions=1 preemptions=1 stale_loads=1",
    pytest.param("abort interruptions=1 stale_loads=1", marks=THOROUGH),
    pytest.param("abort interruptions=1", marks=THOROUGH),
    pytest.param("abort producers=2 preemptions=1 stale_loads=1", marks=THOROUGH),
    "abort producers=2 preemptions=1 stale_loads=0",
    "fail leave_after=1 deaths=1 preemptions=1 stale_loads=1",
    pytest.param("fail leave_after=1 deaths=1", marks=THOROUGH),
    "death deaths=1 stale_loads=1",
    pytest.param("death deaths=1", marks=THOROUGH),
    pytest.param("death deaths=1 consumers=2 preemptions=1 stale_loads=1", marks=THOROUGH),
    pytest.param(DEATH_IN_COPY, marks=THOROUGH),
    "bell messages=2 preemptions=3",
    "bell producers=2 preemptions=1 stale_loads=1",
    pytest.param("bell producers=2 preemptions=1", marks=THOROUGH),
    "bell_abort",
    "observe",
    "blocks producers=2 consumers=0 weak_failures=1 stale_loads=1",
    pytest.param("blocks producers=2 consumers=0 weak_failures=1", marks=THOROUGH),
    f"references producers=2 consumers=0 {UNBOUNDED}",
]

DEEP_CHECKS = [
    "complete messages=2 preemptions=5 stale_loads=4",
    "complete producers=2 preemptions=2 stale_loads=2",
    "complete consumers=2 preemptions=3 stale_loads=3",
    "complete consumers=2 messages=3 limit=2 preemptions=2 stale_loads=1",
    "complete producers=2 consumers=2 preemptions=1 stale_loads=1",
    "both_work producers=2 consumers=2 limit=2 preemptions=2 stale_loads=2",
    f"quit leave_after=1 messages=2 {UNBOUNDED}",
    "quit leave_after=1 messages=2 consumers=2 preemptions=2 stale_loads=2",
    "quit leave_after=1 producers=2 limit=2 preemptions=2 stale_loads=2",
    "stop leave_after=1 messages=2 producers=2 preemptions=2 stale_loads=2",
    f"abort {UNBOUNDED}",
    "abort producers=2 preemptions=1 stale_loads=2",
    "fail leave_after=1 deaths=1 preemptions=4 stale_loads=3",
    "death deaths=1 preemptions=4 stale_loads=3",
    "death deaths=1 producers=2 preemptions=1 stale_loads=1",
    "bell producers=2 preemptions=2 stale_loads=2",
    f"bell_abort {UNBOUNDED}",
    "blocks producers=2 consumers=0 preemptions=4 stale_loads=3",
    "blocks producers=3 consumers=0 preemptions=1 stale_loads=1",
    f"complete {UNBOUNDED} weak_failures=2 interruptions=2",
]


# The same for outputs in order (model/ordered.cpp).
SMALL = "preemptions=1 stale_loads=1"
WRAPS_ORDERED = f"complete items=6 outputs=100001 limit=3 {SMALL}"  # a slot is used twice
READER = f"reader items=2 outputs=11 {SMALL}"
LACKS_CREDIT = f"complete limit=3 {SMALL}"
LACKS_BYTES = f"kept items=3 outputs=111 limit=8 max_bytes=16 {SMALL}"
OTHERS = "others replicas=3 items=3 outputs=311 limit=6 preemptions=1 stale_loads=0"
OTHERS_WRAP = f"others patient=1 items=3 outputs=131 slots=2 limit=5 {SMALL}"
WRAPS_LINE = "complete items=4 outputs=1111 slots=2 limit=3 preemptions=1 stale_loads=0"
EARLY = "complete replicas=3 items=4 outputs=1001 slots=2 limit=5 preemptions=1 stale_loads=0"
ABORT_EARLY = "abort replicas=3 items=4 outputs=1001 slots=2 limit=5 preemptions=1 stale_loads=0"

ORDERED_CHECKS: list[Any] = [
    f"complete {SMALL}",
    f"complete limit=3 {SMALL}",
    pytest.param("complete limit=3 preemptions=2 stale_loads=1", marks=THOROUGH),
    f"complete items=3 outputs=121 limit=4 {SMALL}",
    f"complete items=3 outputs=121 limit=8 {SMALL}",
    "complete items=2 outputs=11 tail=1 preemptions=1 stale_loads=0",
    pytest.param(f"complete items=2 outputs=11 tail=1 {SMALL}", marks=THOROUGH),
    pytest.param(f"complete items=3 outputs=201 limit=4 tail=1 {SMALL}", marks=THOROUGH),
    "complete items=2 outputs=12 limit=3 weak_failures=1 preemptions=1 stale_loads=0",
    pytest.param(f"complete items=2 outputs=12 limit=3 weak_failures=1 {SMALL}", marks=THOROUGH),
    "complete items=2 outputs=12 limit=3 interruptions=1 preemptions=1 stale_loads=0",
    pytest.param(f"complete items=2 outputs=12 limit=3 interruptions=1 {SMALL}", marks=THOROUGH),
    "complete items=3 outputs=111 limit=8 max_bytes=16 preemptions=1 stale_loads=0",
    pytest.param(f"complete items=3 outputs=111 limit=8 max_bytes=16 {SMALL}", marks=THOROUGH),
    "complete items=3 outputs=112 limit=8 max_bytes=32 preemptions=1 stale_loads=0",
    pytest.param(f"complete items=3 outputs=112 limit=8 max_bytes=32 {SMALL}", marks=THOROUGH),
    "complete replicas=3 items=3 outputs=111 limit=5 preemptions=0 stale_loads=1",
    "complete source=1 preemptions=1 stale_loads=0",
    pytest.param(f"complete source=1 {SMALL}", marks=THOROUGH),
    WRAPS_ORDERED.replace("stale_loads=1", "stale_loads=0"),
    pytest.param(WRAPS_ORDERED, marks=THOROUGH),
    f"seen items=3 outputs=111 blocker=2 {SMALL}",
    pytest.param(f"seen items=4 outputs=1211 blocker=3 limit=4 {SMALL}", marks=THOROUGH),
    OTHERS,
    OTHERS_WRAP.replace("stale_loads=1", "stale_loads=0"),
    pytest.param(OTHERS_WRAP, marks=THOROUGH),
    f"others items=2 outputs=21 limit=4 {SMALL}",
    "others replicas=3 items=3 outputs=211 limit=9 max_bytes=48 preemptions=1 stale_loads=0",
    LACKS_BYTES,
    f"kept outputs=0 tail=1 {SMALL}",
    WRAPS_LINE,
    EARLY,
    pytest.param(ABORT_EARLY, marks=THOROUGH),
    "reader items=2 outputs=11 preemptions=1 stale_loads=0",
    pytest.param(READER, marks=THOROUGH),
    f"stop leave_after=1 items=3 outputs=111 {SMALL}",
    f"quit leave_after=1 {SMALL}",
    f"quit leave_after=2 {SMALL}",
    f"leave leave_after=1 items=3 outputs=111 {SMALL}",
    "abort preemptions=1 stale_loads=0",
    pytest.param(f"abort {SMALL}", marks=THOROUGH),
    "abort limit=3 max_bytes=16 preemptions=1 stale_loads=0",
    pytest.param(f"abort limit=3 max_bytes=16 {SMALL}", marks=THOROUGH),
    "abort consumers=2 limit=2 items=3 outputs=111 preemptions=0 stale_loads=0",
    "death deaths=1 preemptions=0 stale_loads=1",
    pytest.param("death deaths=1 preemptions=1 stale_loads=0", marks=THOROUGH),
]

DEEP_ORDERED_CHECKS = [
    "complete preemptions=3 stale_loads=2",
    "complete limit=3 preemptions=2 stale_loads=2",
    "complete items=3 outputs=121 limit=3 preemptions=2 stale_loads=1",
    "complete items=3 outputs=201 limit=4 tail=1 preemptions=2 stale_loads=1",
    "complete items=3 outputs=111 limit=8 max_bytes=32 preemptions=2 stale_loads=1",
    f"complete replicas=3 items=3 outputs=111 limit=4 {SMALL}",
    "complete source=1 preemptions=2 stale_loads=1",
    "seen items=3 outputs=111 blocker=2 preemptions=2 stale_loads=2",
    OTHERS.replace("stale_loads=0", "stale_loads=1"),
    EARLY.replace("stale_loads=0", "stale_loads=1"),
    "reader replicas=1 items=3 yields=3 preemptions=3 stale_loads=2",
    "reader items=3 outputs=011 limit=3 preemptions=2 stale_loads=1",
    f"death deaths=1 {SMALL}",
]


@dataclass(frozen=True)
class Change:
    """One place of the headers made weaker: `old` becomes `new`. It stands there `times` times."""

    file: str
    old: str
    new: str
    check: str  # where it shows
    says: str = ""  # part of what the checker then says
    times: int = 1

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())} -> {' '.join(self.new.split()) or 'nothing'}"


HANGS = "all threads wait for ever"
RACES = "data race"
RELAXED = "std::memory_order_relaxed"
ACQUIRE = "std::memory_order_acquire"
RELEASE = "std::memory_order_release"
ACQ_REL = "std::memory_order_acq_rel"

BOTH_WORK = "both_work producers=2 consumers=2 limit=2 preemptions=1 stale_loads=2"
WRAPS = "complete consumers=2 messages=3 limit=2 preemptions=2 stale_loads=1"  # a cell is used twice
TWO_PRODUCERS = "complete producers=2 limit=2 preemptions=1 stale_loads=1"
BLOCKS = "blocks producers=2 consumers=0"
REFERENCES = "references producers=2 consumers=0"
STOP = "stop leave_after=1 messages=2 producers=2 preemptions=1"
QUIT = "quit leave_after=0 limit=2"
QUIT_BOTH = "quit leave_after=0 leavers=2 consumers=2"


def without(file: str, old: str, check: str, says: str = "", keep: str = "", times: int = 1) -> Change:
    """`old` taken away, but for `keep`."""
    return Change(file, old, keep, check, says, times)


def weaker(file: str, place: str, orders: tuple[str, str], check: str, says: str = "") -> Change:
    """An access with another memory order. `place` names the access, with {} for the order."""
    return Change(file, place.format(orders[0]), place.format(orders[1]), check, says)


# The checker must find each of these.
FAULTS = [
    # sleeping and waking
    without(
        "event.hpp", "fence_seq_cst();                                                      //", "complete", HANGS, "//"
    ),
    without("event.hpp", "fence_seq_cst();  // pairs with wait's fence", "complete", HANGS),
    without("event.hpp", f"sequence.fetch_add(1, {RELEASE});", "complete", HANGS),
    weaker("event.hpp", "sequence.fetch_add(1, {})", (RELEASE, RELAXED), "abort", HANGS),
    without("event.hpp", "unpark(&sequence, how_many);", "complete", HANGS),
    without("event.hpp", "if (ready()) break;", "complete", HANGS),
    without("event.hpp", f"waiters.fetch_add(1, {RELAXED});", "complete", HANGS),
    without("edge.hpp", "items.notify(1);  //", "complete", HANGS, "//"),
    without("edge.hpp", "if (consumers > 1) wake_next_consumer(region, position + 1);", BOTH_WORK, HANGS),
    without(
        "edge.hpp",
        "fence_seq_cst();  // pairs with Event::wait's\n    if (order_offset",
        "complete messages=2",
        HANGS,
        "if (order_offset",
    ),
    without("edge.hpp", "credits.notify(1);", "complete producers=2 preemptions=1 stale_loads=1", HANGS),
    without(
        "edge.hpp",
        "if (left <= max_bytes / 2 || me->hand.size >= max_bytes / 16) announce_free_bytes(region);",
        "complete messages=2 limit=2 max_bytes=16",
        HANGS,
    ),
    without("edge.hpp", "items.notify(unpark_everyone);\n      if", "complete", HANGS, "if"),
    without("edge.hpp", "edge(index)->wake_everybody();", "abort", HANGS, ";"),
    without("edge.hpp", "items.wake(unpark_everyone);", "abort", HANGS),
    without("edge.hpp", "credits.wake(unpark_everyone);", "abort messages=2", HANGS),
    without(
        "edge.hpp",
        "entry(index)->own_event.wake(unpark_everyone);",
        "abort messages=2 limit=2 max_bytes=16",
        HANGS,
        ";",
    ),
    without("edge.hpp", "credits.notify(unpark_everyone);", "stop leave_after=1 messages=2", HANGS),
    # the line
    without("edge.hpp", "region.entry(index)->own_event.notify_fenced(unpark_everyone);", STOPS_LINE, HANGS, ";"),
    without(
        "edge.hpp",
        "fence_seq_cst();  // pairs with Event::sleep's\n    if (order_offset",
        LINE,
        HANGS,
        "if (order_offset",
    ),
    without("edge.hpp", "if (order_offset == 0) return wake_first(region);", LINE, HANGS),
    Change(
        "edge.hpp",
        "wait_queue.leave(region.base, me, region.index_of(me));\n    wake_first(region);",
        "wait_queue.leave(region.base, me, region.index_of(me));",
        f"{GIVES_UP_IN_THE_MIDDLE} preemptions=1 stale_loads=0",
        HANGS,
    ),
    without(
        "wait_queue.hpp",
        "fence_seq_cst();\n      std::uint64_t oldest",
        f"{GIVES_UP_IN_THE_MIDDLE} preemptions=1 stale_loads=1",
        HANGS,
        "std::uint64_t oldest",
    ),
    Change(  # not over those that have left from the middle
        "wait_queue.hpp",
        'KILL_POINT("next one served");',
        "return;",
        f"{GIVES_UP_IN_THE_MIDDLE} interruptions=2 preemptions=1 stale_loads=0",
        "still in the wait queue",
    ),
    without("wait_queue.hpp", "|| (word & left) == 0", f"{GIVES_UP_IN_THE_MIDDLE} preemptions=0 stale_loads=0"),
    without("wait_queue.hpp", f"place(base, ticket).store(encode(ticket, index), {RELEASE});", LINE, HANGS),
    Change(
        "wait_queue.hpp",
        "is_for(word, oldest) && (word & left) == 0 ?",
        "(word & left) == 0 && word == 0 ?",
        LINE,
        HANGS,
    ),
    # the caller's bell
    without("edge.hpp", "fence_seq_cst();  // pairs with the fence before ring_if_armed", "bell", HANGS),
    without("edge.hpp", "if (rings_bell) region.ring_if_armed();\n    }", "bell", HANGS, "}"),
    without("edge.hpp", "if (rings_bell) region.ring_if_armed();\n    //", "bell", HANGS, "//"),
    without("edge.hpp", "bell_ring(bell);\n  return", "bell_abort", HANGS, "return"),
    # the ring
    weaker("edge.hpp", "ring_cell->sequence.store(lap(position) + 1, {})", (RELEASE, RELAXED), "complete", RACES),
    weaker("edge.hpp", "sequence = ring_cell->sequence.load({})", (ACQUIRE, RELAXED), "complete", RACES),
    weaker("edge.hpp", "ring_cell->sequence.store(lap(position) + mask + 1, {})", (RELEASE, RELAXED), WRAPS, RACES),
    weaker("edge.hpp", "ring_cell->sequence.load({}) == lap(position);", (ACQUIRE, RELAXED), WRAPS, RACES),
    Change(
        "edge.hpp",
        f"position = tail.fetch_add(1, {RELAXED});",
        f"tail.store((position = tail.load({RELAXED})) + 1, {RELAXED});",
        TWO_PRODUCERS,
    ),
    Change(
        "edge.hpp",
        f"if (head.compare_exchange_weak(position, position + 1, {RELAXED})) break;",
        f"head.store(position + 1, {RELAXED}); break;",
        "complete consumers=2 messages=2 limit=2",
        "arrived twice",
    ),
    # credits
    Change(
        "edge.hpp",
        f"if (acquired.compare_exchange_weak(taken, taken + 1, {RELAXED})) break;",
        f"acquired.store(taken + 1, {RELAXED}); break;",
        "complete producers=2 preemptions=1 stale_loads=1",
        "more items are in flight",
    ),
    weaker("edge.hpp", "released_seen = released.load({})", (ACQUIRE, RELAXED), "complete messages=2", RACES),
    weaker("edge.hpp", "released.store(given_back, {})", (RELEASE, RELAXED), "complete messages=2", RACES),
    weaker(
        "edge.hpp",
        "given_back = released.fetch_add(1, {})",
        (RELEASE, RELAXED),
        "complete consumers=2 messages=2",
        RACES,
    ),
    # the end
    weaker("edge.hpp", "ended = producers_left.load({})", (ACQUIRE, RELAXED), "complete limit=2"),
    Change("edge.hpp", "return ended ?", f"return producers_left.load({ACQUIRE}) == 0 ?", "complete limit=2"),
    Change(  # the count goes down before the last message is published
        "edge.hpp", 'KILL_POINT("position claimed");', f"producers_left.fetch_sub(1, {ACQ_REL});", "complete limit=2"
    ),
    # rule R3
    without(
        "edge.hpp",
        "fence_seq_cst();\n    const std::uint32_t quitter",
        QUIT,
        "the run was not aborted",
        "const std::uint32_t quitter",
    ),
    without("event.hpp", "fence_seq_cst();  // pairs with wait's fence", QUIT),
    Change(
        "edge.hpp",
        f"quit_position.store(tail.fetch_add(0, {RELAXED}), {RELEASE})",
        f"quit_position.store(tail.fetch_add(0, {RELAXED}), {RELAXED})",
        QUIT,
        "in the name of",
    ),
    Change(  # an old tail: an item that another replica has taken seems to come too late
        "edge.hpp",
        f"quit_position.store(tail.fetch_add(0, {RELAXED})",
        f"quit_position.store(tail.load({RELAXED})",
        QUIT_LATE,
    ),
    weaker("edge.hpp", "position >= quit_position.load({})", (ACQUIRE, RELAXED), QUIT, "in the name of"),
    Change("edge.hpp", f"position >= quit_position.load({ACQUIRE})", "false", QUIT),
    Change(
        "edge.hpp",
        f"head.load({RELAXED}) != tail.load({RELAXED})",
        "false",
        "quit leave_after=1 messages=2 limit=2",
        "an item was left",
    ),
    weaker("edge.hpp", "consumers_left.fetch_sub(1, {})", (ACQ_REL, ACQUIRE), QUIT_BOTH),
    # the abort
    weaker("edge.hpp", "compare_exchange_strong(none, word, {})", (ACQ_REL, RELAXED), "abort", RACES),
    weaker("edge.hpp", "abort_word.load({})", (ACQUIRE, RELAXED), "abort", RACES),
    Change("edge.hpp", "is_running = !region.aborted();", "is_running = true;", DEATH_IN_COPY, "loops"),
    # the ledger
    weaker("edge.hpp", "HandPhase::taken), {})", (RELEASE, RELAXED), "observe", "but not counted"),
    # the arena
    without("arena.hpp", "((head >> 32) + 1) << 32 | ", BLOCKS, "two owners", times=2),
    weaker("arena.hpp", "head, changed, {}, " + RELAXED + ")", (RELEASE, RELAXED), BLOCKS, RACES),
    weaker("arena.hpp", "list.load({})", (ACQUIRE, RELAXED), BLOCKS),
    weaker("arena.hpp", "head, changed, " + ACQUIRE + ", {})", (ACQUIRE, RELAXED), BLOCKS),
    Change(
        "arena.hpp",
        f"!top.compare_exchange_weak(seen, first + count, {RELAXED})",
        f"(top.store(first + count, {RELAXED}), false)",
        BLOCKS,
    ),
    weaker("arena.hpp", "references.load({})", (ACQUIRE, RELAXED), REFERENCES, RACES),
    weaker("arena.hpp", "references.fetch_sub(1, {})", (ACQ_REL, ACQUIRE), REFERENCES, RACES),
    weaker("arena.hpp", "references.fetch_sub(1, {})", (ACQ_REL, RELEASE), REFERENCES, RACES),
]

# The same for outputs in order.
ORDERED_FAULTS = [
    # who publishes
    Change(  # takes the outputs found so far for all outputs of the item
        "order.hpp",
        f"waiting = word.exchange(0, {ACQUIRE});",
        f"waiting = word.exchange(0, {ACQUIRE}) | closed;",
        "complete outputs=12 limit=8 preemptions=2 stale_loads=0",
    ),
    Change(
        "order.hpp",
        "at->next = oldest;\n      oldest = newest;\n      newest = before;",
        "static_cast<void>(before);\n      oldest = newest;\n      newest = 0;",
        f"complete items=2 outputs=12 limit=8 {SMALL}",
        "of an item",
    ),
    without("order.hpp", "return advance(region, edge, position);", "complete", keep="return Status::ok;"),
    Change(  # only the replica that made the outputs publishes them
        "order.hpp",
        f"waiting = word.exchange(0, {ACQUIRE});",
        f"{{ if ((waiting & closed) == 0) {{ back_off(0); continue; }} waiting = word.exchange(0, {ACQUIRE}); }}",
        f"seen items=4 outputs=1211 blocker=3 limit=4 {SMALL}",
    ),
    Change(
        "order.hpp",
        "(place & after_end) != 0 && next_position.load",
        "false && next_position.load",
        f"complete items=2 outputs=11 tail=1 {SMALL}",
        "came after one of a later item",
    ),
    Change(  # a slot is used by two items at once
        "order.hpp",
        f"next_position.load({ACQUIRE}) + mask + 1",
        "Edge::never - 1",
        WRAPS_ORDERED,
    ),
    weaker("order.hpp", "next_position.store(++position, {})", (RELEASE, RELAXED), WRAPS_ORDERED),
    weaker(
        "order.hpp", "newest, block, {}, " + ACQUIRE, (RELEASE, RELAXED), "complete preemptions=2 stale_loads=0", RACES
    ),
    weaker("order.hpp", "word.exchange(0, {})", (ACQUIRE, RELAXED), f"complete {SMALL}", RACES),
    # the line, and who else waits
    without("waiters_by_position.hpp", f"count.fetch_add(1, {RELAXED});", LACKS_CREDIT, HANGS),
    without(
        "waiters_by_position.hpp",
        f"word(position & mask).fetch_add(bit(position & mask), {RELAXED});",
        LACKS_CREDIT,
        HANGS,
    ),
    without(
        "order.hpp",
        f"mine.replica.store(static_cast<std::uint32_t>(region.index_of(me)), {RELAXED});",
        LACKS_CREDIT,
        HANGS,
    ),
    without("order.hpp", "wake_first(region, edge);\n          edge.credits", LACKS_CREDIT, HANGS, keep="edge.credits"),
    without("order.hpp", "fence_seq_cst();  // pairs with Event::sleep's, of replicas", LACKS_CREDIT, HANGS, keep="//"),
    without(
        "edge.hpp",
        "if (order_offset != 0) wake_first_by_position(region, *this);\n    if",
        LACKS_CREDIT,
        HANGS,
        keep="if",
    ),
    without(
        "edge.hpp", "wake_first_by_position(region, *this);\n    free_bytes", LACKS_BYTES, HANGS, keep="free_bytes"
    ),
    Change(
        "order.hpp",
        "has_credit(edge, is_behind ? edge.limit - 1 : edge.limit)",
        "has_credit(edge, edge.limit - 1)",
        LACKS_CREDIT,
        HANGS,
    ),
    Change(
        "order.hpp",
        f"(is_behind ? pending_bytes.load({RELAXED}) : 0)",
        f"pending_bytes.load({RELAXED})",
        LACKS_BYTES,
        HANGS,
    ),
    without("order.hpp", "wake_first(region, edge);\n    return done;", OTHERS, HANGS, keep="return done;"),
    without(
        "order.hpp",
        "fence_seq_cst();  // pairs with Event::sleep's, of the",
        OTHERS.replace("stale_loads=0", "stale_loads=1"),
        HANGS,
        keep="//",
    ),
    without("waiters_by_position.hpp", "if (step == 0) bits &= ~(bit(at) - 1);", WRAPS_LINE, HANGS),
    Change("waiters_by_position.hpp", "step <= words(mask + 1)", "step < words(mask + 1)", OTHERS_WRAP, HANGS),
    without("order.hpp", "edge.credits.notify_fenced(unpark_everyone);", f"kept outputs=0 tail=1 {SMALL}", HANGS),
    without("order.hpp", "edge.next_position.notify_fenced(to_int(position - first));", EARLY, HANGS),
    without("edge.hpp", "entry(index)->own_event.wake(unpark_everyone);", f"abort limit=3 {SMALL}", HANGS, keep=";"),
    without("edge.hpp", "next_position.wake(unpark_everyone);", ABORT_EARLY, HANGS),
    without(
        "edge.hpp",
        "region.entry(index)->own_event.notify_fenced(unpark_everyone);",
        f"stop leave_after=1 items=3 outputs=111 limit=3 {SMALL}",
        HANGS,
        keep=";",
    ),
    # credits and bytes
    Change(
        "order.hpp",
        "is_pending ? edge.limit - 1 : edge.limit",
        "edge.limit",
        f"complete items=2 outputs=12 limit=4 {SMALL}",
        HANGS,
    ),
    Change(
        "order.hpp",
        "edge.try_reserve_bytes(size)",
        "try_reserve_pending_bytes(edge, size)",
        f"complete items=3 outputs=111 limit=8 max_bytes=16 {SMALL}",
    ),
    without(
        "order.hpp",
        "if (size != 0) move_bytes_to_ring(edge, size);",
        f"complete max_bytes=100 {SMALL}",
        "buffered_bytes is not 0",
    ),
    # two threads of a replica
    Change(
        "order.hpp",
        f"me->sending_place.load({RELAXED}) == place",
        "false",
        READER,
    ),
    Change("order.hpp", f"me->place_lock.exchange(1, {ACQUIRE}) != 0", "false", READER),
    # the abort
    Change(
        "order.hpp",
        "made->next = newest;",
        "made->next = 0;",
        f"abort items=2 outputs=12 limit=5 {SMALL}",
        "of an item",
    ),
]

# Orders and fences that are stronger than they need be, because others beside them do the same. The checker must find
# nothing: then a change that takes away what they lean on shows here.
REDUNDANT = [
    weaker("event.hpp", "sequence.load({})", (ACQUIRE, RELAXED), "abort"),
    without("edge.hpp", "fence_seq_cst();\n    if (items.waiters", BOTH_WORK, keep="if (items.waiters"),
    weaker("edge.hpp", "producers_left.fetch_sub(1, {})", (ACQ_REL, RELAXED), "complete limit=2"),
    weaker("edge.hpp", "producers_left.fetch_sub(1, {})", (ACQ_REL, RELAXED), TWO_PRODUCERS),
    weaker(
        "edge.hpp", "released.fetch_add(1, {});", (RELEASE, RELAXED), "complete producers=2 preemptions=1 stale_loads=1"
    ),
    weaker("edge.hpp", "stopped.store(1, {})", (RELEASE, RELAXED), STOP),
    Change("edge.hpp", f"stopped.load({ACQUIRE})", f"stopped.load({RELAXED})", STOP, times=4),
    weaker("edge.hpp", "consumers_left.fetch_sub(1, {})", (ACQ_REL, RELEASE), QUIT_BOTH),
    weaker("ledger.hpp", "+ amount, {})", (RELEASE, RELAXED), "observe"),
    weaker("arena.hpp", "head, changed, {}, " + ACQUIRE + ")", (ACQUIRE, RELAXED), BLOCKS),
]

ORDERED_REDUNDANT = [
    weaker("order.hpp", "waiting, direct, {}", (RELEASE, RELAXED), f"complete items=3 outputs=121 limit=8 {SMALL}"),
    weaker("order.hpp", "newest | closed, {}", (RELEASE, RELAXED), f"complete items=3 outputs=121 limit=8 {SMALL}"),
    weaker("order.hpp", "pending_bytes.fetch_sub(size, {})", (RELEASE, RELAXED), f"complete max_bytes=32 {SMALL}"),
]

# What each program of model/litmus.cpp can end with. Under C++20 the last two have one outcome more, 11.
LITMUS = {
    "store_buffering": "00 01 10 11",
    "store_buffering_with_fences": "01 10 11",
    "store_buffering_with_one_fence": "00 01 10 11",
    "message_passing": "00 01 10 11",
    "message_passing_released": "00 01 11",
    "message_passing_released_only": "00 01 10 11",
    "message_passing_with_fences": "00 01 11",
    "release_sequence": "00 01 11 20 21 31",
    "coherence": "00 01 02 11 12 22",
    "independent_reads_acquired": " ".join(f"{outcome:04b}" for outcome in range(16)),
    "independent_reads_with_fences": " ".join(f"{outcome:04b}" for outcome in range(16) if outcome != 0b1010),
    "read_modify_write": "01 10",
    "strong_exchange": "01 10",
    "load_buffering": "00 01 10",
    "two_writes_each": "12 21 22",
}

# Needs all that the checker needs of a system: the compiler's instrumentation, and fibers.
PROBE = """
#include <ucontext.h>
static void nothing() {}
int main() {
  ucontext_t context;
  if (getcontext(&context) != 0) return 1;
  makecontext(&context, nothing, 0);
  return 0;
}
"""


def sample(changes: list[Change]) -> list[Any]:
    """One in five for every day: each is a build of its own. What changes a header wants all."""
    return [change if index % 5 == 1 else pytest.param(change, marks=THOROUGH) for index, change in enumerate(changes)]


WARNINGS = ["-Wall", "-Wextra", "-Werror"]


class Checker:
    """Builds the checker against the headers as they are or changed, and runs scenarios."""

    def __init__(self, compiler: list[str], factory: pytest.TempPathFactory) -> None:
        self.compiler = compiler
        self.factory = factory
        self.folder = factory.mktemp("model")
        self.common = sorted(made_once(factory, "model_common", self.compile_common).glob("*.o"))
        self.builds = 0

    def compile_common(self, folder: Path) -> None:
        for name in ("explore", "weak_memory", "races"):
            self.compile(MODEL / f"{name}.cpp", "-O3", *WARNINGS, into=folder)

    def compile(self, source: Path, *flags: str, into: Path) -> Path:
        target = into / f"{source.stem}.o"
        self.call(*flags, f"-I{MODEL}", "-c", str(source), "-o", str(target))
        return target

    def call(self, *arguments: str) -> None:
        # Fortified, longjmp refuses to change to another stack.
        command = [*self.compiler, "-std=c++17", "-U_FORTIFY_SOURCE", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr

    def build(self, *sources: str) -> Path:
        """The program of these sources."""
        return made_once(self.factory, "_".join(sources), lambda folder: self.build_in(folder, *sources)) / "program"

    def build_changed(self, *sources: str, change: Change) -> Path:
        """The same with `change` made in the headers."""
        self.builds += 1
        folder = self.folder / f"build_{self.builds}"
        folder.mkdir()
        self.build_in(folder, *sources, change=change)
        return folder / "program"

    def build_in(self, folder: Path, *sources: str, change: Change | None = None) -> None:
        for header in [*INCLUDE.glob("*.hpp"), *(MODEL / "replaced").glob("*.hpp")]:  # the latter last
            shutil.copy(header, folder)
        if change is not None:
            header = folder / change.file
            text = header.read_text()
            assert text.count(change.old) == change.times, f"the text to be changed is not there any more: {change}"
            header.write_text(text.replace(change.old, change.new))
        # A changed program makes one check, which mostly ends at once: optimizing it would take longer than the check.
        optimized = "-O1" if change is None else "-O0"
        # Only the instrumentation of plain accesses is wanted, not the library that goes with it.
        flags = [optimized, "-fsanitize=thread", f"-I{folder}", *(WARNINGS if change is None else [])]
        objects = [self.compile(MODEL / f"{source}.cpp", *flags, into=folder) for source in sources]
        self.call(*map(str, objects), *map(str, self.common), "-o", str(folder / "program"))

    def run(self, program: Path, check: str = "") -> subprocess.CompletedProcess[str]:
        result = subprocess.run([program, *check.split()], capture_output=True, text=True, check=False)
        assert result.returncode in {0, 1}, result.stderr
        print(f"{check}: {result.stdout}")
        return result


@pytest.fixture(scope="session")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    folder = tmp_path_factory.mktemp("probe")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    source, built = folder / "probe.cpp", folder / "probe.o"
    source.write_text(PROBE)
    for arguments in (["-fsanitize=thread", "-c", "-o", built], ["-o", folder / "probe"]):
        command = [*compiler.split(), *map(str, arguments), str(source)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            pytest.skip(f"the checker cannot be built here: {result.stderr.strip()[-300:]}")
    return Checker(compiler.split(), tmp_path_factory)


@pytest.fixture(scope="session")
def scenarios(checker: Checker) -> Path:
    return checker.build("rig", "scenarios")


@pytest.fixture(scope="session")
def ordered(checker: Checker) -> Path:
    return checker.build("ordered")


def test_checker_shows_just_the_outcomes_that_the_memory_model_allows(checker: Checker) -> None:
    result = checker.run(checker.build("litmus"))
    assert dict(line.split(" ", 1) for line in result.stdout.splitlines()) == LITMUS


@pytest.mark.parametrize("check", CHECKS)
def test_model_check_finds_no_fault(checker: Checker, scenarios: Path, check: str) -> None:
    result = checker.run(scenarios, check)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("check", DEEP_CHECKS)
def test_model_check_finds_no_fault_in_more_executions(checker: Checker, scenarios: Path, check: str) -> None:
    result = checker.run(scenarios, check)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("change", sample(FAULTS), ids=str)
def test_model_check_finds_the_fault_when_the_headers_are_weakened(checker: Checker, change: Change) -> None:
    result = checker.run(checker.build_changed("rig", "scenarios", change=change), change.check)
    assert result.returncode == 1, f"not found: {change}"
    assert change.says in result.stdout


@pytest.mark.parametrize("change", sample(REDUNDANT), ids=str)
def test_model_check_finds_no_fault_where_another_order_does_the_same(checker: Checker, change: Change) -> None:
    result = checker.run(checker.build_changed("rig", "scenarios", change=change), change.check)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("check", ORDERED_CHECKS)
def test_model_check_finds_no_fault_in_the_order(checker: Checker, ordered: Path, check: str) -> None:
    result = checker.run(ordered, check)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("check", DEEP_ORDERED_CHECKS)
def test_model_check_finds_no_fault_in_the_order_in_more_executions(
    checker: Checker, ordered: Path, check: str
) -> None:
    result = checker.run(ordered, check)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("change", sample(ORDERED_FAULTS), ids=str)
def test_model_check_finds_the_fault_when_the_order_is_weakened(checker: Checker, change: Change) -> None:
    result = checker.run(checker.build_changed("ordered", change=change), change.check)
    assert result.returncode == 1, f"not found: {change}"
    assert change.says in result.stdout


@pytest.mark.parametrize("change", sample(ORDERED_REDUNDANT), ids=str)
def test_model_check_finds_no_fault_in_the_order_where_another_does_the_same(checker: Checker, change: Change) -> None:
    result = checker.run(checker.build_changed("ordered", change=change), change.check)
    assert result.returncode == 0, result.stdout
