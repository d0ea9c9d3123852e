// The platform seam: all that differs between operating systems, and nothing else. No other file asks which system this
// is.
//
// It has three parts: shared memory without a name; parking on a 32-bit word, which works between processes; and a bell
// that can be polled together with process handles.
#pragma once

#if !defined(__linux__)
#error "the compiled core has no platform layer for this system yet; the pure-Python core serves it"
#endif

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "atomic.hpp"
#include "processors.hpp"

namespace pipeline_executor {

// ---- memory -------------------------------------------------------------------------------------

inline std::uint64_t page_bytes() noexcept {
  const long page = sysconf(_SC_PAGESIZE);
  return page > 0 ? static_cast<std::uint64_t>(page) : 4096;
}

// Creates anonymous shared memory of `size` zero bytes. It is sparse: a page costs memory once it is touched. Its size
// is sealed, so that no process can truncate it under a reader. Returns a descriptor that is closed on exec, or -1 with
// errno set.
inline int memory_create(std::size_t size) noexcept {
  const int fd = memfd_create("pipeline_executor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  if (ftruncate(fd, static_cast<off_t>(size)) != 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int saved = errno;
    close(fd);
    errno = saved;
    return -1;
  }
  return fd;
}

// Leaves a mapping out of core dumps. A region spans several times the machine's memory, and the kernel would write all
// of its used pages when a replica crashes. On a system without this feature dumps are large, which is not an error.
inline void* memory_keep_from_dumps(void* base, std::size_t size) noexcept {
  if (base != MAP_FAILED) madvise(base, size, MADV_DONTDUMP);
  return base;
}

inline void* memory_map(int fd, std::size_t size) noexcept {
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  return base == MAP_FAILED ? nullptr : memory_keep_from_dumps(base, size);
}

// Replaces the mapping at `at` by one that the caller has just made elsewhere (or failed to make: MAP_FAILED). It is
// made elsewhere and moved, because a failed MAP_FIXED may leave a hole. False: the system refuses, and nothing has
// changed.
inline bool memory_move(void* made, void* at, std::size_t size) noexcept {
  if (made == MAP_FAILED) return false;
  // The flag moves with the mapping. All mappings of a region have it, so that the kernel can merge them again.
  memory_keep_from_dumps(made, size);
  if (mremap(made, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED) return true;
  munmap(made, size);
  return false;
}

// Replaces whole pages of a shared mapping by a private mapping of the same file. From now on, what this process or a
// process that it forks writes there is its own. Earlier writes are kept, also those of other threads at this moment.
// False: the system refuses, and nothing has changed.
inline bool memory_map_privately(int fd, std::uint64_t offset, void* at, std::size_t size) noexcept {
  return memory_move(
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, static_cast<off_t>(offset)), at,
      size);
}

// Replaces a private mapping by a shared one again. What was written to the private mapping is lost.
inline bool memory_map_shared(int fd, std::uint64_t offset, void* at, std::size_t size) noexcept {
  return memory_move(
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(offset)), at,
      size);
}

// Makes every page of a private mapping this process's own copy, even while other threads write there.
inline void memory_copy_pages(void* at, std::size_t size) noexcept {
  const std::uint64_t page = page_bytes();
  for (std::size_t offset = 0; offset < size; offset += page)
    __atomic_fetch_or(static_cast<unsigned char*>(at) + offset, 0, __ATOMIC_RELAXED);
}

inline void memory_unmap(void* base, std::size_t size) noexcept { munmap(base, size); }

// Keeps errno, so that a caller can still report an earlier failure.
inline void memory_close(int fd) noexcept {
  const int saved = errno;
  close(fd);
  errno = saved;
}

// Frees the memory of whole pages, for all processes that share them. They read as zero afterwards. On a system without
// this feature the pages stay, which is not an error.
inline void memory_free_pages(void* at, std::size_t size) noexcept { madvise(at, size, MADV_REMOVE); }

// As memory_free_pages, for pages given by their offset in the file.
inline void memory_punch(int fd, std::uint64_t offset, std::uint64_t size) noexcept {
  fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(size));
}

// Replaces whole pages of shared memory by private memory with the same content, in this process only. False: the
// system has no memory for that, and nothing has changed. No other process or thread may write there meanwhile.
inline bool memory_copy_privately(void* at, std::size_t size) noexcept {
  void* copy = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return false;
  std::memcpy(copy, at, size);
  return memory_move(copy, at, size);
}

// Creates a witness: a mapping that forked processes inherit. As long as a process maps it, a process that was forked
// with it is alive, or one forked from that. Returns a descriptor for witness_is_alone, or -1. `*page` is this
// process's mapping.
inline int witness_create(void** page) noexcept {
  const std::size_t size = page_bytes();
  const int fd = memfd_create("pipeline_executor-fork", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  *page = MAP_FAILED;
  if (ftruncate(fd, static_cast<off_t>(size)) == 0)
    *page = memory_keep_from_dumps(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), size);
  if (*page == MAP_FAILED) {
    memory_close(fd);
    return -1;
  }
  return fd;
}

inline void witness_unmap(void* page) noexcept { munmap(page, page_bytes()); }

// Whether no process maps the witness. The system refuses to seal a file against writing while a process maps it
// writable (fcntl(2), F_SEAL_WRITE: EBUSY).
inline bool witness_is_alone(int fd) noexcept { return fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0; }

// Discards what this process has written to whole pages of a private mapping.
inline void memory_discard(void* at, std::size_t size) noexcept { madvise(at, size, MADV_DONTNEED); }

inline std::uint64_t physical_memory_bytes() noexcept {
  const long pages = sysconf(_SC_PHYS_PAGES);
  return pages > 0 ? static_cast<std::uint64_t>(pages) * page_bytes() : 0;
}

// ---- parking ------------------------------------------------------------------------------------

enum class ParkResult { woken, interrupted };

// Sleeps while *word == expected, until a call of unpark or until the time is over. `interrupted`: a signal handler has
// to run, or may have to because the time is over. The futex is not a private one (no FUTEX_PRIVATE_FLAG), because
// several processes map the word at different addresses.
inline ParkResult park(Atomic<std::uint32_t>* word, std::uint32_t expected, std::uint64_t timeout_ns) noexcept {
  const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000u),
                         static_cast<long>(timeout_ns % 1'000'000'000u)};
  const long rc =
      syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(word), FUTEX_WAIT, expected, &timeout, nullptr, 0);
  return rc == -1 && (errno == EINTR || errno == ETIMEDOUT) ? ParkResult::interrupted : ParkResult::woken;
}

inline void unpark(Atomic<std::uint32_t>* word, int how_many) noexcept {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(word), FUTEX_WAKE, how_many, nullptr, nullptr, 0);
}

constexpr int unpark_everyone = INT_MAX;

inline void spin_pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  asm volatile("yield" ::: "memory");
#endif
}

// Lets another process that is ready to run on this processor run first.
inline void yield_processor() noexcept { sched_yield(); }

// Pauses between two attempts. After many attempts it sleeps: under a real-time scheduling policy, a yield never lets a
// process of lower priority run.
inline void back_off(unsigned attempt) noexcept {
  if (attempt < 64) {
    spin_pause();
  } else if (attempt < 256) {
    sched_yield();
  } else {
    const timespec pause{0, 50'000};
    nanosleep(&pause, nullptr);
  }
}

inline std::uint64_t monotonic_ns() noexcept {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

// ---- doorbell -----------------------------------------------------------------------------------

inline int bell_create() noexcept { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

// Never blocks. If the counter is at its maximum, the write fails, and the reader is awake anyway.
inline void bell_ring(int bell) noexcept {
  const std::uint64_t one = 1;
  ssize_t rc;
  do rc = write(bell, &one, sizeof one);
  while (rc < 0 && errno == EINTR);
}

inline void bell_silence(int bell) noexcept {
  std::uint64_t count;
  ssize_t rc;
  do rc = read(bell, &count, sizeof count);
  while (rc < 0 && errno == EINTR);
}

}  // namespace pipeline_executor
