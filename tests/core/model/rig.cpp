// See rig.hpp.

#include "rig.hpp"

#include <cstdio>
#include <cstring>

namespace rig {

Setting setting;
Record record;
Region region;
Edge* edge;

namespace {

constexpr std::size_t region_bytes = model::memory_bytes - 256;

template <class T>
void name(const T& field, const char* text, unsigned index = 0) {
  model::name(&field, sizeof field, text, index);
}

void name_event(const Event& event, const char* sequence, const char* waiters) {
  name(event.sequence, sequence);
  name(event.waiters, waiters);
}

void name_everything(const EdgePlan& plan) {
  const Control& control = *region.control();
  name(control.abort_word, "abort_word");
  name(control.bell_armed, "bell_armed");
  name(control.arena, "the arena's heads");
  name(control.arena.top, "arena.top");
  name(edge->tail, "tail");
  name(edge->acquired, "acquired");
  name(edge->head, "head");
  name(edge->released, "released");
  name(edge->buffered_bytes, "buffered_bytes");
  name(edge->wait_queue.next_ticket, "next_ticket");
  name(edge->wait_queue.serving, "serving");
  name(edge->wait_queue.wanted_bytes, "wanted_bytes");
  name_event(edge->items, "items.sequence", "items.waiters");
  name_event(edge->credits, "credits.sequence", "credits.waiters");
  name_event(edge->free_bytes, "free_bytes.sequence", "free_bytes.waiters");
  name(edge->producers_left, "producers_left");
  name(edge->consumers_left, "consumers_left");
  name(edge->first_quitter, "first_quitter");
  name(edge->stopped, "stopped");
  name(edge->quit_position, "quit_position");
  for (unsigned index = 0; index <= edge->mask; ++index) {
    name(edge->cell(region, index)->sequence, "cell %u's sequence", index);
    name(edge->cell(region, index)->message, "cell %u's message", index);
  }
  for (unsigned index = 0; index < control.replicas; ++index) {
    name(*region.entry(index), "ledger entry %u", index);
    name(region.entry(index)->hand, "the hand of entry %u", index);
    name(region.entry(index)->hand_phase, "hand_phase of entry %u", index);
    name(region.entry(index)->items_in, "items_in of entry %u", index);
    name(region.entry(index)->own_event, "own_event of entry %u", index);
    name(region.entry(index)->ticket, "ticket of entry %u", index);
    name(region.entry(index)->wants, "wants of entry %u", index);
  }
  for (unsigned index = 0; index <= edge->wait_queue.mask; ++index)
    name(reinterpret_cast<std::uint64_t*>(region.base + edge->wait_queue.places_offset)[index],
         "place %u of the wait queue", index);
  const Layout at = layout_of(&plan, 1, control.replicas);
  for (std::uint64_t block = at.arena_offset / Arena::unit + 1; block < region_bytes / Arena::unit; ++block)
    model::name(region.base + block * Arena::unit, Arena::unit, "block %u", static_cast<unsigned>(block));
  name(*shared_word(), "the word that both steps change");
  name(*aborter_word(), "the aborter's word");
}

// A thread that sees the abort must also see what the aborter wrote before it.
void check_aborter_word() {
  const std::uint64_t word = region.control()->abort_word.load(std::memory_order_relaxed);
  if (setting.aborter_word_of != Cause::none && word >> 32 == static_cast<std::uint32_t>(setting.aborter_word_of) &&
      *aborter_word() != 1)
    model::fail("a thread sees the abort, but not what the aborter wrote before it");
}

}  // namespace

std::uint64_t* shared_word() noexcept { return reinterpret_cast<std::uint64_t*>(model::memory() + region_bytes); }
std::uint64_t* aborter_word() noexcept { return shared_word() + 8; }

void set_up() noexcept {
  region.base = model::memory();
  const EdgePlan plan{setting.limit,     setting.max_bytes,      setting.producers,
                      setting.consumers, setting.may_stop_early, setting.rings_bell};
  setup_region(region.base, region_bytes, &plan, 1, setting.producers + setting.consumers);
  edge = region.edge(0);
  name_everything(plan);
}

void start() noexcept { std::memset(static_cast<void*>(&record), 0, sizeof record); }

const char* const* thread_names() noexcept {
  static char texts[model::max_threads + 1][16];
  static const char* names[model::max_threads + 1];
  for (unsigned index = 0; index <= model::max_threads; ++index) {
    if (index < setting.producers) {
      std::snprintf(texts[index], sizeof texts[index], "producer %u", index);
    } else if (index < setting.producers + setting.consumers) {
      std::snprintf(texts[index], sizeof texts[index], "consumer %u", index - setting.producers);
    } else {
      std::snprintf(texts[index], sizeof texts[index], "supervisor");
    }
    names[index] = texts[index];
  }
  return names;
}

unsigned consumer_entry(unsigned consumer) noexcept { return setting.producers + consumer; }

std::uint64_t size_of_message() noexcept { return setting.blocks ? Message::inline_capacity + 24 : 16; }

// False: there is no block for it.
bool make(Message& message, unsigned producer, unsigned number) noexcept {
  message.kind = producer;
  message.size = size_of_message();
  message.in_block = setting.blocks;
  std::uint64_t* to = reinterpret_cast<std::uint64_t*>(message.bytes);
  if (setting.blocks) {
    message.block = region.control()->arena.allocate(region.base, message.size);
    if (message.block == 0) return false;
    to = reinterpret_cast<std::uint64_t*>(Arena::at(region.base, message.block)->payload());
  }
  to[0] = producer;
  to[1] = number;
  return true;
}

void look_at(const Message& message, unsigned consumer) noexcept {
  const std::uint64_t* from =
      setting.blocks ? reinterpret_cast<const std::uint64_t*>(Arena::at(region.base, message.block)->payload())
                     : reinterpret_cast<const std::uint64_t*>(message.bytes);
  const std::uint64_t producer = from[0], number = from[1];
  model::note("has message %u of producer %u", static_cast<unsigned>(number), static_cast<unsigned>(producer));
  if (producer >= setting.producers || number >= setting.messages || message.kind != producer ||
      message.size != size_of_message() || message.in_block != setting.blocks)
    model::fail("consumer %u took a message with the wrong contents", consumer);
  if (record.taken[producer * setting.messages + number]++ != 0)
    model::fail("message %u of producer %u arrived twice", static_cast<unsigned>(number),
                static_cast<unsigned>(producer));
  unsigned& next = record.next_number[consumer][producer];
  if (number < next)
    model::fail("consumer %u got the messages of producer %u in the wrong order", consumer,
                static_cast<unsigned>(producer));
  next = static_cast<unsigned>(number) + 1;
  ++record.taken_in_all;
  if (setting.marks_leaving) record.last_taken_at = model::mark();
}

Status reserve(unsigned producer, std::uint64_t& released_seen, Spin& spin) noexcept {
  Status status = edge->reserve_now(region, released_seen);
  while (status == Status::empty || status == Status::interrupted)
    status = edge->reserve(region, region.entry(producer), released_seen, spin);
  return status;
}

Status send(unsigned producer, unsigned number, Spin& spin) noexcept {
  ReplicaEntry* me = region.entry(producer);
  Message message;
  if (!make(message, producer, number)) model::fail("allocate returned no block for a message");
  Status status = edge->reserve_bytes_now(region, me, message);
  while (status == Status::empty || (status == Status::interrupted && !setting.gives_up))
    status = edge->reserve_bytes(region, me, message, spin);
  if (status != Status::ok) return status;
  if (setting.leave_after != UINT32_MAX) {
    const unsigned began_at = model::mark();
    if (record.left_at != 0 && record.left_at < began_at) record.published_after_leaving = true;
  }
  ++record.claimed;
  status = edge->publish(region, me, message);
  if (status == Status::ok) ++record.published;
  return status;
}

void produce(unsigned producer) noexcept {
  Spin spin;
  std::uint64_t released_seen = 0;
  Status status;
  for (unsigned number = 0;; ++number) {
    status = reserve(producer, released_seen, spin);
    if (status != Status::ok) break;
    if (number == setting.messages) {  // the producer's generator has ended
      edge->unreserve();
      break;
    }
    if (++record.in_flight > setting.limit) model::fail("more items are in flight than packets_in_flight allows");
    if (setting.limit == 1) ++*shared_word();
    status = send(producer, number, spin);
    if (status != Status::ok) break;
  }
  record.produced[producer] = status;
  if (status == Status::aborted) {
    check_aborter_word();
  } else {
    edge->leave_wait_queue(region, region.entry(producer));
    edge->finish_producing(region);
  }
}

Status take(unsigned consumer, Spin& spin) noexcept {
  ReplicaEntry* me = region.entry(consumer_entry(consumer));
  Status status = edge->try_take(region, me);
  while (status == Status::empty || status == Status::interrupted) status = edge->take(region, me, spin);
  if (status != Status::ok) return status;
  look_at(me->hand, consumer);
  me->hand_phase.store(static_cast<std::uint32_t>(HandPhase::decoded), std::memory_order_release);
  if (setting.limit == 1) ++*shared_word();
  return status;
}

// The step asks for its next item, or has ended: gives back the item in hand.
void release_item(unsigned consumer) noexcept {
  ReplicaEntry* me = region.entry(consumer_entry(consumer));
  const std::uint32_t phase = me->hand_phase.load(std::memory_order_relaxed);
  if (phase != static_cast<std::uint32_t>(HandPhase::empty)) --record.in_flight;
  edge->release(region, me);
}

void consume(unsigned consumer) noexcept {
  Spin spin;
  Status status = Status::ok;
  for (unsigned taken = 0; consumer >= setting.leavers || taken != setting.leave_after; ++taken) {
    status = take(consumer, spin);
    if (status != Status::ok) break;
    release_item(consumer);
  }
  record.consumed[consumer] = status;
  if (status == Status::aborted) return check_aborter_word();
  record.has_left[consumer] = status == Status::ok;
  if (status == Status::ok && setting.marks_leaving) {
    const unsigned at = model::mark();
    if (record.leaving_at == 0) record.leaving_at = at;
  }
  const Status verdict = edge->finish_consuming(region, consumer_entry(consumer), status == Status::end);
  if (status == Status::ok) {
    const unsigned at = model::mark();
    if (record.left_at == 0) record.left_at = at;
    record.consumed[consumer] = verdict;
  }
}

bool abort(Cause cause, std::uint32_t replica) noexcept {
  if (cause == setting.aborter_word_of) *aborter_word() = 1;
  return region.abort(cause, replica);
}

void thread(unsigned index) noexcept {
  if (index < setting.producers) {
    produce(index);
  } else {
    consume(index - setting.producers);
  }
}

void check_that_all_arrived() noexcept {
  for (unsigned index = 0; index < setting.producers; ++index)
    if (record.produced[index] != Status::ok) model::fail("producer %u did not end well", index);
  for (unsigned index = 0; index < setting.consumers; ++index)
    if (record.consumed[index] != Status::end) model::fail("consumer %u did not see the end", index);
  for (unsigned index = 0; index < setting.producers * setting.messages; ++index)
    if (record.taken[index] != 1) model::fail("a message did not arrive");
  if (region.control()->abort_word.load(std::memory_order_relaxed) != 0) model::fail("the run was aborted");
  if (edge->buffered_bytes.load(std::memory_order_relaxed) != 0) model::fail("buffered_bytes is not 0 at the end");
  if (record.in_flight != 0) model::fail("items are still in flight at the end");
  // A sole producer keeps the credit that it did not use (Edge::unreserve).
  const std::uint64_t out =
      edge->acquired.load(std::memory_order_relaxed) - edge->released.load(std::memory_order_relaxed);
  if (out != (setting.producers == 1)) model::fail("%u credits are still taken at the end", static_cast<unsigned>(out));
}

}  // namespace rig
