// What kubelet waits for: the list of a large node, a preference, an allocation.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <random>
#include <string>

#include "base/check.h"
#include "kube/allocation.h"
#include "kube/gpu_sets.h"
#include "kube/plugin_resources.h"
#include "kube/preferred_allocation.h"
#include "model/tests/board_gpu.h"

namespace sublet {
namespace {

Inventory NodeOf(int gpus) {
  Inventory node;
  for (int i = 0; i < gpus; ++i) {
    Gpu gpu = GpuOfBoard("h100-80gb");
    gpu.index = i;
    gpu.uuid = fmt::format("GPU-00000000-0000-0000-0000-{:012}", i);
    gpu.minor_number = i;
    gpu.memory = 80_GiB;
    node.gpus.push_back(std::move(gpu));
  }
  return node;
}

DevicePluginConfig TimeSliced(int replicas) {
  DevicePluginConfig config;
  config.time_slicing.emplace();
  config.time_slicing->resources.push_back(
      {.name = "nvidia.com/gpu", .rename = {}, .devices = {}, .replicas = replicas});
  return config;
}

void AdvertiseReplicas(benchmark::State& state) {
  const Inventory node = NodeOf(8);
  const DevicePluginConfig config = TimeSliced(static_cast<int>(state.range(0)) / 8);
  for (auto _ : state) {
    auto advertised = AdvertiseNode({.inventory = node, .config = config});
    CHECK(advertised.has_value());
    const ReplicaIndex index(advertised->resources[0]);
    benchmark::DoNotOptimize(index.Find("GPU-x"));
  }
}
BENCHMARK(AdvertiseReplicas)->Arg(10'000)->Unit(benchmark::kMillisecond);

void PreferReplicas(benchmark::State& state) {
  const Inventory node = NodeOf(8);
  const auto advertised = AdvertiseNode({.inventory = node, .config = TimeSliced(1'250)});
  CHECK(advertised.has_value());
  const ReplicaIndex index(advertised->resources[0]);
  PreferenceRequest request;
  for (const AdvertisedReplica& replica : index.resource().replicas) {
    request.available.push_back(replica.id);
  }
  request.size = 2;
  for (auto _ : state) {
    auto ids = PreferDevices(node, index, request);
    CHECK(ids.has_value());
    benchmark::DoNotOptimize(ids->data());
  }
}
BENCHMARK(PreferReplicas)->Unit(benchmark::kMillisecond);

// The links of `kinds` strengths at random: few make many sets of one score, which is the hardest.
LinkScores RandomLinks(int gpus, int kinds) {
  std::mt19937 random(7);
  const auto count = static_cast<std::size_t>(gpus);
  LinkScores scores(count, std::vector<int>(count, 0));
  for (std::size_t a = 0; a < count; ++a) {
    for (std::size_t b = a + 1; b < count; ++b) {
      scores[a][b] = scores[b][a] =
          10 * (1 + static_cast<int>(random() % static_cast<unsigned>(kinds)));
    }
  }
  return scores;
}

void LinkedSet(benchmark::State& state) {
  const LinkScores scores = RandomLinks(16, static_cast<int>(state.range(1)));
  for (auto _ : state) {
    auto set = BestLinkedSet(scores, {}, static_cast<int>(state.range(0)));
    benchmark::DoNotOptimize(set.data());
  }
}
BENCHMARK(LinkedSet)
    ->ArgsProduct({{1, 2, 3, 4, 5, 6, 7, 8, 12}, {1, 2, 6}})
    ->ArgNames({"size", "kinds"})
    ->Unit(benchmark::kMillisecond);

void Ring(benchmark::State& state) {  // Every set has many of its kind, and no GPU a twin.
  LinkScores scores(16, std::vector<int>(16, 10));
  for (std::size_t i = 0; i < 16; ++i) {
    scores[i][i] = 0;
    scores[i][(i + 1) % 16] = scores[(i + 1) % 16][i] = 110;
  }
  for (auto _ : state) {
    auto set = BestLinkedSet(scores, {}, static_cast<int>(state.range(0)));
    benchmark::DoNotOptimize(set.data());
  }
}
BENCHMARK(Ring)->DenseRange(1, 15, 1)->Unit(benchmark::kMillisecond);

void ManyGpus(benchmark::State& state) {
  const LinkScores scores = RandomLinks(static_cast<int>(state.range(0)), 6);
  for (auto _ : state) {
    auto set = BestLinkedSet(scores, {}, 8);
    benchmark::DoNotOptimize(set.data());
  }
}
BENCHMARK(ManyGpus)->Arg(32)->Unit(benchmark::kMillisecond);

void Allocate(benchmark::State& state) {
  const Inventory node = NodeOf(8);
  const DevicePluginConfig config = TimeSliced(1'250);
  const auto advertised = AdvertiseNode({.inventory = node, .config = config});
  CHECK(advertised.has_value());
  const ReplicaIndex index(advertised->resources[0]);
  const AllocationContext context{.flags = config.flags, .imex = config.imex};
  const ContainerRequest request{{index.resource().replicas[7'777].id}, "id"};
  for (auto _ : state) {
    auto grant = AllocateContainer(index, request, context);
    CHECK(grant.has_value());
    benchmark::DoNotOptimize(grant->envs.data());
  }
}
BENCHMARK(Allocate)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
