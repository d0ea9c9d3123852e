// Replaces _core/include/platform.hpp in the model check: the scheduler does the parking and the bell.
//
// There is one processor, so no thread spins before it sleeps; and there is no clock.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>

#include "atomic.hpp"

namespace pipeline_executor {

enum class ParkResult { woken, interrupted };

// The time limit never expires here. Its end would be the same as that by a signal, which the model has, and it would
// hide a lost wake-up.
inline ParkResult park(Atomic<std::uint32_t>* word, std::uint32_t expected, std::uint64_t) noexcept {
  return model::park(word, expected) ? ParkResult::interrupted : ParkResult::woken;
}
inline void unpark(Atomic<std::uint32_t>* word, int how_many) noexcept { model::unpark(word, how_many); }
constexpr int unpark_everyone = INT_MAX;

inline std::uint64_t page_bytes() noexcept { return 4096; }
inline void memory_free_pages(void* at, std::size_t size) noexcept {  // pages that read as zero afterwards
  for (std::size_t index = 0; index < size / 8; ++index) static_cast<std::uint64_t*>(at)[index] = 0;
}

inline void spin_pause() noexcept {}
inline void yield_processor() noexcept {}
inline int usable_processors() noexcept { return 1; }
inline void back_off(unsigned) noexcept { model::back_off(); }
inline std::uint64_t monotonic_ns() noexcept { return 0; }

inline void bell_ring(int) noexcept { model::bell_ring(); }
inline void bell_silence(int) noexcept { model::bell_silence(); }

}  // namespace pipeline_executor
