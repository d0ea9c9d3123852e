// The ledger of a run: one entry per replica, in shared memory, so that they outlive the replica's process.
//
// Every field has one writer at a time: the replica itself, or the supervisor once the replica's process has ended.
// Counters are plain stores (load, add, store) because of that, and readers in other processes see some recent
// value; they are exact once the process has ended, since waiting for its end orders its stores before.
#pragma once

#include <cstdint>

#include "atomic.hpp"
#include "event.hpp"
#include "message.hpp"

namespace pipeline_executor {

enum class HandPhase : std::uint32_t {
  empty = 0,    // the replica holds no item
  taken = 1,    // it took one and has not decoded it: decoding it elsewhere may do what killed the replica
  decoded = 2,  // the step has the item
};

// What a replica sleeps for, if it sleeps; interfaces.Waiting. Bits.
enum class Waiting : std::uint32_t { nothing = 0, input = 1, room = 2 };

struct ReplicaEntry {
  alignas(cache_line) Atomic<std::uint32_t> state;  // interfaces.State
  Atomic<std::uint32_t> pid;
  Atomic<std::uint32_t> waiting;  // the sum of the Waiting of its threads
  Atomic<std::uint32_t> first_inherited;  // block number; 0: none. See inherited.hpp
  Atomic<std::uint64_t> report_block;  // arena block with the replica's own account of its failure; 0: none

  alignas(cache_line) Atomic<std::uint64_t> items_in;
  Atomic<std::uint64_t> wait_input_ns;
  // Which items the replica has taken since it last handed one over: from `batch_first` on, as long as items_out is
  // `batch_out`. Written by the thread that reads, when it asks for an item and finds that items_out has moved.
  Atomic<std::uint64_t> batch_first;
  Atomic<std::uint64_t> batch_out;
  alignas(cache_line) Atomic<std::uint32_t> hand_phase;  // HandPhase
  Message hand;                                         // the item in hand; valid unless hand_phase is empty
  // Whose outputs the replica makes (order.hpp). Written and read by its own threads: one that reads its input and one
  // that yields. 0: no item's; `behind_all` | n: those of the end, n items having been taken by the whole step; else the
  // position of the item in the input edge, plus 1.
  Atomic<std::uint64_t> place;
  Atomic<std::uint64_t> putting;  // the place of the output that is on its way out; 0: none is
  Atomic<std::uint32_t> closes_later;  // 1: that place is left, and is to be closed when the output is out
  Atomic<std::uint32_t> place_lock;    // 1: one of the threads changes the three

  alignas(cache_line) Atomic<std::uint64_t> items_out;
  Atomic<std::uint64_t> wait_room_ns;

  alignas(cache_line) Event called;  // this replica alone waits: for its turn in an edge's line
  // Of its place in the line of an edge without an order (line.hpp); both written by the replica.
  Atomic<std::uint64_t> ticket;  // plus 1; 0: it is not in line. Read by the replica alone
  Atomic<std::uint64_t> wants;   // bytes; read by those that may have to wake it

  static constexpr std::uint64_t behind_all = std::uint64_t{1} << 63;

  // The two are called by the one thread that reads; release: pairs with the load in Order::begin, which may be another's.
  void holds(std::uint64_t position) noexcept { place.store(position + 1, std::memory_order_release); }
  void saw_end(std::uint64_t position) noexcept { place.store(behind_all | position, std::memory_order_release); }

  // A replica may have a thread that waits for input and another that waits for room, each for one thing at a time.
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
