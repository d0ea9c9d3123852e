// Stress test of an ordered edge, with threads that share one mapping:
//
//   order_stress MODE spins|parks REPLICAS ITEMS LIMIT MAX_BYTES
//
// tests/core/test_headers.py runs it, plainly and under sanitizers. A source fills the input edge of a step. Each item
// yields none to three messages of many sizes, and each replica yields two at its end. One consumer takes them. The
// program prints "ok" and exits with 0, or prints what was wrong and exits with 1. As in edge_stress.cpp, it adds no
// order between the threads.
//
// Modes:
//   complete   every message arrives once, in the order of the items and of their numbers, and the counters agree
//   signals    the same, while a signal interrupts the threads again and again
//   besides    the same, but each replica yields in a second thread, which does not wait for the first: the messages come
//              in the order of the items that they were yielded for
//   stop       the consumer leaves early, as it may: all threads end, and the run is not aborted
//   abort      the consumer aborts the run: all threads end
//
// With -DWEAKENED every release in the headers becomes relaxed. ThreadSanitizer must then report races.

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
constexpr std::uint64_t no_items = UINT64_MAX;
constexpr std::uint32_t tail = 2;

struct Content {      // what each message starts with
  std::uint64_t key;  // number of its item; the number of items: it belongs to the end
  std::uint32_t replica, number;
};

struct Stress {
  std::string mode;
  bool parks;
  std::uint32_t replicas, items;
  std::uint64_t limit, max_bytes;
  Region region;
  Edge *input = nullptr, *output = nullptr;
  Order* order = nullptr;
  std::vector<std::uint64_t> sent;  // by replica
  std::atomic<std::uint64_t> received{0};
  std::atomic<std::uint32_t> running{0};

  std::uint32_t consumer() const { return replicas; }
  std::uint32_t source() const { return replicas + 1; }
  bool is_complete() const { return mode == "complete" || mode == "signals"; }
};

std::uint32_t outputs_of(std::uint64_t item) { return static_cast<std::uint32_t>(item * 7919 % 4); }

std::uint64_t size_of(const Content& content) {
  const std::uint64_t sizes[] = {sizeof(Content), Message::inline_capacity, Message::inline_capacity + 1, 900};
  return sizes[(content.key + content.number) % 4];
}

unsigned char filler(const Content& content, std::uint64_t at) {
  return static_cast<unsigned char>(content.key * 31 + content.number * 7 + at);
}

void fill(Stress& stress, Message& message, const Content& content) {
  message.kind = content.replica;
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

Content read(Stress& stress, Message& message) {
  const unsigned char* from =
      message.in_block ? Arena::at(stress.region.base, message.block)->payload() : message.bytes;
  Content content;
  std::memcpy(&content, from, sizeof content);
  CHECK(message.kind == content.replica && message.size == size_of(content));
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

std::uint64_t key_of(const Stress& stress, std::uint64_t place) {
  if (place == 0) return no_items;
  return (place & Order::after_end) != 0 ? stress.items : place - 1;
}

Status put(Stress& stress, std::uint32_t replica, std::uint32_t number, Spin& spin) {
  ReplicaEntry* me = stress.region.entry(replica);
  const std::uint64_t place = stress.order->begin_output(me);
  Message message;
  fill(stress, message, Content{key_of(stress, place), replica, number});
  const Status status =
      until_done([&] { return stress.order->send(stress.region, *stress.output, me, message, place, spin); });
  CHECK(status != Status::no_memory);
  if (status == Status::ok) ++stress.sent[replica];
  const Status ended = stress.order->end_output(stress.region, *stress.output, me);
  return status == Status::ok ? ended : status;
}

Status ask(Stress& stress, std::uint32_t replica, Spin& spin) {
  ReplicaEntry* me = stress.region.entry(replica);
  const Status status = stress.order->close_item(stress.region, *stress.output, me);
  if (status != Status::ok) return status;
  stress.input->release(stress.region, me);
  return until_done([&] { return stress.order->take(stress.region, *stress.output, *stress.input, me, spin); });
}

Spin new_spin(const Stress& stress) {
  Spin spin;
  if (stress.parks) spin.limit = 0;
  return spin;
}

void yield_besides(Stress& stress, std::uint32_t replica, Status& status) {
  Spin spin = new_spin(stress);
  for (std::uint32_t number = 0; number < stress.items && status == Status::ok; ++number)
    status = put(stress, replica, number, spin);
}

void replicate(Stress& stress, std::uint32_t replica) {
  Spin spin = new_spin(stress);
  ReplicaEntry* me = stress.region.entry(replica);
  Status status = Status::ok, besides = Status::ok;
  std::thread second;
  if (stress.mode == "besides") second = std::thread([&] { yield_besides(stress, replica, besides); });
  while ((status = ask(stress, replica, spin)) == Status::ok) {
    if (stress.mode == "besides") continue;
    const std::uint32_t outputs = outputs_of(me->hand.words[0]);
    for (std::uint32_t number = 0; number < outputs && status == Status::ok; ++number)
      status = put(stress, replica, number, spin);
    if (status != Status::ok) break;
  }
  if (second.joinable()) second.join();
  for (std::uint32_t number = 0; number < tail && status == Status::end && stress.mode != "besides"; ++number) {
    const Status put_status = put(stress, replica, number, spin);
    if (put_status != Status::ok) status = put_status;
  }
  if (stress.is_complete() || stress.mode == "besides") CHECK(status == Status::end && besides == Status::ok);
  if (status == Status::stopped) stress.input->stop(stress.region);
  if (status != Status::aborted && stress.order->close_item(stress.region, *stress.output, me) != Status::aborted) {
    stress.input->release(stress.region, me);
    stress.input->finish_consuming(stress.region, replica, true);
    stress.output->finish_producing(stress.region);
  }
  stress.running.fetch_sub(1, relaxed);
}

void consume(Stress& stress) {
  Spin spin = new_spin(stress);
  ReplicaEntry* me = stress.region.entry(stress.consumer());
  const std::uint64_t leave_after = stress.mode == "stop" || stress.mode == "abort" ? stress.items / 2 : UINT64_MAX;
  std::uint64_t key = 0, number = 0, taken = 0;
  Status status = Status::ok;
  for (;; ++taken) {
    stress.output->release(stress.region, me);
    if (taken == leave_after) break;
    status = until_done([&] { return stress.output->take(stress.region, me, spin); });
    if (status != Status::ok) break;
    const Content content = read(stress, me->hand);
    stress.received.fetch_add(1, relaxed);
    if (content.key == no_items) continue;
    CHECK(content.key >= key);
    if (stress.mode != "besides" && content.key != stress.items) {
      // All messages of the items before have come, and all earlier ones of this item.
      while (key < content.key) {
        CHECK(number == outputs_of(key));
        ++key;
        number = 0;
      }
      CHECK(content.number == number++);
    }
    key = content.key;
  }
  if (taken == leave_after && stress.mode == "abort") {
    CHECK(stress.region.abort(Cause::failed, stress.consumer()));
  } else {
    stress.output->finish_consuming(stress.region, stress.consumer(), taken != leave_after);
  }
  stress.running.fetch_sub(1, relaxed);
}

void produce(Stress& stress) {
  Spin spin = new_spin(stress);
  ReplicaEntry* me = stress.region.entry(stress.source());
  std::uint64_t released_seen = 0;
  Status status = Status::ok;
  for (std::uint64_t item = 0; item < stress.items && status == Status::ok; ++item) {
    status = until_done([&] { return stress.input->reserve(stress.region, me, released_seen, spin); });
    Message message;
    message.kind = 0;
    message.in_block = 0;
    message.size = sizeof item;
    message.words[0] = item;
    if (status == Status::ok) status = stress.input->publish(stress.region, me, message);
  }
  if (status != Status::aborted) stress.input->finish_producing(stress.region);
  stress.running.fetch_sub(1, relaxed);
}

void check_counters(Stress& stress) {
  const std::uint64_t abort_word = stress.region.control()->abort_word.load(relaxed);
  std::uint64_t sent = 0, counted = 0;
  for (std::uint32_t replica = 0; replica < stress.replicas; ++replica) {
    sent += stress.sent[replica];
    counted += stress.region.entry(replica)->items_out.load(relaxed);
  }
  CHECK((abort_word != 0) == (stress.mode == "abort"));
  CHECK(stress.received.load(relaxed) <= sent);
  if (stress.mode == "stop" || stress.mode == "abort") return;
  std::uint64_t expected = std::uint64_t{stress.replicas} * (stress.mode == "besides" ? stress.items : tail);
  for (std::uint64_t item = 0; item < stress.items && stress.mode != "besides"; ++item) expected += outputs_of(item);
  CHECK(sent == expected && counted == sent && stress.received.load(relaxed) == sent);
  CHECK(stress.output->buffered_bytes.load(relaxed) == 0);
  CHECK(stress.order->pending_bytes.load(relaxed) == 0);
  CHECK(stress.output->acquired.load(relaxed) == stress.output->released.load(relaxed));
  CHECK(stress.order->next_position.load(relaxed) == stress.items);
}

void on_signal(int) {}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 7);
  Stress stress;
  stress.mode = argv[1];
  stress.parks = std::string(argv[2]) == "parks";
  stress.replicas = static_cast<std::uint32_t>(std::strtoul(argv[3], nullptr, 10));
  stress.items = static_cast<std::uint32_t>(std::strtoul(argv[4], nullptr, 10));
  stress.limit = std::strtoull(argv[5], nullptr, 10);
  stress.max_bytes = std::strtoull(argv[6], nullptr, 10);
  stress.sent.assign(stress.replicas, 0);

  constexpr std::size_t size = std::size_t{64} << 20;
  const int memory = memory_create(size);
  CHECK(memory >= 0);
  stress.region.base = static_cast<unsigned char*>(memory_map(memory, size));
  CHECK(stress.region.base != nullptr);
  stress.region.bell = bell_create();
  CHECK(stress.region.bell >= 0);
  const std::uint32_t may_stop = stress.mode == "stop";
  const EdgePlan plans[] = {{64, 1 << 20, 1, stress.replicas, may_stop, 0, 0},
                            {stress.limit, stress.max_bytes, stress.replicas, 1, may_stop, 0, 1}};
  setup_region(stress.region.base, size, plans, 2, stress.replicas + 2);
  stress.input = stress.region.edge(0);
  stress.output = stress.region.edge(1);
  stress.order = &Order::of(stress.region, *stress.output);

  if (stress.mode == "signals") {
    struct sigaction action = {};
    action.sa_handler = on_signal;  // without SA_RESTART: a wait is interrupted
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
  }
  stress.running.store(stress.replicas + 2, relaxed);
  std::vector<std::thread> threads;
  threads.emplace_back([&stress] { consume(stress); });
  for (std::uint32_t replica = 0; replica < stress.replicas; ++replica)
    threads.emplace_back([&stress, replica] { replicate(stress, replica); });
  threads.emplace_back([&stress] { produce(stress); });
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
