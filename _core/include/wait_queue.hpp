// The queue of the producers that wait for free bytes of an edge (max_buffer_bytes): first come, first served.
// docs/protocol.md explains it.
//
// A producer that has to wait draws a ticket, and writes the index of its ledger entry into the place of that ticket.
// `serving` is the oldest ticket whose holder has not left. Only that holder may take free bytes, and only it is woken.
//
// A replica holds at most one ticket, so one place for each producer is enough. A place records the ticket that it was
// written for. So a place whose new holder has drawn its ticket but not yet written is not taken for a valid one, and
// zeroed memory is an empty queue.
#pragma once

#include <cstdint>

#include "atomic.hpp"
#include "kill_point.hpp"
#include "ledger.hpp"

namespace pipeline_executor {

struct WaitQueue {
  // set before any process starts
  std::uint64_t places_offset;
  std::uint64_t mask;  // number of places - 1

  Atomic<std::uint64_t> next_ticket;   // the ticket that the next producer draws
  Atomic<std::uint64_t> serving;       // equal to `next_ticket`: the queue is empty
  Atomic<std::uint64_t> wanted_bytes;  // sum over all producers in the queue

  // May be out of date either way, which does no harm: a producer then tries, or joins the queue, in vain.
  bool is_empty() const noexcept {
    return next_ticket.load(std::memory_order_relaxed) == serving.load(std::memory_order_relaxed);
  }

  static bool holds_ticket(const ReplicaEntry* me) noexcept { return me->ticket.load(std::memory_order_relaxed) != 0; }

  // Draws a ticket for `me`, the ledger entry at `index`. If `me` still holds one, because a signal handler interrupted
  // its wait, it keeps that ticket.
  void join(unsigned char* base, ReplicaEntry* me, std::uint64_t index, std::uint64_t size) noexcept {
    if (holds_ticket(me)) {
      wanted_bytes.fetch_add(size - me->wants.load(std::memory_order_relaxed), std::memory_order_relaxed);
      me->wants.store(size, std::memory_order_relaxed);
      return;
    }
    wanted_bytes.fetch_add(size, std::memory_order_relaxed);
    me->wants.store(size, std::memory_order_relaxed);
    // acq_rel: pairs with itself and with the exchange in leave, so that this holder writes the place after the last
    // holder did
    const std::uint64_t ticket = next_ticket.fetch_add(1, std::memory_order_acq_rel);
    KILL_POINT("ticket drawn");
    place(base, ticket).store(encode(ticket, index), std::memory_order_release);  // pairs with the load in first
    me->ticket.store(ticket + 1, std::memory_order_relaxed);
    KILL_POINT("ticket written");
  }

  bool is_first(const ReplicaEntry* me) const noexcept {
    // acquire: pairs with the exchange in leave
    return serving.load(std::memory_order_acquire) + 1 == me->ticket.load(std::memory_order_relaxed);
  }

  // Gives the ticket up. The caller must then wake the first in the queue: the last fence here comes before that look.
  void leave(unsigned char* base, ReplicaEntry* me, std::uint64_t index) noexcept {
    const std::uint64_t ticket = me->ticket.load(std::memory_order_relaxed) - 1;
    wanted_bytes.fetch_sub(me->wants.load(std::memory_order_relaxed), std::memory_order_relaxed);
    me->ticket.store(0, std::memory_order_relaxed);
    place(base, ticket).store(encode(ticket, index) | left, std::memory_order_release);
    KILL_POINT("ticket given up");
    for (;;) {
      // This fence pairs with itself and with Event::sleep's. Of two producers that leave at once, one sees that the
      // other has left. The producer that is first from now on either sees that it is first, or we see its place.
      fence_seq_cst();
      std::uint64_t oldest = serving.load(std::memory_order_relaxed);
      const std::uint64_t word = place(base, oldest).load(std::memory_order_acquire);  // pairs with the store above
      if (!is_for(word, oldest) || (word & left) == 0) return;
      serving.compare_exchange_strong(oldest, oldest + 1, std::memory_order_acq_rel, std::memory_order_relaxed);
      KILL_POINT("next one served");
    }
  }

  // The producer that is first. Null: the queue is empty, or the first has not written its place yet. In the latter
  // case it still checks by itself whether it may go on.
  ReplicaEntry* first(unsigned char* base, ReplicaEntry* entries) const noexcept {
    if (is_empty()) return nullptr;
    const std::uint64_t oldest = serving.load(std::memory_order_relaxed);
    const std::uint64_t word = place(base, oldest).load(std::memory_order_acquire);  // pairs with the store in join
    return is_for(word, oldest) && (word & left) == 0 ? entries + (static_cast<std::uint32_t>(word) >> 1) : nullptr;
  }

 private:
  // The word of a place:
  //
  //   bits    value
  //   63..32  ticket + 1; 0 in memory that was never written
  //   31..1   index of the holder's ledger entry
  //   0       `left`: the holder has given the ticket up
  static constexpr std::uint64_t left = 1;
  static std::uint64_t encode(std::uint64_t ticket, std::uint64_t index) noexcept {
    return (ticket + 1) << 32 | index << 1;
  }
  static bool is_for(std::uint64_t word, std::uint64_t ticket) noexcept {
    return word >> 32 == static_cast<std::uint32_t>(ticket + 1);
  }
  Atomic<std::uint64_t>& place(unsigned char* base, std::uint64_t ticket) const noexcept {
    return reinterpret_cast<Atomic<std::uint64_t>*>(base + places_offset)[ticket & mask];
  }
};

}  // namespace pipeline_executor
