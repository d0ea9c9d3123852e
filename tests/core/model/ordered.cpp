// The scenarios of the model check for outputs in order (_core/include/order.hpp), and the program that runs one:
//
//   model_check SCENARIO [NAME=VALUE ...]
//
// A step with `replicas` replicas takes `items` items. Its input edge is full from the start, unless `source` is 1:
// then a thread fills it. The digits of `outputs`, from the left, say how many messages item 0, item 1, ... yields.
// Each replica yields `tail` messages after the end. One consumer takes them. Other names: `limit` and `max_bytes` of
// the output edge; `input_limit`; `slots`, how many items may be in work at once; `leave_after`; those of `Bounds`, and
// `executions`, as in scenarios.cpp.
//
//   complete    every message arrives once, after those of earlier items; messages of the end come last
//   seen        the same, and item `blocker` yields nothing before the consumer has all messages of earlier items
//   others      the same, and item `patient` is left only when all other items' messages have been handed over
//   kept        as complete, and the consumer keeps each message until the next one has been handed over
//   reader      as complete, while replica 0 yields in a second thread of its own, whatever the first thread takes
//   stop        the consumer returns after `leave_after` messages, as it may: all threads end, the run is not aborted
//   quit        the same, but it may not return: the run is aborted in its name if, and only if, a message was left or
//               came after that
//   leave       replica 0 returns after `leave_after` items, as it may: what the others have taken arrives in order
//   abort       the supervisor aborts at any time: all threads end, and every message that did not arrive can still be
//               found; also with `consumers` 2
//   death       one thread stops for ever anywhere; then the supervisor aborts: all others end

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "checker.hpp"
#include "layout.hpp"

using namespace pipeline_executor;

namespace {

constexpr std::size_t region_bytes = model::memory_bytes - 256;
constexpr std::uint64_t no_items = UINT64_MAX;  // the key of messages that a replica yields while it has no item
constexpr unsigned max_keys = 16;

struct Setting {
  unsigned replicas = 2, items = 2, outputs = 11, tail = 0;
  unsigned limit = 4, input_limit = 8, max_bytes = 1 << 20;
  unsigned consumers = 1;
  unsigned source = 0, blocker = UINT32_MAX, leave_after = UINT32_MAX;
  unsigned patient = 0;
  unsigned slots = 0;   // 0: as many as the edge's plan gives
  unsigned yields = 2;  // how many messages the second thread of replica 0 yields
};

enum class Kind { complete, seen, others, kept, reader, stop, quit, leave, abort, death };

struct Record {
  unsigned sent, received, before_blocker;
  std::uint64_t last_key, last_number;
  std::uint64_t tails[model::max_threads];
  bool yielder_is_done, consumer_left, aborted_seen;
  Status ended[model::max_threads];
};

Setting setting;
Kind kind;
Record record;
Region region;
Edge *input, *output;
Order* order;

// The threads are, in this order: the replicas, the consumer and, where they exist, the source, the second thread of
// replica 0, the supervisor and the second consumer.
unsigned consumer() { return setting.replicas; }
unsigned source() { return setting.replicas + 1; }
unsigned yielder() { return setting.replicas + 1 + setting.source; }
unsigned supervisor() { return yielder() + (kind == Kind::reader); }
unsigned second_consumer() { return setting.consumers == 2 ? supervisor() + 1 : UINT32_MAX; }
bool is_supervised() { return kind == Kind::abort || kind == Kind::death; }

ReplicaEntry* entry(unsigned thread) { return region.entry(thread); }

unsigned outputs_of(std::uint64_t item) {
  unsigned digits = setting.outputs;
  for (std::uint64_t index = item + 1; index < setting.items; ++index) digits /= 10;
  return digits % 10;
}

unsigned outputs_before(unsigned item) {
  unsigned sum = 0;
  for (unsigned index = 0; index < item; ++index) sum += outputs_of(index);
  return sum;
}

Message message_of(std::uint64_t key, std::uint64_t number, std::uint64_t replica) {
  Message message;
  message.kind = static_cast<std::uint32_t>(replica);
  message.in_block = 0;
  message.size = 16;
  message.words[0] = key;
  message.words[1] = number;
  return message;
}

// ---- the step -----------------------------------------------------------------------------------

// Sends a message as Sender._send_in_order does. key(place) gives the key that the message carries.
template <class Key>
Status put(unsigned replica, std::uint64_t number, Spin& spin, const Key& key) {
  ReplicaEntry* me = entry(replica);
  const std::uint64_t place = order->begin_output(me);
  const Message message = message_of(key(place), number, replica);
  Status status = order->try_send(region, *output, me, message, place);
  while (status == Status::empty || status == Status::interrupted)
    status = order->send(region, *output, me, message, place, spin);
  if (status == Status::no_memory) model::fail("allocate returned no block for a message");
  if (status == Status::ok) ++record.sent;
  const Status ended = order->end_output(region, *output, me);
  return status == Status::ok ? ended : status;
}

std::uint64_t key_of(std::uint64_t place) {
  if (place == 0) return no_items;
  return (place & Order::after_end) != 0 ? setting.items : place - 1;
}

Status ask(unsigned replica, Spin& spin) {
  ReplicaEntry* me = entry(replica);
  Status status = order->close_item(region, *output, me);
  if (status != Status::ok) return status;
  input->release(region, me);
  status = order->try_take(region, *input, me);
  while (status == Status::empty || status == Status::early || status == Status::interrupted)
    status = order->take(region, *output, *input, me, spin);
  return status;
}

bool all_before_the_blocker_came() { return record.before_blocker == outputs_before(setting.blocker); }

bool others_are_handed_over() { return record.sent == outputs_before(setting.items); }
bool all_is_handed_over() { return record.sent == outputs_before(setting.items) + setting.replicas * setting.tail; }

Status work(unsigned replica, std::uint64_t item, Spin& spin) {
  if (kind == Kind::reader && replica == 0) return Status::ok;  // its second thread yields
  if (item == setting.blocker) model::wait_until(all_before_the_blocker_came);
  Status status = Status::ok;
  for (unsigned number = 0; number < outputs_of(item) && status == Status::ok; ++number)
    status = put(replica, number, spin, [item](std::uint64_t) { return item; });
  if (kind == Kind::others && item == setting.patient) model::wait_until(others_are_handed_over);
  return status;
}

bool yielder_is_done() { return record.yielder_is_done; }

void replicate(unsigned replica) {
  Spin spin;
  Status status = Status::ok;
  bool leaves = false;
  for (unsigned taken = 0; status == Status::ok; ++taken) {
    leaves = kind == Kind::leave && replica == 0 && taken == setting.leave_after;
    if (leaves) break;
    status = ask(replica, spin);
    if (status == Status::ok) status = work(replica, entry(replica)->hand.words[0], spin);
  }
  if (kind == Kind::reader && replica == 0 && status == Status::end) model::wait_until(yielder_is_done);
  for (unsigned number = 0; status == Status::end && number < setting.tail; ++number) {
    const Status sent = put(replica, number, spin, key_of);
    if (sent != Status::ok) status = sent;
  }
  record.ended[replica] = leaves ? Status::end : status;
  if (status == Status::aborted) return;
  if (status == Status::stopped) input->stop(region);
  ReplicaEntry* me = entry(replica);
  if (order->close_item(region, *output, me) == Status::aborted) return;
  input->release(region, me);
  input->finish_consuming(region, replica, !leaves);
  output->finish_producing(region);
}

void yield_besides() {
  Spin spin;
  for (unsigned number = 0; number < setting.yields; ++number)
    if (put(0, number, spin, key_of) != Status::ok) model::fail("the second thread could not yield");
  record.yielder_is_done = true;
}

// ---- its neighbours -----------------------------------------------------------------------------

void look_at(const Message& message) {
  const std::uint64_t key = message.words[0], number = message.words[1], replica = message.kind;
  model::note("has message %u of item %d by replica %u", static_cast<unsigned>(number), static_cast<int>(key),
              static_cast<unsigned>(replica));
  ++record.received;
  if (key == no_items || setting.consumers > 1) return;
  if (key > setting.items || replica >= setting.replicas) model::fail("a message with the wrong contents came");
  if (key < setting.blocker) ++record.before_blocker;
  // The numbers of one item's messages increase by 1. After the end, and where a second thread yields, only the numbers
  // of each replica increase.
  if (key < record.last_key) model::fail("a message came after one of a later item");
  if (key == setting.items || (kind == Kind::reader && replica == 0)) {
    if (number < record.tails[replica]) model::fail("the messages of a replica came in the wrong order");
    record.tails[replica] = number + 1;
  } else if (key == record.last_key && number != record.last_number + 1) {
    model::fail("the messages of an item came in the wrong order");
  } else if (key != record.last_key && number != 0) {
    model::fail("the first message of an item did not come first");
  }
  record.last_key = key;
  record.last_number = number;
}

bool another_is_handed_over() { return record.sent > record.received || all_is_handed_over(); }

void consume(unsigned index) {
  Spin spin;
  ReplicaEntry* me = entry(index);
  Status status = Status::ok;
  bool leaves = false;
  for (unsigned taken = 0; status == Status::ok; ++taken) {
    output->release(region, me);
    leaves = taken == setting.leave_after && (kind == Kind::stop || kind == Kind::quit);
    if (leaves) break;
    status = output->try_take(region, me);
    while (status == Status::empty || status == Status::interrupted) status = output->take(region, me, spin);
    if (status == Status::ok) look_at(me->hand);
    if (kind == Kind::kept) model::wait_until(another_is_handed_over);
  }
  record.ended[index] = leaves ? Status::end : status;
  record.consumer_left = leaves;
  if (status != Status::aborted) output->finish_consuming(region, index, !leaves);
}

Status fill_input(unsigned from, unsigned until, Spin& spin) {
  std::uint64_t released_seen = 0;
  for (unsigned item = from; item < until; ++item) {
    Status status = input->reserve_now(region, released_seen);
    while (status == Status::empty || status == Status::interrupted)
      status = input->reserve(region, entry(source()), released_seen, spin);
    if (status == Status::ok) status = input->publish(region, entry(source()), message_of(item, 0, 0));
    if (status != Status::ok) return status;
  }
  input->finish_producing(region);
  return Status::end;
}

void supervise() {
  if (kind == Kind::abort) {
    region.abort(Cause::closed, 0);
    return;
  }
  model::wait_for_a_death();
  if (model::anybody_died()) region.abort(Cause::died, 0);
  model::wait_for_the_others();
}

void thread(unsigned index) {
  Spin spin;
  if (index < setting.replicas) {
    replicate(index);
  } else if (index == consumer() || index == second_consumer()) {
    consume(index);
  } else if (setting.source && index == source()) {
    record.ended[index] = fill_input(0, setting.items, spin);
  } else if (kind == Kind::reader && index == yielder()) {
    yield_besides();
  } else {
    supervise();
  }
}

// ---- before and after ---------------------------------------------------------------------------

template <class T>
void name(const T& field, const char* text, unsigned index = 0) {
  model::name(&field, sizeof field, text, index);
}

void name_edge(const Edge& edge, const char* const* texts) {
  const void* const words[] = {&edge.tail, &edge.acquired, &edge.head, &edge.released, &edge.buffered_bytes};
  for (unsigned index = 0; index < 5; ++index) model::name(words[index], 8, texts[index]);
  name(edge.items, texts[5]);
  name(edge.credits, texts[6]);
  name(edge.free_bytes, texts[7]);
  name(edge.producers_left, texts[8]);
  name(edge.next_position, texts[9]);
}

void set_up() {
  region.base = model::memory();
  const EdgePlan plans[] = {
      {setting.input_limit, 1 << 20, 1, setting.replicas, kind == Kind::leave || kind == Kind::stop, 0, 0},
      {setting.limit, setting.max_bytes, setting.replicas, setting.consumers, kind == Kind::stop, 0, 1},
  };
  setup_region(region.base, region_bytes, plans, 2, setting.replicas + 4);
  input = region.edge(0);
  output = region.edge(1);
  order = &Order::of(region, *output);
  if (setting.slots != 0) Order::setup(region.base, *output, setting.slots);
  static const char* const of_input[] = {"in.tail",           "in.acquired",     "in.head",    "in.released",
                                         "in.buffered_bytes", "in.items",        "in.credits", "in.free_bytes",
                                         "in.producers_left", "in.next_position"};
  static const char* const of_output[] = {"out.tail",           "out.acquired",     "out.head",    "out.released",
                                          "out.buffered_bytes", "out.items",        "out.credits", "out.free_bytes",
                                          "out.producers_left", "out.next_position"};
  name_edge(*input, of_input);
  name_edge(*output, of_output);
  name(order->next_position, "next_position");
  name(order->pending_bytes, "pending_bytes");
  name(order->waiters(region.base).count, "waiters");
  for (unsigned replica = 0; replica < setting.replicas; ++replica)
    name(entry(replica)->own_event, "own_event %u", replica);
  for (unsigned slot = 0; slot <= order->mask; ++slot) name(order->slot(region.base, slot), "slot %u", slot);
  for (unsigned cell = 0; cell <= output->mask; ++cell)
    name(output->cell(region, cell)->sequence, "out's cell %u", cell);
  for (unsigned cell = 0; cell <= input->mask; ++cell) name(input->cell(region, cell)->sequence, "in's cell %u", cell);
  name(region.control()->abort_word, "abort_word");
  if (setting.source) return;
  Spin spin;
  if (fill_input(0, setting.items, spin) != Status::end) std::abort();
}

void start() {
  std::memset(static_cast<void*>(&record), 0, sizeof record);
  record.last_number = UINT64_MAX;
}

std::uint64_t abort_word() { return region.control()->abort_word.load(std::memory_order_relaxed); }

void check_that_all_arrived(bool all_items) {
  if (abort_word() != 0) model::fail("the run was aborted");
  for (unsigned index = 0; index <= setting.replicas; ++index)
    if (record.ended[index] != Status::end) model::fail("thread %u did not see the end", index);
  if (record.sent != record.received)
    model::fail("%u messages were sent, but %u arrived", record.sent, record.received);
  if (all_items && record.sent != outputs_before(setting.items) + setting.replicas * setting.tail)
    model::fail("%u messages were sent, which is the wrong number", record.sent);
  if (output->buffered_bytes.load(std::memory_order_relaxed) != 0) model::fail("buffered_bytes is not 0 at the end");
  if (order->pending_bytes.load(std::memory_order_relaxed) != 0) model::fail("pending_bytes is not 0 at the end");
  if (output->acquired.load(std::memory_order_relaxed) != output->released.load(std::memory_order_relaxed))
    model::fail("a credit is still taken at the end");
  const std::uint64_t taken = input->head.load(std::memory_order_relaxed);
  if (order->next_position.load(std::memory_order_relaxed) != taken)
    model::fail("next_position is not the item after the last");
  for (std::uint64_t slot = 0; slot <= order->mask; ++slot)
    if (order->slot(region.base, taken + slot).load(std::memory_order_relaxed) != (slot == 0 ? Order::direct : 0))
      model::fail("a slot is not as it should be at the end");
}

// Counts the messages that take_references_left would find at the end of the run; each of them could hold an object.
unsigned found_at_the_end() {
  unsigned found = 0;
  const std::uint64_t tail = output->tail.load(std::memory_order_relaxed);
  for (std::uint64_t position = output->head.load(std::memory_order_relaxed); position < tail; ++position)
    found += output->is_published(region, position);
  for (std::uint64_t slot = 0; slot < order->slots(); ++slot)
    for (std::uint64_t block = order->newest_pending(region, slot); block != 0;
         block = Order::older_pending(region, block))
      ++found;
  return found;
}

void check() {
  const std::uint64_t word = abort_word();
  if (kind == Kind::abort) {
    std::uint64_t handed_over = 0;
    for (unsigned index = 0; index < setting.replicas; ++index)
      handed_over += entry(index)->items_out.load(std::memory_order_relaxed);
    if (handed_over != record.received + found_at_the_end())
      model::fail("of %u messages, %u arrived and %u are left", static_cast<unsigned>(handed_over), record.received,
                  found_at_the_end());
    return;
  }
  if (kind == Kind::death && model::anybody_died()) return;
  if (kind == Kind::stop) {
    if (word != 0) model::fail("the run was aborted");
    return;
  }
  if (kind == Kind::quit) {
    const bool lost = record.received != outputs_before(setting.items) + setting.replicas * setting.tail;
    if (record.consumer_left && (word != 0) != lost)
      model::fail(lost ? "a message was lost, and the run was not aborted"
                       : "the run is aborted, but no message was lost");
    if (word != 0 && word != (std::uint64_t{static_cast<std::uint32_t>(Cause::stopped_early)} << 32 | consumer()))
      model::fail("the run is aborted, but not in the name of the one that left");
    return;
  }
  if (kind == Kind::reader) {
    if (record.sent != record.received)
      model::fail("%u messages were sent, but %u arrived", record.sent, record.received);
    return check_that_all_arrived(false);
  }
  check_that_all_arrived(kind != Kind::leave);
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

const char* const* thread_names() {
  static char texts[model::max_threads][16];
  static const char* names[model::max_threads];
  for (unsigned index = 0; index < model::max_threads; ++index) {
    const char* what = index < setting.replicas                     ? "replica %u"
                       : index == consumer()                        ? "consumer"
                       : index == second_consumer()                 ? "consumer %u"
                       : setting.source && index == source()        ? "source"
                       : kind == Kind::reader && index == yielder() ? "yielder"
                                                                    : "supervisor";
    std::snprintf(texts[index], sizeof texts[index], what, index);
    names[index] = texts[index];
  }
  return names;
}

}  // namespace

int main(int argc, char** argv) {
  static const char* const kinds[] = {"complete", "seen", "others", "kept",  "reader",
                                      "stop",     "quit", "leave",  "abort", "death"};
  if (argc < 2) refuse("no scenario given");
  unsigned found = 0;
  while (found < 10 && std::strcmp(kinds[found], argv[1]) != 0) ++found;
  if (found == 10) refuse(argv[1]);
  kind = static_cast<Kind>(found);
  model::Bounds bounds;
  unsigned executions = 0;
  for (int index = 2; index < argc; ++index) {
    const char* argument = argv[index];
    if (!(assign(argument, "replicas", setting.replicas) || assign(argument, "items", setting.items) ||
          assign(argument, "outputs", setting.outputs) || assign(argument, "tail", setting.tail) ||
          assign(argument, "limit", setting.limit) || assign(argument, "input_limit", setting.input_limit) ||
          assign(argument, "max_bytes", setting.max_bytes) || assign(argument, "source", setting.source) ||
          assign(argument, "slots", setting.slots) || assign(argument, "patient", setting.patient) ||
          assign(argument, "consumers", setting.consumers) || assign(argument, "blocker", setting.blocker) ||
          assign(argument, "leave_after", setting.leave_after) || assign(argument, "yields", setting.yields) ||
          assign(argument, "executions", executions) || assign(argument, "preemptions", bounds.preemptions) ||
          assign(argument, "stale_loads", bounds.stale_loads) ||
          assign(argument, "weak_failures", bounds.weak_failures) ||
          assign(argument, "interruptions", bounds.interruptions) || assign(argument, "deaths", bounds.deaths) ||
          assign(argument, "steps", bounds.steps)))
      refuse(argument);
  }
  if (setting.consumers > 1 && kind != Kind::abort) refuse("consumers: only the scenario abort takes more than one");
  const unsigned threads = supervisor() + is_supervised() + (setting.consumers == 2);
  if (threads > model::max_threads || setting.items > max_keys) refuse("too many threads, messages or items");
  model::Program program;
  program.thread_names = thread_names();
  program.threads = threads;
  program.mortal = kind == Kind::death ? (1u << supervisor()) - 1 : 0;
  program.set_up = set_up;
  program.start = start;
  program.thread = thread;
  program.check = check;
  const model::Outcome outcome = model::explore(program, bounds, executions);
  std::printf("%llu executions, %llu of them cut; %llu states, %u shared words, %u steps at most\n",
              static_cast<unsigned long long>(outcome.executions), static_cast<unsigned long long>(outcome.cut),
              static_cast<unsigned long long>(outcome.states), outcome.words, outcome.max_steps);
  return outcome.failed ? 1 : 0;
}
