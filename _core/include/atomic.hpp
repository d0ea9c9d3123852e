// The seam between the lock-free code and memory: the atomic type, and the only kind of fence that the code uses.
//
// In the product both are the standard library's. The model check (tests/core/model) compiles the other headers against
// its own atomic.hpp and platform.hpp. There a scheduler decides which value each load returns and which thread runs
// next.
#pragma once

#include <atomic>

namespace pipeline_executor {

template <class T>
using Atomic = std::atomic<T>;

inline void fence_seq_cst() noexcept { std::atomic_thread_fence(std::memory_order_seq_cst); }

}  // namespace pipeline_executor
