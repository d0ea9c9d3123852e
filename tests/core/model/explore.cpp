// The search: choices, threads, and the states that were seen. checker.hpp names the sources.
//
// A thread's state is a function of what it has read. So the hashes of all threads' histories, of the words'
// modification orders and of the order of fences identify the state. An execution that reaches a state which was seen
// before, with no more left of any bound, cannot show anything new and is stopped.

#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <ucontext.h>

#include "machine.hpp"
#include "seen.hpp"

namespace model {

Machine machine;

namespace {

enum class End { completed, cut, failed, restart };

struct Choice {
  std::uint16_t options, taken;
};

const Program* program;
std::vector<Choice> path;
std::size_t depth;  // how much of `path` this execution has used
End how_it_ended;
std::jmp_buf explorer;  // an execution returns here when it is over
std::jmp_buf resumed[max_threads];
bool started[max_threads];
ucontext_t first_context[max_threads];
constexpr std::size_t stack_bytes = 128 * 1024;
alignas(64) unsigned char stacks[max_threads][stack_bytes];
char failure[400];
unsigned max_steps;

Seen seen;

[[noreturn]] void end_execution(End how) {
  how_it_ended = how;
  machine.active = false;
  longjmp(explorer, 1);
}

bool use_one(unsigned& amount) {
  if (amount == 0) return false;
  if (amount != unlimited) --amount;
  return true;
}

std::uint64_t state_key() {
  std::uint64_t key = mix(mix(machine.words_hash, machine.fences_hash), machine.marks_hash);
  for (unsigned index = 0; index < machine.count; ++index) {
    const Thread& thread = machine.threads[index];
    key = mix(key, thread.history + static_cast<std::uint64_t>(thread.activity) * 2 + thread.woken);
  }
  if (machine.left.preemptions != unlimited) key = mix(key, machine.current);  // else it makes no difference which runs
  return mix(key, machine.bell_hash + machine.bell);
}

bool has_ended(const Thread& thread) { return thread.activity == Activity::ended || thread.activity == Activity::dead; }

bool all_others_have_ended(unsigned self) {
  for (unsigned index = 0; index < machine.count; ++index)
    if (index != self && !has_ended(machine.threads[index])) return false;
  return true;
}

bool can_run(unsigned index) {
  const Thread& thread = machine.threads[index];
  switch (thread.activity) {
    case Activity::running: return true;
    case Activity::parked: return thread.woken;
    case Activity::backing_off: return has_newer_store(thread);
    case Activity::waiting: return thread.waits_for();
    case Activity::at_the_bell: return machine.bell != 0;
    case Activity::awaits_death: return anybody_died() || all_others_have_ended(index);
    case Activity::awaits_others: return all_others_have_ended(index);
    default: return false;
  }
}

const char* text_of(Activity activity) {
  switch (activity) {
    case Activity::running: return "runs";
    case Activity::parked: return "sleeps on";
    case Activity::backing_off: return "loops, and no word that it reads will change";
    case Activity::waiting: return "waits for a condition of the program";
    case Activity::at_the_bell: return "waits for the bell";
    case Activity::awaits_death: return "waits for a death";
    case Activity::awaits_others: return "waits for the others to end";
    case Activity::ended: return "has ended";
    default: return "is dead";
  }
}

[[noreturn]] void report_deadlock() {
  char text[300];
  int length = 0;
  for (unsigned index = 0; index < machine.count; ++index) {
    const Thread& thread = machine.threads[index];
    if (has_ended(thread)) continue;
    length += std::snprintf(text + length, sizeof text - static_cast<std::size_t>(length), "%s%s %s%s%s",
                            length == 0 ? "" : "; ", thread_name(index), text_of(thread.activity),
                            thread.activity == Activity::parked ? " " : "",
                            thread.activity == Activity::parked ? name_of(thread.parked_on) : "");
    if (length >= static_cast<int>(sizeof text)) break;
  }
  fail("all threads wait for ever: %s", text);
}

void run_thread() {
  program->thread(machine.current);
  block(Activity::ended);
  std::abort();  // not reached
}

[[noreturn]] void enter(unsigned index) {
  machine.current = index;
  if (started[index]) longjmp(resumed[index], 1);
  started[index] = true;
  me().history = mix(me().history, 1);
  getcontext(&first_context[index]);
  first_context[index].uc_stack.ss_sp = stacks[index];
  first_context[index].uc_stack.ss_size = stack_bytes;
  first_context[index].uc_link = nullptr;
  makecontext(&first_context[index], run_thread, 0);
  setcontext(&first_context[index]);
  std::abort();
}

enum class What : std::uint8_t { run, interrupt, die };

// Decides which thread runs next. `stays`: the current thread could go on, so running another one is a preemption.
void schedule(bool stays, bool from_outside = false) {
  if (++machine.steps > machine.left.steps) fail("no end after %u steps: a thread loops for ever", machine.steps - 1);
  struct Option {
    What what;
    unsigned thread;
  } options[3 * max_threads];
  const unsigned self = machine.current;
  for (;;) {
    unsigned count = 0;
    if (stays) options[count++] = {What::run, self};
    if (!stays || machine.left.preemptions > 0) {
      for (unsigned index = 0; index < machine.count; ++index) {
        if (stays && index == self) continue;
        if (can_run(index)) {
          options[count++] = {What::run, index};
        } else if (machine.threads[index].activity == Activity::parked && machine.left.interruptions > 0) {
          options[count++] = {What::interrupt, index};
        }
      }
    }
    if (stays && machine.left.deaths > 0 && (program->mortal >> self & 1) != 0) options[count++] = {What::die, self};
    if (count == 0) {
      if (all_others_have_ended(max_threads)) end_execution(End::completed);
      report_deadlock();
    }
    if (count > 1 && depth == path.size() && !machine.tracing && seen.add(state_key(), machine.left))
      end_execution(End::cut);
    const Option option = options[count > 1 ? choose(count) : 0];
    Thread& chosen = machine.threads[option.thread];
    if (option.what == What::die) {
      use_one(machine.left.deaths);
      trace("dies");
      chosen.activity = Activity::dead;
      stays = false;
      continue;
    }
    if (stays && option.thread != self) use_one(machine.left.preemptions);
    if (option.what == What::interrupt) {
      use_one(machine.left.interruptions);
      chosen.interrupted = true;
    }
    if (chosen.activity == Activity::backing_off) see_newest_stores(chosen);
    chosen.activity = Activity::running;
    chosen.woken = false;
    if (!from_outside && option.thread == self) return;
    if (from_outside || has_ended(machine.threads[self]) || setjmp(resumed[self]) == 0) enter(option.thread);
    return;
  }
}

}  // namespace

// ---- for weak_memory.cpp ------------------------------------------------------------------------

void point() noexcept {
  if (!me().acted) return;
  me().acted = false;
  schedule(true);
}

void block(Activity how) noexcept {
  me().activity = how;
  me().acted = false;
  me().history = mix(me().history, 8 + static_cast<std::uint64_t>(how));
  schedule(false);
}

unsigned choose(unsigned options) noexcept {
  if (depth < path.size()) {
    if (path[depth].options != options) {
      std::fprintf(stderr, "the program must do the same in each execution, but it did not\n");
      std::exit(2);
    }
    return path[depth++].taken;
  }
  path.push_back({static_cast<std::uint16_t>(options), 0});
  ++depth;
  return 0;
}

void restart_search() noexcept { end_execution(End::restart); }

const char* thread_name(unsigned index) noexcept { return program->thread_names[index]; }

void trace(const char* format, ...) noexcept {
  if (!machine.tracing) return;
  std::printf("%4u  %-12s ", machine.steps, thread_name(machine.current));
  std::va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

// ---- for the program ----------------------------------------------------------------------------

void fail(const char* format, ...) noexcept {
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(failure, sizeof failure, format, arguments);
  va_end(arguments);
  end_execution(End::failed);
}

void note(const char* format, ...) noexcept {
  if (!machine.tracing) return;
  std::printf("%4u  %-12s . ", machine.steps, thread_name(machine.current));
  std::va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

unsigned mark() noexcept {
  me().acted = true;
  point();
  me().acted = true;
  machine.marks_hash = mix(machine.marks_hash, me().history);
  return ++machine.marks;
}

unsigned self() noexcept { return machine.current; }
bool died(unsigned thread) noexcept { return machine.threads[thread].activity == Activity::dead; }

bool anybody_died() noexcept {
  for (unsigned index = 0; index < machine.count; ++index)
    if (died(index)) return true;
  return false;
}

void wait_until(bool (*holds)()) noexcept {
  if (holds()) return;
  me().waits_for = holds;
  block(Activity::waiting);
}

void wait_for_a_death() noexcept { block(Activity::awaits_death); }

void wait_for_the_others() noexcept {
  block(Activity::awaits_others);
  for (unsigned index = 0; index < machine.count; ++index) me().now.join(machine.threads[index].now);
}

void back_off() noexcept { block(Activity::backing_off); }

void bell_ring() noexcept {
  point();
  trace("rings the bell");
  me().acted = true;
  machine.bell = 1;
  machine.rung.join(me().now);
  machine.bell_hash += mix(me().history, 7);
  me().history = mix(me().history, 7);
  ++me().now.clock.at[machine.current];
}

void bell_silence() noexcept {
  point();
  trace("silences the bell");
  me().acted = true;
  me().now.join(machine.rung);
  me().history = mix(me().history, machine.bell_hash);
  machine.bell = 0;
}

void bell_wait() noexcept {
  point();
  trace("waits for the bell");
  block(Activity::at_the_bell);
}

// ---- the search ---------------------------------------------------------------------------------

namespace {

void run_once(const Bounds& bounds) {
  reset_memory();
  std::memset(machine.threads, 0, sizeof machine.threads);
  for (unsigned index = 0; index < machine.count; ++index) {
    machine.threads[index].history = index + 1;
    machine.threads[index].acted = true;
    machine.threads[index].now.clock.at[index] = 1;
    started[index] = false;
  }
  machine.left = bounds;
  machine.steps = machine.bell = machine.marks = 0;
  machine.words_hash = machine.fences_hash = machine.marks_hash = machine.bell_hash = 0;
  std::memset(&machine.rung, 0, sizeof machine.rung);
  depth = 0;
  if (program->start != nullptr) program->start();
  if (setjmp(explorer) == 0) {
    machine.active = true;
    machine.current = 0;
    schedule(false, true);
  }
  machine.active = false;
  if (how_it_ended == End::completed && setjmp(explorer) == 0) program->check();
  if (machine.steps > max_steps) max_steps = machine.steps;
}

// Changes `path` to the next list of choices. False: there is none.
bool advance() {
  while (!path.empty() && path.back().taken + 1 == path.back().options) path.pop_back();
  if (path.empty()) return false;
  ++path.back().taken;
  return true;
}

void report(const Bounds& bounds) {
  std::printf("FAILED: %s\nThe steps:\n", failure);
  machine.tracing = true;
  run_once(bounds);
  machine.tracing = false;
  std::printf("      then: %s\n", failure);
}

}  // namespace

Outcome explore(const Program& what, const Bounds& bounds, std::uint64_t max_executions) {
  program = &what;
  machine.count = what.threads;
  forget_words();
  what.set_up();
  save_memory();
  Outcome outcome{};
  path.clear();
  seen.clear();
  max_steps = 0;
  do {
    run_once(bounds);
    ++outcome.executions;
    if (how_it_ended == End::restart) {
      path.clear();
      seen.clear();
      continue;
    }
    outcome.cut += how_it_ended == End::cut;
    if (how_it_ended == End::failed) {
      outcome.failed = true;
      report(bounds);
      break;
    }
    if (max_executions != 0 && outcome.executions >= max_executions) {
      std::printf("GIVEN UP after %llu executions\n", static_cast<unsigned long long>(outcome.executions));
      outcome.failed = true;
      break;
    }
  } while (how_it_ended == End::restart || advance());
  outcome.states = seen.size();
  outcome.words = shared_words();
  outcome.max_steps = max_steps;
  return outcome;
}

}  // namespace model
