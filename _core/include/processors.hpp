// Part of the platform seam (platform.hpp): how many processors this process may use.
//
// Spinning pays only when the other process can run meanwhile. Two things limit that: the set of processors that this
// process may run on, and the quotas of its control groups. A container with a quota of one processor sees all
// processors of the machine, but the time that one process spins is taken from the others.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sched.h>

namespace pipeline_executor {

// How many processors the process may run on. The system refuses a set that is too small for its processors, so a
// larger one is tried.
inline int allowed_processors() noexcept {
  for (int size = 1024; size <= 1 << 20; size *= 2) {
    cpu_set_t* set = CPU_ALLOC(size);
    if (set == nullptr) return 1;
    const std::size_t bytes = CPU_ALLOC_SIZE(size);
    const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return 1;
}

// How many whole processors the process's control groups allow, at least 1. A group's quota also holds for the groups
// inside it, so the lowest quota on the way from the process's own group to the outermost counts. A file that cannot be
// read sets no limit. `system` is put in front of all paths, for the tests.
class Quotas {
 public:
  static constexpr int unlimited = 1 << 30;

  explicit Quotas(const char* system = "") noexcept : system_(system) {}

  int processors() noexcept {
    char name[path_bytes], line[line_bytes];
    std::FILE* groups = open(join(name, system_, "/proc/self/cgroup"));
    if (groups == nullptr) return unlimited;
    int lowest = unlimited;
    while (std::fgets(line, sizeof line, groups) != nullptr) {
      line[std::strcspn(line, "\n")] = 0;
      // The line is number:controllers:path. Version 2 has no controllers.
      char* const controllers = std::strchr(line, ':');
      char* const path = controllers == nullptr ? nullptr : std::strchr(controllers + 1, ':');
      if (path == nullptr) continue;
      *path = 0;
      const bool unified = controllers[1] == 0;
      if (unified || has_word(controllers + 1, "cpu")) lowest = smaller(lowest, of_group(path + 1, unified));
    }
    std::fclose(groups);
    return lowest;
  }

 private:
  static constexpr std::size_t path_bytes = 4096, line_bytes = 3 * path_bytes;

  static int smaller(int left, int right) noexcept { return left < right ? left : right; }

  static std::FILE* open(const char* name) noexcept { return name == nullptr ? nullptr : std::fopen(name, "re"); }

  // Joins the parts of a path. Null: the path is too long.
  static const char* join(char (&to)[path_bytes], const char* first, const char* second,
                          const char* third = "") noexcept {
    const int length = std::snprintf(to, path_bytes, "%s%s%s", first, second, third);
    return length >= 0 && static_cast<std::size_t>(length) < path_bytes ? to : nullptr;
  }

  // Whether `word` is in the comma-separated list `words`.
  static bool has_word(const char* words, const char* word) noexcept {
    const std::size_t size = std::strlen(word);
    for (const char* at = words; at != nullptr; at = std::strchr(at, ',')) {
      if (*at == ',') ++at;
      if (std::strncmp(at, word, size) == 0 && (at[size] == 0 || at[size] == ',')) return true;
    }
    return false;
  }

  // The lowest quota of the group with this path and the groups that contain it, as far as this process can see them.
  int of_group(const char* path, bool unified) noexcept {
    char folder[path_bytes];
    std::size_t top;  // length of the part of `folder` that is the mount, where the search ends
    if (!find_folder(path, unified, folder, top)) return unlimited;
    int lowest = unlimited;
    for (;;) {
      lowest = smaller(lowest, unified ? of_version_2(folder) : of_version_1(folder));
      char* const last = std::strrchr(folder, '/');
      if (last == nullptr || static_cast<std::size_t>(last - folder) < top) return lowest;
      *last = 0;
    }
  }

  // Finds the folder with the group's files. A container may see a part of the tree only: its mount then shows `root`.
  bool find_folder(const char* path, bool unified, char (&folder)[path_bytes], std::size_t& top) noexcept {
    char name[path_bytes], line[line_bytes], root[path_bytes], at[path_bytes], type[64], options[path_bytes];
    std::FILE* mounts = open(join(name, system_, "/proc/self/mountinfo"));
    if (mounts == nullptr) return false;
    bool found = false;
    while (!found && std::fgets(line, sizeof line, mounts) != nullptr) {
      // number, parent, device, root, folder, options, other fields, "-", type, source, options of the file system
      const char* const behind = std::strstr(line, " - ");
      if (behind == nullptr || std::sscanf(line, "%*s %*s %*s %4095s %4095s", root, at) != 2 ||
          std::sscanf(behind, " - %63s %*s %4095s", type, options) != 2)
        continue;
      if (unified ? std::strcmp(type, "cgroup2") != 0 : std::strcmp(type, "cgroup") != 0 || !has_word(options, "cpu"))
        continue;
      const std::size_t shown = std::strcmp(root, "/") == 0 ? 0 : std::strlen(root);
      const bool inside = std::strncmp(path, root, shown) == 0 && (path[shown] == '/' || path[shown] == 0);
      // For a group outside of the visible tree, use the outermost visible group.
      const char* rest = inside ? path + shown : "";
      if (std::strcmp(rest, "/") == 0) rest = "";
      found = join(folder, system_, at, rest) != nullptr;
      top = std::strlen(system_) + std::strlen(at);
    }
    std::fclose(mounts);
    return found;
  }

  // The file holds "QUOTA PERIOD", in microseconds, or "max PERIOD".
  static int of_version_2(const char* folder) noexcept {
    char text[64];
    long long quota, period;
    if (!read(folder, "/cpu.max", text) || std::sscanf(text, "%lld %lld", &quota, &period) != 2) return unlimited;
    return whole(quota, period);
  }

  // A quota of -1 means none.
  static int of_version_1(const char* folder) noexcept {
    char quota[64], period[64];
    if (!read(folder, "/cpu.cfs_quota_us", quota) || !read(folder, "/cpu.cfs_period_us", period)) return unlimited;
    return whole(std::atoll(quota), std::atoll(period));
  }

  static bool read(const char* folder, const char* file, char (&text)[64]) noexcept {
    char name[path_bytes];
    std::FILE* opened = open(join(name, folder, file));
    if (opened == nullptr) return false;
    const bool got = std::fgets(text, sizeof text, opened) != nullptr;
    std::fclose(opened);
    return got;
  }

  static int whole(long long quota, long long period) noexcept {
    if (quota <= 0 || period <= 0 || quota / period >= unlimited) return unlimited;
    return quota < period ? 1 : static_cast<int>(quota / period);
  }

  const char* const system_;
};

// The number of usable processors when this process, or the process that it was forked from, first asked. It is kept,
// so that the files are not read again for each edge.
inline int usable_processors() noexcept {
  static const int count = [] {
    const int allowed = allowed_processors(), quota = Quotas().processors();
    return allowed < quota ? allowed : quota;
  }();
  return count;
}

}  // namespace pipeline_executor
