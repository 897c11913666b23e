// What the agent does each minute, and at each change of its node: labels of a large node, and a
// large node's object read.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <string>

#include "base/check.h"
#include "kube/api_json.h"
#include "kube/feature_labels.h"
#include "kube/feature_output.h"
#include "kube/node_object.h"
#include "model/tests/board_gpu.h"

namespace sublet {
namespace {

void LabelNode(benchmark::State& state) {
  Inventory node;
  node.driver.version = "580.159.04";
  node.driver.cuda_version = 13'000;
  for (int i = 0; i < 16; ++i) {
    Gpu gpu = GpuOfBoard("h100-80gb");
    gpu.index = i;
    gpu.uuid = fmt::format("GPU-00000000-0000-0000-0000-{:012}", i);
    gpu.mig_enabled = true;
    for (int start = 0; start < 7; ++start) {
      GpuInstance instance;
      instance.profile_id = 19;
      instance.profile = "1g.10gb";
      instance.placement = {start, 1};
      instance.compute_instances.emplace_back().uuid = fmt::format("MIG-{}-{}", i, start);
      gpu.instances.push_back(std::move(instance));
    }
    node.gpus.push_back(std::move(gpu));
  }
  DevicePluginConfig config;
  config.flags.mig_strategy = MigStrategy::kMixed;
  for (auto _ : state) {
    const FeatureLabels found = MakeFeatureLabels(node, config, {});
    CHECK(found.labels.contains("nvidia.com/gpu.count"));
    benchmark::DoNotOptimize(FeaturesText(found.labels));
  }
}
BENCHMARK(LabelNode)->Unit(benchmark::kMicrosecond);

// As kubelet keeps it: fifty images with four names each are most of it.
void ReadLargeNode(benchmark::State& state) {
  std::string images;
  for (int i = 0; i < 200; ++i) {
    images += fmt::format(R"({}{{"names":["registry.example/team/image-{}@sha256:{:064}"]}})",
                          i == 0 ? "" : ",", i, i);
  }
  std::string labels = R"("nvidia.com/mig.config":"all-balanced")";
  for (int i = 0; i < 200; ++i) labels += fmt::format(R"(,"example.com/label-{}":"{}")", i, i);
  const std::string text =
      fmt::format(R"({{"metadata":{{"name":"gpu-1","resourceVersion":"7","labels":{{{}}}}},)"
                  R"("status":{{"images":[{}]}}}})",
                  labels, images);
  for (auto _ : state) {
    const auto json = ParseApiJson(text, "node");
    CHECK(json.has_value());
    benchmark::DoNotOptimize(ReadNodeObject(*json));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(text.size()));
}
BENCHMARK(ReadLargeNode)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
