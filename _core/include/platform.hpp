// The platform seam: everything that differs between operating systems, and nothing else.
//
// Three things: shared memory without a name, parking on a 32-bit word that works between processes, and
// a doorbell that can be polled together with process handles. No other file asks which system this is.
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

// Creates anonymous shared memory of `size` bytes, all zero and sparse: a page costs memory once touched.
// Its size is sealed, so that no process can truncate it under a reader. Returns a descriptor that is closed
// on exec, or -1 with errno set.
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

// Leaves a mapping out of core dumps: a region has the addresses of several times the machine's memory, and the kernel would
// write all that is in it when a replica crashes. Where the system cannot, dumps are large, which is not an error.
inline void* memory_keep_from_dumps(void* base, std::size_t size) noexcept {
  if (base != MAP_FAILED) madvise(base, size, MADV_DONTDUMP);
  return base;
}

inline void* memory_map(int fd, std::size_t size) noexcept {
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  return base == MAP_FAILED ? nullptr : memory_keep_from_dumps(base, size);
}

// Puts a mapping that was just made, or refused, in the place of another. Made elsewhere and moved, because a refused
// MAP_FIXED may leave a hole. False if the system refuses; then nothing is changed.
inline bool memory_move(void* made, void* at, std::size_t size) noexcept {
  if (made == MAP_FAILED) return false;
  memory_keep_from_dumps(made, size);  // which moves with it; and the mappings of a region stay alike, so that they become one
  if (mremap(made, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED) return true;
  munmap(made, size);
  return false;
}

// Puts a private mapping in the place of whole pages of a shared one: what is written there from now on, by this process or one
// that it forks, is its own. Nothing that was written before is lost, also not by another thread at this moment.
// False if the system refuses; then nothing is changed.
inline bool memory_map_privately(int fd, std::uint64_t offset, void* at, std::size_t size) noexcept {
  return memory_move(
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, static_cast<off_t>(offset)), at, size);
}

// The way back. What was written to the private mapping is gone.
inline bool memory_map_again(int fd, std::uint64_t offset, void* at, std::size_t size) noexcept {
  return memory_move(
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(offset)), at, size);
}

// Makes every page of a private mapping this process's own, while others may be writing there.
inline void memory_copy_pages(void* at, std::size_t size) noexcept {
  const std::uint64_t page = page_bytes();
  for (std::size_t offset = 0; offset < size; offset += page)
    __atomic_fetch_or(static_cast<unsigned char*>(at) + offset, 0, __ATOMIC_RELAXED);
}

inline void memory_unmap(void* base, std::size_t size) noexcept { munmap(base, size); }

// Also after a failure whose errno is still to be reported.
inline void memory_close(int fd) noexcept {
  const int saved = errno;
  close(fd);
  errno = saved;
}

// Frees the memory of whole pages, for all processes that share it; they read as zero afterwards. Where the system
// cannot, the pages stay, which is not an error.
inline void memory_give_back(void* at, std::size_t size) noexcept { madvise(at, size, MADV_REMOVE); }

// Frees the memory of whole pages by their place in the file.
inline void memory_punch(int fd, std::uint64_t offset, std::uint64_t size) noexcept {
  fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(size));
}

// Puts private memory with the same content in the place of whole pages of shared memory, in this process alone. False
// if the system has no memory for it; then nothing is changed. Nobody else may write there meanwhile.
inline bool memory_copy_privately(void* at, std::size_t size) noexcept {
  void* copy = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return false;
  std::memcpy(copy, at, size);
  return memory_move(copy, at, size);
}

// A mapping that is there to be inherited: as long as anybody maps it, a process that was forked with it is there, or one that
// was forked from that. Returns a descriptor, which says so, or -1. `*page` is this process's own mapping.
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

// Whether nobody maps it. The system refuses to seal a file against writing while somebody maps it writable (fcntl(2),
// F_SEAL_WRITE: EBUSY).
inline bool witness_is_alone(int fd) noexcept { return fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0; }

// Gives up what this process has written to whole pages of a private mapping.
inline void memory_forget(void* at, std::size_t size) noexcept { madvise(at, size, MADV_DONTNEED); }

inline std::uint64_t physical_memory_bytes() noexcept {
  const long pages = sysconf(_SC_PHYS_PAGES);
  return pages > 0 ? static_cast<std::uint64_t>(pages) * page_bytes() : 0;
}

// ---- parking ------------------------------------------------------------------------------------

enum class ParkResult { woken, interrupted };

// Sleeps while *word == expected, until somebody calls unpark_* or the time is over. `interrupted` means that a signal
// handler has to run, or may have to: the time is over. The operation is the shared kind (no FUTEX_PRIVATE_FLAG): the word lies in memory that several
// processes map at different addresses.
inline ParkResult park(Atomic<std::uint32_t>* word, std::uint32_t expected, std::uint64_t timeout_ns) noexcept {
  const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000u), static_cast<long>(timeout_ns % 1'000'000'000u)};
  const long rc = syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(word), FUTEX_WAIT, expected, &timeout,
                          nullptr, 0);
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

// Lets whoever is ready to run on this processor run first.
inline void yield_processor() noexcept { sched_yield(); }

// Lets another process run. After many fruitless turns it sleeps, because under a real-time scheduling policy a
// yield never lets a process of lower priority run.
inline void back_off(unsigned turn) noexcept {
  if (turn < 64) {
    spin_pause();
  } else if (turn < 256) {
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

// Never blocks: a counter that is already at its maximum has the reader awake anyway.
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
