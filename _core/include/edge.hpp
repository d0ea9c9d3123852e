// An edge: the bounded queue between the replicas of one step and the replicas of the next. docs/protocol.md explains
// it.
//
// It has four parts:
//   * a ring of cells after D. Vyukov's bounded MPMC queue (1024cores.net). The `sequence` of a cell says who may use it. It
//     is counted so that zeroed memory is an empty ring: the start of a run writes no cell;
//   * credits. A producer takes one before it makes an item. A consumer gives it back when it asks for the item after. So
//     acquired - released is the number of items being made, queued or consumed, which packets_in_flight limits. There are
//     at least as many cells as credits. So a producer with a credit finds its cell free, unless a consumer is copying a
//     message out of it at that moment;
//   * the end: how many producers and consumers are left, which consumer returned early first (rule R3), and whether the
//     consumers asked the producers to stop;
//   * free bytes. Producers that wait for them get them first come, first served (wait_queue.hpp).
//
// No function throws; a Status tells the outcome. A function that waits is called without the GIL. A function that
// hands a message over may be called with the GIL, and then releases it for its short wait (Region::release_gil).
#pragma once

#include <cstdint>
#include <cstring>

#include "arena.hpp"
#include "atomic.hpp"
#include "event.hpp"
#include "ledger.hpp"
#include "wait_queue.hpp"
#include "message.hpp"

namespace pipeline_executor {

enum class Status : int {
  ok = 0,
  end = 1,          // try_take, take: the producers have ended and the queue is empty
  stopped = 2,      // reserve, reserve_bytes: the consumers want no more items
  aborted = 3,      // the run has been aborted
  interrupted = 4,  // a wait ended so that the interpreter can run signal handlers; call again
  empty = 5,        // functions that do not wait: not possible now
  early = 6,        // try_take: the position of the next message is not below `bound`
  no_memory = 7,    // Order::try_send: the region has no memory for a message that must wait for its position
};

// Why a run was aborted. The first process that aborts writes it, together with the replica that is the cause.
enum class Cause : std::uint32_t { none = 0, failed = 1, stopped_early = 2, died = 3, closed = 4 };

struct Edge;

// One per region. Every process reads the abort word for each item; it is written once.
struct Control {
  alignas(cache_line) Atomic<std::uint64_t> abort_word;  // cause << 32 | replica; 0: not aborted
  std::uint32_t edges;
  std::uint32_t replicas;
  std::uint64_t region_size;
  std::uint64_t edges_offset, entries_offset;
  alignas(cache_line) Atomic<std::uint32_t> bell_armed;  // 1: the caller sleeps, and wants the bell to ring
  alignas(cache_line) Arena arena;
};

inline Control* control_of(unsigned char* base) noexcept { return reinterpret_cast<Control*>(base); }

// What a process needs to work on the region: the address of its own mapping, and its own descriptor of the bell.
struct Region {
  unsigned char* base = nullptr;
  int bell = -1;
  // Functions that release the GIL before a short wait and acquire it again afterwards; null if the caller does not
  // hold the GIL. If a producer kept the GIL while it waits, no other thread of its process could run, and the caller's
  // process could not abort the run. When the interpreter shuts down, Python may end a thread that acquires the GIL by
  // unwinding its stack. Therefore functions that call these two are not noexcept.
  void* (*release_gil)() = nullptr;
  void (*acquire_gil)(void* state) = nullptr;

  Control* control() const noexcept { return control_of(base); }
  inline Edge* edge(std::uint32_t index) const noexcept;
  ReplicaEntry* entry(std::uint32_t index) const noexcept {
    return reinterpret_cast<ReplicaEntry*>(base + control()->entries_offset) + index;
  }
  std::uint64_t index_of(const ReplicaEntry* replica) const noexcept {
    return static_cast<std::uint64_t>(replica - entry(0));
  }
  // How many bytes at the start of the region hold the abort word, the edges and the ledger.
  std::uint64_t head_bytes() const noexcept {
    return control()->entries_offset + control()->replicas * sizeof(ReplicaEntry);
  }
  bool aborted() const noexcept {
    return control()->abort_word.load(std::memory_order_acquire) != 0;  // pairs with the exchange in abort
  }
  inline bool abort(Cause cause, std::uint32_t replica) const noexcept;

  // Rings the bell if the caller sleeps. Call it after a fence that follows the change that the caller waits for. That
  // fence pairs with the one in arm_bell.
  void ring_if_armed() const noexcept {
    if (control()->bell_armed.load(std::memory_order_relaxed) != 0 &&
        control()->bell_armed.exchange(0, std::memory_order_relaxed) != 0)
      bell_ring(bell);
  }
  // Asks for the bell. The caller does this before its last look at what it waits for.
  void arm_bell() const noexcept {
    control()->bell_armed.store(1, std::memory_order_relaxed);
    fence_seq_cst();  // pairs with the fence before ring_if_armed
  }
};

// Wakes the first waiting producer of an ordered edge, if it can go on (order.hpp). Call it after a fence that follows
// the change that lets it go on.
inline void wake_first_by_position(const Region& region, const Edge& edge) noexcept;

struct alignas(cache_line) Cell {
  // Who may use the cell of position p, with l = Edge::lap(p):
  //
  //   sequence  may use it
  //   l         the producer of position p, to write
  //   l + 1     the consumer of position p, to read; it then stores l + number of cells
  Atomic<std::uint64_t> sequence;
  Message message;
};

struct Edge {
  static constexpr std::uint32_t nobody = UINT32_MAX;
  static constexpr std::uint64_t never = UINT64_MAX;

  // set before any process starts
  alignas(cache_line) std::uint64_t cells_offset;
  std::uint64_t mask;               // number of cells - 1
  std::uint64_t limit;              // number of credits: packets_in_flight
  std::uint64_t credit_hysteresis;  // how many credits must be free before a sleeping producer is woken
  std::uint64_t max_bytes;          // max_buffer_bytes
  std::uint32_t producers, consumers;
  std::uint32_t counts_inline_bytes;  // 0: only messages in arena blocks count towards max_bytes
  std::uint32_t may_stop_early;       // 1: the consuming step may return before the end of its input
  std::uint32_t rings_bell;           // 1: the consumer is the caller, who sleeps on the bell
  std::uint64_t order_offset;         // offset of the Order that keeps outputs in order (order.hpp); 0: not ordered

  alignas(cache_line) Atomic<std::uint64_t> tail;  // next position to be written
  Atomic<std::uint64_t> acquired;                  // credits ever taken
  alignas(cache_line) Atomic<std::uint64_t> head;  // next position to be read
  Atomic<std::uint64_t> released;                  // credits ever given back
  alignas(cache_line) Atomic<std::uint64_t> buffered_bytes;
  WaitQueue wait_queue;  // producers that wait for free bytes, unless the edge is ordered
  // What each event signals, and who waits for it.
  alignas(cache_line) Event items;          // a message or the end: consumers
  alignas(cache_line) Event credits;        // a credit: producers
  alignas(cache_line) Event free_bytes;     // free bytes: producers of an ordered edge that have no item
  alignas(cache_line) Event next_position;  // a move of Order::next_position: producers whose item is too far ahead
  alignas(cache_line) Atomic<std::uint32_t> producers_left;
  Atomic<std::uint32_t> consumers_left;
  Atomic<std::uint32_t> first_quitter;  // the replica that first returned before its input ended; `nobody`: none did
  Atomic<std::uint32_t> stopped;        // 1: the consumers want no more items (may_stop_early)
  Atomic<std::uint64_t> quit_position;  // the `tail` when first_quitter returned; `never`: none did

  // The first position of the lap around the ring that contains `position`.
  std::uint64_t lap(std::uint64_t position) const noexcept { return position & ~mask; }
  Cell* cell(const Region& region, std::uint64_t position) const noexcept {
    return reinterpret_cast<Cell*>(region.base + cells_offset) + (position & mask);
  }

  // Whether a producer claimed the position but has not written its message. After a run, it died or was stopped there.
  bool is_only_claimed(const Region& region, std::uint64_t position) const noexcept {
    return cell(region, position)->sequence.load(std::memory_order_acquire) == lap(position);
  }
  // Whether the cell holds the message of this position: published and not yet taken. acquire: pairs with the store in
  // put_into_ring
  bool is_published(const Region& region, std::uint64_t position) const noexcept {
    return cell(region, position)->sequence.load(std::memory_order_acquire) == lap(position) + 1;
  }

  // ---- producers --------------------------------------------------------------------------------

  bool try_take_credit(std::uint64_t& released_seen) noexcept {
    std::uint64_t taken = acquired.load(std::memory_order_relaxed);
    for (;;) {
      if (taken - released_seen >= limit) {
        released_seen = released.load(std::memory_order_acquire);  // pairs with the stores in release
        if (taken - released_seen >= limit) return false;
      }
      if (producers == 1) {
        acquired.store(taken + 1, std::memory_order_relaxed);
        break;
      }
      if (acquired.compare_exchange_weak(taken, taken + 1, std::memory_order_relaxed)) break;
    }
    KILL_POINT("credit taken");
    return true;
  }

  // The verdict that ends a producer's wait: `aborted`, `stopped`, or `ok` if it may go on. A producer asks before it
  // waits and after each wake-up.
  Status stop_status(const Region& region) const noexcept {
    if (region.aborted()) return Status::aborted;
    if (stopped.load(std::memory_order_acquire)) return Status::stopped;  // pairs with the store in stop
    return Status::ok;
  }

  // Takes the credit for one item, if one is free (else `empty`). `released_seen` is the value of `released` that this
  // producer last read. It saves the producer from reading the consumers' cache line for each item.
  Status reserve_now(const Region& region, std::uint64_t& released_seen) noexcept {
    const Status status = stop_status(region);
    if (status != Status::ok) return status;
    return try_take_credit(released_seen) ? Status::ok : Status::empty;
  }

  // As reserve_now, but waits for a credit.
  Status reserve(const Region& region, ReplicaEntry* me, std::uint64_t& released_seen, Spin& spin) noexcept {
    return wait_for_room(credits, me, spin, [&]() noexcept { return reserve_now(region, released_seen); });
  }

  // Gives back a credit for an item that was never made, because the producer's generator ended. A sole producer keeps
  // the credit: no other producer wants it, and release() may then count without an atomic addition.
  void unreserve() noexcept {
    if (producers == 1) return;
    released.fetch_add(1, std::memory_order_release);
    credits.notify(1);
  }

  // Whether `size` more bytes fit when `now` bytes are buffered. A message larger than max_bytes passes when none are.
  bool fits(std::uint64_t size, std::uint64_t now) const noexcept {
    return now == 0 || (size <= max_bytes && now <= max_bytes - size);
  }

  // Reserves `size` bytes, if they fit together with `beside` bytes that others want.
  bool try_reserve_bytes(std::uint64_t size, std::uint64_t beside = 0) noexcept {
    std::uint64_t now = buffered_bytes.load(std::memory_order_relaxed);
    do {
      if (!fits(size, now + beside)) return false;
    } while (!buffered_bytes.compare_exchange_weak(now, now + size, std::memory_order_relaxed));
    KILL_POINT("bytes taken");
    return true;
  }

  // Whether the bytes of this message count towards max_bytes.
  bool is_counted(const Message& message) const noexcept { return message.in_block || counts_inline_bytes; }

  // Reserves the message's bytes within max_bytes, if they are free (else `empty`). While other producers are in the
  // wait queue, all that these want must be free as well. So none of them waits longer because of this message.
  Status reserve_bytes_now(const Region& region, const ReplicaEntry* me, const Message& message) noexcept {
    const bool holds_ticket = WaitQueue::holds_ticket(me);
    if (!is_counted(message) && !holds_ticket) return Status::ok;
    const Status status = stop_status(region);
    if (status != Status::ok) return status;
    if (holds_ticket) return Status::empty;
    if (wait_queue.is_empty()) return try_reserve_bytes(message.size) ? Status::ok : Status::empty;
    if (!try_reserve_bytes(message.size, wait_queue.wanted_bytes.load(std::memory_order_relaxed))) return Status::empty;
    // Bytes are free for the first in the queue, too. It may sleep: consumers wake it only when half of max_bytes is
    // free.
    fence_seq_cst();  // pairs with Event::wait's
    wake_first(region);
    return Status::ok;
  }

  // As reserve_bytes_now, but joins the wait queue and waits.
  Status reserve_bytes(const Region& region, ReplicaEntry* me, const Message& message, Spin& spin) noexcept {
    const std::uint64_t size = is_counted(message) ? message.size : 0;
    wait_queue.join(region.base, me, region.index_of(me), size);
    const Status status = wait_for_room(me->own_event, me, spin, [&]() noexcept {
      const Status stop = stop_status(region);
      if (stop != Status::ok) return stop;
      return wait_queue.is_first(me) && try_reserve_bytes(size) ? Status::ok : Status::empty;
    });
    if (status != Status::interrupted) leave_wait_queue(region, me);
    return status;
  }

  // Leaves the wait queue, if the replica is in it: it has its bytes, has been told to stop, or ends.
  void leave_wait_queue(const Region& region, ReplicaEntry* me) noexcept {
    if (!WaitQueue::holds_ticket(me)) return;
    wait_queue.leave(region.base, me, region.index_of(me));
    wake_first(region);
  }

  // Wakes the first in the wait queue, if its bytes are free. Call it after a fence that follows the change that may
  // have freed them.
  void wake_first(const Region& region) noexcept {
    ReplicaEntry* const first = wait_queue.first(region.base, region.entry(0));
    if (first == nullptr || first->own_event.waiters.load(std::memory_order_relaxed) == 0) return;
    const std::uint64_t now = buffered_bytes.load(std::memory_order_relaxed);
    if (fits(first->wants.load(std::memory_order_relaxed), now)) first->own_event.wake(unpark_everyone);
  }

  // Waits on `event` until attempt() returns something else than `empty`.
  template <class Attempt>
  Status wait_for_room(Event& event, ReplicaEntry* me, Spin& spin, const Attempt& attempt) noexcept {
    const std::uint64_t since = monotonic_ns();
    me->begin_waiting(Waiting::room);
    Status status = Status::empty;
    const bool done = event.wait(
        [&]() noexcept {
          status = attempt();
          return status != Status::empty;
        },
        spin);
    me->end_waiting(Waiting::room);
    ReplicaEntry::add(me->wait_room_ns, monotonic_ns() - since);
    return done ? status : Status::interrupted;
  }

  // Hands the message over. The producer holds a credit and has reserved the message's bytes. `me` counts the message;
  // null: it has been counted already.
  Status publish(const Region& region, ReplicaEntry* me, const Message& message) {
    std::uint64_t position;
    if (!put_into_ring(region, message, position)) return Status::aborted;
    if (me != nullptr) ReplicaEntry::add(me->items_out, 1);
    return announce(region, position);
  }

  // The first half of publish(): writes the message into the ring. False: the run is aborted, and the message is not
  // there.
  bool put_into_ring(const Region& region, const Message& message, std::uint64_t& position) {
    // Several producers claim a position by an atomic addition. From then on the position and its cell belong to one of
    // them.
    if (producers == 1) {
      position = tail.load(std::memory_order_relaxed);
      tail.store(position + 1, std::memory_order_relaxed);
    } else {
      position = tail.fetch_add(1, std::memory_order_relaxed);
    }
    Cell* ring_cell = cell(region, position);
    KILL_POINT("position claimed");
    if (!is_free(ring_cell, position) && !wait_for_cell(region, ring_cell, position)) return false;
    ring_cell->message.copy_from(message);
    ring_cell->sequence.store(lap(position) + 1, std::memory_order_release);  // pairs with the load in try_take
    KILL_POINT("published");
    return true;
  }

  // acquire: pairs with the store in try_take, so that the consumer of the previous lap has read the cell
  bool is_free(const Cell* ring_cell, std::uint64_t position) const noexcept {
    return ring_cell->sequence.load(std::memory_order_acquire) == lap(position);
  }

  // Waits for the consumer that is copying the previous lap's message out of the cell. False: the run is aborted.
  bool wait_for_cell(const Region& region, const Cell* ring_cell, std::uint64_t position) const {
    void* const state = region.release_gil != nullptr ? region.release_gil() : nullptr;
    bool is_running = true;
    for (unsigned attempt = 0; is_running && !is_free(ring_cell, position); ++attempt) {
      is_running = !region.aborted();
      if (is_running) back_off(attempt);
    }
    if (region.release_gil != nullptr) region.acquire_gil(state);
    return is_running;
  }

  // The second half of publish(): wakes a consumer, and checks for one that has left early (rule R3).
  Status announce(const Region& region, std::uint64_t position) noexcept {
    items.notify(1);  // its fence also orders the store in put_into_ring before the two loads below
    if (rings_bell) region.ring_if_armed();
    // acquire: pairs with the store in finish_consuming. A message before quit_position was handed over before the
    // consumer left.
    if (position >= quit_position.load(std::memory_order_acquire) && !stopped.load(std::memory_order_acquire)) {
      region.abort(Cause::stopped_early, first_quitter.load(std::memory_order_relaxed));
      return Status::aborted;
    }
    return Status::ok;
  }

  // A producer has ended. The last one ends the stream.
  void finish_producing(const Region& region) noexcept {
    // release: a consumer that reads 0 in try_take sees all that this producer has published
    KILL_POINT("yielding ends");
    if (producers_left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      KILL_POINT("stream ended");
      items.notify(unpark_everyone);
      if (rings_bell) region.ring_if_armed();
    }
  }

  // ---- consumers --------------------------------------------------------------------------------

  // Copies the next message into `hand` of the replica's ledger entry, if there is one (else `empty`) and its position
  // is below `bound` (else `early`).
  Status try_take(const Region& region, ReplicaEntry* me, std::uint64_t bound = never) noexcept {
    if (region.aborted()) return Status::aborted;
    if (stopped.load(std::memory_order_acquire)) {
      // An addition reads the newest `head`, which a load need not do. All that any replica has taken lies before it.
      if (bound != never) me->set_end(head.fetch_add(0, std::memory_order_relaxed));
      return Status::end;
    }
    // Read before the ring: once no producer is left, an empty ring stays empty.
    const bool ended = producers_left.load(std::memory_order_acquire) == 0;
    std::uint64_t position = head.load(std::memory_order_relaxed);
    Cell* ring_cell;
    for (;;) {
      ring_cell = cell(region, position);
      const std::uint64_t sequence = ring_cell->sequence.load(std::memory_order_acquire);  // pairs with put_into_ring
      const std::int64_t ahead = static_cast<std::int64_t>(sequence - (lap(position) + 1));
      if (ahead < 0) {
        if (ended) me->set_end(position);  // this is the tail: all that was published has been taken
        return ended ? Status::end : Status::empty;
      }
      if (ahead > 0) {  // another consumer was faster
        position = head.load(std::memory_order_relaxed);
        continue;
      }
      if (position >= bound) return Status::early;
      if (consumers == 1) {
        head.store(position + 1, std::memory_order_relaxed);
        break;
      }
      if (head.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) break;
    }
    KILL_POINT("position taken");
    me->hand.copy_from(ring_cell->message);
    ring_cell->sequence.store(lap(position) + mask + 1, std::memory_order_release);  // pairs with the load in is_free
    KILL_POINT("cell freed");
    me->set_item(position);
    ReplicaEntry::add(me->items_in, 1);  // before hand_phase, so that an item that is seen in hand has been counted
    me->hand_phase.store(static_cast<std::uint32_t>(HandPhase::taken), std::memory_order_release);
    if (is_counted(me->hand)) {
      const std::uint64_t left = buffered_bytes.fetch_sub(me->hand.size, std::memory_order_relaxed) - me->hand.size;
      // Not for each small message of a full queue. The waiting producers are woken in the end: an empty queue has no
      // bytes.
      if (left <= max_bytes / 2 || me->hand.size >= max_bytes / 16) announce_free_bytes(region);
    }
    if (consumers > 1) wake_next_consumer(region, position + 1);
    return Status::ok;
  }

  // Wakes producers after a message was taken and its bytes became free.
  void announce_free_bytes(const Region& region) noexcept {
    fence_seq_cst();  // pairs with Event::sleep's
    if (order_offset == 0) return wake_first(region);
    wake_first_by_position(region, *this);
    free_bytes.notify_fenced(unpark_everyone);
  }

  // Wakes another consumer if the message at `next` is there. With several producers a message can become visible after
  // the one behind it. Then the wake-up for the one behind may have gone to a consumer that found nothing. Therefore a
  // consumer that takes a message and sees the next one wakes another consumer. The fence pairs with the one in
  // Event::sleep: either the sleeper sees the new `head`, or we see the sleeper.
  void wake_next_consumer(const Region& region, std::uint64_t next) noexcept {
    fence_seq_cst();
    if (items.waiters.load(std::memory_order_relaxed) == 0) return;
    if (is_published(region, next)) items.wake(1);
  }

  // As try_take, but waits for a message or the end.
  Status take(const Region& region, ReplicaEntry* me, Spin& spin) noexcept {
    Status status = Status::empty;
    const std::uint64_t since = monotonic_ns();
    me->begin_waiting(Waiting::input);
    const bool done = items.wait(
        [&]() noexcept {
          status = try_take(region, me);
          return status != Status::empty;
        },
        spin);
    me->end_waiting(Waiting::input);
    ReplicaEntry::add(me->wait_input_ns, monotonic_ns() - since);
    return done ? status : Status::interrupted;
  }

  // The step asks for its next item, or has ended: gives back the item in hand and its credit.
  void release(const Region& region, ReplicaEntry* me) noexcept {
    if (me->hand_phase.load(std::memory_order_relaxed) == static_cast<std::uint32_t>(HandPhase::empty)) return;
    me->hand_phase.store(static_cast<std::uint32_t>(HandPhase::empty), std::memory_order_relaxed);
    if (me->hand.in_block) region.control()->arena.release(region.base, me->hand.block);
    KILL_POINT("block released");
    std::uint64_t given_back;
    if (consumers == 1 && producers == 1) {
      given_back = released.load(std::memory_order_relaxed) + 1;
      released.store(given_back, std::memory_order_release);  // pairs with the load in try_take_credit
    } else {
      // With several producers, one may give an unused credit back at the same time (unreserve).
      given_back = released.fetch_add(1, std::memory_order_release) + 1;
    }
    fence_seq_cst();  // pairs with Event::wait's
    if (order_offset != 0) wake_first_by_position(region, *this);
    if (credits.waiters.load(std::memory_order_relaxed) != 0 &&
        // Also once in `limit` credits: a producer that never sleeps may take each credit as it becomes free.
        (limit - (acquired.load(std::memory_order_relaxed) - given_back) >= credit_hysteresis ||
         given_back % limit == 0))
      // On an ordered edge, only producers without an item wait here, and they are few (order.hpp).
      credits.wake(credit_hysteresis > 1 || order_offset != 0 ? unpark_everyone : 1);
  }

  // A consumer has ended. `entitled`: it has seen the end of its input, or the step after it wants no more items.
  Status finish_consuming(const Region& region, std::uint32_t replica, bool entitled) noexcept {
    if (!entitled && may_stop_early) {
      stop(region);
    } else if (!entitled) {
      std::uint32_t none = nobody;
      // All that this replica has consumed lies before the present tail. A message at or after it comes too late. An
      // addition reads the newest tail, which a load need not do: with an older tail, items that another replica has
      // already taken would count as too late.
      if (first_quitter.compare_exchange_strong(none, replica, std::memory_order_relaxed))
        quit_position.store(tail.fetch_add(0, std::memory_order_relaxed), std::memory_order_release);
    }
    KILL_POINT("reading ends");
    const bool last = consumers_left.fetch_sub(1, std::memory_order_acq_rel) == 1;
    // Pairs with the fence of items.notify in announce: the producer sees our quit_position, or we see its tail.
    fence_seq_cst();
    const std::uint32_t quitter = first_quitter.load(std::memory_order_relaxed);
    if (last && quitter != nobody && !stopped.load(std::memory_order_acquire) &&
        head.load(std::memory_order_relaxed) != tail.load(std::memory_order_relaxed)) {
      region.abort(Cause::stopped_early, quitter);
      return Status::aborted;
    }
    return Status::ok;
  }

  // The consumers want no more items. Producers then close their generators, and other consumers see the end of the
  // input.
  void stop(const Region& region) noexcept {
    stopped.store(1, std::memory_order_release);
    items.notify(unpark_everyone);
    credits.notify(unpark_everyone);
    free_bytes.notify(unpark_everyone);
    // Producers in a wait queue or an order; the fence is in notify above. Producers of other edges wake up in vain,
    // once.
    for (std::uint32_t index = 0; index < region.control()->replicas; ++index)
      region.entry(index)->own_event.notify_fenced(unpark_everyone);
  }

  void wake_everybody() noexcept {
    items.wake(unpark_everyone);
    credits.wake(unpark_everyone);
    free_bytes.wake(unpark_everyone);
    next_position.wake(unpark_everyone);
  }
};

inline Edge* Region::edge(std::uint32_t index) const noexcept {
  return reinterpret_cast<Edge*>(base + control()->edges_offset) + index;
}

inline bool Region::abort(Cause cause, std::uint32_t replica) const noexcept {
  std::uint64_t none = 0;
  const std::uint64_t word = static_cast<std::uint64_t>(cause) << 32 | replica;
  // acq_rel: a process that sees the word also sees what the aborting process wrote before, such as its report
  const bool first = control()->abort_word.compare_exchange_strong(none, word, std::memory_order_acq_rel);
  KILL_POINT("aborted");
  // Also if another process was first: it may have died before it woke the sleepers.
  for (std::uint32_t index = 0; index < control()->edges; ++index) edge(index)->wake_everybody();
  for (std::uint32_t index = 0; index < control()->replicas; ++index) entry(index)->own_event.wake(unpark_everyone);
  bell_ring(bell);
  return first;
}

}  // namespace pipeline_executor
