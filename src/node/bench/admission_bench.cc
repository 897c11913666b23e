// How long a grant takes with many shares there. The counters p50_us and p99_us are of one decision
// and its booking; the goal is a p99 below 1,000 us with 500 shares.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "node/admission.h"

namespace sublet {
namespace {

Ledger NodeOf(int gpus) {
  std::vector<Device> devices;
  for (int index = 0; index < gpus; ++index) {
    Device device;
    device.gpu_uuid = fmt::format("GPU-594c8c01-9423-403d-81c5-b1bef0393{:03}", index);
    device.gpu_index = index;
    device.memory = 141_GiB;
    device.sm_count = device.gpu_sm_count = 132;
    device.modes = {SharingMode::kExclusive, SharingMode::kTimeSlicing, SharingMode::kMps};
    devices.push_back(std::move(device));
  }
  return Ledger(std::move(devices), {}, [](const Device&, std::optional<int> sm_percent) {
    return Bytes::FromMib(58 + 5 * sm_percent.value_or(100));
  });
}

ShareRequest RequestOf(int number) {
  ShareRequest request;
  request.name = "bench";
  request.tenant = fmt::format("tenant-{}", number % 20);
  request.memory = Bytes::FromMib(500 + number * 37 % 900);
  request.sm_percent = 5 + number % 20;
  return request;
}

bool Take(Ledger& ledger, int number) {
  Requester requester;
  requester.own_daemon = true;
  Result<Grant> grant = Admit(ledger, RequestOf(number), requester);
  if (!grant) return false;
  grant->share.id = fmt::format("s{}", number);
  if (!ledger.Book(grant->share)) return false;
  if (grant->new_domain) ledger.AddDomain(*grant->new_domain);
  return true;
}

void GrantBesideShares(benchmark::State& state) {
  const int resident = static_cast<int>(state.range(0));
  Ledger ledger = NodeOf(8);
  for (int number = 0; number < resident; ++number) {
    if (!Take(ledger, number)) return state.SkipWithError("the node is full");
  }
  std::vector<double> times_us;
  int number = resident;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    if (!Take(ledger, number)) return state.SkipWithError("refused");
    const auto end = std::chrono::steady_clock::now();
    times_us.push_back(std::chrono::duration<double, std::micro>(end - begin).count());
    // The oldest goes, so that the number stays.
    ledger.Release(fmt::format("s{}", number - resident));
    ++number;
  }
  std::ranges::sort(times_us);
  state.counters["p50_us"] = times_us[times_us.size() / 2];
  state.counters["p99_us"] = times_us[times_us.size() * 99 / 100];
}
BENCHMARK(GrantBesideShares)->Arg(1)->Arg(100)->Arg(500);

// A refusal has to say why, device by device.
void RefuseBesideShares(benchmark::State& state) {
  Ledger ledger = NodeOf(8);
  for (int number = 0; number < 500; ++number) Take(ledger, number);
  ShareRequest request = RequestOf(1);
  request.memory = 140_GiB;
  Requester requester;
  requester.own_daemon = true;
  for (auto _ : state) benchmark::DoNotOptimize(Admit(ledger, request, requester));
}
BENCHMARK(RefuseBesideShares);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
