// Blocks of shared memory of any size, allocated and freed by any process without a lock.
//
// Memory is handed out from the bottom of the region upwards and never returned to it: a freed block goes to
// the free list of its size class and is reused from there, warm. A free list is a Treiber stack (R. K. Treiber,
// "Systems programming: coping with parallelism", IBM RJ 5118, 1986). Its head holds a 32-bit block number and a
// 32-bit tag that every change moves, against the ABA problem: a pop that slept can only be fooled if exactly
// 2^32 changes passed meanwhile.
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
  Atomic<std::uint32_t> next;  // block number of the next free block; meaningful on a free list only
  std::uint64_t size;               // bytes in use, as asked for
  // the payload follows, aligned to a cache line
  unsigned char* payload() noexcept { return reinterpret_cast<unsigned char*>(this) + sizeof(Block); }
};

struct Arena {
  static constexpr std::uint64_t unit = 256;  // bytes; 2^32 units are one TiB
  static constexpr unsigned classes = 128;

  alignas(cache_line) Atomic<std::uint64_t> top;  // in units, from the start of the region: the first never used
  std::uint64_t end;                                   // in units
  alignas(cache_line) Atomic<std::uint64_t> free_lists[classes];  // tag << 32 | block number; 0: empty

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
    top.store((first_byte + unit - 1) / unit, std::memory_order_relaxed);
    end = end_byte / unit;
    for (auto& list : free_lists) list.store(0, std::memory_order_relaxed);
  }

  static Block* at(unsigned char* base, std::uint64_t offset) noexcept {
    return reinterpret_cast<Block*>(base + offset);
  }

  // Returns the block's offset in the region, or 0 when the region has no room for it.
  std::uint64_t allocate(unsigned char* base, std::uint64_t size) noexcept {
    if (size > end * unit) return 0;  // also keeps the sum below from overflowing
    const std::uint64_t wanted = (size + sizeof(Block) + unit - 1) / unit;
    const unsigned size_class = class_of(wanted);
    if (size_class >= classes) return 0;
    std::uint64_t number = pop(base, size_class);
    if (number == 0) number = grow(units_of(size_class));
    if (number == 0) return 0;
    Block* block = at(base, number * unit);
    block->size_class = size_class;
    block->size = size;
    return number * unit;
  }

  void free(unsigned char* base, std::uint64_t offset) noexcept {
    KILL_POINT("about to free");
    Block* block = at(base, offset);
    Atomic<std::uint64_t>& list = free_lists[block->size_class];
    std::uint64_t head = list.load(std::memory_order_relaxed);
    std::uint64_t changed;
    do {
      block->next.store(static_cast<std::uint32_t>(head), std::memory_order_relaxed);
      changed = ((head >> 32) + 1) << 32 | offset / unit;
      // release: pairs with the acquire in pop, so that whoever reuses the block sees the readers done with it
    } while (!list.compare_exchange_weak(head, changed, std::memory_order_release, std::memory_order_relaxed));
  }

 private:
  std::uint64_t pop(unsigned char* base, unsigned size_class) noexcept {
    Atomic<std::uint64_t>& list = free_lists[size_class];
    std::uint64_t head = list.load(std::memory_order_acquire);  // pairs with the release in free
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

  std::uint64_t grow(std::uint64_t units) noexcept {
    std::uint64_t first = top.load(std::memory_order_relaxed);
    do {
      if (units > end - first) return 0;
    } while (!top.compare_exchange_weak(first, first + units, std::memory_order_relaxed));
    KILL_POINT("arena grown");
    return first;
  }
};

}  // namespace pipeline_executor
