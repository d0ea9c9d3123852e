// Blocks of shared memory of any size, allocated, counted and freed by any process without a lock.
//
// Memory is handed out from the bottom of the region upwards. A freed block goes to the free list of its size
// class and is reused from there, warm. A free list is a Treiber stack (R. K. Treiber, "Systems programming: coping with
// parallelism", IBM RJ 5118, 1986). Its head holds a 32-bit block number and a 32-bit tag that every change moves,
// against the ABA problem: a pop that slept can only be fooled if exactly 2^32 changes passed meanwhile.
//
// A large block is one whose payload has whole pages of its own. There are two free lists for each class of large blocks:
// warm ones keep their pages, cold ones have given them back to the system. What is in use and what lies warm are together
// kept near what was in use at some moment of the last second or two, so that a steady flow never faults pages in
// again, and what a burst has left behind is given back.
//
// A process that dies inside loses at most the block that it was taking or giving back; the lists stay whole,
// because each is changed by one compare-and-swap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "atomic.hpp"
#include "event.hpp"

namespace pipeline_executor {

struct alignas(cache_line) Block {
  std::uint32_t size_class;
  std::uint32_t payload_offset;      // bytes from here to the payload
  Atomic<std::uint32_t> next;        // block number of the next free block; meaningful on a free list only
  Atomic<std::uint32_t> references;  // who still needs the payload: the message, readers that view it
  std::uint64_t size;                // bytes in use, as asked for
  Atomic<std::uint32_t> inherited_after, inherited_before;  // block numbers; of a chained block only (inherited.hpp)

  unsigned char* payload() noexcept { return reinterpret_cast<unsigned char*>(this) + payload_offset; }
  // By one who has a reference already.
  void refer() noexcept { references.fetch_add(1, std::memory_order_relaxed); }
  // True to the one that gave up the last reference. acquire: pairs with the release of the others, so that the block is
  // reused after they are done with it.
  bool drop() noexcept {
    return references.load(std::memory_order_acquire) == 1 || references.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }
};

static_assert(sizeof(Block) == cache_line, "the payload of a small block follows its header");

struct Arena {
  static constexpr std::uint64_t unit = 256;  // bytes; 2^32 units are one TiB
  static constexpr unsigned classes = 128;
  static constexpr std::uint64_t least_large = 1 << 16;      // bytes
  static constexpr std::uint64_t least_kept_warm = 1 << 26;  // bytes; less than this is not worth giving back
  static constexpr std::uint64_t peak_span_ns = 1'000'000'000;

  alignas(cache_line) Atomic<std::uint64_t> top;  // in units, from the start of the region: the first never used
  std::uint64_t end;                              // in units
  std::uint64_t page;                             // bytes
  std::uint64_t large_units;                      // a class of at least as many has a header page
  // These four are read and written relaxed, and not together: they steer how much is kept, nothing else.
  alignas(cache_line) Atomic<std::uint64_t> large_in_use;  // bytes of large blocks that are allocated
  Atomic<std::uint64_t> large_warm;                        // bytes of large blocks on the warm free lists
  Atomic<std::uint64_t> recent_peak;                       // the most of large_in_use since `peak_since`
  Atomic<std::uint64_t> peak_since;                        // ns
  alignas(cache_line) Atomic<std::uint64_t> free_lists[classes];  // tag << 32 | block number; 0: empty
  Atomic<std::uint64_t> cold_lists[classes];                      // likewise; large blocks without pages

  // Size classes: every number of units up to 8, then four to a doubling, so that at most a fifth of a
  // block lies unused.
  static unsigned class_of(std::uint64_t units) noexcept {
    if (units <= 8) return static_cast<unsigned>(units - 1);
    unsigned shift = 0;
    while ((units - 1) >> shift >= 8) ++shift;
    const std::uint64_t step = (units + (std::uint64_t{1} << shift) - 1) >> shift;  // 5..8
    return static_cast<unsigned>(8 + (shift - 1) * 4 + (step - 5));
  }
  static std::uint64_t units_of(unsigned size_class) noexcept {
    if (size_class < 8) return size_class + 1;
    const unsigned shift = (size_class - 8) / 4 + 1;
    return static_cast<std::uint64_t>((size_class - 8) % 4 + 5) << shift;
  }

  void setup(std::uint64_t first_byte, std::uint64_t end_byte) noexcept {
    page = page_bytes();
    // From 16 pages on, the step between two classes is at least two pages, so that every large class is a
    // whole number of pages.
    large_units = (16 * page > least_large ? 16 * page : least_large) / unit;
    top.store((first_byte + unit - 1) / unit, std::memory_order_relaxed);
    end = end_byte / unit;
    large_in_use.store(0, std::memory_order_relaxed);
    large_warm.store(0, std::memory_order_relaxed);
    recent_peak.store(0, std::memory_order_relaxed);
    peak_since.store(0, std::memory_order_relaxed);
    for (auto& list : free_lists) list.store(0, std::memory_order_relaxed);
    for (auto& list : cold_lists) list.store(0, std::memory_order_relaxed);
  }

  static Block* at(unsigned char* base, std::uint64_t offset) noexcept {
    return reinterpret_cast<Block*>(base + offset);
  }

  bool is_large(const Block* block) const noexcept { return units_of(block->size_class) >= large_units; }
  static std::uint64_t bytes_of(const Block* block) noexcept { return units_of(block->size_class) * unit; }

  // Returns the block's offset in the region, or 0 when the region has no room for it. The caller holds the one
  // reference to it.
  std::uint64_t allocate(unsigned char* base, std::uint64_t size) noexcept {
    if (size > end * unit) return 0;  // also keeps the sums below from overflowing
    std::uint64_t payload_offset = sizeof(Block);
    unsigned size_class = class_of((size + payload_offset + unit - 1) / unit);
    if (size_class >= classes) return 0;
    std::uint64_t number;
    if (units_of(size_class) < large_units) {
      number = pop(free_lists[size_class], base);
      if (number == 0) number = grow(units_of(size_class), 1);
    } else {
      payload_offset = page;
      size_class = class_of((size + payload_offset + unit - 1) / unit);
      if (size_class >= classes) return 0;
      number = allocate_large(base, size_class);
    }
    if (number == 0) return 0;
    Block* block = at(base, number * unit);
    block->size_class = size_class;
    block->payload_offset = static_cast<std::uint32_t>(payload_offset);
    block->references.store(1, std::memory_order_relaxed);
    block->size = size;
    return number * unit;
  }

  // Gives a reference up; who gives up the last one frees the block.
  void release(unsigned char* base, std::uint64_t offset) noexcept {
    if (at(base, offset)->drop()) free(base, offset);
  }

 private:
  void free(unsigned char* base, std::uint64_t offset) noexcept {
    KILL_POINT("about to free");
    Block* block = at(base, offset);
    if (is_large(block))
      free_large(base, block, offset / unit);
    else
      push(free_lists[block->size_class], block, offset / unit);
  }

  // May give a block of a larger class than was asked for, and says so.
  std::uint64_t allocate_large(unsigned char* base, unsigned& size_class) noexcept {
    std::uint64_t number = pop_warm(base, size_class);
    const bool was_warm = number != 0;
    if (number == 0 && (number = pop(cold_lists[size_class], base)) == 0 &&
        (number = grow(units_of(size_class), page / unit)) == 0) {
      // Every address has been given to some class: take what another has left.
      while (number == 0 && ++size_class < classes)
        if ((number = pop_warm(base, size_class)) == 0) number = pop(cold_lists[size_class], base);
      if (number == 0) return 0;
    }
    const std::uint64_t bytes = units_of(size_class) * unit;
    const std::uint64_t in_use = large_in_use.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    if (in_use > recent_peak.load(std::memory_order_relaxed)) recent_peak.store(in_use, std::memory_order_relaxed);
    if (!was_warm) trim(base, in_use);
    return number;
  }

  std::uint64_t pop_warm(unsigned char* base, unsigned size_class) noexcept {
    const std::uint64_t number = pop(free_lists[size_class], base);
    if (number != 0) large_warm.fetch_sub(units_of(size_class) * unit, std::memory_order_relaxed);
    return number;
  }

  void free_large(unsigned char* base, Block* block, std::uint64_t number) noexcept {
    const std::uint64_t bytes = bytes_of(block), now = monotonic_ns();
    const std::uint64_t before = large_in_use.fetch_sub(bytes, std::memory_order_relaxed);
    if (now - peak_since.load(std::memory_order_relaxed) > peak_span_ns) {
      peak_since.store(now, std::memory_order_relaxed);
      recent_peak.store(before, std::memory_order_relaxed);
    }
    large_warm.fetch_add(bytes, std::memory_order_relaxed);
    push(free_lists[block->size_class], block, number);
    trim(base, before - bytes);
  }

  // Gives back what lies warm beyond the recent use; a few blocks for each call, so that no call takes long.
  void trim(unsigned char* base, std::uint64_t in_use) noexcept {
    const std::uint64_t most = recent_peak.load(std::memory_order_relaxed) + least_kept_warm;
    unsigned size_class = classes;
    for (unsigned turns = 4; turns > 0; --turns) {
      if (large_warm.load(std::memory_order_relaxed) + in_use <= most) return;
      std::uint64_t number = 0;  // of the largest
      while (number == 0) {
        if (size_class == 0 || units_of(--size_class) < large_units) return;
        number = pop_warm(base, size_class);
      }
      cool(base, at(base, number * unit), number);
      ++size_class;  // there may be more of this class
    }
  }

  // Gives the pages of a block back that is on no list.
  void cool(unsigned char* base, Block* block, std::uint64_t number) noexcept {
    memory_give_back(base + number * unit + page, bytes_of(block) - page);  // all but the header's page
    push(cold_lists[block->size_class], block, number);
  }

  static void push(Atomic<std::uint64_t>& list, Block* block, std::uint64_t number) noexcept {
    std::uint64_t head = list.load(std::memory_order_relaxed);
    std::uint64_t changed;
    do {
      block->next.store(static_cast<std::uint32_t>(head), std::memory_order_relaxed);
      changed = ((head >> 32) + 1) << 32 | number;
      // release: pairs with the acquire in pop, so that whoever reuses the block sees the readers done with it
    } while (!list.compare_exchange_weak(head, changed, std::memory_order_release, std::memory_order_relaxed));
  }

  static std::uint64_t pop(Atomic<std::uint64_t>& list, unsigned char* base) noexcept {
    std::uint64_t head = list.load(std::memory_order_acquire);  // pairs with the release in push
    while (static_cast<std::uint32_t>(head) != 0) {
      // Another process may take this block meanwhile and overwrite it; then `next` is stale, the tag has
      // moved, and the exchange fails. `next` is atomic so that this race is defined.
      const std::uint64_t number = static_cast<std::uint32_t>(head);
      const std::uint64_t next = at(base, number * unit)->next.load(std::memory_order_relaxed);
      const std::uint64_t changed = ((head >> 32) + 1) << 32 | next;
      if (list.compare_exchange_weak(head, changed, std::memory_order_acquire, std::memory_order_acquire))
        return KILL_POINT("block taken"), number;
    }
    return 0;
  }

  // In units: `count` never used before, starting at a multiple of `alignment`.
  std::uint64_t grow(std::uint64_t count, std::uint64_t alignment) noexcept {
    std::uint64_t seen = top.load(std::memory_order_relaxed), first;
    do {
      first = (seen + alignment - 1) / alignment * alignment;
      if (first > end || count > end - first) return 0;
    } while (!top.compare_exchange_weak(seen, first + count, std::memory_order_relaxed));
    KILL_POINT("arena grown");
    return first;
  }
};

}  // namespace pipeline_executor
