// A message as it lies in shared memory: what kind of value, how many bytes, and the bytes or where they are.
#pragma once

#include <cstdint>
#include <cstring>

namespace pipeline_executor {

struct Message {
  static constexpr std::uint64_t inline_capacity = 40;  // bytes; the rest of a cache line with a ring cell's turn

  std::uint32_t kind;       // the codec's; this layer does not look at it
  std::uint32_t in_block;   // 1: `block` holds the offset of the arena block with the bytes
  std::uint64_t size;       // bytes
  union {
    unsigned char bytes[inline_capacity];
    std::uint64_t block;
  };
};

static_assert(sizeof(Message) == 56, "a message and a ring cell's turn fill one cache line");

}  // namespace pipeline_executor
