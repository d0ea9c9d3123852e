// Part of the platform seam (platform.hpp): how many processors this process may use.
//
// Spinning pays only when the peer can run meanwhile. What limits that is the set of processors that the process may run on
// and the quotas of its control groups: a container with a quota of one processor sees all of the machine's, but what one
// process spends on spinning, its peer lacks.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sched.h>

namespace pipeline_executor {

// Processors that the process may run on. The set of the system may be larger than a cpu_set_t, and is refused then.
inline int allowed_processors() noexcept {
  for (int most = 1024; most <= 1 << 20; most *= 2) {
    cpu_set_t* set = CPU_ALLOC(most);
    if (set == nullptr) return 1;
    const std::size_t bytes = CPU_ALLOC_SIZE(most);
    const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return 1;
}

// What the process's control groups allow in whole processors, at least 1. A group's quota holds for the groups in it,
// so the least of all from the process's own up to the outermost counts. What cannot be read does not limit. `system` is put
// in front of all paths, for the tests.
class Quotas {
 public:
  static constexpr int unlimited = 1 << 30;

  explicit Quotas(const char* system = "") noexcept : system_(system) {}

  int processors() noexcept {
    char name[path_bytes], line[line_bytes];
    std::FILE* groups = open(join(name, system_, "/proc/self/cgroup"));
    if (groups == nullptr) return unlimited;
    int least = unlimited;
    while (std::fgets(line, sizeof line, groups) != nullptr) {
      line[std::strcspn(line, "\n")] = 0;
      char* const controllers = std::strchr(line, ':');  // number:controllers:path; those of version 2 have none
      char* const path = controllers == nullptr ? nullptr : std::strchr(controllers + 1, ':');
      if (path == nullptr) continue;
      *path = 0;
      const bool unified = controllers[1] == 0;
      if (unified || has_word(controllers + 1, "cpu")) least = smaller(least, of_group(path + 1, unified));
    }
    std::fclose(groups);
    return least;
  }

 private:
  static constexpr std::size_t path_bytes = 4096, line_bytes = 3 * path_bytes;

  static int smaller(int left, int right) noexcept { return left < right ? left : right; }

  static std::FILE* open(const char* name) noexcept { return name == nullptr ? nullptr : std::fopen(name, "re"); }

  // Null if it is too long.
  static const char* join(char (&to)[path_bytes], const char* first, const char* second, const char* third = "") noexcept {
    const int length = std::snprintf(to, path_bytes, "%s%s%s", first, second, third);
    return length >= 0 && static_cast<std::size_t>(length) < path_bytes ? to : nullptr;
  }

  // Whether `word` is one of `words`, which have commas between them.
  static bool has_word(const char* words, const char* word) noexcept {
    const std::size_t size = std::strlen(word);
    for (const char* at = words; at != nullptr; at = std::strchr(at, ',')) {
      if (*at == ',') ++at;
      if (std::strncmp(at, word, size) == 0 && (at[size] == 0 || at[size] == ',')) return true;
    }
    return false;
  }

  // Of the group with this path and all that it lies in, as far as they can be seen here.
  int of_group(const char* path, bool unified) noexcept {
    char folder[path_bytes];
    std::size_t top;  // characters of `folder` that are not to be left
    if (!find_folder(path, unified, folder, top)) return unlimited;
    int least = unlimited;
    for (;;) {
      least = smaller(least, unified ? of_version_2(folder) : of_version_1(folder));
      char* const last = std::strrchr(folder, '/');
      if (last == nullptr || static_cast<std::size_t>(last - folder) < top) return least;
      *last = 0;
    }
  }

  // Where the group's files are. A container may see a part of the tree only: `root` of a mount is what its folder shows.
  bool find_folder(const char* path, bool unified, char (&folder)[path_bytes], std::size_t& top) noexcept {
    char name[path_bytes], line[line_bytes], root[path_bytes], at[path_bytes], type[64], options[path_bytes];
    std::FILE* mounts = open(join(name, system_, "/proc/self/mountinfo"));
    if (mounts == nullptr) return false;
    bool found = false;
    while (!found && std::fgets(line, sizeof line, mounts) != nullptr) {
      // number, parent, device, root, folder, options, any number of fields, "-", type, source, the file system's options
      const char* const behind = std::strstr(line, " - ");
      if (behind == nullptr || std::sscanf(line, "%*s %*s %*s %4095s %4095s", root, at) != 2 ||
          std::sscanf(behind, " - %63s %*s %4095s", type, options) != 2)
        continue;
      if (unified ? std::strcmp(type, "cgroup2") != 0
                  : std::strcmp(type, "cgroup") != 0 || !has_word(options, "cpu"))
        continue;
      const std::size_t shown = std::strcmp(root, "/") == 0 ? 0 : std::strlen(root);
      const bool inside = std::strncmp(path, root, shown) == 0 && (path[shown] == '/' || path[shown] == 0);
      const char* rest = inside ? path + shown : "";  // a group outside of what is seen: the outermost that is
      if (std::strcmp(rest, "/") == 0) rest = "";
      found = join(folder, system_, at, rest) != nullptr;
      top = std::strlen(system_) + std::strlen(at);
    }
    std::fclose(mounts);
    return found;
  }

  // "max 100000", or microseconds in each so many.
  static int of_version_2(const char* folder) noexcept {
    char text[64];
    long long quota, period;
    if (!read(folder, "/cpu.max", text) || std::sscanf(text, "%lld %lld", &quota, &period) != 2) return unlimited;
    return whole(quota, period);
  }

  // A quota of -1: none.
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

// As it was when this process, or the one that it is a fork of, first asked: the files are not read for each edge.
inline int usable_processors() noexcept {
  static const int count = [] {
    const int allowed = allowed_processors(), quota = Quotas().processors();
    return allowed < quota ? allowed : quota;
  }();
  return count;
}

}  // namespace pipeline_executor
