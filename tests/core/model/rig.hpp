// Shared by the scenarios: one edge in the checker's memory, and producers and consumers that use it as the bindings do
// (_core/edge.pxi): first the attempt that does not wait, then the one that waits.
#pragma once

#include <cstdint>

#include "checker.hpp"
#include "layout.hpp"

namespace rig {

using namespace pipeline_executor;

constexpr unsigned max_messages = 24;  // of all producers together
constexpr std::uint64_t nothing = UINT64_MAX;

struct Setting {
  unsigned producers = 1, consumers = 1;
  unsigned messages = 1;  // per producer
  unsigned limit = 1;     // packets_in_flight
  unsigned max_bytes = 1 << 20;
  bool blocks = false;  // messages lie in arena blocks
  bool may_stop_early = false;
  bool rings_bell = false;
  Cause aborter_word_of = Cause::none;  // an abort with this cause first writes the aborter's word
  unsigned leave_after = UINT32_MAX;    // the leaving consumers return after so many items
  unsigned leavers = 1;                 // the first so many consumers leave
  bool gives_up = false;                // a producer ends when its wait for free bytes is interrupted
  bool marks_leaving = false;           // records the order of taking an item and of leaving
};

// Kept outside the checker's memory: it is what the test knows, not part of what is tested.
struct Record {
  unsigned in_flight;
  unsigned published;  // publish() returned ok
  unsigned claimed;    // publish() was entered
  unsigned taken[max_messages];
  unsigned taken_in_all;
  unsigned next_number[model::max_threads]
                      [model::max_threads];  // by consumer and producer: the lowest number that may come
  Status produced[model::max_threads], consumed[model::max_threads];
  bool has_left[model::max_threads];
  unsigned left_at;                    // mark of the moment after the first leaving consumer has returned
  unsigned last_taken_at, leaving_at;  // marks: an item was taken; the first leaving consumer began to return
  bool published_after_leaving;
};

extern Setting setting;
extern Record record;
extern Region region;
extern Edge* edge;

// A word of plain memory beside the region. With one packet in flight the steps alternate, and each changes the word:
// if nothing ordered them, the checker would report a data race.
std::uint64_t* shared_word() noexcept;
// A word that an aborter writes before its abort, for the threads that see the abort.
std::uint64_t* aborter_word() noexcept;

void set_up() noexcept;                      // sets up the region and the edge as `setting` says
void start() noexcept;                       // clears `record`
const char* const* thread_names() noexcept;  // producers, consumers, then "supervisor"

unsigned consumer_entry(unsigned consumer) noexcept;
std::uint64_t size_of_message() noexcept;
bool make(Message& message, unsigned producer, unsigned number) noexcept;
void look_at(const Message& message, unsigned consumer) noexcept;

Status reserve(unsigned producer, std::uint64_t& released_seen, Spin& spin) noexcept;
Status send(unsigned producer, unsigned number, Spin& spin) noexcept;
void produce(unsigned producer) noexcept;

Status take(unsigned consumer, Spin& spin) noexcept;
void release_item(unsigned consumer) noexcept;
bool abort(Cause cause, std::uint32_t replica) noexcept;  // writes the aborter's word first, if `setting` says so
void consume(unsigned consumer) noexcept;

void thread(unsigned index) noexcept;  // a producer or a consumer
void check_that_all_arrived() noexcept;

}  // namespace rig
