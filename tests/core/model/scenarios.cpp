// The scenarios of the model check, and the program that runs one:
//
//   model_check SCENARIO [NAME=VALUE ...]
//
// The names are those of `Setting` (producers, consumers, messages, limit, max_bytes, blocks, leave_after, leavers),
// those of `Bounds` (preemptions, stale_loads, weak_failures, interruptions, deaths, steps; 255: unlimited), and
// `executions`, the maximum number of executions. The program prints one line of numbers and exits with 0, or prints
// the failing execution and exits with 1.
//
//   complete    every message arrives exactly once, in each producer's order; all threads end; the counters agree
//   gives_up    a producer ends when its wait for free bytes is interrupted: the others go on, and all end
//   both_work   two messages, and no consumer asks for another before both have arrived: neither may sleep meanwhile
//   quit        the first `leavers` consumers return after `leave_after` items though they may not: the run is aborted in
//               the name of one of them if, and only if, an item was left or came after that (rule R3)
//   quit_late   the same, and an item that another consumer took before is no reason to abort
//   stop        as quit, but they may return: all threads end, and the run is not aborted
//   abort       the supervisor aborts at any time: all threads end
//   fail        consumer 0 aborts after `leave_after` items, and may die while it does; then the supervisor aborts again
//   death       one thread stops for ever anywhere; then the supervisor aborts: all others end
//   bell        the consumer is the caller, who sleeps on the bell
//   bell_abort  the same, and the supervisor aborts at any time
//   observe     the supervisor looks at a ledger entry: an item in hand is counted
//   blocks      threads allocate and free blocks of the arena: no block has two owners
//   references  two threads drop a reference to one block each, and allocate again: it is freed once, after both

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "rig.hpp"

using namespace rig;

namespace {

struct Scenario {
  const char* name;
  bool supervisor;
  bool mortal;
  void (*thread)(unsigned index);
  void (*check)();
  void (*prepare)();  // changes of `setting`
  void (*set_up)();
};

bool is_supervisor(unsigned index) { return index == setting.producers + setting.consumers; }
bool is_producer(unsigned index) { return index < setting.producers; }

std::uint64_t abort_word() { return region.control()->abort_word.load(std::memory_order_relaxed); }
std::uint64_t word_of(Cause cause, std::uint32_t replica) { return static_cast<std::uint64_t>(cause) << 32 | replica; }

// ---- both_work ----------------------------------------------------------------------------------

bool all_taken() { return record.taken_in_all == setting.producers * setting.messages; }

void both_work(unsigned index) {
  Spin spin;
  if (is_producer(index)) {
    std::uint64_t released_seen = 0;
    for (unsigned number = 0; number < setting.messages; ++number)
      if (reserve(index, released_seen, spin) != Status::ok || send(index, number, spin) != Status::ok)
        model::fail("a message was not sent");
    model::wait_until(all_taken);  // the next item takes long to make
  } else {
    if (take(index - setting.producers, spin) != Status::ok) model::fail("a message was not taken");
    model::wait_until(all_taken);
  }
}

// ---- gives_up -----------------------------------------------------------------------------------

void prepare_gives_up() { setting.gives_up = true; }

void check_gives_up() {
  unsigned given_up = 0;
  for (unsigned index = 0; index < setting.producers; ++index)
    given_up += record.produced[index] == Status::interrupted;
  if (given_up == 0) return check_that_all_arrived();
  if (record.published != record.taken_in_all) model::fail("an item is lost");
  if (!edge->wait_queue.is_empty()) model::fail("a producer that has ended is still in the wait queue");
  if (edge->wait_queue.wanted_bytes.load(std::memory_order_relaxed) != 0)
    model::fail("wanted_bytes is not 0 at the end");
}

// ---- quit ---------------------------------------------------------------------------------------

void check_quit() {
  const std::uint64_t left = edge->tail.load(std::memory_order_relaxed) - edge->head.load(std::memory_order_relaxed);
  const bool aborted = abort_word() != 0;
  bool named = false;
  for (unsigned consumer = 0; consumer < setting.leavers; ++consumer)
    named |= record.has_left[consumer] && abort_word() == word_of(Cause::stopped_early, consumer_entry(consumer));
  if (aborted && !named) model::fail("the run is aborted, but not in the name of one that left");
  if (record.published_after_leaving && !aborted)
    model::fail("an item came after a consumer had left, and the run was not aborted");
  if (left != 0 && !aborted) model::fail("an item was left, and the run was not aborted");
  if (aborted && setting.consumers == 1 && left == 0) model::fail("the run is aborted, but no item was left");
  if (!aborted && record.published != record.taken_in_all) model::fail("an item is lost");
}

void prepare_quit_late() { setting.marks_leaving = true; }

void check_quit_late() {
  check_quit();
  const std::uint64_t left = edge->tail.load(std::memory_order_relaxed) - edge->head.load(std::memory_order_relaxed);
  if (abort_word() != 0 && left == 0 && record.last_taken_at < record.leaving_at)
    model::fail("the run is aborted, but all items had been taken before consumer 0 left");
}

// ---- stop ---------------------------------------------------------------------------------------

void prepare_stop() { setting.may_stop_early = true; }

void check_stop() {
  if (abort_word() != 0) model::fail("the run was aborted");
  for (unsigned index = 0; index < setting.producers; ++index)
    if (record.produced[index] != Status::ok && record.produced[index] != Status::stopped)
      model::fail("producer %u did not end well", index);
  for (unsigned index = 1; index < setting.consumers; ++index)
    if (record.consumed[index] != Status::end) model::fail("consumer %u did not see the end", index);
}

// ---- abort, fail, death -------------------------------------------------------------------------

void prepare_abort() { setting.aborter_word_of = Cause::closed; }
void prepare_fail() { setting.aborter_word_of = Cause::failed; }
void prepare_death() { setting.aborter_word_of = Cause::died; }

void abort_any_time(unsigned index) {
  if (!is_supervisor(index)) return thread(index);
  if (!rig::abort(Cause::closed, 0)) model::fail("another thread has aborted");
}

void check_abort() {
  if (abort_word() != word_of(Cause::closed, 0)) model::fail("the abort word is wrong");
}

void fail_and_die(unsigned index) {
  if (is_supervisor(index)) {
    model::wait_for_a_death();
    rig::abort(Cause::died, 0);
    return;
  }
  if (index != setting.producers) return thread(index);
  Spin spin;
  for (unsigned taken = 0; taken < setting.leave_after; ++taken) {
    if (take(0, spin) != Status::ok) return;
    release_item(0);
  }
  rig::abort(Cause::failed, index);
}

void die_anywhere(unsigned index) {
  if (!is_supervisor(index)) return thread(index);
  model::wait_for_a_death();
  if (model::anybody_died()) rig::abort(Cause::died, 0);
  model::wait_for_the_others();
}

void check_death() {
  if (!model::anybody_died()) check_that_all_arrived();
}

// ---- bell ---------------------------------------------------------------------------------------

void prepare_bell() { setting.rings_bell = true; }

void caller(unsigned index) {
  if (is_producer(index)) return thread(index);
  ReplicaEntry* me = region.entry(index);
  Status status;
  for (;;) {
    release_item(0);
    status = edge->try_take(region, me);
    if (status == Status::empty) {
      region.arm_bell();
      status = edge->try_take(region, me);
    }
    if (status == Status::empty) {
      model::bell_wait();
      bell_silence(region.bell);
      continue;
    }
    if (status != Status::ok) break;
    look_at(me->hand, 0);
  }
  if (status != Status::aborted) edge->finish_consuming(region, index, status == Status::end);
  record.consumed[0] = status;
}

void caller_and_aborter(unsigned index) {
  if (is_supervisor(index)) {
    abort_any_time(index);
  } else {
    caller(index);
  }
}

// ---- observe ------------------------------------------------------------------------------------

void observe(unsigned index) {
  if (!is_supervisor(index)) return thread(index);
  ReplicaEntry* entry = region.entry(consumer_entry(0));
  if (entry->hand_phase.load(std::memory_order_acquire) != static_cast<std::uint32_t>(HandPhase::empty) &&
      entry->items_in.load(std::memory_order_relaxed) == 0)
    model::fail("an item is in hand, but not counted");
}

// ---- blocks, references -------------------------------------------------------------------------

constexpr unsigned max_blocks = 128;
bool owned[max_blocks];  // by the block's number
std::uint64_t shared_block;

Arena& arena() { return region.control()->arena; }

void set_up_blocks() {
  const std::uint64_t first = arena().allocate(region.base, 100), second = arena().allocate(region.base, 100);
  arena().release(region.base, second);
  arena().release(region.base, first);
}

std::uint64_t* payload_of(std::uint64_t block) {
  return reinterpret_cast<std::uint64_t*>(Arena::at(region.base, block)->payload());
}

std::uint64_t get_block(unsigned index) {
  const std::uint64_t block = arena().allocate(region.base, 100);
  if (block == 0) model::fail("the arena is full");
  if (block % Arena::unit != 0 || block / Arena::unit >= max_blocks)
    model::fail("allocate returned an offset that is no block");
  model::note("owns block %u", static_cast<unsigned>(block / Arena::unit));
  bool& is_owned = owned[block / Arena::unit];
  if (is_owned) model::fail("a block has two owners");
  is_owned = true;
  *payload_of(block) = index;
  return block;
}

void give_block(unsigned index, std::uint64_t block) {
  if (*payload_of(block) != index) model::fail("another thread has written into a block");
  model::note("frees block %u", static_cast<unsigned>(block / Arena::unit));
  owned[block / Arena::unit] = false;
  arena().release(region.base, block);
}

// The ABA problem on a free list needs this: a block comes back while another one that was behind it stays out.
void use_blocks(unsigned index) {
  const std::uint64_t first = get_block(index), second = get_block(index);
  give_block(index, first);
  const std::uint64_t third = get_block(index);
  give_block(index, second);
  give_block(index, third);
}

void start_blocks() {
  start();
  std::memset(owned, 0, sizeof owned);
}

void check_blocks() {
  for (unsigned index = 0; index < max_blocks; ++index)
    if (owned[index]) model::fail("a block is still owned");
  unsigned count = 0;
  std::uint64_t number;
  for (; (number = static_cast<std::uint32_t>(arena().free_lists[0].load(std::memory_order_relaxed))) != 0; ++count) {
    const std::uint64_t block = arena().allocate(region.base, 100);
    if (owned[block / Arena::unit]) model::fail("a block is twice on the free list");
    owned[block / Arena::unit] = true;
  }
  const std::uint64_t next = arena().allocate(region.base, 100) / Arena::unit;  // the first block that was never used
  for (std::uint64_t index = 0; index < max_blocks; ++index) count -= owned[index];
  if (count != 0 || next >= max_blocks) model::fail("the free list is wrong");
}

void set_up_references() {
  shared_block = arena().allocate(region.base, 100);
  *payload_of(shared_block) = 42;
  Arena::at(region.base, shared_block)->add_reference();
}

void give_up_reference(unsigned index) {
  if (*payload_of(shared_block) != 42) model::fail("a block was overwritten while a thread held a reference to it");
  arena().release(region.base, shared_block);
  give_block(index, get_block(index));
}

const Scenario scenarios[] = {
    {"complete", false, false, thread, check_that_all_arrived, nullptr, nullptr},
    {"gives_up", false, false, thread, check_gives_up, prepare_gives_up, nullptr},
    {"both_work", false, false, both_work, nullptr, nullptr, nullptr},
    {"quit", false, false, thread, check_quit, nullptr, nullptr},
    {"quit_late", false, false, thread, check_quit_late, prepare_quit_late, nullptr},
    {"stop", false, false, thread, check_stop, prepare_stop, nullptr},
    {"abort", true, false, abort_any_time, check_abort, prepare_abort, nullptr},
    {"fail", true, true, fail_and_die, nullptr, prepare_fail, nullptr},
    {"death", true, true, die_anywhere, check_death, prepare_death, nullptr},
    {"bell", false, false, caller, check_that_all_arrived, prepare_bell, nullptr},
    {"bell_abort", true, false, caller_and_aborter, check_abort, prepare_bell, nullptr},
    {"observe", true, false, observe, nullptr, nullptr, nullptr},
    {"blocks", false, false, use_blocks, check_blocks, nullptr, set_up_blocks},
    {"references", false, false, give_up_reference, nullptr, nullptr, set_up_references},
};

const Scenario* scenario;

void set_up_all() {
  set_up();
  if (scenario->set_up != nullptr) scenario->set_up();
}

void check_scenario() {
  if (scenario->check != nullptr) scenario->check();
}

bool assign(const char* argument, const char* name, unsigned& value) {
  const std::size_t length = std::strlen(name);
  if (std::strncmp(argument, name, length) != 0 || argument[length] != '=') return false;
  value = static_cast<unsigned>(std::strtoul(argument + length + 1, nullptr, 10));
  return true;
}

[[noreturn]] void refuse(const char* what) {
  std::fprintf(stderr, "model_check: bad argument: %s\n", what);
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) refuse("no scenario given");
  for (const Scenario& candidate : scenarios)
    if (std::strcmp(candidate.name, argv[1]) == 0) scenario = &candidate;
  if (scenario == nullptr) refuse(argv[1]);
  model::Bounds bounds;
  unsigned executions = 0, blocks = 0;
  for (int index = 2; index < argc; ++index) {
    const char* argument = argv[index];
    if (!(assign(argument, "producers", setting.producers) || assign(argument, "consumers", setting.consumers) ||
          assign(argument, "messages", setting.messages) || assign(argument, "limit", setting.limit) ||
          assign(argument, "max_bytes", setting.max_bytes) || assign(argument, "blocks", blocks) ||
          assign(argument, "leave_after", setting.leave_after) || assign(argument, "leavers", setting.leavers) ||
          assign(argument, "executions", executions) || assign(argument, "preemptions", bounds.preemptions) ||
          assign(argument, "stale_loads", bounds.stale_loads) ||
          assign(argument, "weak_failures", bounds.weak_failures) ||
          assign(argument, "interruptions", bounds.interruptions) || assign(argument, "deaths", bounds.deaths) ||
          assign(argument, "steps", bounds.steps)))
      refuse(argument);
  }
  setting.blocks = blocks != 0;
  const unsigned threads = setting.producers + setting.consumers + scenario->supervisor;
  if (threads > model::max_threads || setting.producers * setting.messages > max_messages)
    refuse("too many threads, messages or items");
  if (scenario->prepare != nullptr) scenario->prepare();
  model::Program program;
  program.thread_names = thread_names();
  program.threads = threads;
  program.mortal = scenario->mortal ? (1u << (setting.producers + setting.consumers)) - 1 : 0;
  program.set_up = set_up_all;
  program.start = start_blocks;
  program.thread = scenario->thread;
  program.check = check_scenario;
  const model::Outcome outcome = model::explore(program, bounds, executions);
  std::printf("%llu executions, %llu of them cut; %llu states, %u shared words, %u steps at most\n",
              static_cast<unsigned long long>(outcome.executions), static_cast<unsigned long long>(outcome.cut),
              static_cast<unsigned long long>(outcome.states), outcome.words, outcome.max_steps);
  return outcome.failed ? 1 : 0;
}
