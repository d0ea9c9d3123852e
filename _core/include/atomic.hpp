// The seam between the lock-free code and the memory that it works on: the atomic type and the one kind of fence.
//
// In the product they are the standard library's. The model check (tests/core/model) compiles the other headers against
// an atomic.hpp and a platform.hpp of its own, in which a scheduler decides what each load returns and who runs next.
#pragma once

#include <atomic>

namespace pipeline_executor {

template <class T>
using Atomic = std::atomic<T>;

inline void fence_seq_cst() noexcept { std::atomic_thread_fence(std::memory_order_seq_cst); }

}  // namespace pipeline_executor
