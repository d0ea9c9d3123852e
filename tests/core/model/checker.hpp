// A model checker for lock-free code. It runs a small program under a scheduler that tries every order of the threads'
// steps, and every value that the memory model lets a load return, within bounds.
//
// The threads are fibers of one system thread. Each atomic operation, each fence and each operation of the platform
// asks the scheduler which thread runs next. Each load asks it which store to read. An execution is the list of these
// choices. Executions are run one after the other, each from the start, in depth-first order of the lists. So every
// failure has a list of choices that reproduces it step by step.
//
// Sources (of ideas only):
//   * stateless search with few preemptions as the bound: M. Musuvathi, S. Qadeer, "Iterative context bounding for
//     systematic testing of multithreaded programs", PLDI 2007; M. Musuvathi et al., "Finding and reproducing Heisenbugs in
//     concurrent programs" (CHESS), OSDI 2008. CHESS also stops an execution at a state that was seen before, where a state
//     is identified by what happened before what; so does this checker;
//   * weak memory by letting a load choose among the stores of its location: loom (a Rust crate), and B. Norris, B. Demsky,
//     "CDSChecker", OOPSLA 2013;
//   * the rules of that choice: M. Batty et al., "Mathematizing C++ concurrency", POPL 2011, with the fences as repaired by
//     O. Lahav et al., "Repairing sequential consistency in C/C++11" (RC11), PLDI 2017, which C++20 adopted; as an abstract
//     machine with views: J. Kang et al., "A promising semantics for relaxed-memory concurrency", POPL 2017 (without the
//     promises);
//   * checking lock-free code by its executions under weak memory at all: S. Burckhardt, R. Alur, M. Martin, "CheckFence",
//     PLDI 2007.
//
// Another thread may run after each operation that is not a load. Between two loads, or between a load and what follows
// it, no other thread needs to run: it could just as well run before the load, which then returns the old value.
//
// What is modelled: relaxed, acquire, release and acquire-release accesses; release sequences; sequentially consistent
// fences; weak exchanges that fail spuriously; data races on plain memory, by vector clocks (the compiler's
// instrumentation for ThreadSanitizer reports the accesses); futexes; an event descriptor; signals that interrupt a
// sleep; threads that die. A system call orders nothing, with two exceptions. The kernel compares a futex's word with
// its newest value. And a thread that silences the bell sees what the threads that rang it saw, because the event
// descriptor has a lock. A thread that backs off runs again when a word that it read has changed, and then sees the
// change.
//
// What is not modelled: a load that returns a store which is executed later (load buffering; promises); stores of
// different threads to one location that take effect in another order than they were executed in (the shape called
// 2+2W); sequentially consistent accesses (the headers have none, and the checker refuses them); accesses of different
// sizes to one word; more preemptions, stale loads, deaths and so on than the bounds allow.
#pragma once

#include <cstddef>
#include <cstdint>

namespace model {

constexpr unsigned max_threads = 6;
constexpr std::size_t memory_bytes = 32 * 1024;
constexpr unsigned unlimited = 255;

// How many of each an execution may contain.
struct Bounds {
  unsigned preemptions = 2;    // switches to another thread while the running one could go on
  unsigned stale_loads = 2;    // loads that do not return the newest store
  unsigned weak_failures = 0;  // compare_exchange_weak that fails although the value is the expected one
  unsigned interruptions = 0;  // a signal ends a sleep
  unsigned deaths = 0;         // a thread stops for ever
  unsigned steps = 3000;       // of all threads together; more than any execution that ends needs
};

struct Program {
  const char* const* thread_names;
  unsigned threads;
  unsigned mortal;   // bit set: this thread may die
  void (*set_up)();  // fills the memory; once
  void (*start)();   // before each execution: resets what the program keeps outside the memory
  void (*thread)(unsigned index);
  void (*check)();  // after all threads have ended
};

struct Outcome {
  bool failed;
  std::uint64_t executions, cut, states;  // cut: stopped at a state that had been seen before
  unsigned words, max_steps;              // words: shared atomic words
};

// The memory that the threads share: aligned to 64 bytes, and zero before set_up(). All atomics must lie in it.
unsigned char* memory() noexcept;
void name(const volatile void* where, std::size_t bytes, const char* text, unsigned index = 0) noexcept;  // for reports

Outcome explore(const Program& program, const Bounds& bounds, std::uint64_t max_executions);

// ---- for the threads, and check() ---------------------------------------------------------------

[[noreturn]] void fail(const char* format, ...) noexcept __attribute__((format(printf, 1, 2)));
void note(const char* format, ...) noexcept __attribute__((format(printf, 1, 2)));  // shown in the report of a failure

// What the program keeps outside the memory must be a function of what each thread did and of the order of the marks:
// the search treats two states as the same if these are the same. mark() returns the number of the mark within the
// execution.
unsigned mark() noexcept;
void wait_until(bool (*holds)()) noexcept;  // `holds` may read only what is outside the memory
void wait_for_a_death() noexcept;           // or for the end of all other threads
void wait_for_the_others() noexcept;        // until they end or die; what they did happened before
bool anybody_died() noexcept;
bool died(unsigned thread) noexcept;
unsigned self() noexcept;

// ---- for the replaced headers -------------------------------------------------------------------

enum class Change { add, subtract, exchange };

std::uint64_t load(const void* where, unsigned bytes, int order) noexcept;
void store(void* where, unsigned bytes, std::uint64_t value, int order) noexcept;
std::uint64_t change(void* where, unsigned bytes, Change how, std::uint64_t operand, int order) noexcept;
bool compare_exchange(void* where, unsigned bytes, std::uint64_t& expected, std::uint64_t desired, int success,
                      int failure, bool weak) noexcept;
void fence() noexcept;
bool park(const void* word, std::uint32_t expected) noexcept;  // true: interrupted
void unpark(const void* word, int how_many) noexcept;
void back_off() noexcept;
void bell_ring() noexcept;
void bell_silence() noexcept;
void bell_wait() noexcept;

}  // namespace model
