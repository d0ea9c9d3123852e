// The ledger of a run: one entry per replica. The entries lie in shared memory, so that they outlive the replica's
// process.
//
// Each field has one writer at a time: the replica, or the supervisor once the replica's process has ended. Therefore a
// counter is updated by a load, an addition and a store. Another process that reads it sees a recent value, and the
// exact value once the replica's process has ended: waiting for that end makes all its stores visible.
#pragma once

#include <cstdint>

#include "atomic.hpp"
#include "event.hpp"
#include "message.hpp"

namespace pipeline_executor {

enum class HandPhase : std::uint32_t {
  empty = 0,    // the replica holds no item
  taken = 1,    // it took an item and has not decoded it: decoding it again elsewhere may do what killed the replica
  decoded = 2,  // the step has the item
};

// What a replica waits for, as interfaces.Waiting; the values are bits. `room`: credits or free bytes of its output
// edge.
enum class Waiting : std::uint32_t { nothing = 0, input = 1, room = 2 };

struct ReplicaEntry {
  alignas(cache_line) Atomic<std::uint32_t> state;  // interfaces.State
  Atomic<std::uint32_t> pid;
  Atomic<std::uint32_t> waiting;          // the Waiting values of its threads, added up
  Atomic<std::uint32_t> first_inherited;  // the first block of its chain (inherited.hpp), by block number; 0: none
  Atomic<std::uint64_t> report_block;     // arena block with the replica's report of its own failure; 0: none

  alignas(cache_line) Atomic<std::uint64_t> items_in;
  Atomic<std::uint64_t> wait_input_ns;
  // The batch: the items that the replica has taken since it last handed an output over. It begins with item number
  // `batch_first`, and this holds while items_out equals `batch_out`. The thread that reads writes both, when it asks
  // for an item and finds that items_out has changed.
  Atomic<std::uint64_t> batch_first;
  Atomic<std::uint64_t> batch_out;
  alignas(cache_line) Atomic<std::uint32_t> hand_phase;  // HandPhase
  Message hand;  // the message of the item in hand; valid unless hand_phase is `empty`
  // The replica's place in the order of its step (order.hpp): the item whose outputs it makes. Only the replica's own
  // threads use these four fields: one thread reads its input, another may yield.
  //
  //   place           the replica makes outputs of
  //   0               no item
  //   p + 1           the item at position p of the input edge
  //   after_end | n   the end of the input, after the whole step has taken n items
  Atomic<std::uint64_t> place;
  Atomic<std::uint64_t> sending_place;  // the place of the output that is being sent now; 0: none
  Atomic<std::uint32_t> close_is_due;   // 1: the item of `sending_place` must be closed when that output has been sent
  Atomic<std::uint32_t> place_lock;     // 1: a thread is changing place, sending_place and close_is_due

  alignas(cache_line) Atomic<std::uint64_t> items_out;
  Atomic<std::uint64_t> wait_room_ns;

  alignas(cache_line) Event own_event;  // only this replica waits on it: for free bytes or credits of its output edge
  // Its ticket in the wait queue of an edge that is not ordered (wait_queue.hpp). The replica alone writes both fields.
  Atomic<std::uint64_t> ticket;  // ticket + 1; 0: it holds none. Read by the replica alone
  Atomic<std::uint64_t> wants;   // bytes; read by processes that may have to wake the replica

  static constexpr std::uint64_t after_end = std::uint64_t{1} << 63;

  // Only the thread that reads calls these two. release: pairs with the load in Order::begin_output, possibly by
  // another thread
  void set_item(std::uint64_t position) noexcept { place.store(position + 1, std::memory_order_release); }
  void set_end(std::uint64_t position) noexcept { place.store(after_end | position, std::memory_order_release); }

  // A replica may have one thread that waits for input and another that waits for room. Each waits for one thing at a
  // time.
  void begin_waiting(Waiting what) noexcept {
    waiting.fetch_add(static_cast<std::uint32_t>(what), std::memory_order_relaxed);
  }
  void end_waiting(Waiting what) noexcept {
    waiting.fetch_sub(static_cast<std::uint32_t>(what), std::memory_order_relaxed);
  }

  static void add(Atomic<std::uint64_t>& counter, std::uint64_t amount) noexcept {
    counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_release);
  }
};

}  // namespace pipeline_executor
