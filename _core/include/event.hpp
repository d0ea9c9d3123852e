// Sleeping until a condition that other processes make true holds: an event count over one shared word.
//
// Protocol. A waiter says that it is there (waiters), then reads the sequence, then looks at its condition, then sleeps
// as long as the sequence is unchanged. A notifier makes the condition true, then looks for waiters, then moves
// the sequence and wakes. The two fences pair with each other (Dekker): either the notifier sees the waiter, or
// the waiter sees the condition. If it sees the waiter, the moved sequence keeps a waiter that is between
// its look and its sleep awake. So no wake-up is lost, and nobody pays for a system call when nobody sleeps.
//
// Signals. A handler written in Python runs when the waiter is back in the interpreter. One that comes during the sleep
// ends it. One that comes after the interpreter has looked last, and before the sleep, does not, and no system call
// closes that gap for a futex. So each sleep has a limit (`Nap`), after which the waiter goes back to the interpreter,
// which looks again, and the waiter sleeps for longer.
//
// A process that dies while it waits leaves `waiters` one too high. That costs the notifiers a needless system
// call each and nothing else; the death itself aborts the run.
#pragma once

#include <cstdint>

#include "atomic.hpp"
#include "kill_point.hpp"
#include "platform.hpp"

namespace pipeline_executor {

static_assert(Atomic<std::uint32_t>::is_always_lock_free, "shared memory needs lock-free words");
static_assert(Atomic<std::uint64_t>::is_always_lock_free, "shared memory needs lock-free words");

constexpr std::size_t cache_line = 64;

// How long one waiter sleeps before the interpreter looks for signals again. A wait that goes on sleeps four times as
// long each time, so a signal that came just before a sleep is handled at the latest when the wait has become some four
// times as long, and within `most_ns`; and one who waits for long wakes once a second, some 10 µs of work.
struct Nap {
  static constexpr std::uint64_t least_ns = 1'000'000, most_ns = 1'000'000'000;
  std::uint64_t limit_ns = least_ns;

  bool is_first() const noexcept { return limit_ns == least_ns; }
  void over() noexcept { limit_ns = limit_ns * 4 < most_ns ? limit_ns * 4 : most_ns; }
  void ended() noexcept { limit_ns = least_ns; }
};

// How long one replica spins before it sleeps: doubled when spinning paid, halved when not. Private to
// the process; costs at most `most` pauses (some 10 µs) for each sleep.
//
// After that it yields the processor a few times before it sleeps. Where there are more busy replicas than processors, the one
// that it waits for is often runnable and waits for a processor: then a yield lets it run, and costs neither of
// them a sleep and a wake-up. Where there is a processor for each, a yield returns at once.
struct Spin {
  static constexpr unsigned least = 4, most = 512, yields = 3;
  unsigned limit = usable_processors() > 1 ? 128 : 0;
  Nap nap;

  void paid() noexcept { limit = limit * 2 < most ? limit * 2 : most; }
  void wasted() noexcept {
    if (limit > 0) limit = limit / 2 > least ? limit / 2 : least;
  }
};

struct Event {
  Atomic<std::uint32_t> sequence;  // moved by notifiers; the word that waiters sleep on
  Atomic<std::uint32_t> waiters;   // written by waiters, read by notifiers

  // Returns true when ready() holds, false when the interpreter is to look for signals first.
  template <class Ready>
  bool wait(const Ready& ready, Spin& spin) noexcept {
    return spins(ready, spin) || sleep(ready, spin);
  }

  // The first half: looks for a short while. Not if it goes on with a wait that was interrupted.
  template <class Ready>
  static bool spins(const Ready& ready, Spin& spin) noexcept {
    return spin.nap.is_first() && spin_until(ready, spin);
  }

  // The second half.
  template <class Ready>
  bool sleep(const Ready& ready, Spin& spin) noexcept {
    waiters.fetch_add(1, std::memory_order_relaxed);
    bool done = true;
    for (;;) {
      const std::uint32_t seen = sequence.load(std::memory_order_acquire);  // pairs with notify's fetch_add
      fence_seq_cst();                                                      // pairs with notify's fence
      if (ready()) break;
      KILL_POINT("about to park");
      if (park(&sequence, seen, spin.nap.limit_ns) == ParkResult::interrupted) {
        done = ready();
        break;
      }
    }
    waiters.fetch_sub(1, std::memory_order_relaxed);
    if (done)
      spin.nap.ended();
    else
      spin.nap.over();
    return done;
  }

  template <class Ready>
  static bool spin_until(const Ready& ready, Spin& spin) noexcept {
    for (unsigned turn = 0; turn < spin.limit; ++turn) {
      if (ready()) {
        spin.paid();
        return true;
      }
      spin_pause();
    }
    spin.wasted();
    for (unsigned turn = 0; turn < Spin::yields; ++turn) {
      yield_processor();
      if (ready()) return true;
    }
    return false;
  }

  // To be called after the condition was made true.
  void notify(int how_many) noexcept {
    fence_seq_cst();  // pairs with wait's fence
    notify_fenced(how_many);
  }

  // The same, by who has made a fence of its own since.
  void notify_fenced(int how_many) noexcept {
    if (waiters.load(std::memory_order_relaxed) != 0) wake(how_many);
  }

  // Wakes without asking whether anybody waits: for the abort, which must reach everybody.
  void wake(int how_many) noexcept {
    sequence.fetch_add(1, std::memory_order_release);
    KILL_POINT("about to wake");
    unpark(&sequence, how_many);
  }
};

}  // namespace pipeline_executor
