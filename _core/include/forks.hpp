// Tells whether forked processes may still view the memory that this process viewed at the fork.
//
// A forked process shares the pages of a leased block with its parent, until one of them writes. So the block must not
// be reused before all forked processes have ended or released it. Nothing notifies the parent of that: a process may
// be killed, may exec another program, may close all its descriptors, or may have forked itself. But its memory
// mappings end with it, and not before. So each process is forked with a mapping made only for this purpose, the
// witness, and the parent asks the system whether any process still maps it.
//
// Processes that share one witness form a generation. Forks join the newest generation until the parent releases
// something that this generation may view. Then the parent unmaps its own mapping of the witness, so that only
// processes of the generation map it, and the next fork begins a new generation.
//
// This is private to one process, and is called with the GIL held. Nothing here allocates Python objects.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>

#include "platform.hpp"

namespace pipeline_executor {

// A range of addresses in this process that is to be mapped privately before a fork, and the lease that it belongs to.
struct AddressRange {
  unsigned char* start;
  unsigned char* stop;
  void* lease;
};

inline void sort_ranges(AddressRange* begin, AddressRange* end) noexcept {
  std::sort(begin, end, [](const AddressRange& left, const AddressRange& right) { return left.start < right.start; });
}

class Forks {
 public:
  // Call begin() before a fork, and end() after it in the parent, even if the fork failed. No generation is closed in
  // between. Otherwise another thread could release something at that moment, and the new process would have no
  // witness.
  void begin() noexcept { ++under_way_; }
  void end() noexcept {
    if (under_way_ > 0 && --under_way_ == 0 && wants_close_) close();
  }

  // The number of the generation that the next forked process will belong to; 0 if the system refuses a witness.
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

  // This process has released something that the generation may view.
  void release_views(std::uint64_t number) noexcept {
    if (newest_ == nullptr || newest_->page == nullptr || newest_->number > number) return;
    if (under_way_ > 0)
      wants_close_ = true;
    else
      close();
  }

  // Whether a process of these generations may still be alive, as of the last call of remove_ended.
  bool may_be_alive(std::uint64_t first, std::uint64_t last) const noexcept {
    for (const Generation* each = newest_; each != nullptr; each = each->older)
      if (first <= each->number && each->number <= last) return true;
    return false;
  }

  // Asks the system which generations have ended, and removes them. True: at least one has.
  bool remove_ended() noexcept {
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

  // Forgets all generations. Call it when this process views nothing that a generation could view.
  void forget_all() noexcept {
    if (under_way_ > 0) {  // the process that is being forked may view something, and needs its witness
      wants_close_ = true;
      return;
    }
    drop_generations();
  }

  // Call it in a forked process: the generations are its parent's. Keeps the inherited mappings of witnesses, because
  // they show the parent that this process is alive.
  void inherit() noexcept {
    under_way_ = 0;
    wants_close_ = false;
    for (Generation* each = newest_; each != nullptr; each = each->older) {
      if (each->page == nullptr) continue;
      Inherited* kept = new (std::nothrow) Inherited{each->page, inherited_};
      if (kept != nullptr) inherited_ = kept;  // else the page stays mapped until this process ends
      each->page = nullptr;
    }
    drop_generations();
  }

  // Unmaps the inherited witnesses. Call it when this process has released all that it inherited.
  void release_inherited() noexcept {
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
    int witness;  // descriptor of the witness
    void* page;   // this process's mapping of the witness; null: unmapped
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

  Generation* newest_ = nullptr;  // the only one that may be open, that is, whose witness this process maps
  Inherited* inherited_ = nullptr;
  std::uint64_t last_number_ = 0;
  unsigned under_way_ = 0;
  bool wants_close_ = false;
};

}  // namespace pipeline_executor
