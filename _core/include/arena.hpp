// Blocks of shared memory of any size. Any process allocates, counts and frees them without a lock.
//
// Memory is handed out from the bottom of the region upwards. A freed block goes to the free list of its size class and
// is reused from there. A free list is a Treiber stack (R. K. Treiber, "Systems programming: coping with parallelism",
// IBM RJ 5118, 1986). Its head holds a 32-bit block number and a 32-bit tag. Every change increments the tag, against
// the ABA problem: a delayed pop is deceived only if exactly 2^32 changes happen meanwhile.
//
// A large block is one whose payload has whole pages of its own. Each class of large blocks has two free lists: warm
// blocks keep their pages, cold blocks have returned them to the system. The sum of what is in use and what lies warm
// is kept near the highest use of the last second or two. So a steady flow causes no page faults, and the memory of a
// burst is returned.
//
// A process that dies inside loses at most the block that it was taking or freeing. The lists stay intact, because each
// is changed by one compare-and-swap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "atomic.hpp"
#include "event.hpp"

namespace pipeline_executor {

struct alignas(cache_line) Block {
  std::uint32_t size_class;
  std::uint32_t payload_offset;      // bytes from the start of this header to the payload
  Atomic<std::uint32_t> next;        // block number of the next free block; meaningful on a free list only
  Atomic<std::uint32_t> references;  // how many still need the payload: the message, and readers that view it
  std::uint64_t size;                // bytes that were asked for
  // Block numbers, if the block is on a replica's chain (inherited.hpp).
  Atomic<std::uint32_t> inherited_after, inherited_before;

  unsigned char* payload() noexcept { return reinterpret_cast<unsigned char*>(this) + payload_offset; }
  // Adds a reference. The caller holds one already.
  void add_reference() noexcept { references.fetch_add(1, std::memory_order_relaxed); }
  // Drops a reference. True: it was the last. acquire: pairs with the release of the others, so that the block is
  // reused after they have finished with it.
  bool drop_reference() noexcept {
    return references.load(std::memory_order_acquire) == 1 || references.fetch_sub(1, std::memory_order_acq_rel) == 1;
  }
};

static_assert(sizeof(Block) == cache_line, "the payload of a small block follows its header");

struct Arena {
  static constexpr std::uint64_t unit = 256;  // bytes; 2^32 units are one TiB
  static constexpr unsigned classes = 128;
  static constexpr std::uint64_t min_large = 1 << 16;      // bytes
  static constexpr std::uint64_t min_kept_warm = 1 << 26;  // bytes; giving less than this back is not worth the effort
  static constexpr std::uint64_t peak_span_ns = 1'000'000'000;

  alignas(cache_line) Atomic<std::uint64_t> top;  // the first unit that was never used, from the start of the region
  std::uint64_t end;                              // in units
  std::uint64_t page;                             // bytes
  std::uint64_t large_units;                      // a block of at least so many units is large
  // The next four are relaxed and not read together: they only decide how much memory is kept, and correctness does not
  // depend on them.
  alignas(cache_line) Atomic<std::uint64_t> large_in_use;         // bytes of large blocks that are allocated
  Atomic<std::uint64_t> large_warm;                               // bytes of large blocks on the warm free lists
  Atomic<std::uint64_t> recent_peak;                              // the highest large_in_use since `peak_since`
  Atomic<std::uint64_t> peak_since;                               // ns
  alignas(cache_line) Atomic<std::uint64_t> free_lists[classes];  // tag << 32 | block number; 0: empty
  Atomic<std::uint64_t> cold_lists[classes];                      // likewise, of large blocks without pages

  // Size classes: every number of units up to 8, then four classes per doubling. So at most a fifth of a block is
  // unused.
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
    // From 16 pages on, two classes differ by at least two pages, so every large class is a whole number of pages.
    large_units = (16 * page > min_large ? 16 * page : min_large) / unit;
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

  // Returns the block's offset in the region, or 0 when the region has no memory for it. The caller holds the only
  // reference.
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

  // Drops a reference. Dropping the last one frees the block.
  void release(unsigned char* base, std::uint64_t offset) noexcept {
    if (at(base, offset)->drop_reference()) free(base, offset);
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

  // Takes a large block. It may be of a larger class than asked for; `size_class` then says so.
  std::uint64_t allocate_large(unsigned char* base, unsigned& size_class) noexcept {
    std::uint64_t number = pop_warm(base, size_class);
    const bool was_warm = number != 0;
    if (number == 0 && (number = pop(cold_lists[size_class], base)) == 0 &&
        (number = grow(units_of(size_class), page / unit)) == 0) {
      // No address is left for this class: take a free block of a larger class.
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

  // Returns the pages of warm blocks beyond the recent use to the system. At most four blocks per call, so that no call
  // takes long.
  void trim(unsigned char* base, std::uint64_t in_use) noexcept {
    const std::uint64_t max_kept = recent_peak.load(std::memory_order_relaxed) + min_kept_warm;
    unsigned size_class = classes;
    for (unsigned attempts = 4; attempts > 0; --attempts) {
      if (large_warm.load(std::memory_order_relaxed) + in_use <= max_kept) return;
      std::uint64_t number = 0;  // the largest warm block
      while (number == 0) {
        if (size_class == 0 || units_of(--size_class) < large_units) return;
        number = pop_warm(base, size_class);
      }
      give_back_pages(base, at(base, number * unit), number);
      ++size_class;  // there may be more of this class
    }
  }

  // Returns the pages of a block that is on no list to the system, and puts it on its cold list.
  void give_back_pages(unsigned char* base, Block* block, std::uint64_t number) noexcept {
    memory_free_pages(base + number * unit + page, bytes_of(block) - page);  // all but the header's page
    push(cold_lists[block->size_class], block, number);
  }

  static void push(Atomic<std::uint64_t>& list, Block* block, std::uint64_t number) noexcept {
    std::uint64_t head = list.load(std::memory_order_relaxed);
    std::uint64_t changed;
    do {
      block->next.store(static_cast<std::uint32_t>(head), std::memory_order_relaxed);
      changed = ((head >> 32) + 1) << 32 | number;
      // release: pairs with the acquire in pop, so that the block is reused after its readers have finished with it
    } while (!list.compare_exchange_weak(head, changed, std::memory_order_release, std::memory_order_relaxed));
  }

  static std::uint64_t pop(Atomic<std::uint64_t>& list, unsigned char* base) noexcept {
    std::uint64_t head = list.load(std::memory_order_acquire);  // pairs with the release in push
    while (static_cast<std::uint32_t>(head) != 0) {
      // Another process may take and overwrite this block meanwhile. Then `next` is stale, the tag has changed, and the
      // exchange fails. `next` is atomic so that this race is defined behaviour.
      const std::uint64_t number = static_cast<std::uint32_t>(head);
      const std::uint64_t next = at(base, number * unit)->next.load(std::memory_order_relaxed);
      const std::uint64_t changed = ((head >> 32) + 1) << 32 | next;
      if (list.compare_exchange_weak(head, changed, std::memory_order_acquire, std::memory_order_acquire))
        return KILL_POINT("block taken"), number;
    }
    return 0;
  }

  // Returns the first of `count` units that were never used, aligned to `alignment` units; 0: there are none.
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
