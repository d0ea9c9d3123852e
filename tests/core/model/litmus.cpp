// Programs of a few accesses whose outcomes under C++20 are known ("litmus tests"): does the checker show exactly
// these?
//
// For each program this prints a line: its name, then each outcome of some execution, with the threads' results as
// digits. tests/core/test_model.py has the expected lines. The last two programs show what the checker leaves out (see
// checker.hpp).
//
// The programs are common property; see J. Alglave, L. Maranget, M. Tautschnig, "Herding cats", TOPLAS 2014.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <set>
#include <string>

#include "atomic.hpp"

namespace {

using pipeline_executor::Atomic;
using pipeline_executor::fence_seq_cst;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;

Atomic<std::uint32_t>& word(unsigned index) {
  return *reinterpret_cast<Atomic<std::uint32_t>*>(model::memory() + 64 * index);
}
Atomic<std::uint32_t>& x() { return word(0); }
Atomic<std::uint32_t>& y() { return word(1); }

std::uint32_t result[4];
unsigned results;
std::set<std::string> outcomes;

struct Test {
  const char* name;
  unsigned threads, results;
  void (*thread)(unsigned index);
};

void store_buffering(unsigned index) {
  word(index).store(1, relaxed);
  result[index] = word(1 - index).load(relaxed);
}

void store_buffering_with_fences(unsigned index) {
  word(index).store(1, relaxed);
  fence_seq_cst();
  result[index] = word(1 - index).load(relaxed);
}

void store_buffering_with_one_fence(unsigned index) {
  word(index).store(1, relaxed);
  if (index == 0) fence_seq_cst();
  result[index] = word(1 - index).load(relaxed);
}

void message_passing(unsigned index) {
  if (index == 0) {
    x().store(1, relaxed);
    y().store(1, relaxed);
  } else {
    result[0] = y().load(relaxed);
    result[1] = x().load(relaxed);
  }
}

void message_passing_released(unsigned index) {
  if (index == 0) {
    x().store(1, relaxed);
    y().store(1, release);
  } else {
    result[0] = y().load(acquire);
    result[1] = x().load(relaxed);
  }
}

void message_passing_released_only(unsigned index) {
  if (index == 0) {
    x().store(1, relaxed);
    y().store(1, release);
  } else {
    result[0] = y().load(relaxed);
    result[1] = x().load(relaxed);
  }
}

void message_passing_with_fences(unsigned index) {
  if (index == 0) {
    x().store(1, relaxed);
    fence_seq_cst();
    y().store(1, relaxed);
  } else {
    result[0] = y().load(relaxed);
    fence_seq_cst();
    result[1] = x().load(relaxed);
  }
}

void release_sequence(unsigned index) {
  if (index == 0) {
    x().store(1, relaxed);
    y().store(1, release);
  } else if (index == 1) {
    y().fetch_add(2, relaxed);
  } else {
    result[0] = y().load(acquire);
    result[1] = x().load(relaxed);
  }
}

void coherence(unsigned index) {
  if (index == 0) {
    x().store(1, relaxed);
    x().store(2, relaxed);
  } else {
    result[0] = x().load(relaxed);
    result[1] = x().load(relaxed);
  }
}

void independent_reads(unsigned index, bool fenced) {
  if (index < 2) return word(index).store(1, relaxed);
  const unsigned first = index - 2;
  result[2 * first] = word(first).load(acquire);
  if (fenced) fence_seq_cst();
  result[2 * first + 1] = word(1 - first).load(acquire);
}
void independent_reads_acquired(unsigned index) { independent_reads(index, false); }
void independent_reads_with_fences(unsigned index) { independent_reads(index, true); }

void read_modify_write(unsigned index) { result[index] = x().fetch_add(1, relaxed); }

void strong_exchange(unsigned index) {
  std::uint32_t expected = 0;
  result[index] = x().compare_exchange_strong(expected, 1, relaxed, relaxed);
}

void load_buffering(unsigned index) {
  result[index] = word(index).load(relaxed);
  word(1 - index).store(1, relaxed);
}

void two_writes_each(unsigned index) {
  word(index).store(1, relaxed);
  word(1 - index).store(2, relaxed);
}

const Test tests[] = {
    {"store_buffering", 2, 2, store_buffering},
    {"store_buffering_with_fences", 2, 2, store_buffering_with_fences},
    {"store_buffering_with_one_fence", 2, 2, store_buffering_with_one_fence},
    {"message_passing", 2, 2, message_passing},
    {"message_passing_released", 2, 2, message_passing_released},
    {"message_passing_released_only", 2, 2, message_passing_released_only},
    {"message_passing_with_fences", 2, 2, message_passing_with_fences},
    {"release_sequence", 3, 2, release_sequence},
    {"coherence", 2, 2, coherence},
    {"independent_reads_acquired", 4, 4, independent_reads_acquired},
    {"independent_reads_with_fences", 4, 4, independent_reads_with_fences},
    {"read_modify_write", 2, 2, read_modify_write},
    {"strong_exchange", 2, 2, strong_exchange},
    {"load_buffering", 2, 2, load_buffering},
    {"two_writes_each", 2, 0, two_writes_each},
};

void start() {
  for (std::uint32_t& each : result) each = 0;
}

void check() {
  std::string outcome;
  for (unsigned index = 0; index < results; ++index) outcome += static_cast<char>('0' + result[index]);
  if (results == 0) outcome = {static_cast<char>('0' + x().load(relaxed)), static_cast<char>('0' + y().load(relaxed))};
  outcomes.insert(outcome);
}

void set_up() {}

}  // namespace

int main() {
  static const char* const names[] = {"0", "1", "2", "3"};
  model::Bounds bounds;
  bounds.preemptions = bounds.stale_loads = model::unlimited;
  for (const Test& test : tests) {
    results = test.results;
    outcomes.clear();
    const model::Program program{names, test.threads, 0, set_up, start, test.thread, check};
    if (model::explore(program, bounds, 0).failed) return 1;
    std::printf("%s", test.name);
    for (const std::string& outcome : outcomes) std::printf(" %s", outcome.c_str());
    std::printf("\n");
  }
  return 0;
}
