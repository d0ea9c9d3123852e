// One abort of an ordered edge, step by step in one thread: `order_abort`. tests/core/test_headers.py runs it.
//
// The advancer has taken a pending message out of its slot, and cannot put it into the ring, because a consumer is
// still reading the cell. Then the run is aborted: the message must be back in its slot. The program prints "ok" and
// exits with 0, or prints what was wrong and exits with 1.

#include <cstdio>

#include "check.hpp"
#include "layout.hpp"

using namespace pipeline_executor;

namespace {

constexpr std::size_t region_bytes = 1 << 20;
constexpr std::uint32_t first = 0, second = 1, slow = 2, quick = 3, source = 4;  // entries

Message message_of(std::uint64_t number) {
  Message message;
  message.kind = 0;
  message.in_block = 0;
  message.size = sizeof number;
  message.words[0] = number;
  return message;
}

}  // namespace

int main() {
  const int memory = memory_create(region_bytes);
  Region region;
  region.base = static_cast<unsigned char*>(memory_map(memory, region_bytes));
  region.bell = bell_create();
  const EdgePlan plans[] = {{8, 1 << 20, 1, 2, 0, 0, 0}, {8, 1 << 20, 2, 2, 0, 0, 1}};
  setup_region(region.base, region_bytes, plans, 2, 5);
  Edge &input = *region.edge(0), &output = *region.edge(1);
  Order& order = Order::of(region, output);

  std::uint64_t released_seen = 0;
  for (std::uint64_t item = 0; item < 2; ++item) {
    CHECK(input.reserve_now(region, released_seen) == Status::ok);
    CHECK(input.publish(region, region.entry(source), message_of(item)) == Status::ok);
  }
  CHECK(order.try_take(region, input, region.entry(first)) == Status::ok);
  CHECK(order.try_take(region, input, region.entry(second)) == Status::ok);

  const auto yield = [&](std::uint32_t replica, std::uint64_t number) {
    ReplicaEntry* me = region.entry(replica);
    const std::uint64_t place = order.begin_output(me);
    CHECK(order.try_send(region, output, me, message_of(number), place) == Status::ok);
    CHECK(order.end_output(region, output, me) == Status::ok);
  };
  yield(second, 100);  // pending: its item is not next
  yield(first, 0);
  // The slow consumer has taken the first cell, and has not finished reading it.
  CHECK(output.try_take(region, region.entry(slow)) == Status::ok);
  output.cell(region, 0)->sequence.store(1, std::memory_order_relaxed);
  for (std::uint64_t number = 1; number <= output.mask; ++number) {
    yield(first, number);
    CHECK(output.try_take(region, region.entry(quick)) == Status::ok);
    CHECK(region.entry(quick)->hand.words[0] == number);
    output.release(region, region.entry(quick));
  }

  CHECK(order.close_item(region, output, region.entry(second)) == Status::ok);
  CHECK(order.newest_pending(region, 1) != 0);
  CHECK(region.abort(Cause::closed, 0));
  CHECK(order.close_item(region, output, region.entry(first)) == Status::aborted);
  const std::uint64_t block = order.newest_pending(region, 1);
  CHECK(block != 0);
  CHECK(Order::pending_message(region, block)->words[0] == 100);
  CHECK(Order::older_pending(region, block) == 0);
  std::puts("ok");
  return 0;
}
