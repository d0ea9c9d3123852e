// The states that the search has seen, each with how much of each bound was left there.
#pragma once

#include <cstdint>
#include <vector>

#include "checker.hpp"

namespace model {

// A hash table with open addressing. A key may occur several times, with amounts left of which none covers another.
class Seen {
 public:
  struct Entry {
    std::uint64_t key;  // 0: free
    std::uint8_t left[5];
  };

  void clear() {
    table.assign(1 << 16, Entry{});
    used = 0;
  }
  std::uint64_t size() const { return used; }

  // True if this state, or the same state with as much left of every bound, is in the table. Else adds it.
  bool add(std::uint64_t key, const Bounds& bounds) {
    const Entry wanted{key == 0 ? 1 : key,
                       {as_byte(bounds.preemptions), as_byte(bounds.stale_loads), as_byte(bounds.weak_failures),
                        as_byte(bounds.interruptions), as_byte(bounds.deaths)}};
    const std::size_t mask = table.size() - 1;
    std::size_t at = wanted.key & mask;
    for (; table[at].key != 0; at = (at + 1) & mask) {
      if (table[at].key != wanted.key) continue;
      if (covers(table[at], wanted)) return true;
      if (covers(wanted, table[at])) {
        table[at] = wanted;
        return false;
      }
    }
    table[at] = wanted;
    if (++used * 2 > table.size()) grow();
    return false;
  }

 private:
  static std::uint8_t as_byte(unsigned value) { return static_cast<std::uint8_t>(value); }
  static bool covers(const Entry& more, const Entry& less) {
    for (unsigned index = 0; index < sizeof more.left; ++index)
      if (more.left[index] < less.left[index]) return false;
    return true;
  }
  void grow() {
    std::vector<Entry> old(table.size() * 2);
    old.swap(table);
    for (const Entry& entry : old) {
      if (entry.key == 0) continue;
      std::size_t at = entry.key & (table.size() - 1);
      while (table[at].key != 0) at = (at + 1) & (table.size() - 1);
      table[at] = entry;
    }
  }

  std::vector<Entry> table;
  std::uint64_t used = 0;
};

}  // namespace model
