// The replicas of an ordered edge that wait, found by the position of their item: one bit for each slot.
//
// Positions grow without end. A bit stands for all positions that are equal modulo the number of bits, of which only
// one is in use at a time. So there is no list, and any waiter can leave at any time.
//
// The operations here are relaxed. A waiter executes a fence between joining and its last look at what it waits for. A
// process that looks for the first waiter executes a fence before that, as in event.hpp.
#pragma once

#include <cstdint>

#include "atomic.hpp"
#include "event.hpp"

namespace pipeline_executor {

// Zeroed memory is an empty set. The words with the bits follow this struct in memory.
struct WaitersByPosition {
  // How many replicas wait: a quick test for none. A replica that dies while it waits is counted for ever.
  alignas(cache_line) Atomic<std::uint64_t> count;

  static std::uint64_t bytes(std::uint64_t places) noexcept {
    return sizeof(WaitersByPosition) + (words(places) * 8 + cache_line - 1) / cache_line * cache_line;
  }

  bool is_empty() const noexcept { return count.load(std::memory_order_relaxed) == 0; }

  // `mask` is the number of bits - 1; that number is a power of two. Only one process changes a given bit at a time, so
  // an addition sets it and a subtraction clears it.
  void join(std::uint64_t position, std::uint64_t mask) noexcept {
    word(position & mask).fetch_add(bit(position & mask), std::memory_order_relaxed);
    count.fetch_add(1, std::memory_order_relaxed);
  }

  void leave(std::uint64_t position, std::uint64_t mask) noexcept {
    word(position & mask).fetch_sub(bit(position & mask), std::memory_order_relaxed);
    count.fetch_sub(1, std::memory_order_relaxed);
  }

  // Finds the first waiting position at or after `from`. False: there is none.
  bool find_first(std::uint64_t from, std::uint64_t mask, std::uint64_t& position) const noexcept {
    // The search ends with the word that it began with: the bits there below the one of `from` are the last positions.
    for (std::uint64_t step = 0; step <= words(mask + 1); ++step) {
      const std::uint64_t at = (from + step * 64) & mask;
      std::uint64_t bits = word(at).load(std::memory_order_relaxed);
      if (step == 0) bits &= ~(bit(at) - 1);
      if (bits == 0) continue;
      std::uint64_t found = at - at % 64;
      for (; (bits & 1) == 0; bits >>= 1) ++found;
      position = from + ((found - from) & mask);
      return true;
    }
    return false;
  }

 private:
  static std::uint64_t words(std::uint64_t places) noexcept { return (places + 63) / 64; }
  static std::uint64_t bit(std::uint64_t place) noexcept { return std::uint64_t{1} << place % 64; }
  Atomic<std::uint64_t>& word(std::uint64_t place) noexcept {
    return reinterpret_cast<Atomic<std::uint64_t>*>(this + 1)[place / 64];
  }
  const Atomic<std::uint64_t>& word(std::uint64_t place) const noexcept {
    return reinterpret_cast<const Atomic<std::uint64_t>*>(this + 1)[place / 64];
  }
};

}  // namespace pipeline_executor
