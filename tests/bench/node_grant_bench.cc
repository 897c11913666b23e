// How long a request for a share takes, asked over the socket by a process of its own each time,
// with many shares there. The goal is a p99 of 1 ms with 500.
//
//   grant_us_p50, _p99, _p999   seen by who asks: from sending to the whole answer, without
//   connecting health_us_p50               the least that this daemon answers, asked in turn with
//   the grants inside_us                   mean within the daemon, from the request as a value to
//   the grant store_us_p50, decide_us_p50 of it, measured by themselves in the same run: what is
//   written for
//                               one grant, and the decision with its booking

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "bench/node_under_test.h"
#include "bench/share_holders.h"
#include "node/admission.h"
#include "store/node_store.h"
#include "store/tests/sample_rows.h"

namespace sublet::bench {
namespace {

constexpr int kGpus = 8;
constexpr int kTenants = 20;

// The first half on GPUs that MPS serves, each tenant with a domain on one of them; the others
// take turns.
ShareRequest RequestOf(int number, int residents) {
  ShareRequest request;
  request.name = "bench";
  request.tenant = fmt::format("tenant-{}", number % kTenants);
  request.memory = Bytes::FromMib(1024);
  if (number < residents / 2) {
    request.mode = SharingMode::kMps;
    request.sm_percent = 5;
    request.gpu = fmt::format("{}", number % (kGpus / 2));
  } else {
    request.mode = SharingMode::kTimeSlicing;
    request.gpu = fmt::format("{}", kGpus / 2 + number % (kGpus / 2));
  }
  return request;
}

template <typename Work>
double MicrosecondsOf(const Work& work) {
  const std::int64_t begin = MonotonicNanoseconds();
  work();
  return static_cast<double>(MonotonicNanoseconds() - begin) * 1e-3;
}

// As the daemon writes it, with the same shares there.
Spread StoreWrites(int residents, int count) {
  const store::ScratchFolder folder;
  NodeStore rows = NodeStore::Open(folder.state()).value();
  for (int i = 1; i <= residents; ++i) CHECK(rows.PutShare(store::SampleShare(i)));
  CHECK(rows.SkipShareIds(residents));
  const NodeEvent event = store::SampleEvent("s17 was granted 10 GiB of GPU 0");
  std::vector<double> times_us;
  for (int i = 0; i < count; ++i) {
    ShareRow row = store::SampleShare(residents + 1);
    times_us.push_back(MicrosecondsOf([&] {
      row.share.id = rows.TakeShareId().value();
      CHECK(rows.PutShare(row));
      CHECK(rows.PutShare(row));
      CHECK(rows.AppendEvent(event));
    }));
    CHECK(rows.RemoveShare(row.share.id));
  }
  return SpreadOf(std::move(times_us));
}

Ledger LedgerOfGpus() {
  std::vector<Device> devices;
  for (int index = 0; index < kGpus; ++index) {
    Device device;
    device.gpu_uuid = fmt::format("GPU-594c8c01-9423-403d-81c5-b1bef0393{:03}", index);
    device.gpu_index = index;
    device.memory = 141_GiB;
    device.sm_count = device.gpu_sm_count = 132;
    device.modes = {SharingMode::kExclusive, SharingMode::kTimeSlicing, SharingMode::kMps};
    devices.push_back(std::move(device));
  }
  return Ledger(std::move(devices), {},
                [](const Device&, std::optional<int>) { return Bytes::FromMib(558); });
}

// The decision and its booking, with the same shares there.
Spread Decisions(int residents, int count) {
  Ledger ledger = LedgerOfGpus();
  Requester requester;
  requester.own_daemon = true;
  const auto take = [&](const ShareRequest& request, const std::string& id) {
    Result<Grant> grant = Admit(ledger, request, requester);
    CHECK(grant.has_value());
    grant->share.id = id;
    CHECK(ledger.Book(grant->share).has_value());
    if (grant->new_domain) ledger.AddDomain(*grant->new_domain);
  };
  for (int i = 0; i < residents; ++i) take(RequestOf(i, residents), fmt::format("r{}", i));
  std::vector<double> times_us;
  for (int i = 0; i < count; ++i) {
    const ShareRequest request = RequestOf(i % residents, residents);
    times_us.push_back(MicrosecondsOf([&] { take(request, "s"); }));
    ledger.Release("s");
  }
  return SpreadOf(std::move(times_us));
}

void Grants(benchmark::State& state) {
  const int residents = static_cast<int>(state.range(0));
  const int count = static_cast<int>(state.range(1));
  const NodeUnderTest node(fmt::format("h200:{}", kGpus));
  ShareHolders holders(node);
  for (int i = 0; i < residents; ++i) holders.Add(RequestOf(i, residents));
  node.AwaitShares(static_cast<std::size_t>(residents));
  const double sum_before_s = node.Metric("sublet_grant_seconds_sum");
  auto health = HttpClient::ConnectUnix(node.socket(), 30).value();
  std::vector<double> grant_us;
  std::vector<double> connect_us;
  std::vector<double> health_us;
  for (auto _ : state) {
    for (int i = 0; i < count; ++i) {
      const Asked asked = AskAndEnd(node, RequestOf(i % residents, residents));
      grant_us.push_back(asked.grant_us);
      connect_us.push_back(asked.connect_us);
      health_us.push_back(
          MicrosecondsOf([&] { CHECK(health.Send({.target = "/v1/health"}).has_value()); }));
    }
  }
  node.AwaitShares(static_cast<std::size_t>(residents));
  const double inside_s = node.Metric("sublet_grant_seconds_sum") - sum_before_s;
  const Spread grants = SpreadOf(grant_us);
  const Spread healths = SpreadOf(health_us);
  state.counters["grant_us_p50"] = grants.p50;
  state.counters["grant_us_p99"] = grants.p99;
  state.counters["grant_us_p999"] = grants.p999;
  state.counters["health_us_p50"] = healths.p50;
  state.counters["health_us_p99"] = healths.p99;
  state.counters["connect_us_p50"] = SpreadOf(connect_us).p50;
  state.counters["inside_us"] = inside_s * 1e6 / count;
  state.counters["store_us_p50"] = StoreWrites(residents, count).p50;
  state.counters["decide_us_p50"] = Decisions(residents, count).p50;
}
// The first is what a test run does; the others have the figures.
BENCHMARK(Grants)
    ->Args({20, 20})
    ->Args({1, 3000})
    ->Args({500, 3000})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sublet::bench

BENCHMARK_MAIN();
