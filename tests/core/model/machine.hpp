// Shared by the parts of the checker: explore.cpp (choices, threads), weak_memory.cpp (words) and races.cpp (plain
// memory).
#pragma once

#include <cstdint>

#include "checker.hpp"

namespace model {

constexpr unsigned max_words = 64;    // shared atomic words
constexpr unsigned max_stores = 200;  // to one word in one execution

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {  // after S. Vigna's splitmix64
  std::uint64_t z = a * 0x9e3779b97f4a7c15u + b + 0x632be59bd9b4e019u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// How many steps of each thread are known to have happened before.
struct Clock {
  std::uint16_t at[max_threads];
  void join(const Clock& other) noexcept {
    for (unsigned index = 0; index < max_threads; ++index)
      if (other.at[index] > at[index]) at[index] = other.at[index];
  }
};

// For each word, the number of the oldest of its stores that may still be read.
struct View {
  std::uint8_t at[max_words];
  void join(const View& other) noexcept {
    for (unsigned index = 0; index < max_words; ++index)
      if (other.at[index] > at[index]) at[index] = other.at[index];
  }
};

struct Knowledge {
  View view;
  Clock clock;
  void join(const Knowledge& other) noexcept {
    view.join(other.view);
    clock.join(other.clock);
  }
};

enum class Activity : std::uint8_t {
  running,
  parked,
  backing_off,
  waiting,
  at_the_bell,
  awaits_death,
  awaits_others,
  ended,
  dead,
};

struct Thread {
  Activity activity;
  bool woken, interrupted;  // while parked
  bool acted;               // its last operation was not a load
  const void* parked_on;
  bool (*waits_for)();
  std::uint64_t history;  // a hash of all that it did and read, which determines its state
  std::uint64_t loaded;   // words read since its last operation that was not a load, one bit each
  Knowledge now;          // what its next operation knows
  Knowledge unfenced;     // what its relaxed loads have read, which its next fence makes known
  Knowledge fenced;       // what it knew at its last fence, which its relaxed stores after that release
};

struct Machine {
  Thread threads[max_threads];
  unsigned count;
  unsigned current;
  Bounds left;
  bool active;  // an execution is under way
  bool tracing;
  unsigned steps;
  std::uint64_t execution;  // number of the execution
  unsigned bell;
  Knowledge rung;  // what the threads that rang the bell knew: the kernel's lock passes it on
  std::uint64_t bell_hash;
  std::uint64_t words_hash;   // of all words' orders of stores
  std::uint64_t fences_hash;  // of the order of fences
  unsigned marks;
  std::uint64_t marks_hash;  // of the order of marks
};

extern Machine machine;

inline Thread& me() noexcept { return machine.threads[machine.current]; }

// explore.cpp
void point() noexcept;                        // call before each visible operation: other threads may run here
void block(Activity how) noexcept;            // until the scheduler finds that the thread can go on
unsigned choose(unsigned options) noexcept;   // 0 is tried first
[[noreturn]] void restart_search() noexcept;  // a word has become shared, so the search so far had too few points
const char* thread_name(unsigned index) noexcept;
void trace(const char* format, ...) noexcept __attribute__((format(printf, 1, 2)));

// weak_memory.cpp
void forget_words() noexcept;                         // which words are shared
void reset_memory() noexcept;                         // call before an execution
void save_memory() noexcept;                          // saves the memory as set_up left it
bool has_newer_store(const Thread& thread) noexcept;  // in a word that the thread loaded last
void see_newest_stores(Thread& thread) noexcept;      // from now on the thread reads the newest store of these words
unsigned shared_words() noexcept;
const char* name_of(const void* where) noexcept;

}  // namespace model
