// The line of the producers that wait for room within an edge's max_buffer_bytes: first come, first served.
//
// Who has to wait draws a ticket and writes into the ticket's place who it is. `serving` is the oldest ticket that has
// not left. Only its holder may take room, and only it is woken. Explained in docs/protocol.md.
//
// Each replica has at most one ticket at a time, so there are enough places if there is one for each producer. A place
// says which ticket it was written for: that of a ticket whose holder has drawn it and not yet written is not mistaken for
// another, and zeroed memory is a line in which nobody has ever stood.
#pragma once

#include <cstdint>

#include "atomic.hpp"
#include "kill_point.hpp"
#include "ledger.hpp"

namespace pipeline_executor {

struct Line {
  // fixed before any process starts
  std::uint64_t places_offset;
  std::uint64_t mask;  // places - 1

  Atomic<std::uint64_t> tickets;       // ever drawn
  Atomic<std::uint64_t> serving;       // equal to `tickets`: nobody is in line
  Atomic<std::uint64_t> wanted_bytes;  // by all that are in line

  // May be out of date either way. A newcomer that goes ahead, or gets in line, for nothing does no harm.
  bool is_empty() const noexcept {
    return tickets.load(std::memory_order_relaxed) == serving.load(std::memory_order_relaxed);
  }

  static bool holds_ticket(const ReplicaEntry* me) noexcept { return me->ticket.load(std::memory_order_relaxed) != 0; }

  // Draws a ticket for `me`, the entry of that index, unless it has kept one: a signal handler has interrupted its wait.
  void get_in(unsigned char* base, ReplicaEntry* me, std::uint64_t index, std::uint64_t size) noexcept {
    if (holds_ticket(me)) {
      wanted_bytes.fetch_add(size - me->wants.load(std::memory_order_relaxed), std::memory_order_relaxed);
      me->wants.store(size, std::memory_order_relaxed);
      return;
    }
    wanted_bytes.fetch_add(size, std::memory_order_relaxed);
    me->wants.store(size, std::memory_order_relaxed);
    // acq_rel: who writes into a place comes after the one that had it last; pairs with the same in leave and here
    const std::uint64_t ticket = tickets.fetch_add(1, std::memory_order_acq_rel);
    KILL_POINT("ticket drawn");
    place(base, ticket).store(word_of(ticket, index), std::memory_order_release);  // pairs with the load in first
    me->ticket.store(ticket + 1, std::memory_order_relaxed);
    KILL_POINT("in line");
  }

  bool is_first(const ReplicaEntry* me) const noexcept {
    // acquire: pairs with the exchange in leave
    return serving.load(std::memory_order_acquire) + 1 == me->ticket.load(std::memory_order_relaxed);
  }

  // Gives the ticket up. To be followed by a look at who is first now; the last fence here comes before that look.
  void leave(unsigned char* base, ReplicaEntry* me, std::uint64_t index) noexcept {
    const std::uint64_t ticket = me->ticket.load(std::memory_order_relaxed) - 1;
    wanted_bytes.fetch_sub(me->wants.load(std::memory_order_relaxed), std::memory_order_relaxed);
    me->ticket.store(0, std::memory_order_relaxed);
    place(base, ticket).store(word_of(ticket, index) | left, std::memory_order_release);
    KILL_POINT("ticket given up");
    for (;;) {
      // Pairs with itself and with Event::wait's. Of two that leave one sees that the other has left; and whoever is first
      // from now on sees that it is, or we see that it is in line.
      fence_seq_cst();
      std::uint64_t oldest = serving.load(std::memory_order_relaxed);
      const std::uint64_t word = place(base, oldest).load(std::memory_order_acquire);  // pairs with the store above
      if (!is_of(word, oldest) || (word & left) == 0) return;
      serving.compare_exchange_strong(oldest, oldest + 1, std::memory_order_acq_rel, std::memory_order_relaxed);
      KILL_POINT("next one served");
    }
  }

  // Who is first; null: nobody is, or somebody that has not looked yet whether it may go on.
  ReplicaEntry* first(unsigned char* base, ReplicaEntry* entries) const noexcept {
    if (is_empty()) return nullptr;
    const std::uint64_t oldest = serving.load(std::memory_order_relaxed);
    const std::uint64_t word = place(base, oldest).load(std::memory_order_acquire);  // pairs with the store in get_in
    return is_of(word, oldest) && (word & left) == 0 ? entries + (static_cast<std::uint32_t>(word) >> 1) : nullptr;
  }

 private:
  // A place's word: the ticket plus 1, the index of its holder's entry, and a mark when the holder has left.
  static constexpr std::uint64_t left = 1;
  static std::uint64_t word_of(std::uint64_t ticket, std::uint64_t index) noexcept {
    return (ticket + 1) << 32 | index << 1;
  }
  static bool is_of(std::uint64_t word, std::uint64_t ticket) noexcept {
    return word >> 32 == static_cast<std::uint32_t>(ticket + 1);
  }
  Atomic<std::uint64_t>& place(unsigned char* base, std::uint64_t ticket) const noexcept {
    return reinterpret_cast<Atomic<std::uint64_t>*>(base + places_offset)[ticket & mask];
  }
};

}  // namespace pipeline_executor
