// What describing a node costs: eight GPUs of seven MIG devices each, and the reading of caches.
//
//   ./dev bench cdi_bench

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "base/check.h"
#include "cdi/elf_library.h"
#include "cdi/gpu_spec.h"
#include "cdi/ld_cache.h"
#include "cdi/spec_check.h"
#include "cdi/tests/driver_tree.h"
#include "model/inventory.h"

namespace sublet {
namespace {

constexpr int kGpus = 8;
constexpr int kMigDevices = 7;
constexpr int kLibraries = 45;  // Of driver 580.

FoundNode NodeAt(const std::string& path, unsigned major, unsigned minor) {
  return {
      .path = path, .host_path = path, .major = major, .minor = minor, .reserved = major == 195};
}

struct Node {
  Inventory inventory;
  DeviceNodes nodes;
  DriverFiles files;
};

Node LargeNode() {
  Node node;
  node.nodes.control = {NodeAt("/dev/nvidiactl", 195, 255), NodeAt("/dev/nvidia-uvm", 511, 0)};
  for (int i = 0; i < kGpus; ++i) {
    Gpu gpu;
    gpu.index = i;
    gpu.uuid = "GPU-0000000" + std::to_string(i) + "-0000-0000-0000-000000000000";
    node.inventory.gpus.push_back(gpu);
    GpuNodes& mine = node.nodes.gpus[gpu.uuid];
    mine.index = i;
    mine.node = NodeAt("/dev/nvidia" + std::to_string(i), 195, static_cast<unsigned>(i));
    for (int j = 0; j < kMigDevices; ++j) {
      const int number = 3 + (i * 15 + j) * 9;
      const std::string cap = "/dev/nvidia-caps/nvidia-cap";
      mine.mig.push_back({.index = j,
                          .uuid = "MIG-" + std::to_string(i * 10 + j),
                          .capabilities = {NodeAt(cap + std::to_string(number), 509, 0),
                                           NodeAt(cap + std::to_string(number + 1), 509, 0)}});
    }
  }
  for (int i = 0; i < kLibraries; ++i) {
    const std::string name = "libnvidia-" + std::to_string(i) + ".so";
    node.files.libraries.push_back({.path = "/usr/lib64/" + name + ".580.159.04",
                                    .name = name + ".580.159.04",
                                    .soname = name + ".1",
                                    .folder = "/usr/lib64",
                                    .subfolder = {},
                                    .machine = kElfMachineX86});
  }
  return node;
}

void BM_DescribeEightGpusInSevenths(benchmark::State& state) {
  const Node node = LargeNode();
  std::size_t bytes = 0;
  for (auto _ : state) {
    const std::vector<CdiSpec> specs = GpuSpecs(node.inventory, node.files, node.nodes, {});
    CHECK(CheckCdiSpec(specs.at(0)));
    bytes = CdiSpecText(specs.at(0)).size();
    benchmark::DoNotOptimize(bytes);
  }
  state.counters["bytes"] = static_cast<double>(bytes);
}
BENCHMARK(BM_DescribeEightGpusInSevenths)->Unit(benchmark::kMicrosecond);

void BM_ReadCacheOfTheDynamicLinker(benchmark::State& state) {
  std::vector<std::pair<std::string, std::string>> entries;
  for (int i = 0; i < 3000; ++i) {  // A desktop with everything installed.
    const std::string name = "libsomething-" + std::to_string(i) + ".so.1";
    entries.emplace_back(name, "/usr/lib/x86_64-linux-gnu/" + name);
  }
  const std::string bytes = LdCacheBytes(entries);
  for (auto _ : state) benchmark::DoNotOptimize(ParseLdCache(bytes));
}
BENCHMARK(BM_ReadCacheOfTheDynamicLinker)->Unit(benchmark::kMicrosecond);

void BM_FindDriverFiles(benchmark::State& state) {
  const DriverTree tree;
  const std::string folder = "/usr/lib/x86_64-linux-gnu/";
  for (int i = 0; i < kLibraries; ++i) {
    const std::string name = i == 0 ? "libcuda.so" : "libnvidia-" + std::to_string(i) + ".so";
    tree.Library(folder + name + ".580.159.04", name + ".1");
  }
  for (int i = 0; i < 3000; ++i) tree.File(folder + "libsomething-" + std::to_string(i) + ".so");
  for (auto _ : state) {
    const auto files = FindDriverFiles({.root = tree.root(), .version = "580.159.04"});
    CHECK(files && files->libraries.size() == kLibraries);
  }
}
BENCHMARK(BM_FindDriverFiles)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
