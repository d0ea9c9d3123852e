// Which processes that were forked from this one may still view what it viewed.
//
// Forked processes share the pages of a leased block with their parent until one of them writes. So the block must not
// be reused before all of them are gone, or have let go of it. Nobody tells the parent when that is: a process may be killed,
// may become another program, close every descriptor, or have forked itself. What ends with it, and only then, is
// its mappings. So each process is forked with a mapping made for this alone, the witness, and the parent asks the
// system whether anybody still maps it.
//
// Forks share a witness, and are one generation, as long as the parent lets go of nothing that they view. The parent unmaps
// its own mapping when it first does; from then on the generation's processes are the only ones that can have one, and
// the next fork begins a new generation.
//
// All is of one process, and is called under the GIL. Nothing here allocates Python objects.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>

#include "platform.hpp"

namespace pipeline_executor {

// What is to be mapped privately before a fork, by addresses in this process, and whose it is.
struct Stretch {
  unsigned char* start;
  unsigned char* stop;
  void* lease;
};

inline void sort_stretches(Stretch* begin, Stretch* end) noexcept {
  std::sort(begin, end, [](const Stretch& left, const Stretch& right) { return left.start < right.start; });
}

class Forks {
 public:
  // Before a fork, and after it in the parent, whether it succeeded or not. In between no generation is closed, so that
  // the process being forked cannot miss its witness because another thread lets go of something.
  void begin() noexcept { ++under_way_; }
  void end() noexcept {
    if (under_way_ > 0 && --under_way_ == 0 && wants_close_) close();
  }

  // The number of the generation that the next process to be forked belongs to; 0 if the system refuses a witness.
  std::uint64_t generation() noexcept {
    if (newest_ != nullptr && newest_->page != nullptr) return newest_->number;
    Generation* made = new (std::nothrow) Generation;
    if (made == nullptr) return 0;
    made->witness = witness_create(&made->page);
    if (made->witness < 0) {
      delete made;
      return 0;
    }
    made->number = ++last_number_;
    made->older = newest_;
    newest_ = made;
    return made->number;
  }

  // This process has let go of something that the generation may view.
  void let_go(std::uint64_t number) noexcept {
    if (newest_ == nullptr || newest_->page == nullptr || newest_->number > number) return;
    if (under_way_ > 0)
      wants_close_ = true;
    else
      close();
  }

  // Whether a process of these generations may still be there, as far as was seen.
  bool any(std::uint64_t first, std::uint64_t last) const noexcept {
    for (const Generation* each = newest_; each != nullptr; each = each->older)
      if (first <= each->number && each->number <= last) return true;
    return false;
  }

  // Asks the system which generations are gone. True if there are fewer than before.
  bool look() noexcept {
    bool fewer = false;
    for (Generation** at = &newest_; *at != nullptr;) {
      Generation* each = *at;
      if (each->page == nullptr && witness_is_alone(each->witness)) {
        *at = each->older;
        memory_close(each->witness);
        delete each;
        fewer = true;
      } else {
        at = &each->older;
      }
    }
    return fewer;
  }

  // This process views nothing that a generation could view, so it need not know.
  void forget_all() noexcept {
    if (under_way_ > 0) {  // the one who is being forked may view something: its witness has to be there
      wants_close_ = true;
      return;
    }
    drop_generations();
  }

  // In a process that has just been forked: the generations are its parent's. What it has inherited of witnesses says
  // that it is there.
  void inherit() noexcept {
    under_way_ = 0;
    wants_close_ = false;
    for (Generation* each = newest_; each != nullptr; each = each->older) {
      if (each->page == nullptr) continue;
      Inherited* kept = new (std::nothrow) Inherited{each->page, inherited_};
      if (kept != nullptr) inherited_ = kept;  // else it stays mapped to this process's end
      each->page = nullptr;
    }
    drop_generations();
  }

  // In the same: it has let go of all that it has inherited.
  void let_go_of_inheritance() noexcept {
    while (inherited_ != nullptr) {
      Inherited* each = inherited_;
      inherited_ = each->next;
      witness_unmap(each->page);
      delete each;
    }
  }

 private:
  struct Generation {
    std::uint64_t number;
    int witness;  // descriptor
    void* page;   // where this process maps it; null: it does not any more
    Generation* older;
  };
  struct Inherited {
    void* page;
    Inherited* next;
  };

  void close() noexcept {
    wants_close_ = false;
    if (newest_ == nullptr || newest_->page == nullptr) return;
    witness_unmap(newest_->page);
    newest_->page = nullptr;
  }

  void drop_generations() noexcept {
    while (newest_ != nullptr) {
      Generation* each = newest_;
      newest_ = each->older;
      if (each->page != nullptr) witness_unmap(each->page);
      memory_close(each->witness);
      delete each;
    }
  }

  Generation* newest_ = nullptr;  // the only one that may be open: that this process maps
  Inherited* inherited_ = nullptr;
  std::uint64_t last_number_ = 0;
  unsigned under_way_ = 0;
  bool wants_close_ = false;
};

}  // namespace pipeline_executor
