// The layout of a run's region of shared memory, and its initial state.
//
//   Control | Edge[edges] | ReplicaEntry[replicas] | cells, then order or wait queue, of each edge | arena blocks ...
//
// Everything is addressed by its offset from the start, because each process maps the region at another address.
#pragma once

#include <algorithm>
#include <new>

#include "edge.hpp"
#include "order.hpp"

namespace pipeline_executor {

constexpr std::uint64_t align_up(std::uint64_t offset, std::uint64_t to) noexcept {
  return (offset + to - 1) / to * to;
}

struct EdgePlan {
  std::uint64_t limit, max_bytes;
  std::uint32_t producers, consumers, may_stop_early, rings_bell;
  std::uint32_t ordered = 0;  // 1: the outputs of the producers leave in the order of their inputs

  std::uint64_t cells() const noexcept {
    std::uint64_t count = 2;  // with one cell, "written" and "free for the next lap" would be the same number
    while (count < limit) count *= 2;
    return count;
  }
  // How many items may be in work before the oldest of them is done: `limit`, but at least two for each producer.
  std::uint64_t slots() const noexcept {
    std::uint64_t count = 2;
    while (count < limit || count < 2 * std::uint64_t{producers}) count *= 2;
    return count;
  }
  // The places of the wait queue: one for each producer, rounded up to a power of two.
  std::uint64_t places() const noexcept {
    std::uint64_t count = 1;
    while (count < producers) count *= 2;
    return count;
  }
  std::uint64_t bytes() const noexcept {
    return cells() * sizeof(Cell) +
           (ordered ? Order::bytes(slots()) : align_up(places() * sizeof(std::uint64_t), cache_line));
  }
};

struct Layout {
  std::uint64_t edges_offset, entries_offset, cells_offset, arena_offset;
};

inline Layout layout_of(const EdgePlan* plans, std::uint32_t edges, std::uint32_t replicas) noexcept {
  Layout at;
  at.edges_offset = align_up(sizeof(Control), cache_line);
  at.entries_offset = align_up(at.edges_offset + edges * sizeof(Edge), cache_line);
  at.cells_offset = align_up(at.entries_offset + replicas * sizeof(ReplicaEntry), cache_line);
  at.arena_offset = at.cells_offset;
  for (std::uint32_t index = 0; index < edges; ++index) at.arena_offset += plans[index].bytes();
  return at;
}

// `base` points to `size` zero bytes that no other process uses yet. Cells, slots and places are not written: there may
// be a million of them, and each page that is written costs memory. All zero, they are an empty ring, an order without
// items and an empty wait queue.
inline void setup_region(unsigned char* base, std::uint64_t size, const EdgePlan* plans, std::uint32_t edges,
                         std::uint32_t replicas) noexcept {
  const Layout at = layout_of(plans, edges, replicas);
  Control* control = new (base) Control();
  control->edges = edges;
  control->replicas = replicas;
  control->region_size = size;
  control->edges_offset = at.edges_offset;
  control->entries_offset = at.entries_offset;
  control->arena.setup(at.arena_offset, size);

  std::uint64_t cells_offset = at.cells_offset;
  for (std::uint32_t index = 0; index < edges; ++index) {
    const EdgePlan& plan = plans[index];
    Edge* edge = new (base + at.edges_offset + index * sizeof(Edge)) Edge();
    edge->cells_offset = cells_offset;
    edge->mask = plan.cells() - 1;
    edge->limit = plan.limit;
    // With a large limit, producers wake only when half the credits are free: waking one for each free credit would
    // cost a system call per item of a full queue. No consumer is idle for that reason. An idle consumer means an empty
    // queue. Then the credits in use are those of the other consumers and of the producers, which are fewer than half.
    // A small limit is exact, because the user who sets one wants exactly so many items made ahead.
    edge->credit_hysteresis = plan.limit >= 8 * (std::uint64_t{plan.producers} + plan.consumers) ? plan.limit / 2 : 1;
    edge->max_bytes = plan.max_bytes;
    edge->producers = plan.producers;
    edge->consumers = plan.consumers;
    edge->counts_inline_bytes = plan.max_bytes / Message::inline_capacity < plan.limit;
    edge->may_stop_early = plan.may_stop_early;
    edge->rings_bell = plan.rings_bell;
    edge->producers_left.store(plan.producers, std::memory_order_relaxed);
    edge->consumers_left.store(plan.consumers, std::memory_order_relaxed);
    edge->first_quitter.store(Edge::nobody, std::memory_order_relaxed);
    edge->quit_position.store(Edge::never, std::memory_order_relaxed);
    if (plan.ordered) {
      edge->order_offset = cells_offset + plan.cells() * sizeof(Cell);
      // An item that is being made holds no credit (order.hpp). There is at most one such item for each producer, so
      // the limit is lower by the number of producers.
      edge->limit = plan.limit > plan.producers ? plan.limit - plan.producers : 1;
      edge->credit_hysteresis = 1;
      Order::setup(base, *edge, plan.slots());
    } else {
      edge->wait_queue.places_offset = cells_offset + plan.cells() * sizeof(Cell);
      edge->wait_queue.mask = plan.places() - 1;
    }
    cells_offset += plan.bytes();
  }
  for (std::uint32_t index = 0; index < replicas; ++index)
    new (base + at.entries_offset + index * sizeof(ReplicaEntry)) ReplicaEntry();
}

// A part of the region, from offset `start` up to, not including, `stop`.
struct OffsetRange {
  std::uint64_t start, stop;
};

inline void sort_ranges(OffsetRange* begin, OffsetRange* end) noexcept {
  std::sort(begin, end, [](const OffsetRange& left, const OffsetRange& right) { return left.start < right.start; });
}

}  // namespace pipeline_executor
