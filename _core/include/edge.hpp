// An edge: the bounded queue between the replicas of one step and the replicas of the next.
//
// Four parts, explained in docs/protocol.md:
//   * a ring of cells after D. Vyukov's bounded MPMC queue (1024cores.net): a cell's `turn` says whose it is, counted so
//     that zeroed memory is an empty ring, and a run's start touches no cell;
//   * credits: a producer takes one before it makes an item, a consumer gives it back when it asks for the
//     item after. So acquired - released counts the items made, queued or consumed at the moment, which
//     is what packets_in_flight bounds; and because there are at least as many cells as credits, a producer
//     with a credit finds its cell free, but for a consumer that is just copying a message out of it;
//   * the end: producers that are left, consumers that are left, who of them left early (rule R3), and whether the
//     consumers asked the producers to stop;
//   * room for bytes, which goes to the producers that wait for it in the order in which they came (line.hpp).
//
// No function throws; a Status tells the outcome. Those that wait are called without the interpreter's lock. Those that hand a
// message over may be called with it, and let go of it for their short wait (Region::let_go).
#pragma once

#include <cstdint>
#include <cstring>

#include "arena.hpp"
#include "atomic.hpp"
#include "event.hpp"
#include "ledger.hpp"
#include "line.hpp"
#include "message.hpp"

namespace pipeline_executor {

enum class Status : int {
  ok = 0,
  end = 1,          // take: the producers are done and the queue is empty
  stopped = 2,      // reserve, publish: the consumers want no more
  aborted = 3,      // the run is being killed
  interrupted = 4,  // a signal handler has to run; call again
  empty = 5,        // the attempts that do not wait: nothing there now
  early = 6,        // try_take: the next message lies behind the bound
  no_memory = 7,    // Order::put: the region has no room for a message that waits for its turn
};

// Why a run is killed, and by whom: the first to abort it writes, everybody reads.
enum class Cause : std::uint32_t { none = 0, failed = 1, stopped_early = 2, died = 3, closed = 4 };

struct Edge;

// One per region. Written by whoever aborts and by the caller; read by everybody for each item.
struct Control {
  alignas(cache_line) Atomic<std::uint64_t> abort_word;  // cause << 32 | replica; 0: not aborted
  std::uint32_t edges;
  std::uint32_t replicas;
  std::uint64_t region_size;
  std::uint64_t edges_offset, entries_offset;
  alignas(cache_line) Atomic<std::uint32_t> bell_armed;  // 1: the caller sleeps and wants the bell
  alignas(cache_line) Arena arena;
};

inline Control* control_of(unsigned char* base) noexcept { return reinterpret_cast<Control*>(base); }

// What a process needs to work on the region: its own mapping and its own descriptor of the bell.
struct Region {
  unsigned char* base = nullptr;
  int bell = -1;
  // Called before and after a wait in an operation that is tried with the interpreter's lock held: they let go of it and
  // take it again. While it is held, no other thread of the process can run, and the caller's could not abort the run.
  // Null where it is not held. Python may end a thread that takes the lock when the interpreter is at its end, by unwinding
  // its stack; so what calls these is not noexcept.
  void* (*let_go)() = nullptr;
  void (*take_again)(void* state) = nullptr;

  Control* control() const noexcept { return control_of(base); }
  inline Edge* edge(std::uint32_t index) const noexcept;
  ReplicaEntry* entry(std::uint32_t index) const noexcept {
    return reinterpret_cast<ReplicaEntry*>(base + control()->entries_offset) + index;
  }
  std::uint64_t index_of(const ReplicaEntry* replica) const noexcept {
    return static_cast<std::uint64_t>(replica - entry(0));
  }
  // Bytes from the start of the region that hold the abort word, the edges and the counters.
  std::uint64_t head_bytes() const noexcept {
    return control()->entries_offset + control()->replicas * sizeof(ReplicaEntry);
  }
  bool aborted() const noexcept {
    return control()->abort_word.load(std::memory_order_acquire) != 0;  // pairs with the exchange in abort
  }
  inline bool abort(Cause cause, std::uint32_t replica) const noexcept;

  // Rings if the caller sleeps. To be called after a fence that follows what the caller waits for; pairs
  // with the fence in arm_bell.
  void ring_if_armed() const noexcept {
    if (control()->bell_armed.load(std::memory_order_relaxed) != 0 &&
        control()->bell_armed.exchange(0, std::memory_order_relaxed) != 0)
      bell_ring(bell);
  }
  // The caller, before its last look at what it waits for.
  void arm_bell() const noexcept {
    control()->bell_armed.store(1, std::memory_order_relaxed);
    fence_seq_cst();  // pairs with the fence before ring_if_armed
  }
};

// Wakes the first of those that wait in the line of an ordered edge, if it can go on (order.hpp). To be called after a fence that
// follows what lets it.
inline void call_first_in_order(const Region& region, const Edge& edge) noexcept;

struct alignas(cache_line) Cell {
  // With l = Edge::lap(p): turn == l: the producer at position p may write; turn == l + 1: the consumer at p may read.
  Atomic<std::uint64_t> turn;
  Message message;
};

struct Edge {
  static constexpr std::uint32_t nobody = UINT32_MAX;
  static constexpr std::uint64_t never = UINT64_MAX;

  // fixed before any process starts
  alignas(cache_line) std::uint64_t cells_offset;
  std::uint64_t mask;               // cells - 1
  std::uint64_t limit;              // credits: packets_in_flight
  std::uint64_t room_hysteresis;    // free credits before sleeping producers are woken
  std::uint64_t max_bytes;          // max_buffer_bytes
  std::uint32_t producers, consumers;
  std::uint32_t counts_inline_bytes;  // 0: only messages in blocks count towards max_bytes
  std::uint32_t may_stop_early;       // of the consuming step
  std::uint32_t rings_bell;           // the consumer is the caller, who sleeps on the bell
  std::uint64_t order_offset;         // of what keeps the producers' outputs in order (order.hpp); 0: nothing does

  alignas(cache_line) Atomic<std::uint64_t> tail;  // next position to be written
  Atomic<std::uint64_t> acquired;                  // credits ever taken
  alignas(cache_line) Atomic<std::uint64_t> head;  // next position to be read
  Atomic<std::uint64_t> released;                  // credits ever given back
  alignas(cache_line) Atomic<std::uint64_t> buffered_bytes;
  Line line;  // producers wait for: room within max_bytes. Of ordered edges: see `bytes`
  alignas(cache_line) Event items;  // consumers wait for: a message, the end
  alignas(cache_line) Event room;   // producers wait for: a credit
  alignas(cache_line) Event bytes;  // producers of an ordered edge that have no item wait for: room within max_bytes
  alignas(cache_line) Event turns;  // producers in order wait for: the oldest item in work to be done (order.hpp)
  alignas(cache_line) Atomic<std::uint32_t> producers_left;
  Atomic<std::uint32_t> consumers_left;
  Atomic<std::uint32_t> first_quitter;  // the replica that first returned before it saw the end; `nobody`: none
  Atomic<std::uint32_t> stopped;        // 1: the consumers want no more (may_stop_early)
  Atomic<std::uint64_t> quit_position;  // `tail` when it returned; `never`: nobody has

  // The first position of the lap around the ring that `position` belongs to.
  std::uint64_t lap(std::uint64_t position) const noexcept { return position & ~mask; }
  Cell* cell(const Region& region, std::uint64_t position) const noexcept {
    return reinterpret_cast<Cell*>(region.base + cells_offset) + (position & mask);
  }

  // Whether a producer has claimed the position, and died or was stopped before it had written its message there.
  bool is_only_claimed(const Region& region, std::uint64_t position) const noexcept {
    return cell(region, position)->turn.load(std::memory_order_acquire) == lap(position);
  }
  // Whether the message at this position is in its cell: published, and not yet taken. acquire: pairs with the store in
  // put_into_ring
  bool is_published(const Region& region, std::uint64_t position) const noexcept {
    return cell(region, position)->turn.load(std::memory_order_acquire) == lap(position) + 1;
  }

  // ---- producers --------------------------------------------------------------------------------

  bool try_reserve(std::uint64_t& released_seen) noexcept {
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

  // What a producer has to heed whenever it waits or is about to.
  Status told(const Region& region) const noexcept {
    if (region.aborted()) return Status::aborted;
    if (stopped.load(std::memory_order_acquire)) return Status::stopped;  // pairs with the store in stop
    return Status::ok;
  }

  // Takes the credit for one item if there is one (else `empty`). `released_seen` is the producer's memory of
  // `released`, which saves it from reading the consumers' cache line for each item.
  Status reserve_now(const Region& region, std::uint64_t& released_seen) noexcept {
    const Status status = told(region);
    if (status != Status::ok) return status;
    return try_reserve(released_seen) ? Status::ok : Status::empty;
  }

  // The same, but waits for a credit.
  Status reserve(const Region& region, ReplicaEntry* me, std::uint64_t& released_seen, Spin& spin) noexcept {
    return wait_for_room(room, me, spin, [&]() noexcept { return reserve_now(region, released_seen); });
  }

  // Gives back a credit whose item was never made: the producer's generator ended. A sole producer keeps it, for
  // nobody else wants it (and release() counts without an atomic addition where nobody else writes).
  void unreserve() noexcept {
    if (producers == 1) return;
    released.fetch_add(1, std::memory_order_release);
    room.notify(1);
  }

  // Whether so many bytes have room beside those that are there. A message that is too large for the bound passes alone.
  bool fits(std::uint64_t size, std::uint64_t now) const noexcept {
    return now == 0 || (size <= max_bytes && now <= max_bytes - size);
  }

  // Takes room for so many bytes, if it is there and so much `beside` it, for others.
  bool try_reserve_bytes(std::uint64_t size, std::uint64_t beside = 0) noexcept {
    std::uint64_t now = buffered_bytes.load(std::memory_order_relaxed);
    do {
      if (!fits(size, now + beside)) return false;
    } while (!buffered_bytes.compare_exchange_weak(now, now + size, std::memory_order_relaxed));
    KILL_POINT("bytes taken");
    return true;
  }

  bool counts(const Message& message) const noexcept { return message.in_block || counts_inline_bytes; }

  // Makes room for the message within max_bytes, if there is (else `empty`): it fits, or nothing else is buffered. While
  // others are in line, only if there is room for all of them besides, so that none has to wait longer because of it.
  Status reserve_bytes_now(const Region& region, const ReplicaEntry* me, const Message& message) noexcept {
    const bool has_kept_its_place = Line::holds_ticket(me);
    if (!counts(message) && !has_kept_its_place) return Status::ok;
    const Status status = told(region);
    if (status != Status::ok) return status;
    if (has_kept_its_place) return Status::empty;
    if (line.is_empty()) return try_reserve_bytes(message.size) ? Status::ok : Status::empty;
    if (!try_reserve_bytes(message.size, line.wanted_bytes.load(std::memory_order_relaxed))) return Status::empty;
    // The first in line has had room, too, and may sleep: consumers do not wake it before half of max_bytes is free.
    fence_seq_cst();  // pairs with Event::wait's
    call_first(region);
    return Status::ok;
  }

  // The same, but gets in line and waits.
  Status reserve_bytes(const Region& region, ReplicaEntry* me, const Message& message, Spin& spin) noexcept {
    const std::uint64_t size = counts(message) ? message.size : 0;
    line.get_in(region.base, me, region.index_of(me), size);
    const Status status = wait_for_room(me->called, me, spin, [&]() noexcept {
      const Status said = told(region);
      if (said != Status::ok) return said;
      return line.is_first(me) && try_reserve_bytes(size) ? Status::ok : Status::empty;
    });
    if (status != Status::interrupted) leave_line(region, me);
    return status;
  }

  // The replica waits for bytes no longer, if it did: it has them, or has been told to stop, or ends.
  void leave_line(const Region& region, ReplicaEntry* me) noexcept {
    if (!Line::holds_ticket(me)) return;
    line.leave(region.base, me, region.index_of(me));
    call_first(region);
  }

  // Wakes the first in line, if there is room for it. To be called after a fence that follows what may have made it so.
  void call_first(const Region& region) noexcept {
    ReplicaEntry* const first = line.first(region.base, region.entry(0));
    if (first == nullptr || first->called.waiters.load(std::memory_order_relaxed) == 0) return;
    const std::uint64_t now = buffered_bytes.load(std::memory_order_relaxed);
    if (fits(first->wants.load(std::memory_order_relaxed), now)) first->called.wake(unpark_everyone);
  }

  // Waits on `event` until attempt() is not `empty`.
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

  // Hands the message over. The producer holds a credit and the message's bytes are reserved. `me` counts it; null: it
  // is counted already.
  Status publish(const Region& region, ReplicaEntry* me, const Message& message) {
    std::uint64_t position;
    if (!put_into_ring(region, message, position)) return Status::aborted;
    if (me != nullptr) ReplicaEntry::add(me->items_out, 1);
    return announce(region, position);
  }

  // The first half of `publish`. False: the run is aborted, and the message is not in the ring.
  bool put_into_ring(const Region& region, const Message& message, std::uint64_t& position) {
    // Several producers claim by exchange-and-add; the cell is theirs alone from then on.
    if (producers == 1) {
      position = tail.load(std::memory_order_relaxed);
      tail.store(position + 1, std::memory_order_relaxed);
    } else {
      position = tail.fetch_add(1, std::memory_order_relaxed);
    }
    Cell* slot = cell(region, position);
    KILL_POINT("position claimed");
    if (!is_free(slot, position) && !wait_for_cell(region, slot, position)) return false;
    slot->message.copy_from(message);
    slot->turn.store(lap(position) + 1, std::memory_order_release);  // pairs with the load in try_take
    KILL_POINT("published");
    return true;
  }

  // acquire: pairs with the store in try_take; the consumer that had this cell last has read it
  bool is_free(const Cell* slot, std::uint64_t position) const noexcept {
    return slot->turn.load(std::memory_order_acquire) == lap(position);
  }

  // For the consumer that is copying a message out of it. False: the run is aborted.
  bool wait_for_cell(const Region& region, const Cell* slot, std::uint64_t position) const {
    void* const state = region.let_go != nullptr ? region.let_go() : nullptr;
    bool is_ours = true;
    for (unsigned turn = 0; is_ours && !is_free(slot, position); ++turn) {
      is_ours = !region.aborted();
      back_off(turn);
    }
    if (region.let_go != nullptr) region.take_again(state);
    return is_ours;
  }

  // The second half.
  Status announce(const Region& region, std::uint64_t position) noexcept {
    items.notify(1);  // its fence also orders the store in put_into_ring before the two looks below
    if (rings_bell) region.ring_if_armed();
    // acquire: pairs with the store in finish_consuming. A position before it was handed over before.
    if (position >= quit_position.load(std::memory_order_acquire) && !stopped.load(std::memory_order_acquire)) {
      region.abort(Cause::stopped_early, first_quitter.load(std::memory_order_relaxed));
      return Status::aborted;
    }
    return Status::ok;
  }

  // A producer has ended; the last one ends the stream.
  void finish_producing(const Region& region) noexcept {
    // release: all that this producer published is visible to whoever sees the count (pairs with take)
    KILL_POINT("yielding ends");
    if (producers_left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      KILL_POINT("stream ended");
      items.notify(unpark_everyone);
      if (rings_bell) region.ring_if_armed();
    }
  }

  // ---- consumers --------------------------------------------------------------------------------

  // Takes the next message into the replica's hand in the ledger, if there is one (else `empty`) and its position lies
  // before `bound` (else `early`).
  Status try_take(const Region& region, ReplicaEntry* me, std::uint64_t bound = never) noexcept {
    if (region.aborted()) return Status::aborted;
    if (stopped.load(std::memory_order_acquire)) {
      // The latest head there is: what any replica has taken so far lies before it.
      if (bound != never) me->saw_end(head.fetch_add(0, std::memory_order_relaxed));
      return Status::end;
    }
    // Looked at before the queue: once nobody is left to publish, an empty queue stays empty.
    const bool ended = producers_left.load(std::memory_order_acquire) == 0;
    std::uint64_t position = head.load(std::memory_order_relaxed);
    Cell* slot;
    for (;;) {
      slot = cell(region, position);
      const std::uint64_t turn = slot->turn.load(std::memory_order_acquire);  // pairs with the store in publish
      const std::int64_t ahead = static_cast<std::int64_t>(turn - (lap(position) + 1));
      if (ahead < 0) {
        if (ended) me->saw_end(position);  // which is the tail: all that was published has been taken
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
    me->hand.copy_from(slot->message);
    slot->turn.store(lap(position) + mask + 1, std::memory_order_release);  // pairs with the load in publish
    KILL_POINT("cell freed");
    me->holds(position);
    ReplicaEntry::add(me->items_in, 1);  // first: who finds an item in hand finds it counted
    me->hand_phase.store(static_cast<std::uint32_t>(HandPhase::taken), std::memory_order_release);
    if (counts(me->hand)) {
      const std::uint64_t left = buffered_bytes.fetch_sub(me->hand.size, std::memory_order_relaxed) - me->hand.size;
      // Not for each small message of a full queue. Whoever waits is woken in the end: an empty queue has no bytes.
      if (left <= max_bytes / 2 || me->hand.size >= max_bytes / 16) tell_of_bytes(region);
    }
    if (consumers > 1) pass_on(region, position + 1);
    return Status::ok;
  }

  // A message was taken, and its bytes are free.
  void tell_of_bytes(const Region& region) noexcept {
    fence_seq_cst();  // pairs with Event::sleep's
    if (order_offset == 0) return call_first(region);
    call_first_in_order(region, *this);
    bytes.notify_fenced(unpark_everyone);
  }

  // With several producers a message can become visible after the one behind it, and the wake-up that announced the
  // one behind was then spent on a consumer that found nothing. So whoever takes a message and sees another wakes
  // another sleeper. The fence pairs with that in Event::wait: either the sleeper sees our move of `head`, or we see
  // the sleeper.
  void pass_on(const Region& region, std::uint64_t next) noexcept {
    fence_seq_cst();
    if (items.waiters.load(std::memory_order_relaxed) == 0) return;
    if (is_published(region, next)) items.wake(1);
  }

  // The same, but waits for a message or the end.
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

  // The step asks for its next item, or has ended: the item in hand is consumed.
  void release(const Region& region, ReplicaEntry* me) noexcept {
    if (me->hand_phase.load(std::memory_order_relaxed) == static_cast<std::uint32_t>(HandPhase::empty)) return;
    me->hand_phase.store(static_cast<std::uint32_t>(HandPhase::empty), std::memory_order_relaxed);
    if (me->hand.in_block) region.control()->arena.release(region.base, me->hand.block);
    KILL_POINT("block released");
    std::uint64_t given_back;
    if (consumers == 1 && producers == 1) {
      given_back = released.load(std::memory_order_relaxed) + 1;
      released.store(given_back, std::memory_order_release);  // pairs with the load in try_reserve
    } else {  // a producer gives unused credits back too
      given_back = released.fetch_add(1, std::memory_order_release) + 1;
    }
    fence_seq_cst();  // pairs with Event::wait's
    if (order_offset != 0) call_first_in_order(region, *this);
    if (room.waiters.load(std::memory_order_relaxed) != 0 &&
        // Also once in a while whatever is free: a producer that never sleeps may take each credit as it comes.
        (limit - (acquired.load(std::memory_order_relaxed) - given_back) >= room_hysteresis || given_back % limit == 0))
      // Those of an ordered edge that wait here are not those in its line, and few (order.hpp).
      room.wake(room_hysteresis > 1 || order_offset != 0 ? unpark_everyone : 1);
  }

  // A consumer has ended. `entitled`: take() told it that the input ended, or the step after it wants no more.
  Status finish_consuming(const Region& region, std::uint32_t replica, bool entitled) noexcept {
    if (!entitled && may_stop_early) {
      stop(region);
    } else if (!entitled) {
      std::uint32_t none = nobody;
      // What this replica has consumed lies before the present tail; what lies there or after comes too late.
      // The latest tail there is, which a load need not give: an older one would count items as coming too late that
      // another replica has taken already.
      if (first_quitter.compare_exchange_strong(none, replica, std::memory_order_relaxed))
        quit_position.store(tail.fetch_add(0, std::memory_order_relaxed), std::memory_order_release);
    }
    KILL_POINT("reading ends");
    const bool last = consumers_left.fetch_sub(1, std::memory_order_acq_rel) == 1;
    // Pairs with the fence in publish's notify: the producer sees our quit_position, or we see its tail.
    fence_seq_cst();
    const std::uint32_t quitter = first_quitter.load(std::memory_order_relaxed);
    if (last && quitter != nobody && !stopped.load(std::memory_order_acquire) &&
        head.load(std::memory_order_relaxed) != tail.load(std::memory_order_relaxed)) {
      region.abort(Cause::stopped_early, quitter);
      return Status::aborted;
    }
    return Status::ok;
  }

  // The consumers want no more: producers close their generators, other replicas of the consumer see the end.
  void stop(const Region& region) noexcept {
    stopped.store(1, std::memory_order_release);
    items.notify(unpark_everyone);
    room.notify(unpark_everyone);
    bytes.notify(unpark_everyone);
    // All that are in a line, by the fence of `notify`. Those of other edges look once in vain.
    for (std::uint32_t index = 0; index < region.control()->replicas; ++index)
      region.entry(index)->called.notify_fenced(unpark_everyone);
  }

  void wake_everybody() noexcept {
    items.wake(unpark_everyone);
    room.wake(unpark_everyone);
    bytes.wake(unpark_everyone);
    turns.wake(unpark_everyone);
  }
};

inline Edge* Region::edge(std::uint32_t index) const noexcept {
  return reinterpret_cast<Edge*>(base + control()->edges_offset) + index;
}

inline bool Region::abort(Cause cause, std::uint32_t replica) const noexcept {
  std::uint64_t none = 0;
  const std::uint64_t word = static_cast<std::uint64_t>(cause) << 32 | replica;
  // release: what the aborter recorded before (its report) is visible to whoever sees the word
  const bool first = control()->abort_word.compare_exchange_strong(none, word, std::memory_order_acq_rel);
  KILL_POINT("aborted");
  // Also when somebody else was first: it may have died before it woke anybody.
  for (std::uint32_t index = 0; index < control()->edges; ++index) edge(index)->wake_everybody();
  for (std::uint32_t index = 0; index < control()->replicas; ++index) entry(index)->called.wake(unpark_everyone);
  bell_ring(bell);
  return first;
}

}  // namespace pipeline_executor
