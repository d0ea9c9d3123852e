// The checker's search: choices, threads, and the states that were seen. See checker.hpp for the sources.
//
// A thread's state is a function of what it has read, so the hashes of all threads' histories, of the words'
// modification orders and of the order of fences name the state. An execution that reaches a state which was seen
// before, with no more left of any bound, can show nothing new and is given up.

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

enum class End { completed, cut, failed, anew };

struct Choice {
  std::uint16_t options, taken;
};

const Program* program;
std::vector<Choice> path;
std::size_t depth;                // of `path`, in this execution
End how_it_ended;
std::jmp_buf explorer;            // where an execution returns to when it is over
std::jmp_buf resumed[max_threads];
bool started[max_threads];
ucontext_t fresh[max_threads];
constexpr std::size_t stack_bytes = 128 * 1024;
alignas(64) unsigned char stacks[max_threads][stack_bytes];
char failure[400];
unsigned most_steps;

Seen seen;

[[noreturn]] void end_execution(End how) {
  how_it_ended = how;
  machine.active = false;
  longjmp(explorer, 1);
}

bool spend(unsigned& amount) {
  if (amount == 0) return false;
  if (amount != unlimited) --amount;
  return true;
}

std::uint64_t state_key() {
  std::uint64_t key = mix(mix(machine.words_hash, machine.fences_hash), machine.marks_hash);
  for (unsigned index = 0; index < machine.count; ++index) {
    const Thread& thread = machine.threads[index];
    key = mix(key, thread.history + static_cast<std::uint64_t>(thread.doing) * 2 + thread.woken);
  }
  if (machine.left.preemptions != unlimited) key = mix(key, machine.current);  // else it makes no difference
  return mix(key, machine.bell_hash + machine.bell);
}

bool is_over(const Thread& thread) { return thread.doing == Doing::ended || thread.doing == Doing::dead; }

bool all_others_are_over(unsigned self) {
  for (unsigned index = 0; index < machine.count; ++index)
    if (index != self && !is_over(machine.threads[index])) return false;
  return true;
}

bool can_run(unsigned index) {
  const Thread& thread = machine.threads[index];
  switch (thread.doing) {
    case Doing::running: return true;
    case Doing::parked: return thread.woken;
    case Doing::backing_off: return news_for(thread);
    case Doing::waiting: return thread.waits_for();
    case Doing::at_the_bell: return machine.bell != 0;
    case Doing::awaits_death: return anybody_died() || all_others_are_over(index);
    case Doing::awaits_others: return all_others_are_over(index);
    default: return false;
  }
}

const char* text_of(Doing doing) {
  switch (doing) {
    case Doing::running: return "runs";
    case Doing::parked: return "sleeps on";
    case Doing::backing_off: return "turns in a loop, and nothing that it looks at will change";
    case Doing::waiting: return "waits for what the program says";
    case Doing::at_the_bell: return "waits for the bell";
    case Doing::awaits_death: return "waits for a death";
    case Doing::awaits_others: return "waits for the others to end";
    case Doing::ended: return "has ended";
    default: return "is dead";
  }
}

[[noreturn]] void report_deadlock() {
  char text[300];
  int length = 0;
  for (unsigned index = 0; index < machine.count; ++index) {
    const Thread& thread = machine.threads[index];
    if (is_over(thread)) continue;
    length += std::snprintf(text + length, sizeof text - static_cast<std::size_t>(length), "%s%s %s%s%s",
                            length == 0 ? "" : "; ", thread_name(index), text_of(thread.doing),
                            thread.doing == Doing::parked ? " " : "",
                            thread.doing == Doing::parked ? name_of(thread.parked_on) : "");
    if (length >= static_cast<int>(sizeof text)) break;
  }
  fail("everybody waits for ever: %s", text);
}

void run_thread() {
  program->thread(machine.current);
  block(Doing::ended);
  std::abort();  // not reached
}

[[noreturn]] void enter(unsigned index) {
  machine.current = index;
  if (started[index]) longjmp(resumed[index], 1);
  started[index] = true;
  me().history = mix(me().history, 1);
  getcontext(&fresh[index]);
  fresh[index].uc_stack.ss_sp = stacks[index];
  fresh[index].uc_stack.ss_size = stack_bytes;
  fresh[index].uc_link = nullptr;
  makecontext(&fresh[index], run_thread, 0);
  setcontext(&fresh[index]);
  std::abort();
}

enum class What : std::uint8_t { run, interrupt, die };

// Decides who runs next. `stays`: the current thread could go on, and whoever else runs preempts it.
void schedule(bool stays, bool from_outside = false) {
  if (++machine.steps > machine.left.steps)
    fail("%u steps and no end: something turns in a loop for ever", machine.steps - 1);
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
        } else if (machine.threads[index].doing == Doing::parked && machine.left.interruptions > 0) {
          options[count++] = {What::interrupt, index};
        }
      }
    }
    if (stays && machine.left.deaths > 0 && (program->mortal >> self & 1) != 0) options[count++] = {What::die, self};
    if (count == 0) {
      if (all_others_are_over(max_threads)) end_execution(End::completed);
      report_deadlock();
    }
    if (count > 1 && depth == path.size() && !machine.tracing && seen.add(state_key(), machine.left))
      end_execution(End::cut);
    const Option option = options[count > 1 ? choose(count) : 0];
    Thread& chosen = machine.threads[option.thread];
    if (option.what == What::die) {
      spend(machine.left.deaths);
      trace("dies");
      chosen.doing = Doing::dead;
      stays = false;
      continue;
    }
    if (stays && option.thread != self) spend(machine.left.preemptions);
    if (option.what == What::interrupt) {
      spend(machine.left.interruptions);
      chosen.interrupted = true;
    }
    if (chosen.doing == Doing::backing_off) see_news(chosen);
    chosen.doing = Doing::running;
    chosen.woken = false;
    if (!from_outside && option.thread == self) return;
    if (from_outside || is_over(machine.threads[self]) || setjmp(resumed[self]) == 0) enter(option.thread);
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

void block(Doing how) noexcept {
  me().doing = how;
  me().acted = false;
  me().history = mix(me().history, 8 + static_cast<std::uint64_t>(how));
  schedule(false);
}

unsigned choose(unsigned options) noexcept {
  if (depth < path.size()) {
    if (path[depth].options != options) {
      std::fprintf(stderr, "the program does not do the same when it is run again\n");
      std::exit(2);
    }
    return path[depth++].taken;
  }
  path.push_back({static_cast<std::uint16_t>(options), 0});
  ++depth;
  return 0;
}

void begin_anew() noexcept { end_execution(End::anew); }

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
bool died(unsigned thread) noexcept { return machine.threads[thread].doing == Doing::dead; }

bool anybody_died() noexcept {
  for (unsigned index = 0; index < machine.count; ++index)
    if (died(index)) return true;
  return false;
}

void wait_until(bool (*holds)()) noexcept {
  if (holds()) return;
  me().waits_for = holds;
  block(Doing::waiting);
}

void wait_for_a_death() noexcept { block(Doing::awaits_death); }

void wait_for_the_others() noexcept {
  block(Doing::awaits_others);
  for (unsigned index = 0; index < machine.count; ++index) me().now.join(machine.threads[index].now);
}

void back_off() noexcept { block(Doing::backing_off); }

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
  block(Doing::at_the_bell);
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
  if (machine.steps > most_steps) most_steps = machine.steps;
}

// To the next list of choices; false: there is none.
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
  std::printf("      and so: %s\n", failure);
}

}  // namespace

Outcome explore(const Program& what, const Bounds& bounds, std::uint64_t most_executions) {
  program = &what;
  machine.count = what.threads;
  forget_words();
  what.set_up();
  keep_memory();
  Outcome outcome{};
  path.clear();
  seen.clear();
  most_steps = 0;
  do {
    run_once(bounds);
    ++outcome.executions;
    if (how_it_ended == End::anew) {
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
    if (most_executions != 0 && outcome.executions >= most_executions) {
      std::printf("GIVEN UP after %llu executions\n", static_cast<unsigned long long>(outcome.executions));
      outcome.failed = true;
      break;
    }
  } while (how_it_ended == End::anew || advance());
  outcome.states = seen.size();
  outcome.words = shared_words();
  outcome.most_steps = most_steps;
  return outcome;
}

}  // namespace model
