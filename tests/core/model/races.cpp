// Finds data races on plain memory: two accesses, one of them a write, that nothing orders.
//
// The compiler instruments plain accesses as for ThreadSanitizer, and this file defines the functions that it calls.
// For each four bytes of the shared memory it keeps the last write and each thread's last read, as clocks.

#include <cstring>

#include "machine.hpp"

namespace model {

namespace {

constexpr std::size_t granule = 4;  // bytes

struct Granule {            // plain accesses
  std::uint64_t execution;  // the execution that the other fields belong to
  std::uint16_t written_at;
  std::uint8_t writer;
  std::uint16_t read_at[max_threads];
};

Granule plain[memory_bytes / granule];

Granule& granule_at(std::size_t index) {
  Granule& at = plain[index];
  if (at.execution != machine.execution) {
    std::memset(&at, 0, sizeof at);
    at.execution = machine.execution;
  }
  return at;
}

void plain_access(const volatile void* where, std::size_t bytes, bool writes) noexcept {
  const std::size_t first = static_cast<std::size_t>(static_cast<const volatile unsigned char*>(where) - memory());
  if (!machine.active || first >= memory_bytes) return;
  const Thread& thread = me();
  const unsigned self = machine.current;
  for (std::size_t index = first / granule; index <= (first + bytes - 1) / granule; ++index) {
    Granule& at = granule_at(index);
    if (at.written_at > thread.now.clock.at[at.writer] && at.writer != self)
      fail("data race: %s %s %s, which %s wrote, and nothing orders these two", thread_name(self),
           writes ? "writes" : "reads", name_of(memory() + index * granule), thread_name(at.writer));
    if (writes) {
      for (unsigned other = 0; other < machine.count; ++other)
        if (other != self && at.read_at[other] > thread.now.clock.at[other])
          fail("data race: %s writes %s, which %s read, and nothing orders these two", thread_name(self),
               name_of(memory() + index * granule), thread_name(other));
      at.writer = static_cast<std::uint8_t>(self);
      at.written_at = thread.now.clock.at[self];
    } else {
      at.read_at[self] = thread.now.clock.at[self];
    }
  }
}

}  // namespace

}  // namespace model

// What the compiler's instrumentation calls.
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define ACCESSES(bytes)                                                                        \
  void __tsan_read##bytes(void* where) { model::plain_access(where, bytes, false); }           \
  void __tsan_write##bytes(void* where) { model::plain_access(where, bytes, true); }           \
  void __tsan_unaligned_read##bytes(void* where) { model::plain_access(where, bytes, false); } \
  void __tsan_unaligned_write##bytes(void* where) { model::plain_access(where, bytes, true); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void* where, unsigned long bytes) { model::plain_access(where, bytes, false); }
void __tsan_write_range(void* where, unsigned long bytes) { model::plain_access(where, bytes, true); }
void* __tsan_memcpy(void* to, const void* from, unsigned long bytes) {
  model::plain_access(from, bytes, false);
  model::plain_access(to, bytes, true);
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, unsigned long bytes) {
  model::plain_access(from, bytes, false);
  model::plain_access(to, bytes, true);
  return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, unsigned long bytes) {
  model::plain_access(to, bytes, true);
  return std::memset(to, value, bytes);
}

}  // extern "C"
