// A process sleeps here until a condition holds that other processes make true. This is an event count over one shared
// word.
//
// Protocol:
//
//   waiter                                        notifier
//   1 waiters += 1                                1 make the condition true
//   2 seen = sequence                             2 fence
//   3 fence                                       3 if waiters > 0: sequence += 1, then wake sleepers
//   4 if the condition holds: leave
//   5 sleep while sequence == seen, then go to 2
//
// The two fences pair with each other (Dekker's algorithm): either the notifier sees the waiter, or the waiter sees the
// condition. If the notifier sees the waiter, it changes the sequence, so a waiter between steps 4 and 5 does not fall
// asleep. Therefore no wake-up is lost, and a notifier makes no system call while nobody sleeps.
//
// Signals. Python runs a signal handler only when the waiter is back in the interpreter. A signal that arrives during
// the sleep ends the sleep. A signal that arrives after the interpreter's last check but before the sleep does not, and
// no system call closes that gap for a futex. Therefore each sleep has a time limit (`SleepLimit`). After it the waiter
// returns to the interpreter, which checks for signals, and the next sleep may be longer.
//
// A process that dies while it waits leaves `waiters` one too high. Then each notification makes a needless system
// call, and nothing worse happens: the death itself aborts the run.
#pragma once

#include <cstdint>

#include "atomic.hpp"
#include "kill_point.hpp"
#include "platform.hpp"

namespace pipeline_executor {

static_assert(Atomic<std::uint32_t>::is_always_lock_free, "shared memory needs lock-free words");
static_assert(Atomic<std::uint64_t>::is_always_lock_free, "shared memory needs lock-free words");

constexpr std::size_t cache_line = 64;

// The longest time that a waiter sleeps before the interpreter checks for signals again. It starts at `min_ns` and
// grows fourfold with each sleep of the same wait, up to `max_ns`. So a signal that arrives just before a sleep is
// handled before the wait is four times as long, and within `max_ns`. A long wait wakes once a second, which costs
// about 10 µs.
struct SleepLimit {
  static constexpr std::uint64_t min_ns = 1'000'000, max_ns = 1'000'000'000;
  std::uint64_t ns = min_ns;

  bool is_first() const noexcept { return ns == min_ns; }
  void grow() noexcept { ns = ns * 4 < max_ns ? ns * 4 : max_ns; }
  void reset() noexcept { ns = min_ns; }
};

// How long a replica spins before it sleeps: the limit doubles when spinning succeeded and halves when it did not. It
// is private to the process, and costs at most `max` pauses (about 10 µs) per sleep.
//
// After spinning, a replica yields the processor a few times before it sleeps. If more replicas are busy than there are
// processors, the replica that it waits for is often ready to run and waits for a processor. A yield lets that replica
// run, and saves both of them a sleep and a wake-up. If there is a processor for each replica, a yield returns at once.
struct Spin {
  static constexpr unsigned min = 4, max = 512, yields = 3;
  unsigned limit = usable_processors() > 1 ? 128 : 0;
  SleepLimit sleep_limit;

  void paid() noexcept { limit = limit * 2 < max ? limit * 2 : max; }
  void wasted() noexcept {
    if (limit > 0) limit = limit / 2 > min ? limit / 2 : min;
  }
};

struct Event {
  Atomic<std::uint32_t> sequence;  // changed by notifiers; the word that waiters sleep on
  Atomic<std::uint32_t> waiters;   // how many wait; changed by waiters, read by notifiers

  // Returns true when ready() holds, and false when the interpreter must check for signals before the wait goes on.
  template <class Ready>
  bool wait(const Ready& ready, Spin& spin) noexcept {
    return spin_before_sleep(ready, spin) || sleep(ready, spin);
  }

  // The first half of wait(): spins, then yields. Skipped when an interrupted wait goes on, because it has spun
  // already.
  template <class Ready>
  static bool spin_before_sleep(const Ready& ready, Spin& spin) noexcept {
    return spin.sleep_limit.is_first() && spin_until(ready, spin);
  }

  // The second half of wait().
  template <class Ready>
  bool sleep(const Ready& ready, Spin& spin) noexcept {
    waiters.fetch_add(1, std::memory_order_relaxed);
    bool done = true;
    for (;;) {
      const std::uint32_t seen = sequence.load(std::memory_order_acquire);  // pairs with notify's fetch_add
      fence_seq_cst();                                                      // pairs with notify's fence
      if (ready()) break;
      KILL_POINT("about to park");
      if (park(&sequence, seen, spin.sleep_limit.ns) == ParkResult::interrupted) {
        done = ready();
        break;
      }
    }
    waiters.fetch_sub(1, std::memory_order_relaxed);
    if (done)
      spin.sleep_limit.reset();
    else
      spin.sleep_limit.grow();
    return done;
  }

  template <class Ready>
  static bool spin_until(const Ready& ready, Spin& spin) noexcept {
    for (unsigned attempt = 0; attempt < spin.limit; ++attempt) {
      if (ready()) {
        spin.paid();
        return true;
      }
      spin_pause();
    }
    spin.wasted();
    for (unsigned attempt = 0; attempt < Spin::yields; ++attempt) {
      yield_processor();
      if (ready()) return true;
    }
    return false;
  }

  // Call it after making the condition true.
  void notify(int how_many) noexcept {
    fence_seq_cst();  // pairs with wait's fence
    notify_fenced(how_many);
  }

  // As notify(), for a caller that has executed a fence since it made the condition true.
  void notify_fenced(int how_many) noexcept {
    if (waiters.load(std::memory_order_relaxed) != 0) wake(how_many);
  }

  // Wakes sleepers without looking at `waiters`. An abort uses it, because it must reach every process.
  void wake(int how_many) noexcept {
    sequence.fetch_add(1, std::memory_order_release);
    KILL_POINT("about to wake");
    unpark(&sequence, how_many);
  }
};

}  // namespace pipeline_executor
