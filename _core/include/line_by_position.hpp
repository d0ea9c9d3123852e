// A line of those that wait: a bit for each place, and the first of them from a place on.
//
// Places are positions that count on without end; a bit stands for those that are the same but for a multiple of the number of
// bits, of which only one is in use at a time. So a line has no list, and who stands in its middle can leave it.
//
// Nothing here orders anything: who joins makes a fence before the last look at what it waits for, and who looks for the first
// makes one before that, as in event.hpp.
#pragma once

#include <cstdint>

#include "atomic.hpp"
#include "event.hpp"

namespace pipeline_executor {

// Zeroes are an empty line. The words with the bits lie behind it.
struct LineByPosition {
  // How many stand in the line, for a quick look. One that dies there is counted for ever.
  alignas(cache_line) Atomic<std::uint64_t> waiting;

  static std::uint64_t bytes(std::uint64_t places) noexcept {
    return sizeof(LineByPosition) + (words(places) * 8 + cache_line - 1) / cache_line * cache_line;
  }

  bool is_empty() const noexcept { return waiting.load(std::memory_order_relaxed) == 0; }

  // `mask`: places - 1; their number is a power of two. A bit is changed by one process alone: so an addition sets it.
  void join(std::uint64_t position, std::uint64_t mask) noexcept {
    word(position & mask).fetch_add(bit(position & mask), std::memory_order_relaxed);
    waiting.fetch_add(1, std::memory_order_relaxed);
  }

  void leave(std::uint64_t position, std::uint64_t mask) noexcept {
    word(position & mask).fetch_sub(bit(position & mask), std::memory_order_relaxed);
    waiting.fetch_sub(1, std::memory_order_relaxed);
  }

  // The first position in the line, from `from` on. False: there is none.
  bool find_first(std::uint64_t from, std::uint64_t mask, std::uint64_t& position) const noexcept {
    // It ends with the word that it begins with: the bits there that lie before `from`'s are those of the last positions.
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
