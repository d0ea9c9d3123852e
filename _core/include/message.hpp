// A message in shared memory: the kind of its value, its size, and its bytes or the place where they are.
#pragma once

#include <cstdint>
#include <cstring>

namespace pipeline_executor {

struct Message {
  // Bytes. Together with the sequence of its cell, a message fills four cache lines. That is enough for most records,
  // and a short message touches only the lines that it fills. A longer message takes an arena block, which costs two or
  // three more cache lines, shared by all processes.
  static constexpr std::uint64_t inline_capacity = 232;

  std::uint32_t kind;      // written and read by the codec only
  std::uint32_t in_block;  // 1: the bytes are in the arena block at offset `block`
  std::uint64_t size;      // bytes
  union {
    unsigned char bytes[inline_capacity];
    std::uint64_t words[inline_capacity / 8];
    std::uint64_t block;
  };

  // Copies no more words than the message uses.
  void copy_from(const Message& other) noexcept {
    kind = other.kind;
    in_block = other.in_block;
    size = other.size;
    const std::uint64_t used = in_block ? 1 : (size + 7) / 8;
    for (std::uint64_t index = 0; index < used; ++index) words[index] = other.words[index];
  }
};

static_assert(sizeof(Message) == 248, "a message and the sequence of its cell must fill whole cache lines");

}  // namespace pipeline_executor
