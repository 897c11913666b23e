// How long MakePlan() takes, and how close to its proven bound it comes.
//
//   planner_bench --benchmark_filter=Thousand
//
// Budgets: 40 models on one GPU 50 ms, compared with each single mode; 1,000 replicas of 30 models
// 2 s, within 1 % of the bound; 10,000 replicas of 100 models 30 s, within 3 %, under 1 GiB.
//
// The fleets are made up by a generator with a fixed seed: three tenants with different demands,
// models of 2 to 30 GiB and 3 to 150 ms, each replica busy for 2 to 50 % of the time, targets from
// tight to loose. Counters: gpus, gap_percent (of the cost over its bound), peak_mib (resident, of
// the process so far: run one benchmark alone to read it).
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "plan/planner.h"

namespace sublet {
namespace {

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : engine_(seed) {}

  Fleet FleetOf(int models, int replicas, const std::vector<GpuPool>& gpus) {
    Fleet fleet;
    fleet.name = "generated";
    fleet.gpus = gpus;
    fleet.tenants = {
        {"red", Isolation::kNone}, {"blue", Isolation::kMemory}, {"green", Isolation::kFault}};
    int left = replicas;
    for (int m = 0; m < models; ++m) {
      const int open = models - m;
      const int part = open == 1 ? left : static_cast<int>(left / open * Real(0.5, 1.5));
      const int count = std::clamp(part, 1, left - (open - 1));
      left -= count;
      fleet.workloads.push_back(Model(m, count, fleet.tenants));
    }
    return fleet;
  }

 private:
  double Real(double low, double high) {
    return low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53;
  }
  template <typename T>
  const T& Of(const std::vector<T>& values) {
    return values[engine_() % values.size()];
  }

  Workload Model(int number, int replicas, const std::vector<Tenant>& tenants) {
    const Tenant& tenant = Of(tenants);
    const double gib = Of<double>({2, 3, 5, 8, 12, 16, 22, 30}) * Real(0.8, 1.2);
    const double sm_percent = Of<double>({5, 10, 20, 30, 50, 80});
    const double service_ms = Of<double>({3, 10, 40, 150}) * Real(0.7, 1.4);
    const double busy = Real(0.02, 0.5);
    Workload model;
    model.name = fmt::format("model{}", number);
    model.tenant = tenant.name;
    model.isolation = tenant.isolation;
    model.replicas = replicas;
    model.memory = Bytes::FromMib(static_cast<std::int64_t>(gib * 1024));
    model.memory_how = "given";
    model.compute.sm_percent = sm_percent;
    model.compute.bandwidth_percent = std::min(100.0, sm_percent * Real(0.5, 1.2));
    model.compute.measured_on = "a100-80gb";
    model.load = Load{.requests_per_second = busy / service_ms * 1000 * replicas,
                      .service_ms = service_ms,
                      .steps = Of<int>({1, 4, 10, 30})};
    model.latency.p99_ms = service_ms * Of<double>({4, 8, 15, 40}) / (1 - busy);
    return model;
  }

  std::mt19937_64 engine_;
};

void PlanIn(benchmark::State& state, const Fleet& fleet, bool compare) {
  const PlanRequest request{.fleet = fleet,
                            .catalogue = &BuiltInBoards(),
                            .calibration = &DefaultCalibration(),
                            .compare = compare};
  Plan plan;
  for (auto _ : state) {
    auto made = MakePlan(request);
    CHECK(made.has_value());
    plan = std::move(*made);
  }
  rusage usage{};
  CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
  state.counters["gpus"] = plan.summary.gpus;
  state.counters["gap_percent"] = plan.summary.gap_percent;
  state.counters["peak_mib"] = static_cast<double>(usage.ru_maxrss) / 1024;
}

const std::vector<GpuPool>& MixedBoards() {
  static const std::vector<GpuPool> pools = {
      {"a100-80gb", {}, {}}, {"h100-80gb", {}, {}}, {"l4", {}, {}}, {"a100-40gb", {}, {}}};
  return pools;
}

void FortyModelsOnOneGpu(benchmark::State& state) {
  const auto text = ReadFile(SUBLET_SOURCE_DIR "/examples/03_plan/forty-small.yaml", 1 << 20);
  CHECK(text.has_value());
  const auto fleet = ParseFleet(*text, "forty-small.yaml");
  CHECK(fleet.has_value());
  PlanIn(state, *fleet, true);
}
BENCHMARK(FortyModelsOnOneGpu)->Unit(benchmark::kMillisecond);

// The argument is the generator's seed.
void ThousandReplicasOfThirtyModels(benchmark::State& state) {
  const auto seed = static_cast<std::uint64_t>(state.range(0));
  PlanIn(state, Generator(seed).FleetOf(30, 1000, MixedBoards()), false);
}
BENCHMARK(ThousandReplicasOfThirtyModels)->DenseRange(1, 3)->Unit(benchmark::kMillisecond);

// The scarce boards are worth more than they cost, and the bound has to know by how much.
void ThousandReplicasOnFewGpusOfEachBoard(benchmark::State& state) {
  const std::vector<GpuPool> pools = {
      {"a100-80gb", 120, {}}, {"h100-80gb", 60, {}}, {"l4", 60, {}}, {"a100-40gb", 60, {}}};
  PlanIn(state, Generator(1).FleetOf(30, 1000, pools), false);
}
BENCHMARK(ThousandReplicasOnFewGpusOfEachBoard)->Unit(benchmark::kMillisecond);

void ThousandReplicasCompared(benchmark::State& state) {
  PlanIn(state, Generator(1).FleetOf(30, 1000, MixedBoards()), true);
}
BENCHMARK(ThousandReplicasCompared)->Unit(benchmark::kMillisecond);

void TenThousandReplicasOfHundredModels(benchmark::State& state) {
  PlanIn(state, Generator(1).FleetOf(100, 10'000, MixedBoards()), false);
}
BENCHMARK(TenThousandReplicasOfHundredModels)->Unit(benchmark::kSecond)->Iterations(1);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
