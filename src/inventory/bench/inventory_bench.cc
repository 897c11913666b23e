// How long taking stock of a node takes on the simulated driver.
//
//   inventory_bench [--benchmark_filter=...]
//
// BM_Take/8 is the whole of `sublet inspect` for eight GPUs; BM_RawCalls/8 makes the same NVML
// calls for them and throws the answers away, so the difference is what Sublet adds. The budget is
// 100 ms for eight GPUs past NVML's own start; calls into a real driver are slower than into this
// one.
#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "inventory/environment.h"
#include "inventory/nvml_library.h"
#include "inventory/nvml_source.h"
#include "inventory/table.h"
#include "model/board.h"

namespace sublet {
namespace {

// One simulated node for the whole run: NVML keeps its node as long as it is started.
NvmlLibrary OpenSimulated(const std::string& preset) {
  static const std::string folder = [] {
    std::string path = std::filesystem::temp_directory_path() / "sublet-bench-XXXXXX";
    return std::string(::mkdtemp(path.data()));
  }();
  ::setenv("SUBLET_SIM", preset.c_str(), 1);
  ::setenv("SUBLET_SIM_STATE", folder.c_str(), 1);
  Result<NvmlLibrary> library =
      NvmlLibrary::Open(SUBLET_BINARY_DIR "/lib/sublet-sim/libnvidia-ml.so.1");
  if (!library) throw std::runtime_error(library.error().message);
  return std::move(*library);
}

std::string Preset(const benchmark::State& state) {
  return "h100-80gb:" + std::to_string(state.range(0));
}

void BM_Take(benchmark::State& state) {
  const NvmlLibrary nvml = OpenSimulated(Preset(state));
  for (auto _ : state) {
    Inventory node;
    if (!ReadNvml(nvml, BuiltInBoards(), "/sys", node)) state.SkipWithError("reading failed");
    node.modes = CheckModes(node, BuiltInBoards());
    benchmark::DoNotOptimize(node);
  }
}
BENCHMARK(BM_Take)->Arg(1)->Arg(8)->Unit(benchmark::kMicrosecond);

// The calls that ReadNvml makes for a GPU without instances and processes.
void CallAll(const nvml::Api& api, nvml::Device device) {
  std::array<char, 96> text{};
  nvml::PciInfo pci{};
  nvml::MemoryV2 memory{};
  memory.version = nvml::StructVersion<nvml::MemoryV2>(2);
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  int major = 0;
  int minor = 0;
  unsigned long long number = 0;
  nvml::Utilization utilisation{};
  std::array<unsigned long, 16> nodes{};
  std::array<nvml::ProcessInfo, 32> processes{};
  static_cast<void>(api.device_uuid(device, text.data(), text.size()));
  static_cast<void>(api.device_name(device, text.data(), text.size()));
  static_cast<void>(api.device_pci_info(device, &pci));
  static_cast<void>(api.device_memory_v2(device, &memory));
  static_cast<void>(api.device_compute_capability(device, &major, &minor));
  static_cast<void>(api.device_gpu_cores(device, &a));
  static_cast<void>(api.device_compute_mode(device, &a));
  static_cast<void>(api.device_utilization(device, &utilisation));
  static_cast<void>(api.device_minor_number(device, &a));
  static_cast<void>(api.device_memory_affinity(device, nodes.size(), nodes.data(), 0));
  static_cast<void>(api.device_ecc_mode(device, &a, &b));
  static_cast<void>(api.device_ecc_errors(device, 0, 0, &number));
  static_cast<void>(api.device_ecc_errors(device, 1, 0, &number));
  static_cast<void>(api.device_remapped_rows(device, &a, &b, &c, &d));
  static_cast<void>(api.device_event_types(device, &number));
  static_cast<void>(api.device_mig_mode(device, &a, &b));
  for (unsigned i = 0; i < nvml::kGpuInstanceProfileCount; ++i) {
    nvml::GpuInstanceProfileInfoV2 info{};
    info.version = nvml::StructVersion<nvml::GpuInstanceProfileInfoV2>(2);
    if (api.gi_profile_info_v(device, i, &info) != nvml::kSuccess) {
      nvml::GpuInstanceProfileInfo first{};
      static_cast<void>(api.gi_profile_info(device, i, &first));
      continue;
    }
    std::array<nvml::InstancePlacement, 64> placements{};
    unsigned count = placements.size();
    static_cast<void>(api.gi_placements(device, info.id, placements.data(), &count));
  }
  for (const auto list :
       {api.device_graphics_processes, api.device_compute_processes, api.device_mps_processes}) {
    unsigned count = processes.size();
    static_cast<void>(list(device, &count, processes.data()));
  }
}

void BM_RawCalls(benchmark::State& state) {
  const NvmlLibrary nvml = OpenSimulated(Preset(state));
  const nvml::Api& api = nvml.api();
  const auto gpus = static_cast<unsigned>(state.range(0));
  std::vector<nvml::Device> devices(gpus);
  for (auto _ : state) {
    for (unsigned i = 0; i < gpus; ++i) {
      static_cast<void>(api.device_by_index(i, &devices[i]));
      CallAll(api, devices[i]);
    }
    for (unsigned i = 0; i < gpus && gpus > 1; ++i) {
      unsigned value = 0;
      for (unsigned link = 0; link < nvml::kNvLinkMaxLinks; ++link) {
        static_cast<void>(api.nvlink_state(devices[i], link, &value));
        static_cast<void>(api.nvlink_remote_type(devices[i], link, &value));
      }
      for (unsigned j = i + 1; j < gpus; ++j) {
        static_cast<void>(api.common_ancestor(devices[i], devices[j], &value));
        static_cast<void>(api.p2p_status(devices[i], devices[j], 0, &value));
        static_cast<void>(api.p2p_status(devices[i], devices[j], 1, &value));
      }
    }
  }
}
BENCHMARK(BM_RawCalls)->Arg(1)->Arg(8)->Unit(benchmark::kMicrosecond);

void BM_Table(benchmark::State& state) {
  const NvmlLibrary nvml = OpenSimulated(Preset(state));
  Inventory node;
  if (!ReadNvml(nvml, BuiltInBoards(), "/sys", node)) state.SkipWithError("reading failed");
  for (auto _ : state) benchmark::DoNotOptimize(InventoryTable(node, {}));
}
BENCHMARK(BM_Table)->Arg(8)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
