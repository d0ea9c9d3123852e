// Replaces _core/include/atomic.hpp in the model check: every access asks the checker.
//
// Every access must name its memory order. The checker refuses sequentially consistent accesses.
#pragma once

#include <atomic>
#include <cstdint>

#include "checker.hpp"

namespace pipeline_executor {

template <class T>
class Atomic {
 public:
  static constexpr bool is_always_lock_free = true;

  Atomic() noexcept = default;
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;

  T load(std::memory_order order) const noexcept {
    return static_cast<T>(model::load(&raw, sizeof raw, as_int(order)));
  }
  void store(T value, std::memory_order order) noexcept { model::store(&raw, sizeof raw, value, as_int(order)); }
  T fetch_add(T operand, std::memory_order order) noexcept { return change(model::Change::add, operand, order); }
  T fetch_sub(T operand, std::memory_order order) noexcept { return change(model::Change::subtract, operand, order); }
  T exchange(T operand, std::memory_order order) noexcept { return change(model::Change::exchange, operand, order); }

  bool compare_exchange_weak(T& expected, T desired, std::memory_order success, std::memory_order failure) noexcept {
    return compare_exchange(expected, desired, success, failure, true);
  }
  bool compare_exchange_weak(T& expected, T desired, std::memory_order order) noexcept {
    return compare_exchange(expected, desired, order, for_failure(order), true);
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order success, std::memory_order failure) noexcept {
    return compare_exchange(expected, desired, success, failure, false);
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order order) noexcept {
    return compare_exchange(expected, desired, order, for_failure(order), false);
  }

 private:
  static int as_int(std::memory_order order) noexcept { return static_cast<int>(order); }
  static std::memory_order for_failure(std::memory_order order) noexcept {
    if (order == std::memory_order_acq_rel) return std::memory_order_acquire;
    return order == std::memory_order_release ? std::memory_order_relaxed : order;
  }
  T change(model::Change how, T operand, std::memory_order order) noexcept {
    return static_cast<T>(model::change(&raw, sizeof raw, how, operand, as_int(order)));
  }
  bool compare_exchange(T& expected, T desired, std::memory_order success, std::memory_order failure,
                        bool weak) noexcept {
    std::uint64_t found = expected;
    const bool done = model::compare_exchange(&raw, sizeof raw, found, desired, as_int(success), as_int(failure), weak);
    expected = static_cast<T>(found);
    return done;
  }

  T raw;
};

inline void fence_seq_cst() noexcept { model::fence(); }

}  // namespace pipeline_executor
