// What the scenarios share: one edge in the checker's memory, and producers and consumers that use it as the bindings
// do (_core/edge.pxi): first the attempt that does not wait, then the one that does.
#pragma once

#include <cstdint>

#include "checker.hpp"
#include "layout.hpp"

namespace rig {

using namespace pipeline_executor;

constexpr unsigned most_messages = 24;  // of all producers
constexpr std::uint64_t nothing = UINT64_MAX;

struct Setting {
  unsigned producers = 1, consumers = 1;
  unsigned messages = 1;        // of each producer
  unsigned limit = 1;           // packets_in_flight
  unsigned max_bytes = 1 << 20;
  bool blocks = false;          // messages lie in arena blocks
  bool may_stop_early = false;
  bool rings_bell = false;
  Cause testament_of = Cause::none;   // who aborts with that leaves a testament
  unsigned leave_after = UINT32_MAX;  // the first consumers return when they have had so many
  unsigned leavers = 1;               // so many of them
  bool gives_up = false;              // a producer ends when its wait for bytes is interrupted
  bool marks_leaving = false;         // and it matters what came before that
};

// Kept outside the checker's memory, as the testers' own knowledge.
struct Record {
  unsigned in_flight;
  unsigned published;           // publish() returned ok
  unsigned claimed;             // publish() was entered
  unsigned taken[most_messages];
  unsigned taken_in_all;
  unsigned next_number[model::max_threads][model::max_threads];  // by consumer and producer: the least that may come
  Status produced[model::max_threads], consumed[model::max_threads];
  bool has_left[model::max_threads];
  unsigned left_at;             // a mark: the first of them has returned
  unsigned last_taken_at, leaving_at;  // marks: an item was taken; the first of them began to return
  bool published_after_leaving;
};

extern Setting setting;
extern Record record;
extern Region region;
extern Edge* edge;

// A word of plain memory beside the region: with one packet in flight, the steps take turns on it.
std::uint64_t* turns() noexcept;
// What an aborter leaves for those that see its abort.
std::uint64_t* testament() noexcept;

void set_up() noexcept;   // the region and the edge as `setting` says
void start() noexcept;    // forget what was recorded
const char* const* thread_names() noexcept;  // producers, consumers, then "supervisor"

unsigned consumer_entry(unsigned consumer) noexcept;
std::uint64_t size_of_message() noexcept;
bool make(Message& message, unsigned producer, unsigned number) noexcept;
void look_at(const Message& message, unsigned consumer) noexcept;

Status reserve(unsigned producer, std::uint64_t& released_seen, Spin& spin) noexcept;
Status send(unsigned producer, unsigned number, Spin& spin) noexcept;
void produce(unsigned producer) noexcept;

Status take(unsigned consumer, Spin& spin) noexcept;
void let_go(unsigned consumer) noexcept;
bool abort(Cause cause, std::uint32_t replica) noexcept;  // with a testament, if that is wanted of it
void consume(unsigned consumer) noexcept;

void thread(unsigned index) noexcept;         // a producer or a consumer
void check_that_all_arrived() noexcept;

}  // namespace rig
