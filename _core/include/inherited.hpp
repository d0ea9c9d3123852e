// The blocks that processes forked from a replica may still view.
//
// A replica that forks keeps such blocks from being reused (forks.hpp). But the replica may die before the forked
// process does. Then the process that made the run has to know which memory it must not free at the end. So each
// replica links these blocks into a chain that starts in its ledger entry.
//
// Only the replica writes the chain. The caller reads it after the replica has ended, which makes all the replica's
// stores visible. If the replica dies between two stores, the chain can still be read from its start, with or without
// the block in question.
#pragma once

#include <cstdint>

#include "layout.hpp"

namespace pipeline_executor {

inline void chain_inherited(unsigned char* base, ReplicaEntry* replica, std::uint64_t offset) noexcept {
  const std::uint32_t number = static_cast<std::uint32_t>(offset / Arena::unit);
  const std::uint32_t first = replica->first_inherited.load(std::memory_order_relaxed);
  Block* block = Arena::at(base, offset);
  block->inherited_after.store(first, std::memory_order_relaxed);
  block->inherited_before.store(0, std::memory_order_relaxed);
  if (first != 0) Arena::at(base, first * Arena::unit)->inherited_before.store(number, std::memory_order_relaxed);
  replica->first_inherited.store(number, std::memory_order_release);
}

inline void unchain_inherited(unsigned char* base, ReplicaEntry* replica, std::uint64_t offset) noexcept {
  const Block* block = Arena::at(base, offset);
  const std::uint32_t before = block->inherited_before.load(std::memory_order_relaxed);
  const std::uint32_t after = block->inherited_after.load(std::memory_order_relaxed);
  if (before != 0)
    Arena::at(base, before * Arena::unit)->inherited_after.store(after, std::memory_order_release);
  else
    replica->first_inherited.store(after, std::memory_order_release);
  if (after != 0) Arena::at(base, after * Arena::unit)->inherited_before.store(before, std::memory_order_relaxed);
}

// Calls visit(block) for each block of every replica's chain. A replica that died may have overwritten any memory. So a
// chain ends where its next block cannot be one.
template <class Visit>
void each_inherited(const Region& region, const Visit& visit) noexcept {
  const std::uint64_t blocks = region.control()->region_size / Arena::unit;
  const std::uint64_t max_blocks = region.control()->region_size / Arena::min_large;  // only large blocks are viewed
  for (std::uint32_t index = 0; index < region.control()->replicas; ++index) {
    std::uint64_t number = region.entry(index)->first_inherited.load(std::memory_order_acquire);
    for (std::uint64_t seen = 0; number != 0 && number < blocks && seen < max_blocks; ++seen) {
      Block* block = Arena::at(region.base, number * Arena::unit);
      if (block->size_class >= Arena::classes || Arena::bytes_of(block) > (blocks - number) * Arena::unit) break;
      visit(block);
      number = block->inherited_after.load(std::memory_order_acquire);
    }
  }
}

inline std::uint64_t count_inherited(const Region& region) noexcept {
  std::uint64_t count = 0;
  each_inherited(region, [&](Block*) noexcept { ++count; });
  return count;
}

// Writes the ranges of their payloads to `ranges`, at most `max_ranges` of them, and returns how many it wrote.
inline std::uint64_t inherited_ranges(const Region& region, OffsetRange* ranges, std::uint64_t max_ranges) noexcept {
  std::uint64_t count = 0;
  each_inherited(region, [&](Block* block) noexcept {
    if (count == max_ranges) return;
    ranges[count].start = static_cast<std::uint64_t>(block->payload() - region.base);
    ranges[count].stop = ranges[count].start + Arena::bytes_of(block) - block->payload_offset;
    ++count;
  });
  return count;
}

}  // namespace pipeline_executor
