// Outputs of a step with several replicas, in the order of the inputs that they came from.
//
// An item's number is its position in the step's input edge. What a replica yields between taking item p and asking for
// its next one belongs to p, and leaves after all that belongs to the items before. Explained in docs/protocol.md:
//   * `turn` is the item whose outputs go out now, and who has to do with it holds the baton: it alone publishes;
//   * a slot for each item in work. While the replica that has the item is behind, its slot is a list of the messages
//     that wait for their turn, copied into shared memory, and says whether there will be more (`closed`);
//   * when the replica with the baton closes its item it becomes the advancer: it publishes the lists of the items that
//     follow, as far as they are closed, and hands the baton on by writing `direct` into the first slot that is not. The
//     replica that has that item, now or later, finds `direct` there and publishes by itself. So nobody waits for a
//     replica that is busy with a later item, and what has its turn is visible at once.
//
// Credits are taken when a message is handed over, not before it is made. One is left for the replica with the baton:
// the others may use all but the last. So it can always go on, and messages that wait have their credits already.
// Likewise it looks at the bytes in the ring alone, and the others at those of the waiting messages too.
//
// Who has to wait for credit or bytes stands in a line, in the order of the items, and nobody but the first is ever called.
//
// All functions are called without the interpreter's lock or with it, and none throws. Those that may have to wait for a cell of
// the ring are not noexcept; see Region::let_go.
#pragma once

#include <cstdint>
#include <new>

#include "edge.hpp"
#include "line_by_position.hpp"

namespace pipeline_executor {

struct Order {
  // A slot's word: `direct`, or the offset of the newest message that waits, 0: none, and perhaps the mark `closed`.
  static constexpr std::uint64_t closed = 1, direct = 2;
  static constexpr std::uint64_t behind_all = ReplicaEntry::behind_all;

  struct alignas(cache_line) Slot {
    Atomic<std::uint64_t> word;
    // Of who waits in the line with this item, written before it joins. Read by who may be about to call it.
    Atomic<std::uint64_t> size;     // bytes that it wants room for
    Atomic<std::uint32_t> replica;  // its entry
  };

  // A message that waits, in an arena block.
  struct Node {
    std::uint64_t next;  // block of the one before; 0: none
    Message message;
  };

  // fixed before any process starts
  alignas(cache_line) std::uint64_t slots_offset;
  std::uint64_t mask;  // slots - 1
  std::uint64_t line_offset;

  alignas(cache_line) Atomic<std::uint64_t> turn;           // written by who has the baton alone
  alignas(cache_line) Atomic<std::uint64_t> pending_bytes;  // of the messages that wait

  static Order& of(const Region& region, const Edge& edge) noexcept {
    return *reinterpret_cast<Order*>(region.base + edge.order_offset);
  }

  static void setup(unsigned char* base, const Edge& edge, std::uint64_t slots) noexcept {
    Order* order = new (base + edge.order_offset) Order();
    order->slots_offset = edge.order_offset + sizeof(Order);
    order->mask = slots - 1;
    order->line_offset = order->slots_offset + slots * sizeof(Slot);
    order->slot(base, 0).store(direct, std::memory_order_relaxed);
  }

  static std::uint64_t bytes(std::uint64_t slots) noexcept {
    return sizeof(Order) + slots * sizeof(Slot) + LineByPosition::bytes(slots);
  }

  // Of the replicas that wait for credit or bytes, a place for each slot.
  LineByPosition& line(unsigned char* base) const noexcept { return *reinterpret_cast<LineByPosition*>(base + line_offset); }

  Slot& slot_of(unsigned char* base, std::uint64_t position) const noexcept {
    return *(reinterpret_cast<Slot*>(base + slots_offset) + (position & mask));
  }
  Atomic<std::uint64_t>& slot(unsigned char* base, std::uint64_t position) const noexcept {
    return slot_of(base, position).word;
  }

  static bool is_items(std::uint64_t place) noexcept { return place != 0 && (place & behind_all) == 0; }

  // ---- taking -----------------------------------------------------------------------------------

  // As Edge::try_take, for the step's input edge; `early`: the oldest item in work is too far behind. An item is
  // taken only when its slot is free, which it stays.
  Status try_take(const Region& region, Edge& input, ReplicaEntry* me) const noexcept {
    // acquire: pairs with the stores in advance; who takes item p sees its slot as the advancer left it
    return input.try_take(region, me, turn.load(std::memory_order_acquire) + mask + 1);
  }

  // The same, but waits.
  Status take(const Region& region, Edge& output, Edge& input, ReplicaEntry* me, Spin& spin) const noexcept {
    Status status = Status::empty;
    const std::uint64_t since = monotonic_ns();
    me->begin_waiting(Waiting::input);
    bool done = true;
    while (done && (status == Status::empty || status == Status::early)) {
      // Whoever is woken for a message that it may not take yet goes on to wait for the turn, and looks again then.
      const Status nothing = status;
      done = (nothing == Status::empty ? input.items : output.turns)
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

  // The replica yields a message: whose it is. To be followed by end(). One thread of a replica yields at a time; if
  // another asks for the next item meanwhile, the message still belongs to this one.
  std::uint64_t begin(ReplicaEntry* me) const noexcept {
    const Locked locked(me);
    const std::uint64_t place = me->place.load(std::memory_order_acquire);  // pairs with the stores in try_take
    me->putting.store(place, std::memory_order_relaxed);
    return place;
  }

  // Hands the message over if that can be done without waiting (else `empty`, and what to wait for is in `lacks`).
  Status put_now(const Region& region, Edge& edge, ReplicaEntry* me, const Message& message, std::uint64_t place,
                 Event*& lacks) {
    const Status status = edge.told(region);
    if (status != Status::ok) return status;
    lacks = &edge.room;
    // acquire: pairs with the stores in advance; all that belongs to items is in the ring
    if ((place & behind_all) != 0 && turn.load(std::memory_order_acquire) < (place & ~behind_all)) return Status::empty;
    // acquire: pairs with the exchange in advance that writes `direct`: what was before us is in the ring
    const bool waits =
        is_items(place) && slot(region.base, place - 1).load(std::memory_order_acquire) != direct;
    const std::uint64_t most = waits ? edge.limit - 1 : edge.limit;
    if (!has_credit(edge, most)) return Status::empty;
    const std::uint64_t size = edge.counts(message) ? message.size : 0;
    if (size != 0 && !(waits ? try_reserve_pending_bytes(edge, size) : edge.try_reserve_bytes(size))) {
      lacks = &edge.bytes;
      return Status::empty;
    }
    if (!take_credit(edge, most)) {  // another was faster
      if (size != 0) {
        (waits ? pending_bytes : edge.buffered_bytes).fetch_sub(size, std::memory_order_relaxed);
        edge.bytes.notify(unpark_everyone);  // one may have found no room for it
        call_first(region, edge);            // likewise, by the fence of `notify`
      }
      return Status::empty;
    }
    return waits ? lay_down(region, edge, me, message, place - 1, size) : edge.publish(region, me, message);
  }

  Status put_now(const Region& region, Edge& edge, ReplicaEntry* me, const Message& message,
                 std::uint64_t place) {
    Event* lacks;
    return put_now(region, edge, me, message, place, lacks);
  }

  // The same, but waits.
  Status put(const Region& region, Edge& edge, ReplicaEntry* me, const Message& message, std::uint64_t place,
             Spin& spin) noexcept {
    const std::uint64_t since = monotonic_ns();
    me->begin_waiting(Waiting::room);
    Status status = Status::empty;
    Event* lacks = &edge.room;
    bool done = true;
    if (is_items(place)) {
      const auto is_done = [&]() noexcept {
        status = put_now(region, edge, me, message, place);
        return status != Status::empty;
      };
      done = Event::spins(is_done, spin) ||
             wait_in_line(region, edge, me, place - 1, edge.counts(message) ? message.size : 0, is_done, spin);
    }
    while (done && status == Status::empty) {
      Event* const at = lacks;
      done = at->wait(
          [&]() noexcept {
            status = put_now(region, edge, me, message, place, lacks);
            return status != Status::empty || lacks != at;
          },
          spin);
    }
    me->end_waiting(Waiting::room);
    ReplicaEntry::add(me->wait_room_ns, monotonic_ns() - since);
    return done ? status : Status::interrupted;
  }

  // The message is out, or given up.
  Status end(const Region& region, Edge& edge, ReplicaEntry* me) {
    std::uint64_t place;
    {
      const Locked locked(me);
      place = me->putting.load(std::memory_order_relaxed);
      me->putting.store(0, std::memory_order_relaxed);
      if (me->closes_later.load(std::memory_order_relaxed) == 0) return Status::ok;
      me->closes_later.store(0, std::memory_order_relaxed);
    }
    return close_slot(region, edge, place - 1);
  }

  // The replica asks for its next item, or has ended: it yields nothing more for the one that it had.
  Status close(const Region& region, Edge& edge, ReplicaEntry* me) {
    std::uint64_t place;
    {
      const Locked locked(me);
      place = me->place.load(std::memory_order_relaxed);
      if (!is_items(place)) return Status::ok;
      me->place.store(0, std::memory_order_relaxed);
      if (me->putting.load(std::memory_order_relaxed) == place) {
        me->closes_later.store(1, std::memory_order_relaxed);
        return Status::ok;
      }
    }
    return close_slot(region, edge, place - 1);
  }

  // ---- the line ---------------------------------------------------------------------------------

  // Calls the first, if it can go on. To be called after a fence that follows what lets it; pairs with the fence of
  // Event::sleep in wait_in_line. A value that is older than that fence is no harm: who writes the newer one calls afterwards.
  void call_first(const Region& region, const Edge& edge) const noexcept {
    const LineByPosition& its_line = line(region.base);
    if (its_line.is_empty()) return;
    const std::uint64_t now = turn.load(std::memory_order_relaxed);
    std::uint64_t position;
    if (!its_line.find_first(now, mask, position)) return;
    const bool is_behind = position != now;
    if (!has_credit(edge, is_behind ? edge.limit - 1 : edge.limit)) return;
    const Slot& its = slot_of(region.base, position);
    const std::uint64_t size = its.size.load(std::memory_order_relaxed);
    if (size != 0 && !edge.fits(size, edge.buffered_bytes.load(std::memory_order_relaxed) +
                                          (is_behind ? pending_bytes.load(std::memory_order_relaxed) : 0)))
      return;
    KILL_POINT("about to call");
    region.entry(its.replica.load(std::memory_order_relaxed))->called.notify_fenced(unpark_everyone);
  }

  // The messages that still wait, of all slots: for when nobody uses the run any more.
  std::uint64_t slots() const noexcept { return mask + 1; }
  std::uint64_t newest_waiting(const Region& region, std::uint64_t index) const noexcept {
    const std::uint64_t word = slot(region.base, index).load(std::memory_order_acquire);
    return word & ~(closed | direct);
  }
  static std::uint64_t waiting_before(const Region& region, std::uint64_t block) noexcept {
    return node(region, block)->next & ~(closed | direct);
  }
  static Message* waiting_message(const Region& region, std::uint64_t block) noexcept {
    return &node(region, block)->message;
  }

 private:
  // Between the threads of one replica; held for a few instructions.
  struct Locked {
    ReplicaEntry* const me;
    explicit Locked(ReplicaEntry* entry) noexcept : me(entry) {
      unsigned round = 0;
      // acquire: pairs with the release below
      while (me->place_lock.exchange(1, std::memory_order_acquire) != 0)
        while (me->place_lock.load(std::memory_order_relaxed) != 0) back_off(round++);
    }
    ~Locked() { me->place_lock.store(0, std::memory_order_release); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;
  };

  // Waits for credit and `size` bytes for the item at `position`, until is_done().
  template <class IsDone>
  bool wait_in_line(const Region& region, Edge& edge, ReplicaEntry* me, std::uint64_t position, std::uint64_t size,
                    const IsDone& is_done, Spin& spin) noexcept {
    Slot& mine = slot_of(region.base, position);
    mine.size.store(size, std::memory_order_relaxed);
    mine.replica.store(static_cast<std::uint32_t>(region.index_of(me)), std::memory_order_relaxed);
    line(region.base).join(position, mask);
    KILL_POINT("line joined");
    const bool done = me->called.sleep(is_done, spin);  // which looks after its fence
    line(region.base).leave(position, mask);
    KILL_POINT("line left");
    // Whoever was the first may have been called twice, or for what it does not take.
    fence_seq_cst();  // pairs with Event::sleep's, of who is the first now
    call_first(region, edge);
    return done;
  }

  static Node* node(const Region& region, std::uint64_t block) noexcept {
    return reinterpret_cast<Node*>(Arena::at(region.base, block)->payload());
  }

  // Both are signed: `acquired` may be an older value than `released`. Then the exchange fails.
  static bool is_free(std::uint64_t taken, std::uint64_t given_back, std::uint64_t most) noexcept {
    return static_cast<std::int64_t>(taken - given_back) < static_cast<std::int64_t>(most);
  }

  static bool has_credit(const Edge& edge, std::uint64_t most) noexcept {
    const std::uint64_t taken = edge.acquired.load(std::memory_order_relaxed);
    return is_free(taken, edge.released.load(std::memory_order_relaxed), most);
  }

  static bool take_credit(Edge& edge, std::uint64_t most) noexcept {
    std::uint64_t taken = edge.acquired.load(std::memory_order_relaxed);
    do {
      // acquire: pairs with the addition in Edge::release
      if (!is_free(taken, edge.released.load(std::memory_order_acquire), most)) return false;
    } while (!edge.acquired.compare_exchange_weak(taken, taken + 1, std::memory_order_relaxed));
    KILL_POINT("credit taken");
    return true;
  }

  // As Edge::try_reserve_bytes, for a message that waits for its turn.
  bool try_reserve_pending_bytes(const Edge& edge, std::uint64_t size) noexcept {
    std::uint64_t pending = pending_bytes.load(std::memory_order_acquire);  // pairs with the subtraction in to_ring
    do {
      const std::uint64_t now = pending + edge.buffered_bytes.load(std::memory_order_relaxed);
      if (!edge.fits(size, now)) return false;
    } while (!pending_bytes.compare_exchange_weak(pending, pending + size, std::memory_order_acquire));
    return true;
  }

  // A message that waited goes into the ring, whatever is there: at most twice max_buffer_bytes. For a moment its bytes are
  // counted twice. Who is not called for that reason is called when the message is taken.
  void to_ring(Edge& edge, std::uint64_t size) noexcept {
    edge.buffered_bytes.fetch_add(size, std::memory_order_relaxed);
    pending_bytes.fetch_sub(size, std::memory_order_release);  // who sees it gone here sees it there
  }

  // Lays the message down where whoever has the baton finds it. Credit and bytes are reserved.
  Status lay_down(const Region& region, Edge& edge, ReplicaEntry* me, const Message& message, std::uint64_t position,
                  std::uint64_t size) {
    const std::uint64_t block = region.control()->arena.allocate(region.base, sizeof(Node));
    if (block == 0) return Status::no_memory;
    Node* const made = node(region, block);
    made->message.copy_from(message);
    Atomic<std::uint64_t>& word = slot(region.base, position);
    std::uint64_t newest = word.load(std::memory_order_acquire);  // pairs as in put_now
    while (newest != direct) {
      made->next = newest;
      // release: pairs with the exchange in advance that takes the list
      if (word.compare_exchange_weak(newest, block, std::memory_order_release, std::memory_order_acquire)) {
        KILL_POINT("output laid down");
        ReplicaEntry::add(me->items_out, 1);
        return Status::ok;
      }
    }
    // Its turn has come meanwhile.
    region.control()->arena.release(region.base, block);
    if (size != 0) to_ring(edge, size);
    return edge.publish(region, me, message);
  }

  Status close_slot(const Region& region, Edge& edge, std::uint64_t position) {
    Atomic<std::uint64_t>& word = slot(region.base, position);
    std::uint64_t newest = word.load(std::memory_order_acquire);  // pairs as in put_now
    while (newest != direct) {
      // release: pairs with the exchange in advance
      if (word.compare_exchange_weak(newest, newest | closed, std::memory_order_release, std::memory_order_acquire)) {
        KILL_POINT("item closed");
        return Status::ok;
      }
    }
    KILL_POINT("turn passed on");
    return advance(region, edge, position);
  }

  // By who has the baton and has closed the item at `position`: hands the baton on.
  Status advance(const Region& region, Edge& edge, std::uint64_t position) {
    slot(region.base, position).store(0, std::memory_order_relaxed);
    const std::uint64_t first = position;
    for (;;) {
      turn.store(++position, std::memory_order_release);  // pairs with the loads in try_take and put_now
      Atomic<std::uint64_t>& word = slot(region.base, position);
      std::uint64_t waiting = 0;
      while ((waiting & closed) == 0) {
        waiting = 0;
        // release: pairs with the loads of `direct`
        if (word.compare_exchange_strong(waiting, direct, std::memory_order_release, std::memory_order_relaxed)) {
          KILL_POINT("baton handed on");
          fence_seq_cst();  // pairs with Event::sleep's, of those that wait for a turn
          call_first(region, edge);
          edge.room.notify_fenced(unpark_everyone);  // those that wait for all items to be done
          edge.turns.notify_fenced(as_many(position - first));
          return Status::ok;
        }
        // acquire: pairs with the exchanges in lay_down. Once it is closed nobody writes there before the turn has moved.
        waiting = word.exchange(0, std::memory_order_acquire);
        KILL_POINT("list taken");
        const Status status = publish_list(region, edge, word, waiting & ~closed);
        if (status != Status::ok) return status;
      }
    }
  }

  static int as_many(std::uint64_t count) noexcept {
    return count < unpark_everyone ? static_cast<int>(count) : unpark_everyone;
  }

  // The list has the newest first. What cannot go out any more is put back into its slot, where the end of the run finds
  // it.
  Status publish_list(const Region& region, Edge& edge, Atomic<std::uint64_t>& slot_word,
                      std::uint64_t newest) {
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
      if (edge.counts(at->message)) to_ring(edge, at->message.size);
      std::uint64_t position;
      if (edge.put_into_ring(region, at->message, position)) {
        const Status status = edge.announce(region, position);
        if (status != Status::ok) outcome = status;  // aborted; the rest of the list is to be kept all the same
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
    // The replica that has the item may still lay down more.
    std::uint64_t newest = word.load(std::memory_order_relaxed);
    do {
      at->next = newest;
      // release: pairs with the load in newest_waiting
    } while (!word.compare_exchange_weak(newest, block, std::memory_order_release, std::memory_order_relaxed));
  }
};

inline void call_first_in_order(const Region& region, const Edge& edge) noexcept {
  Order::of(region, edge).call_first(region, edge);
}

}  // namespace pipeline_executor
