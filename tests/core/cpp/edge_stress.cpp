// Stress test of one edge, with threads that share one mapping:
//
//   edge_stress MODE spins|parks PRODUCERS CONSUMERS MESSAGES LIMIT MAX_BYTES
//
// tests/core/test_headers.py runs it, plainly and under sanitizers. It prints "ok" and exits with 0, or prints what was
// wrong and exits with 1. Messages are written and read by plain memory accesses, in ring cells and in arena blocks, so
// that ThreadSanitizer sees whether the edge orders them. The program's own counters are relaxed atomics and it uses no
// lock, so it adds no order between the threads.
//
// Modes (in the last three the producers never end by themselves, and MESSAGES is ignored):
//   complete   every message arrives exactly once, in each producer's order, and the counters agree
//   signals    the same, while a signal interrupts the threads again and again
//   stop       a consumer leaves early, as it may: all threads end, and the run is not aborted
//   quit       a consumer leaves early, though it may not: the run is aborted in its name (rule R3)
//   abort      a consumer aborts the run: all threads end
//
// With -DWEAKENED every release in the headers becomes relaxed. ThreadSanitizer must then report races, which shows
// that it would see one.

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <string>
#include <thread>
#include <vector>

#include <atomic>
#include <new>

#ifdef WEAKENED
#define memory_order_release memory_order_relaxed
#define memory_order_acq_rel memory_order_relaxed
#endif

#include "check.hpp"
#include "layout.hpp"

using namespace pipeline_executor;

namespace {

constexpr auto relaxed = std::memory_order_relaxed;

struct Content {  // what each message starts with
  std::uint32_t producer, number;
};

struct Stress {
  std::string mode;
  bool parks;  // sleeps without spinning: then a lost wake-up is never repaired by luck
  std::uint32_t producers, consumers;
  std::uint32_t messages;  // of each producer; UINT32_MAX: without end
  std::uint64_t limit, max_bytes;
  Region region;
  Edge* edge = nullptr;
  std::uint32_t leave_after = 0;  // after how many items consumer 0 leaves or aborts, in the modes where it does
  std::atomic<std::uint64_t> in_flight{0};
  std::atomic<std::uint32_t> running{0};
  std::vector<std::vector<std::vector<std::uint32_t>>> seen;  // by consumer, by producer: the numbers that arrived

  std::uint32_t consumer_entry(std::uint32_t consumer) const { return producers + consumer; }
};

unsigned char filler(const Content& content, std::uint64_t at) {
  return static_cast<unsigned char>(content.producer * 31 + content.number * 7 + at);
}

std::uint64_t size_of(const Content& content) {
  switch (content.number % 4) {
    case 0: return sizeof(Content);                  // in the cell
    case 1: return Message::inline_capacity;         // fills the cell
    case 2: return Message::inline_capacity + 1;     // the smallest block
    default: return 300 + content.number % 7 * 200;  // blocks of several size classes
  }
}

void fill(Stress& stress, Message& message, const Content& content) {
  message.kind = content.producer;
  message.size = size_of(content);
  message.in_block = message.size > Message::inline_capacity;
  unsigned char* to = message.bytes;
  if (message.in_block) {
    message.block = stress.region.control()->arena.allocate(stress.region.base, message.size);
    CHECK(message.block != 0);
    to = Arena::at(stress.region.base, message.block)->payload();
  }
  std::memcpy(to, &content, sizeof content);
  for (std::uint64_t at = sizeof content; at < message.size; ++at) to[at] = filler(content, at);
}

Content check(Stress& stress, Message& message) {
  const unsigned char* from =
      message.in_block ? Arena::at(stress.region.base, message.block)->payload() : message.bytes;
  Content content;
  std::memcpy(&content, from, sizeof content);
  CHECK(content.producer < stress.producers && content.number < stress.messages);
  CHECK(message.kind == content.producer);
  CHECK(message.size == size_of(content));
  for (std::uint64_t at = sizeof content; at < message.size; ++at) CHECK(from[at] == filler(content, at));
  return content;
}

template <class Operation>
Status until_done(const Operation& operation) {
  Status status;
  do status = operation();
  while (status == Status::interrupted);
  return status;
}

void produce(Stress& stress, std::uint32_t producer) {
  Edge& edge = *stress.edge;
  ReplicaEntry* me = stress.region.entry(producer);
  Spin spin;
  if (stress.parks) spin.limit = 0;
  std::uint64_t released_seen = 0;
  Status status = Status::ok;
  for (std::uint32_t number = 0;; ++number) {
    status = until_done([&] { return edge.reserve(stress.region, me, released_seen, spin); });
    if (status != Status::ok) break;
    if (number == stress.messages) {
      edge.unreserve();  // as a producer does whose generator has ended
      break;
    }
    // in_flight never exceeds the credits: it is increased after the credit is taken, and decreased before it is given
    // back.
    CHECK(stress.in_flight.fetch_add(1, relaxed) < stress.limit);
    Message message;
    fill(stress, message, Content{producer, number});
    status = edge.reserve_bytes_now(stress.region, me, message);
    if (status == Status::empty)
      status = until_done([&] { return edge.reserve_bytes(stress.region, me, message, spin); });
    if (status != Status::ok) break;
    const std::uint64_t bytes = edge.buffered_bytes.load(relaxed);
    CHECK(bytes <= stress.max_bytes || bytes <= 300 + 6 * 200);
    status = edge.publish(stress.region, me, message);
    if (status != Status::ok) break;
  }
  if (stress.mode == "complete" || stress.mode == "signals") CHECK(status == Status::ok);
  if (stress.mode == "stop") CHECK(status == Status::stopped);
  if (stress.mode == "quit" || stress.mode == "abort") CHECK(status == Status::aborted);
  if (status != Status::aborted) edge.finish_producing(stress.region);
  stress.running.fetch_sub(1, relaxed);
}

void consume(Stress& stress, std::uint32_t consumer) {
  Edge& edge = *stress.edge;
  const std::uint32_t entry = stress.consumer_entry(consumer);
  ReplicaEntry* me = stress.region.entry(entry);
  Spin spin;
  if (stress.parks) spin.limit = 0;
  std::vector<std::vector<std::uint32_t>>& seen = stress.seen[consumer];
  Status status = Status::ok;
  bool left = false;
  for (std::uint32_t taken = 0;; ++taken) {
    if (me->hand_phase.load(relaxed) != static_cast<std::uint32_t>(HandPhase::empty)) {
      stress.in_flight.fetch_sub(1, relaxed);
      edge.release(stress.region, me);
    }
    if (consumer == 0 && stress.leave_after != 0 && taken == stress.leave_after) {
      left = true;
      break;
    }
    status = until_done([&] { return edge.take(stress.region, me, spin); });
    if (status != Status::ok) break;
    const Content content = check(stress, me->hand);
    std::vector<std::uint32_t>& numbers = seen[content.producer];
    CHECK(numbers.empty() || content.number > numbers.back());
    numbers.push_back(content.number);
  }
  if (left && stress.mode == "abort") {
    CHECK(stress.region.abort(Cause::failed, entry));
    CHECK(!stress.region.abort(Cause::died, 0));
  } else if (status != Status::aborted) {
    if (!left) CHECK(status == Status::end);
    edge.finish_consuming(stress.region, entry, !left);
  }
  if (stress.mode == "complete" || stress.mode == "signals") CHECK(status == Status::end);
  if (stress.mode == "stop" && !left) CHECK(status == Status::end);
  if ((stress.mode == "quit" || stress.mode == "abort") && !left) CHECK(status == Status::aborted);
  stress.running.fetch_sub(1, relaxed);
}

void check_counters(Stress& stress) {
  Edge& edge = *stress.edge;
  Region& region = stress.region;
  std::uint64_t sent = 0, received = 0, seen = 0;
  for (std::uint32_t index = 0; index < stress.producers; ++index) sent += region.entry(index)->items_out.load(relaxed);
  for (std::uint32_t index = 0; index < stress.consumers; ++index)
    received += region.entry(stress.consumer_entry(index))->items_in.load(relaxed);
  for (std::uint32_t producer = 0; producer < stress.producers; ++producer) {
    std::vector<std::uint32_t> numbers;
    for (const auto& by_producer : stress.seen)
      numbers.insert(numbers.end(), by_producer[producer].begin(), by_producer[producer].end());
    std::sort(numbers.begin(), numbers.end());
    CHECK(std::adjacent_find(numbers.begin(), numbers.end()) == numbers.end());  // none twice
    seen += numbers.size();
  }
  CHECK(received == seen);
  const std::uint64_t abort_word = region.control()->abort_word.load(relaxed);
  if (stress.mode == "complete" || stress.mode == "signals") {
    CHECK(abort_word == 0);
    CHECK(seen == std::uint64_t{stress.producers} * stress.messages);
    CHECK(sent == received);
    CHECK(edge.buffered_bytes.load(relaxed) == 0);
    CHECK(edge.wait_queue.is_empty() && edge.wait_queue.wanted_bytes.load(relaxed) == 0);
    CHECK(edge.head.load(relaxed) == edge.tail.load(relaxed));
    // A sole producer keeps the credit that it did not use.
    CHECK(edge.acquired.load(relaxed) - edge.released.load(relaxed) == (stress.producers == 1));
    CHECK(stress.in_flight.load(relaxed) == 0);
  } else if (stress.mode == "stop") {
    CHECK(abort_word == 0);
    CHECK(edge.stopped.load(relaxed) == 1);
    CHECK(sent >= received);
  } else {
    const Cause cause = stress.mode == "quit" ? Cause::stopped_early : Cause::failed;
    CHECK(abort_word == (std::uint64_t{static_cast<std::uint32_t>(cause)} << 32 | stress.consumer_entry(0)));
  }
}

void on_signal(int) {}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 8);
  Stress stress;
  stress.mode = argv[1];
  stress.parks = std::string(argv[2]) == "parks";
  stress.producers = static_cast<std::uint32_t>(std::strtoul(argv[3], nullptr, 10));
  stress.consumers = static_cast<std::uint32_t>(std::strtoul(argv[4], nullptr, 10));
  stress.messages = static_cast<std::uint32_t>(std::strtoul(argv[5], nullptr, 10));
  stress.limit = std::strtoull(argv[6], nullptr, 10);
  stress.max_bytes = std::strtoull(argv[7], nullptr, 10);
  if (stress.mode != "complete" && stress.mode != "signals") {
    stress.messages = UINT32_MAX;
    stress.leave_after = 20;
  }
  stress.seen.assign(stress.consumers, std::vector<std::vector<std::uint32_t>>(stress.producers));

  constexpr std::size_t size = std::size_t{64} << 20;
  const int memory = memory_create(size);
  CHECK(memory >= 0);
  stress.region.base = static_cast<unsigned char*>(memory_map(memory, size));
  CHECK(stress.region.base != nullptr);
  stress.region.bell = bell_create();
  CHECK(stress.region.bell >= 0);
  const EdgePlan plan{stress.limit, stress.max_bytes, stress.producers, stress.consumers, stress.mode == "stop", 0};
  setup_region(stress.region.base, size, &plan, 1, stress.producers + stress.consumers);
  stress.edge = stress.region.edge(0);

  if (stress.mode == "signals") {
    struct sigaction action = {};
    action.sa_handler = on_signal;  // without SA_RESTART: a wait is interrupted
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
  }
  stress.running.store(stress.producers + stress.consumers, relaxed);
  std::vector<std::thread> threads;
  for (std::uint32_t index = 0; index < stress.consumers; ++index)
    threads.emplace_back([&stress, index] { consume(stress, index); });
  for (std::uint32_t index = 0; index < stress.producers; ++index)
    threads.emplace_back([&stress, index] { produce(stress, index); });
  while (stress.mode == "signals" && stress.running.load(relaxed) != 0) {
    for (std::thread& thread : threads) pthread_kill(thread.native_handle(), SIGUSR1);
    sched_yield();
  }
  for (std::thread& thread : threads) thread.join();
  check_counters(stress);
  memory_unmap(stress.region.base, size);
  close(memory);
  close(stress.region.bell);
  std::puts("ok");
  return 0;
}
