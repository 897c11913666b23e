// What the journal adds to a grant. Put and Remove of a share together have a budget of 200 us,
// with 500 shares there; p50 and p99 are of single pairs, as the mean hides the moments when the
// log moves into the database.
//
//   node_store_bench --benchmark_filter=Share
#include <benchmark/benchmark.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "store/node_store.h"
#include "store/tests/sample_rows.h"

namespace sublet::store {
namespace {

constexpr int kResidentShares = 500;

NodeStore Filled(const ScratchFolder& folder) {
  NodeStore store = std::move(*NodeStore::Open(folder.state()));
  for (int i = 1; i <= kResidentShares; ++i) CHECK(store.PutShare(SampleShare(i)));
  return store;
}

void ReportPercentiles(benchmark::State& state, std::vector<std::int64_t> nanoseconds) {
  std::sort(nanoseconds.begin(), nanoseconds.end());
  const auto at = [&](double part) {
    const auto last = static_cast<double>(nanoseconds.size() - 1);
    return static_cast<double>(nanoseconds[static_cast<std::size_t>(part * last)]) * 1e-3;
  };
  state.counters["p50_us"] = at(0.5);
  state.counters["p99_us"] = at(0.99);
  state.counters["max_us"] = at(1);
}

void ShareComesAndGoes(benchmark::State& state) {
  const ScratchFolder folder;
  NodeStore store = Filled(folder);
  const ShareRow row = SampleShare(kResidentShares + 1);
  std::vector<std::int64_t> nanoseconds;
  for (auto _ : state) {
    const std::int64_t start = MonotonicNanoseconds();
    CHECK(store.PutShare(row));
    CHECK(store.RemoveShare(row.share.id));
    nanoseconds.push_back(MonotonicNanoseconds() - start);
  }
  ReportPercentiles(state, std::move(nanoseconds));
}
BENCHMARK(ShareComesAndGoes)->Unit(benchmark::kMicrosecond);

// As the daemon does it: number and row in one transaction, then the holder, then the end; with an
// event at either end.
void ShareLives(benchmark::State& state) {
  const ScratchFolder folder;
  NodeStore store = Filled(folder);
  CHECK(store.SkipShareIds(kResidentShares));
  const NodeEvent event = SampleEvent("s501 was granted 10 GiB of GPU 0");
  std::vector<std::int64_t> nanoseconds;
  for (auto _ : state) {
    const std::int64_t start = MonotonicNanoseconds();
    ShareRow row = SampleShare(kResidentShares + 1);
    CHECK(store.Transaction([&]() -> Status {
      ASSIGN_OR_RETURN(row.share.id, store.TakeShareId());
      RETURN_IF_ERROR(store.AppendEvent(event));
      return store.PutShare(row);
    }));
    CHECK(store.PutShare(row));
    CHECK(store.Transaction([&]() -> Status {
      RETURN_IF_ERROR(store.AppendEvent(event));
      return store.RemoveShare(row.share.id);
    }));
    nanoseconds.push_back(MonotonicNanoseconds() - start);
  }
  ReportPercentiles(state, std::move(nanoseconds));
}
BENCHMARK(ShareLives)->Unit(benchmark::kMicrosecond);

void Event(benchmark::State& state) {
  const ScratchFolder folder;
  NodeStore store = Filled(folder);
  const NodeEvent event = SampleEvent("s17 was granted 10 GiB of GPU 0");
  for (auto _ : state) CHECK(store.AppendEvent(event));
}
BENCHMARK(Event)->Unit(benchmark::kMicrosecond);

// What a daemon waits for when it starts: 500 shares and all the events that are kept.
void OpenAndLoad(benchmark::State& state) {
  const ScratchFolder folder;
  {
    NodeStore store = Filled(folder);
    CHECK(store.Transaction([&]() -> Status {
      for (std::int64_t i = 0; i < NodeStore::kEventsMax; ++i) {
        RETURN_IF_ERROR(store.AppendEvent(SampleEvent("s17 was granted 10 GiB of GPU 0")));
      }
      return {};
    }));
  }
  state.counters["database_mb"] =
      static_cast<double>(std::filesystem::file_size(folder.database())) * 1e-6;
  for (auto _ : state) {
    NodeStore store = std::move(*NodeStore::Open(folder.state()));
    CHECK(store.LoadAll());
  }
}
BENCHMARK(OpenAndLoad)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sublet::store

BENCHMARK_MAIN();
