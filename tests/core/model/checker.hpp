// A model checker for lock-free code: it runs a small program under a scheduler that tries every order of its threads'
// steps and every value that the memory model lets a load return, within bounds.
//
// The threads are fibers of one system thread. Each atomic operation, each fence and each operation of the platform
// asks the scheduler who runs next; each load asks it which store to read. An execution is the list of these choices.
// Executions are made one after the other, from the start, in depth-first order of the lists. So every failure has a
// list that shows it again, step by step.
//
// What it has from where (ideas only):
//   * stateless search, and few preemptions as the bound: M. Musuvathi, S. Qadeer, "Iterative context bounding for
//     systematic testing of multithreaded programs", PLDI 2007; M. Musuvathi et al., "Finding and reproducing
//     Heisenbugs in concurrent programs" (CHESS), OSDI 2008; the latter also cuts executions that reach a state seen
//     before, where the state is known by what happened before what, and so does this;
//   * weak memory by letting a load choose among the stores of its location, as loom (the crate of that name, for Rust)
//     and B. Norris, B. Demsky, "CDSChecker", OOPSLA 2013, do;
//   * the rules of that choice: M. Batty et al., "Mathematizing C++ concurrency", POPL 2011, with the fences as
//     repaired by O. Lahav et al., "Repairing sequential consistency in C/C++11" (RC11), PLDI 2017, which C++20 took
//     over; as an abstract machine with views: J. Kang et al., "A promising semantics for relaxed-memory concurrency",
//     POPL 2017 (without the promises);
//   * for the whole endeavour, to check lock-free code by its executions under a weak memory: S. Burckhardt, R. Alur,
//     M. Martin, "CheckFence", PLDI 2007.
//
// A point where another thread may run comes after each operation that is no load. Between two loads, or a load and
// what follows it, there is none: whoever runs there might as well run before the load, which then returns the old
// value.
//
// What is modelled: relaxed, acquire, release and acquire-release accesses, release sequences, sequentially consistent
// fences, weak exchanges that fail without a cause; data races on plain memory, by vector clocks (the compiler's
// instrumentation for ThreadSanitizer reports the accesses); futexes, an event descriptor, signals that interrupt a
// sleep, threads that die. A system call orders nothing but this: the kernel compares a futex's word as it is at that
// moment, and who silences the bell knows what those knew that rang it (the event descriptor has a lock). A thread
// that backs off runs again when what it looked at has changed, and then sees that.
//
// What is not: a load that returns a store which is executed later (load buffering; promises); stores to one location
// that take effect in another order than they were executed in by different threads (the shape called 2+2W);
// sequentially consistent accesses (the headers have none, and the checker refuses them); accesses of several sizes to
// one word; more preemptions, stale loads, deaths and so on than the bounds allow.
#pragma once

#include <cstddef>
#include <cstdint>

namespace model {

constexpr unsigned max_threads = 6;
constexpr std::size_t memory_bytes = 32 * 1024;
constexpr unsigned unlimited = 255;

// How much of each an execution may have.
struct Bounds {
  unsigned preemptions = 2;     // changes to another thread while the running one could go on
  unsigned stale_loads = 2;     // loads that do not return the newest store
  unsigned weak_failures = 0;   // compare_exchange_weak that fails though the value is the expected one
  unsigned interruptions = 0;   // a signal ends a sleep
  unsigned deaths = 0;          // a thread stops for ever
  unsigned steps = 3000;        // of all threads; more than any execution that ends needs
};

struct Program {
  const char* const* thread_names;
  unsigned threads;
  unsigned mortal;               // bit set: threads that may die
  void (*set_up)();              // fills the memory; once
  void (*start)();               // resets what the program keeps outside the memory; before each execution
  void (*thread)(unsigned index);
  void (*check)();               // after all threads have ended
};

struct Outcome {
  bool failed;
  std::uint64_t executions, cut, states;  // cut: given up where a state was reached that had been seen before
  unsigned words, most_steps;             // words: shared atomic words
};

// The memory that the threads share: aligned to 64 bytes, zero before set_up(). Atomics must lie in it.
unsigned char* memory() noexcept;
void name(const volatile void* where, std::size_t bytes, const char* text, unsigned index = 0) noexcept;  // for reports

Outcome explore(const Program& program, const Bounds& bounds, std::uint64_t most_executions);

// ---- for the threads, and check() ---------------------------------------------------------------

[[noreturn]] void fail(const char* format, ...) noexcept __attribute__((format(printf, 1, 2)));
void note(const char* format, ...) noexcept __attribute__((format(printf, 1, 2)));  // shown in the report of a failure

// What the program keeps outside the memory has to be a function of what each thread did and of the order of the marks:
// the search takes two states for the same if these are. A mark is numbered in the order of the execution.
unsigned mark() noexcept;
void wait_until(bool (*holds)()) noexcept;  // on what the program keeps outside the memory
void wait_for_a_death() noexcept;        // or the end of all other threads
void wait_for_the_others() noexcept;     // to end or die; what they did happened before
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
