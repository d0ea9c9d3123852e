// A message as it lies in shared memory: what kind of value, how many bytes, and the bytes or where they are.
#pragma once

#include <cstdint>
#include <cstring>

namespace pipeline_executor {

struct Message {
  // Bytes. With a ring cell's turn it makes four cache lines: enough for most records, and of a cell only the lines
  // that a message fills are touched. A block of the arena costs two or three lines more, shared by all processes.
  static constexpr std::uint64_t inline_capacity = 232;

  std::uint32_t kind;      // the codec's; this layer does not look at it
  std::uint32_t in_block;  // 1: `block` holds the offset of the arena block with the bytes
  std::uint64_t size;      // bytes
  union {
    unsigned char bytes[inline_capacity];
    std::uint64_t words[inline_capacity / 8];
    std::uint64_t block;
  };

  // Only as much as is used.
  void copy_from(const Message& other) noexcept {
    kind = other.kind;
    in_block = other.in_block;
    size = other.size;
    const std::uint64_t used = in_block ? 1 : (size + 7) / 8;
    for (std::uint64_t index = 0; index < used; ++index) words[index] = other.words[index];
  }
};

static_assert(sizeof(Message) == 248, "a message and a ring cell's turn fill whole cache lines");

}  // namespace pipeline_executor
