// Keeps the outputs of a step with several replicas in the order of the inputs that they came from. docs/protocol.md
// explains it.
//
// An item's number is its position in the step's input edge. The outputs that a replica yields between taking item p
// and asking for its next item belong to p. They leave after all outputs that belong to earlier items.
//   * `next_position` is the item whose outputs go out now. Exactly one replica, or none yet, holds the baton: the right
//     to publish and to change `next_position`.
//   * Each item in work has a slot. While the item is not next, its slot holds a list of pending messages, copied into
//     shared memory, and the mark `closed` once there will be no more.
//   * The replica with the baton becomes the advancer when it closes its item. It publishes the lists of the items that
//     follow, as long as these are closed. Then it hands the baton over: it writes `direct` into the first slot that is
//     not closed. The replica that has that item, now or later, finds `direct` there and publishes by itself.
//
// So no replica waits for one that is busy with a later item, and an output is visible as soon as its item is next.
//
// A credit is taken when a message is handed over, not before it is made. Replicas without the baton leave one credit
// free for the replica that has it. So that replica can always go on, and a pending message already has its credit.
// Bytes work likewise: the replica with the baton counts only the bytes in the ring; the others also count those of
// pending messages.
//
// A replica that has to wait for a credit or for bytes waits in the order of its item (waiters_by_position.hpp). Only
// the first of them is woken.
//
// All functions may be called with or without the GIL, and none throws. Functions that may have to wait for a cell of
// the ring are not noexcept; see Region::release_gil.
#pragma once

#include <cstdint>
#include <new>

#include "edge.hpp"
#include "waiters_by_position.hpp"

namespace pipeline_executor {

struct Order {
  // The word of a slot:
  //
  //   value                      meaning
  //   0                          no message is pending, and the item is not closed
  //   offset                     arena block of the newest pending message; older ones are linked from there
  //   closed, closed | offset    likewise, and the replica has closed the item: it adds no more messages
  //   direct                     the item is next: its replica publishes by itself
  static constexpr std::uint64_t closed = 1, direct = 2;
  static constexpr std::uint64_t after_end = ReplicaEntry::after_end;

  struct alignas(cache_line) Slot {
    Atomic<std::uint64_t> word;
    // Of the replica that waits with this item, written before it waits. Processes that may have to wake it read both.
    Atomic<std::uint64_t> size;     // how many free bytes it wants
    Atomic<std::uint32_t> replica;  // the index of its ledger entry
  };

  // A pending message, in an arena block.
  struct Node {
    std::uint64_t next;  // block of the next older one; 0: none
    Message message;
  };

  // set before any process starts
  alignas(cache_line) std::uint64_t slots_offset;
  std::uint64_t mask;  // number of slots - 1
  std::uint64_t waiters_offset;

  alignas(cache_line) Atomic<std::uint64_t> next_position;  // written only by the replica that holds the baton
  alignas(cache_line) Atomic<std::uint64_t> pending_bytes;  // of all pending messages

  static Order& of(const Region& region, const Edge& edge) noexcept {
    return *reinterpret_cast<Order*>(region.base + edge.order_offset);
  }

  static void setup(unsigned char* base, const Edge& edge, std::uint64_t slots) noexcept {
    Order* order = new (base + edge.order_offset) Order();
    order->slots_offset = edge.order_offset + sizeof(Order);
    order->mask = slots - 1;
    order->waiters_offset = order->slots_offset + slots * sizeof(Slot);
    order->slot(base, 0).store(direct, std::memory_order_relaxed);
  }

  static std::uint64_t bytes(std::uint64_t slots) noexcept {
    return sizeof(Order) + slots * sizeof(Slot) + WaitersByPosition::bytes(slots);
  }

  // The replicas that wait for a credit or for bytes, one bit for each slot.
  WaitersByPosition& waiters(unsigned char* base) const noexcept {
    return *reinterpret_cast<WaitersByPosition*>(base + waiters_offset);
  }

  Slot& slot_of(unsigned char* base, std::uint64_t position) const noexcept {
    return *(reinterpret_cast<Slot*>(base + slots_offset) + (position & mask));
  }
  Atomic<std::uint64_t>& slot(unsigned char* base, std::uint64_t position) const noexcept {
    return slot_of(base, position).word;
  }

  // Whether a place (ReplicaEntry::place) is that of an item.
  static bool is_item(std::uint64_t place) noexcept { return place != 0 && (place & after_end) == 0; }

  // ---- taking -----------------------------------------------------------------------------------

  // Takes the next item of the step's input edge, as Edge::try_take. `early`: the oldest item in work is too far
  // behind. An item is taken only when its slot is free; it then stays free until this replica uses it.
  Status try_take(const Region& region, Edge& input, ReplicaEntry* me) const noexcept {
    // acquire: pairs with the stores in advance; the replica that takes item p sees its slot as the advancer left it
    return input.try_take(region, me, next_position.load(std::memory_order_acquire) + mask + 1);
  }

  // As try_take, but waits.
  Status take(const Region& region, Edge& output, Edge& input, ReplicaEntry* me, Spin& spin) const noexcept {
    Status status = Status::empty;
    const std::uint64_t since = monotonic_ns();
    me->begin_waiting(Waiting::input);
    bool done = true;
    while (done && (status == Status::empty || status == Status::early)) {
      // A replica that is woken for an item that it may not take yet waits for next_position, and then looks again.
      const Status nothing = status;
      done = (nothing == Status::empty ? input.items : output.next_position)
                 .wait(
                     [&]() noexcept {
                       status = try_take(region, input, me);
                       return status != nothing;
                     },
                     spin);
    }
    me->end_waiting(Waiting::input);
    ReplicaEntry::add(me->wait_input_ns, monotonic_ns() - since);
    return done ? status : Status::interrupted;
  }

  // ---- yielding ---------------------------------------------------------------------------------

  // The replica begins to yield a message. Returns the place that the message belongs to; end_output must follow. Only
  // one thread of a replica yields at a time. If another thread asks for the next item meanwhile, the message keeps its
  // place.
  std::uint64_t begin_output(ReplicaEntry* me) const noexcept {
    const PlaceLock locked(me);
    const std::uint64_t place = me->place.load(std::memory_order_acquire);  // pairs with the stores in try_take
    me->sending_place.store(place, std::memory_order_relaxed);
    return place;
  }

  // Hands the message over if that is possible without waiting. Else returns `empty` and sets `wait_on` to the event to
  // wait for.
  Status try_send(const Region& region, Edge& edge, ReplicaEntry* me, const Message& message, std::uint64_t place,
                  Event*& wait_on) {
    const Status status = edge.stop_status(region);
    if (status != Status::ok) return status;
    wait_on = &edge.credits;
    // acquire: pairs with the stores in advance; all that belongs to items is in the ring
    if ((place & after_end) != 0 && next_position.load(std::memory_order_acquire) < (place & ~after_end))
      return Status::empty;
    // acquire: pairs with the exchange in advance that writes `direct`; all outputs of earlier items are in the ring
    const bool is_pending = is_item(place) && slot(region.base, place - 1).load(std::memory_order_acquire) != direct;
    const std::uint64_t max_credits = is_pending ? edge.limit - 1 : edge.limit;
    if (!has_credit(edge, max_credits)) return Status::empty;
    const std::uint64_t size = edge.is_counted(message) ? message.size : 0;
    if (size != 0 && !(is_pending ? try_reserve_pending_bytes(edge, size) : edge.try_reserve_bytes(size))) {
      wait_on = &edge.free_bytes;
      return Status::empty;
    }
    if (!take_credit(edge, max_credits)) {  // another producer was faster
      if (size != 0) {
        (is_pending ? pending_bytes : edge.buffered_bytes).fetch_sub(size, std::memory_order_relaxed);
        // Another producer may have found too few free bytes meanwhile. The fence is in notify.
        edge.free_bytes.notify(unpark_everyone);
        wake_first(region, edge);
      }
      return Status::empty;
    }
    return is_pending ? add_pending(region, edge, me, message, place - 1, size) : edge.publish(region, me, message);
  }

  Status try_send(const Region& region, Edge& edge, ReplicaEntry* me, const Message& message, std::uint64_t place) {
    Event* wait_on;
    return try_send(region, edge, me, message, place, wait_on);
  }

  // As try_send, but waits.
  Status send(const Region& region, Edge& edge, ReplicaEntry* me, const Message& message, std::uint64_t place,
              Spin& spin) noexcept {
    const std::uint64_t since = monotonic_ns();
    me->begin_waiting(Waiting::room);
    Status status = Status::empty;
    Event* wait_on = &edge.credits;
    bool done = true;
    if (is_item(place)) {
      const auto is_done = [&]() noexcept {
        status = try_send(region, edge, me, message, place);
        return status != Status::empty;
      };
      done = Event::spin_before_sleep(is_done, spin) ||
             wait_by_position(region, edge, me, place - 1, edge.is_counted(message) ? message.size : 0, is_done, spin);
    }
    while (done && status == Status::empty) {
      Event* const at = wait_on;
      done = at->wait(
          [&]() noexcept {
            status = try_send(region, edge, me, message, place, wait_on);
            return status != Status::empty || wait_on != at;
          },
          spin);
    }
    me->end_waiting(Waiting::room);
    ReplicaEntry::add(me->wait_room_ns, monotonic_ns() - since);
    return done ? status : Status::interrupted;
  }

  // The message has been handed over, or given up. Closes its item if another thread has asked for the next one
  // meanwhile.
  Status end_output(const Region& region, Edge& edge, ReplicaEntry* me) {
    std::uint64_t place;
    {
      const PlaceLock locked(me);
      place = me->sending_place.load(std::memory_order_relaxed);
      me->sending_place.store(0, std::memory_order_relaxed);
      if (me->close_is_due.load(std::memory_order_relaxed) == 0) return Status::ok;
      me->close_is_due.store(0, std::memory_order_relaxed);
    }
    return close_slot(region, edge, place - 1);
  }

  // The replica asks for its next item, or has ended: it yields nothing more for the item that it had.
  Status close_item(const Region& region, Edge& edge, ReplicaEntry* me) {
    std::uint64_t place;
    {
      const PlaceLock locked(me);
      place = me->place.load(std::memory_order_relaxed);
      if (!is_item(place)) return Status::ok;
      me->place.store(0, std::memory_order_relaxed);
      if (me->sending_place.load(std::memory_order_relaxed) == place) {
        me->close_is_due.store(1, std::memory_order_relaxed);
        return Status::ok;
      }
    }
    return close_slot(region, edge, place - 1);
  }

  // ---- replicas that wait ------------------------------------------------------------------------

  // Wakes the first waiting replica, if it can go on. Call it after a fence that follows the change that lets it go on.
  // That fence pairs with the one of Event::sleep in wait_by_position. A value here may be older than our fence, which
  // does no harm: the process that wrote the newer value makes this call after its write.
  void wake_first(const Region& region, const Edge& edge) const noexcept {
    const WaitersByPosition& waiters_here = waiters(region.base);
    if (waiters_here.is_empty()) return;
    const std::uint64_t now = next_position.load(std::memory_order_relaxed);
    std::uint64_t position;
    if (!waiters_here.find_first(now, mask, position)) return;
    const bool is_behind = position != now;
    if (!has_credit(edge, is_behind ? edge.limit - 1 : edge.limit)) return;
    const Slot& its = slot_of(region.base, position);
    const std::uint64_t size = its.size.load(std::memory_order_relaxed);
    if (size != 0 && !edge.fits(size, edge.buffered_bytes.load(std::memory_order_relaxed) +
                                          (is_behind ? pending_bytes.load(std::memory_order_relaxed) : 0)))
      return;
    KILL_POINT("about to wake first");
    region.entry(its.replica.load(std::memory_order_relaxed))->own_event.notify_fenced(unpark_everyone);
  }

  // For the end of a run, when no process uses it any more: the pending messages of all slots.
  std::uint64_t slots() const noexcept { return mask + 1; }
  std::uint64_t newest_pending(const Region& region, std::uint64_t index) const noexcept {
    const std::uint64_t word = slot(region.base, index).load(std::memory_order_acquire);
    return word & ~(closed | direct);
  }
  static std::uint64_t older_pending(const Region& region, std::uint64_t block) noexcept {
    return node(region, block)->next & ~(closed | direct);
  }
  static Message* pending_message(const Region& region, std::uint64_t block) noexcept {
    return &node(region, block)->message;
  }

 private:
  // A lock between the threads of one replica, held for a few instructions.
  struct PlaceLock {
    ReplicaEntry* const me;
    explicit PlaceLock(ReplicaEntry* entry) noexcept : me(entry) {
      unsigned round = 0;
      // acquire: pairs with the release below
      while (me->place_lock.exchange(1, std::memory_order_acquire) != 0)
        while (me->place_lock.load(std::memory_order_relaxed) != 0) back_off(round++);
    }
    ~PlaceLock() { me->place_lock.store(0, std::memory_order_release); }
    PlaceLock(const PlaceLock&) = delete;
    PlaceLock& operator=(const PlaceLock&) = delete;
  };

  // Waits until is_done(), for a credit and `size` free bytes for the item at `position`.
  template <class IsDone>
  bool wait_by_position(const Region& region, Edge& edge, ReplicaEntry* me, std::uint64_t position, std::uint64_t size,
                        const IsDone& is_done, Spin& spin) noexcept {
    Slot& mine = slot_of(region.base, position);
    mine.size.store(size, std::memory_order_relaxed);
    mine.replica.store(static_cast<std::uint32_t>(region.index_of(me)), std::memory_order_relaxed);
    waiters(region.base).join(position, mask);
    KILL_POINT("waiters joined");
    const bool done = me->own_event.sleep(is_done, spin);  // calls is_done after its fence
    waiters(region.base).leave(position, mask);
    KILL_POINT("waiters left");
    // A wake-up that this replica got twice, or did not need, belongs to the next one.
    fence_seq_cst();  // pairs with Event::sleep's, of the replica that is first now
    wake_first(region, edge);
    return done;
  }

  static Node* node(const Region& region, std::uint64_t block) noexcept {
    return reinterpret_cast<Node*>(Arena::at(region.base, block)->payload());
  }

  // Whether fewer than `max_credits` are taken. Signed, because `taken` may be an older value than `given_back`. Then
  // the exchange that follows fails.
  static bool is_below(std::uint64_t taken, std::uint64_t given_back, std::uint64_t max_credits) noexcept {
    return static_cast<std::int64_t>(taken - given_back) < static_cast<std::int64_t>(max_credits);
  }

  static bool has_credit(const Edge& edge, std::uint64_t max_credits) noexcept {
    const std::uint64_t taken = edge.acquired.load(std::memory_order_relaxed);
    return is_below(taken, edge.released.load(std::memory_order_relaxed), max_credits);
  }

  static bool take_credit(Edge& edge, std::uint64_t max_credits) noexcept {
    std::uint64_t taken = edge.acquired.load(std::memory_order_relaxed);
    do {
      // acquire: pairs with the addition in Edge::release
      if (!is_below(taken, edge.released.load(std::memory_order_acquire), max_credits)) return false;
    } while (!edge.acquired.compare_exchange_weak(taken, taken + 1, std::memory_order_relaxed));
    KILL_POINT("credit taken");
    return true;
  }

  // As Edge::try_reserve_bytes, for a pending message.
  bool try_reserve_pending_bytes(const Edge& edge, std::uint64_t size) noexcept {
    // acquire: pairs with the subtraction in move_bytes_to_ring
    std::uint64_t pending = pending_bytes.load(std::memory_order_acquire);
    do {
      const std::uint64_t now = pending + edge.buffered_bytes.load(std::memory_order_relaxed);
      if (!edge.fits(size, now)) return false;
    } while (!pending_bytes.compare_exchange_weak(pending, pending + size, std::memory_order_acquire));
    return true;
  }

  // Moves the bytes of a pending message to the ring, even if the ring is full. So up to twice max_buffer_bytes are
  // buffered. Between the two lines below the bytes are counted twice, and a producer may seem to lack free bytes. It is
  // woken when the message is taken.
  void move_bytes_to_ring(Edge& edge, std::uint64_t size) noexcept {
    edge.buffered_bytes.fetch_add(size, std::memory_order_relaxed);
    // release: pairs with the load in try_reserve_pending_bytes, which then counts these bytes in the ring
    pending_bytes.fetch_sub(size, std::memory_order_release);
  }

  // Adds the message to the list of its slot, where the advancer finds it. Its credit and bytes are reserved.
  Status add_pending(const Region& region, Edge& edge, ReplicaEntry* me, const Message& message, std::uint64_t position,
                     std::uint64_t size) {
    const std::uint64_t block = region.control()->arena.allocate(region.base, sizeof(Node));
    if (block == 0) return Status::no_memory;
    Node* const made = node(region, block);
    made->message.copy_from(message);
    Atomic<std::uint64_t>& word = slot(region.base, position);
    std::uint64_t newest = word.load(std::memory_order_acquire);  // pairs as in try_send
    while (newest != direct) {
      made->next = newest;
      // release: pairs with the exchange in advance that takes the list
      if (word.compare_exchange_weak(newest, block, std::memory_order_release, std::memory_order_acquire)) {
        KILL_POINT("output pending");
        ReplicaEntry::add(me->items_out, 1);
        return Status::ok;
      }
    }
    // The item has become next meanwhile: publish.
    region.control()->arena.release(region.base, block);
    if (size != 0) move_bytes_to_ring(edge, size);
    return edge.publish(region, me, message);
  }

  Status close_slot(const Region& region, Edge& edge, std::uint64_t position) {
    Atomic<std::uint64_t>& word = slot(region.base, position);
    std::uint64_t newest = word.load(std::memory_order_acquire);  // pairs as in try_send
    while (newest != direct) {
      // release: pairs with the exchange in advance
      if (word.compare_exchange_weak(newest, newest | closed, std::memory_order_release, std::memory_order_acquire)) {
        KILL_POINT("item closed");
        return Status::ok;
      }
    }
    KILL_POINT("became advancer");
    return advance(region, edge, position);
  }

  // Moves the baton on. The caller holds it and has just closed the item at `position`.
  Status advance(const Region& region, Edge& edge, std::uint64_t position) {
    slot(region.base, position).store(0, std::memory_order_relaxed);
    const std::uint64_t first = position;
    for (;;) {
      next_position.store(++position, std::memory_order_release);  // pairs with the loads in try_take and try_send
      Atomic<std::uint64_t>& word = slot(region.base, position);
      std::uint64_t waiting = 0;
      while ((waiting & closed) == 0) {
        waiting = 0;
        // release: pairs with the loads of `direct`
        if (word.compare_exchange_strong(waiting, direct, std::memory_order_release, std::memory_order_relaxed)) {
          KILL_POINT("baton handed over");
          fence_seq_cst();  // pairs with Event::sleep's, of replicas that wait for next_position
          wake_first(region, edge);
          edge.credits.notify_fenced(unpark_everyone);  // for replicas that wait for the end of all items
          edge.next_position.notify_fenced(to_int(position - first));
          return Status::ok;
        }
        // acquire: pairs with the exchanges in add_pending. Once the item is closed, no replica writes to this slot
        // before next_position has moved.
        waiting = word.exchange(0, std::memory_order_acquire);
        KILL_POINT("list taken");
        const Status status = publish_list(region, edge, word, waiting & ~closed);
        if (status != Status::ok) return status;
      }
    }
  }

  static int to_int(std::uint64_t count) noexcept {
    return count < unpark_everyone ? static_cast<int>(count) : unpark_everyone;
  }

  // Publishes a slot's list, which begins with the newest message. After an abort, a message that cannot be published
  // is put back into its slot, where the end of the run finds it.
  Status publish_list(const Region& region, Edge& edge, Atomic<std::uint64_t>& slot_word, std::uint64_t newest) {
    std::uint64_t oldest = 0;
    while (newest != 0) {
      Node* const at = node(region, newest);
      const std::uint64_t before = at->next;
      at->next = oldest;
      oldest = newest;
      newest = before;
    }
    Status outcome = Status::ok;
    while (oldest != 0) {
      Node* const at = node(region, oldest);
      const std::uint64_t next = at->next;
      if (edge.is_counted(at->message)) move_bytes_to_ring(edge, at->message.size);
      std::uint64_t position;
      if (edge.put_into_ring(region, at->message, position)) {
        const Status status = edge.announce(region, position);
        if (status != Status::ok) outcome = status;  // aborted; go on, so that no message of the list is lost
        region.control()->arena.release(region.base, oldest);
      } else {
        outcome = Status::aborted;
        put_back(slot_word, at, oldest);
      }
      oldest = next;
    }
    return outcome;
  }

  static void put_back(Atomic<std::uint64_t>& word, Node* at, std::uint64_t block) noexcept {
    // The replica that has the item may still add messages to the list.
    std::uint64_t newest = word.load(std::memory_order_relaxed);
    do {
      at->next = newest;
      // release: pairs with the load in newest_pending
    } while (!word.compare_exchange_weak(newest, block, std::memory_order_release, std::memory_order_relaxed));
  }
};

inline void wake_first_by_position(const Region& region, const Edge& edge) noexcept {
  Order::of(region, edge).wake_first(region, edge);
}

}  // namespace pipeline_executor
