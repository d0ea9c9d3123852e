// Named places in the code at which a process can be made to kill itself, so that tests can check what its death
// leaves.
//
// The points are compiled in only under PIPELINE_EXECUTOR_KILL_POINTS. Then the environment variable
// PIPELINE_EXECUTOR_KILL_AT names the point. PIPELINE_EXECUTOR_KILL_AFTER says how many times the process passes that
// point before it dies there (default 0).
#pragma once

#if defined(PIPELINE_EXECUTOR_KILL_POINTS)

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>

namespace pipeline_executor {

inline void kill_point(const char* name) noexcept {
  static std::atomic<long> passed{0};
  const char* wanted = std::getenv("PIPELINE_EXECUTOR_KILL_AT");
  if (wanted == nullptr || std::strcmp(wanted, name) != 0) return;
  const char* after = std::getenv("PIPELINE_EXECUTOR_KILL_AFTER");
  if (passed.fetch_add(1, std::memory_order_relaxed) >= (after != nullptr ? std::atol(after) : 0)) std::raise(SIGKILL);
}

}  // namespace pipeline_executor

#define KILL_POINT(name) ::pipeline_executor::kill_point(name)

#else

#define KILL_POINT(name) ((void)0)

#endif
