// The checker's memory. Each shared atomic word is a list of its stores in modification order. Each thread has a view:
// for each word, the oldest store that it may still read. checker.hpp names the sources.
//
// A load picks a store that is not older than the thread's view of the word. If it acquires, the thread learns what the
// storing thread released with it: its view, and its clock of what happened before. All fences share one view, and each
// fence joins its thread's view with it, but not the clock: that is C++20's rule for sequentially consistent fences.
//
// A word is shared if several threads access it and one of them stores to it. An access to another word is no step.
// When a word turns out to be shared, the search starts again with that knowledge.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "machine.hpp"

namespace model {

namespace {

constexpr std::size_t granule = 4;
constexpr std::size_t granules = memory_bytes / granule;
constexpr std::uint8_t not_shared = 255;

struct Store {
  std::uint64_t value;
  std::uint64_t id;  // a hash of how the store came about
  Knowledge released;
};

struct Word {
  unsigned char* where;
  unsigned bytes;
  unsigned count;         // number of stores, with the initial one
  std::uint64_t history;  // a hash of the modification order
  Store stores[max_stores];
};

struct Touch {  // accesses to an atomic word that is not yet known as shared; one bit per thread
  std::uint64_t execution;
  std::uint8_t loaded_by, stored_by;
};

struct Name {
  std::size_t from, to;
  char text[40];
};

alignas(64) unsigned char shared_memory[memory_bytes];
unsigned char saved_memory[memory_bytes];
Word words[max_words];
unsigned word_count;
std::uint8_t word_of[granules];
Touch touched[granules];
View fences;  // the view that all sequentially consistent fences share
Name names[400];
unsigned name_count;

std::size_t offset_of(const volatile void* where) {
  const std::size_t offset =
      static_cast<std::size_t>(static_cast<const volatile unsigned char*>(where) - shared_memory);
  if (offset >= memory_bytes) {
    std::fprintf(stderr, "an atomic lies outside of the memory that the checker models\n");
    std::exit(2);
  }
  return offset;
}

std::uint64_t raw(const void* where, unsigned bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, where, bytes);  // byte order does not matter, because set_raw does the same
  if (bytes == 4) {
    std::uint32_t narrow;
    std::memcpy(&narrow, where, 4);
    value = narrow;
  }
  return value;
}

void set_raw(void* where, unsigned bytes, std::uint64_t value) {
  if (bytes == 4) {
    const std::uint32_t narrow = static_cast<std::uint32_t>(value);
    std::memcpy(where, &narrow, 4);
  } else {
    std::memcpy(where, &value, 8);
  }
}

bool acquires(int order) { return order == __ATOMIC_ACQUIRE || order == __ATOMIC_ACQ_REL; }
bool releases(int order) { return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL; }
const char* text_of(int order) {
  switch (order) {
    case __ATOMIC_RELAXED: return "relaxed";
    case __ATOMIC_ACQUIRE: return "acquire";
    case __ATOMIC_RELEASE: return "release";
    case __ATOMIC_ACQ_REL: return "acq_rel";
    default: fail("an access has the order seq_cst or consume, which the checker does not model");
  }
}

// Returns the word; null: it is not shared.
Word* word_at(const void* where, unsigned bytes, bool stores) {
  const std::size_t at = offset_of(where) / granule;
  if (word_of[at] != not_shared) return &words[word_of[at]];
  Touch& touch = touched[at];
  if (touch.execution != machine.execution) touch = {machine.execution, 0, 0};
  const unsigned bit = 1u << machine.current;
  (stores ? touch.stored_by : touch.loaded_by) |= static_cast<std::uint8_t>(bit);
  const unsigned all = touch.loaded_by | touch.stored_by;
  if (touch.stored_by == 0 || (all & (all - 1)) == 0) return nullptr;
  if (word_count == max_words) {
    std::fprintf(stderr, "more shared words than the checker has room for\n");
    std::exit(2);
  }
  word_of[at] = static_cast<std::uint8_t>(word_count);
  words[word_count].where = shared_memory + at * granule;
  words[word_count++].bytes = bytes;
  restart_search();
}

unsigned index_of(const Word& word) { return static_cast<unsigned>(&word - words); }

// The thread has executed an operation that is not a load.
void acted() {
  me().loaded = 0;
  me().acted = true;
}

void tick() { ++me().now.clock.at[machine.current]; }

// The thread reads this store.
void read(const Word& word, unsigned store_index, int order) {
  Thread& thread = me();
  const Store& store = word.stores[store_index];
  std::uint8_t& oldest = thread.now.view.at[index_of(word)];
  if (store_index > oldest) oldest = static_cast<std::uint8_t>(store_index);
  if (acquires(order)) {
    thread.now.join(store.released);
  } else {
    thread.unfenced.join(store.released);
  }
  thread.history = mix(thread.history, store.id);
}

// The thread appends a store to the modification order. A read-modify-write continues the release sequence of the
// previous store.
void append(Word& word, unsigned bytes, std::uint64_t value, int order, bool modifies) {
  if (word.count == max_stores) fail("more stores to %s than the checker has room for", name_of(word.where));
  Thread& thread = me();
  acted();
  thread.now.view.at[index_of(word)] = static_cast<std::uint8_t>(word.count);
  thread.history = mix(thread.history, 2);
  Store& store = word.stores[word.count];
  store.value = value;
  store.id = mix(mix(thread.history, index_of(word)), machine.current);
  store.released = releases(order) ? thread.now : thread.fenced;
  // A thread that reads this store reads no older one afterwards, even if it does not acquire.
  if (modifies) store.released.join(word.stores[word.count - 1].released);
  ++word.count;
  machine.words_hash -= word.history;
  word.history = mix(word.history, store.id);
  machine.words_hash += word.history;
  set_raw(word.where, bytes, value);
  tick();
}

unsigned choose_store(unsigned newest, unsigned oldest) {
  if (newest == oldest || machine.left.stale_loads == 0) return newest;
  const unsigned older = choose(newest - oldest + 1);
  if (older > 0 && machine.left.stale_loads != unlimited) --machine.left.stale_loads;
  return newest - older;
}

}  // namespace

// ---- for the scheduler --------------------------------------------------------------------------

unsigned char* memory() noexcept { return shared_memory; }

void name(const volatile void* where, std::size_t bytes, const char* text, unsigned index) noexcept {
  if (name_count == sizeof names / sizeof names[0]) return;
  Name& added = names[name_count++];
  added.from = offset_of(where);
  added.to = added.from + bytes;
  std::snprintf(added.text, sizeof added.text, text, index);
}

const char* name_of(const void* where) noexcept {
  static char unknown[2][40];
  static unsigned next;
  const std::size_t offset = offset_of(where);
  const Name* narrowest = nullptr;
  for (unsigned index = 0; index < name_count; ++index) {
    const Name& candidate = names[index];
    if (candidate.from <= offset && offset < candidate.to &&
        (narrowest == nullptr || candidate.to - candidate.from < narrowest->to - narrowest->from))
      narrowest = &candidate;
  }
  if (narrowest != nullptr) return narrowest->text;
  next = 1 - next;
  std::snprintf(unknown[next], sizeof unknown[next], "the word at %zu", offset);
  return unknown[next];
}

void forget_words() noexcept {
  word_count = 0;
  name_count = 0;
  std::memset(word_of, not_shared, sizeof word_of);
  std::memset(shared_memory, 0, sizeof shared_memory);
}

void save_memory() noexcept { std::memcpy(saved_memory, shared_memory, sizeof saved_memory); }

void reset_memory() noexcept {
  std::memcpy(shared_memory, saved_memory, sizeof saved_memory);
  for (unsigned index = 0; index < word_count; ++index) {
    Word& word = words[index];
    word.count = 1;
    word.history = mix(index, 1);
    word.stores[0].value = raw(word.where, word.bytes);
    word.stores[0].id = word.history;
    std::memset(&word.stores[0].released, 0, sizeof word.stores[0].released);
  }
  std::memset(&fences, 0, sizeof fences);
  ++machine.execution;
}

unsigned shared_words() noexcept { return word_count; }

bool has_newer_store(const Thread& thread) noexcept {
  for (unsigned index = 0; index < word_count; ++index)
    if ((thread.loaded >> index & 1) != 0 && words[index].count > thread.now.view.at[index] + 1u) return true;
  return false;
}

void see_newest_stores(Thread& thread) noexcept {
  for (unsigned index = 0; index < word_count; ++index) {
    if ((thread.loaded >> index & 1) == 0) continue;
    const Word& word = words[index];
    thread.now.view.at[index] = static_cast<std::uint8_t>(word.count - 1);
    thread.history = mix(thread.history, word.stores[word.count - 1].id);
  }
  thread.loaded = 0;
}

// ---- the operations -----------------------------------------------------------------------------

std::uint64_t load(const void* where, unsigned bytes, int order) noexcept {
  if (!machine.active) return raw(where, bytes);
  Word* word = word_at(where, bytes, false);
  if (word == nullptr) return raw(where, bytes);
  point();
  const unsigned newest = word->count - 1;
  const unsigned chosen = choose_store(newest, me().now.view.at[index_of(*word)]);
  read(*word, chosen, order);
  me().loaded |= std::uint64_t{1} << index_of(*word);
  trace("load %s %s -> %llu%s", name_of(where), text_of(order),
        static_cast<unsigned long long>(word->stores[chosen].value), chosen == newest ? "" : "   (stale)");
  return word->stores[chosen].value;
}

void store(void* where, unsigned bytes, std::uint64_t value, int order) noexcept {
  Word* word = machine.active ? word_at(where, bytes, true) : nullptr;
  if (word == nullptr) return set_raw(where, bytes, value);
  point();
  trace("store %s %s = %llu", name_of(where), text_of(order), static_cast<unsigned long long>(value));
  append(*word, bytes, value, order, false);
}

std::uint64_t change(void* where, unsigned bytes, Change how, std::uint64_t operand, int order) noexcept {
  Word* word = machine.active ? word_at(where, bytes, true) : nullptr;
  if (word != nullptr) point();
  const std::uint64_t old = raw(where, bytes);  // the newest
  std::uint64_t value = how == Change::exchange ? operand : how == Change::add ? old + operand : old - operand;
  if (bytes == 4) value = static_cast<std::uint32_t>(value);
  if (word == nullptr) {
    set_raw(where, bytes, value);
    return old;
  }
  trace("change %s %s %llu -> %llu", name_of(where), text_of(order), static_cast<unsigned long long>(old),
        static_cast<unsigned long long>(value));
  read(*word, word->count - 1, order);
  append(*word, bytes, value, order, true);
  return old;
}

bool compare_exchange(void* where, unsigned bytes, std::uint64_t& expected, std::uint64_t desired, int success,
                      int failure, bool weak) noexcept {
  Word* word = machine.active ? word_at(where, bytes, true) : nullptr;
  if (word == nullptr) {
    const std::uint64_t found = raw(where, bytes);
    if (found == expected) set_raw(where, bytes, desired);
    const bool done = found == expected;
    expected = found;
    return done;
  }
  point();
  // The possible outcomes: success, if the newest store has the expected value; a failure for each readable store with
  // another value; and, if the exchange is weak, a spurious failure for each readable store with the expected value.
  const unsigned newest = word->count - 1, oldest = me().now.view.at[index_of(*word)];
  struct Way {
    unsigned store;
    bool succeeds, without_cause;
  } ways[2 * max_stores];
  unsigned count = 0;
  if (word->stores[newest].value == expected) ways[count++] = {newest, true, false};
  for (unsigned back = 0; back <= newest - oldest; ++back) {
    const unsigned index = newest - back;
    const bool without_cause = word->stores[index].value == expected;
    if (without_cause && (!weak || machine.left.weak_failures == 0)) continue;
    if (back > 0 && machine.left.stale_loads == 0) continue;
    ways[count++] = {index, false, without_cause};
  }
  const Way way = ways[count > 1 ? choose(count) : 0];
  if (way.without_cause && machine.left.weak_failures != unlimited) --machine.left.weak_failures;
  if (way.store != newest && machine.left.stale_loads != unlimited) --machine.left.stale_loads;
  const std::uint64_t found = word->stores[way.store].value;
  trace("compare_exchange %s %s: expects %llu, finds %llu%s, %s %llu", name_of(where),
        text_of(way.succeeds ? success : failure), static_cast<unsigned long long>(expected),
        static_cast<unsigned long long>(found), way.store == newest ? "" : " (stale)",
        way.succeeds ? "writes" : "fails to write", static_cast<unsigned long long>(desired));
  read(*word, way.store, way.succeeds ? success : failure);
  expected = found;
  if (way.succeeds) {
    append(*word, bytes, desired, success, true);
  } else {
    me().history = mix(me().history, 3);
    me().loaded |= std::uint64_t{1} << index_of(*word);
  }
  return way.succeeds;
}

void fence() noexcept {
  if (!machine.active) return;
  point();
  trace("fence");
  Thread& thread = me();
  acted();
  thread.now.join(thread.unfenced);
  fences.join(thread.now.view);
  thread.now.view = fences;
  thread.fenced = thread.now;
  machine.fences_hash = mix(machine.fences_hash, thread.history);
  thread.history = mix(thread.history, machine.fences_hash);
  tick();
}

bool park(const void* where, std::uint32_t expected) noexcept {
  point();
  Word* word = word_at(where, 4, false);
  Thread& thread = me();
  acted();
  if (word != nullptr) read(*word, word->count - 1, __ATOMIC_RELAXED);  // the kernel compares the newest
  const std::uint64_t found = raw(where, 4);
  if (found != expected) {
    trace("park on %s: refused, because it is now %llu", name_of(where), static_cast<unsigned long long>(found));
    return false;
  }
  trace("park on %s while it is %llu", name_of(where), static_cast<unsigned long long>(found));
  thread.parked_on = where;
  thread.woken = thread.interrupted = false;
  block(Activity::parked);
  thread.history = mix(thread.history, thread.interrupted ? 5 : 4);
  trace(thread.interrupted ? "is interrupted by a signal" : "wakes up");
  return thread.interrupted;
}

void unpark(const void* word, int how_many) noexcept {
  point();
  acted();
  unsigned sleepers[max_threads], count = 0;
  for (unsigned index = 0; index < machine.count; ++index) {
    const Thread& thread = machine.threads[index];
    if (thread.activity == Activity::parked && !thread.woken && thread.parked_on == word) sleepers[count++] = index;
  }
  if (count == 0) trace("unpark on %s: no thread sleeps", name_of(word));
  for (; how_many > 0 && count > 0; --how_many) {
    const unsigned chosen = static_cast<unsigned>(how_many) < count ? choose(count) : 0;  // any of them
    machine.threads[sleepers[chosen]].woken = true;
    trace("unpark on %s: wakes %s", name_of(word), thread_name(sleepers[chosen]));
    sleepers[chosen] = sleepers[--count];
  }
  me().history = mix(me().history, 6);
}

}  // namespace model
