#include "inventory/nvml_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "base/files.h"
#include "inventory/nvml_links.h"
#include "inventory/nvml_mig.h"
#include "inventory/nvml_processes.h"

namespace sublet {
namespace {

using nvml::Api;

// CUDA cores of one SM, by compute capability (CUDA C++ programming guide, arithmetic throughput of
// 32-bit floating point). NVML counts cores only.
std::optional<int> CoresPerSm(int major, int minor) {
  if (major == 7 || (major == 8 && minor == 0)) return 64;
  if (major >= 8 && major <= 12) return 128;
  return std::nullopt;
}

template <typename Call>
std::string ReadText(const Call& call) {
  std::array<char, nvml::kUuidBufferSize> buffer{};
  if (call(buffer.data(), static_cast<unsigned>(buffer.size() - 1)) != nvml::kSuccess) return {};
  return buffer.data();
}

// The value of a call that fills one unsigned number; absent when it is missing or fails.
template <typename Function, typename... Arguments>
std::optional<unsigned> ReadNumber(Function* function, Arguments... arguments) {
  unsigned value = 0;
  if (function == nullptr || function(arguments..., &value) != nvml::kSuccess) return std::nullopt;
  return value;
}

Status ReadIdentity(const Api& api, nvml::Device device, Gpu& gpu) {
  const std::string what = fmt::format("asking GPU {}", gpu.index);
  std::array<char, nvml::kUuidBufferSize> text{};
  RETURN_IF_ERROR(FromNvml(api.device_uuid(device, text.data(), text.size()), what));
  gpu.uuid = text.data();
  text = {};
  RETURN_IF_ERROR(FromNvml(api.device_name(device, text.data(), text.size()), what));
  gpu.product = text.data();
  nvml::PciInfo pci{};
  RETURN_IF_ERROR(FromNvml(api.device_pci_info(device, &pci), what));
  gpu.pci_bus_id = pci.bus_id;
  gpu.pci_device_id = pci.pci_device_id;
  gpu.pci_subsystem_id = pci.pci_subsystem_id;
  return {};
}

Status ReadMemory(const Api& api, nvml::Device device, Gpu& gpu) {
  const auto bytes = [](unsigned long long count) {
    return Bytes{static_cast<std::int64_t>(count)};
  };
  if (api.device_memory_v2 != nullptr) {
    nvml::MemoryV2 memory{};
    memory.version = nvml::StructVersion<nvml::MemoryV2>(2);
    if (api.device_memory_v2(device, &memory) == nvml::kSuccess) {
      gpu.memory = bytes(memory.total);
      gpu.memory_used = bytes(memory.used);
      gpu.memory_reserved = bytes(memory.reserved);
      return {};
    }
  }
  nvml::Memory memory{};
  RETURN_IF_ERROR(FromNvml(api.device_memory(device, &memory),
                           fmt::format("asking GPU {} for its memory", gpu.index)));
  gpu.memory = bytes(memory.total);
  gpu.memory_used = bytes(memory.used);
  return {};
}

void ReadCompute(const Api& api, nvml::Device device, Gpu& gpu) {
  int major = 0;
  int minor = 0;
  if (api.device_compute_capability != nullptr &&
      api.device_compute_capability(device, &major, &minor) == nvml::kSuccess) {
    gpu.compute_capability_major = major;
    gpu.compute_capability_minor = minor;
  }
  const auto cores = ReadNumber(api.device_gpu_cores, device);
  const auto per_sm = CoresPerSm(gpu.compute_capability_major, gpu.compute_capability_minor);
  if (cores && per_sm) gpu.sm_count = static_cast<int>(*cores) / *per_sm;
  if (const auto mode = ReadNumber(api.device_compute_mode, device);
      mode && *mode <= nvml::kComputeModeExclusiveProcess) {
    gpu.compute_mode = static_cast<ComputeMode>(*mode);  // The enums have one order.
  }
  nvml::Utilization utilisation{};
  if (api.device_utilization != nullptr &&
      api.device_utilization(device, &utilisation) == nvml::kSuccess && utilisation.gpu <= 100) {
    gpu.utilisation_percent = static_cast<int>(utilisation.gpu);
  }
  if (const auto number = ReadNumber(api.device_minor_number, device)) {
    gpu.minor_number = static_cast<int>(*number);
  }
}

// The kernel writes the PCI bus id in lower case, with a domain of four digits.
std::optional<int> NumaNodeFromSysfs(const std::string& sysfs, std::string_view bus_id) {
  if (bus_id.size() > 12) bus_id.remove_prefix(bus_id.size() - 12);
  std::string name(bus_id);
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  const Result<std::string> text =
      ReadFile(fmt::format("{}/bus/pci/devices/{}/numa_node", sysfs, name), 64);
  int node = -1;
  if (!text) return std::nullopt;
  std::from_chars(text->data(), text->data() + text->size(), node);
  return node < 0 ? std::nullopt : std::optional(node);
}

std::optional<int> ReadNumaNode(const Api& api, nvml::Device device, const std::string& sysfs,
                                std::string_view bus_id) {
  if (const auto node = NumaNodeFromSysfs(sysfs, bus_id)) return node;
  if (api.device_memory_affinity == nullptr) return std::nullopt;
  std::array<unsigned long, 16> nodes{};  // Linux has at most 1,024 NUMA nodes.
  if (api.device_memory_affinity(device, nodes.size(), nodes.data(), nvml::kAffinityScopeNode) !=
      nvml::kSuccess) {
    return std::nullopt;
  }
  for (int node = 0; node < static_cast<int>(nodes.size() * 64); ++node) {
    if (nodes[static_cast<std::size_t>(node / 64)] >> (node % 64) & 1) return node;
  }
  return std::nullopt;
}

GpuHealth ReadHealth(const Api& api, nvml::Device device) {
  GpuHealth health;
  unsigned current = 0;
  unsigned pending = 0;
  if (api.device_ecc_mode != nullptr &&
      api.device_ecc_mode(device, &current, &pending) == nvml::kSuccess) {
    health.ecc = current == nvml::kFeatureEnabled;
  }
  const auto errors = [&](unsigned type) -> std::optional<std::int64_t> {
    unsigned long long count = 0;
    if (api.device_ecc_errors == nullptr ||
        api.device_ecc_errors(device, type, nvml::kEccVolatile, &count) != nvml::kSuccess) {
      return std::nullopt;
    }
    return static_cast<std::int64_t>(count);
  };
  health.ecc_errors_corrected = errors(nvml::kErrorCorrected);
  health.ecc_errors_uncorrected = errors(nvml::kErrorUncorrected);
  unsigned corrected_rows = 0;
  unsigned uncorrected_rows = 0;
  unsigned remap_pending = 0;
  unsigned remap_failed = 0;
  if (api.device_remapped_rows != nullptr &&
      api.device_remapped_rows(device, &corrected_rows, &uncorrected_rows, &remap_pending,
                               &remap_failed) == nvml::kSuccess) {
    health.rows_remapped = static_cast<int>(corrected_rows + uncorrected_rows);
    health.row_remap_pending = remap_pending != 0;
    health.row_remap_failed = remap_failed != 0;
  }
  unsigned long long events = 0;
  if (api.device_event_types != nullptr &&
      api.device_event_types(device, &events) == nvml::kSuccess) {
    health.xid_events = (events & nvml::kEventXidCritical) != 0;
  }
  return health;
}

std::string UuidText(std::span<const unsigned char, 16> bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", bytes[i]);
  }
  return text;
}

// Absent where the GPU is in no fabric that reaches beyond its node, and while it joins one.
std::optional<FabricPlace> ReadFabric(const Api& api, nvml::Device device) {
  nvml::GpuFabricInfoV2 info{};
  info.version = nvml::StructVersion<nvml::GpuFabricInfoV2>(2);
  if (api.device_fabric == nullptr || api.device_fabric(device, &info) != nvml::kSuccess ||
      info.state != nvml::kFabricCompleted || info.status != nvml::kSuccess) {
    return std::nullopt;
  }
  // Without a UUID it is the fabric of one node's own switches.
  if (std::ranges::all_of(info.cluster_uuid, [](unsigned char byte) { return byte == 0; })) {
    return std::nullopt;
  }
  return FabricPlace{UuidText(info.cluster_uuid), info.clique_id};
}

// The length of the printable UTF-8 character that `text` begins with, 0 where it begins with none.
std::size_t CharacterLength(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return byte(0) >= 0x20 && byte(0) != 0x7F ? 1 : 0;
  const std::size_t length = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

// A process chooses its own name, so what could steer a terminal or isn't text becomes '?'.
std::string Printable(std::string_view text) {
  std::string clean;
  while (!text.empty()) {
    const std::size_t length = CharacterLength(text);
    clean += length == 0 ? "?" : text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return clean;
}

void ReadProcesses(const Api& api, nvml::Device device, Gpu& gpu) {
  std::map<int, GpuProcess> found;
  const auto add = [&](ProcessLister list, ProcessType type) {
    for (const nvml::ProcessInfo& info :
         ListProcesses(list, device).value_or(std::vector<nvml::ProcessInfo>())) {
      GpuProcess& process = found[static_cast<int>(info.pid)];
      process.pid = static_cast<int>(info.pid);
      process.type = type;
      if (info.used_gpu_memory != nvml::kValueNotAvailable) {
        process.memory = Bytes{static_cast<std::int64_t>(info.used_gpu_memory)};
      }
      if (info.gpu_instance_id != nvml::kNoInstance) {
        process.gpu_instance = static_cast<int>(info.gpu_instance_id);
      }
      if (info.compute_instance_id != nvml::kNoInstance) {
        process.compute_instance = static_cast<int>(info.compute_instance_id);
      }
    }
  };
  // A process in several lists is shown by the most telling one, which comes last.
  add(api.device_graphics_processes, ProcessType::kGraphics);
  add(api.device_compute_processes, ProcessType::kCompute);
  add(api.device_mps_processes, ProcessType::kMpsClient);
  for (auto& [pid, process] : found) {
    std::array<char, 256> name{};
    if (api.system_process_name != nullptr &&
        api.system_process_name(static_cast<unsigned>(pid), name.data(), name.size() - 1) ==
            nvml::kSuccess) {
      process.name = Printable(name.data());
    }
    gpu.processes.push_back(std::move(process));
  }
}

nvml::Device ReadGpu(const Api& api, const BoardCatalogue& boards, const std::string& sysfs,
                     Gpu& gpu) {
  nvml::Device device = nullptr;
  Status status = FromNvml(api.device_by_index(static_cast<unsigned>(gpu.index), &device),
                           fmt::format("opening GPU {}", gpu.index));
  if (status) status = ReadIdentity(api, device, gpu);
  if (status) status = ReadMemory(api, device, gpu);
  if (!status) {
    gpu.problem = status.error().message;
    return nullptr;
  }
  if (const Board* board = boards.Match(gpu.pci_device_id >> 16, gpu.product)) {
    gpu.board = board->name;
  }
  ReadCompute(api, device, gpu);
  gpu.numa_node = ReadNumaNode(api, device, sysfs, gpu.pci_bus_id);
  gpu.health = ReadHealth(api, device);
  gpu.fabric = ReadFabric(api, device);
  ReadMig(api, device, gpu);
  ReadProcesses(api, device, gpu);
  return device;
}

Capability BySymbol(const NvmlLibrary& nvml, std::string name, const char* symbol) {
  const bool there = nvml.Exports(symbol);
  return {.name = std::move(name),
          .available = there,
          .how = fmt::format("nvml {} {}", there ? "exports" : "does not export", symbol)};
}

Capability ByCudaVersion(int version, std::string name, int needed) {
  return {.name = std::move(name),
          .available = version >= needed,
          .how = fmt::format("the driver's CUDA is {}.{}, needed is {}.{}", version / 1000,
                             version % 1000 / 10, needed / 1000, needed % 1000 / 10)};
}

std::vector<Capability> ProbeCapabilities(const NvmlLibrary& nvml, const Inventory& node) {
  std::vector<Capability> capabilities;
  const bool mig = std::ranges::any_of(node.gpus, &Gpu::mig_capable);
  capabilities.push_back({.name = "mig",
                          .available = mig,
                          .how = mig ? "a GPU reports a MIG mode" : "no GPU reports a MIG mode"});
  capabilities.push_back(
      BySymbol(nvml, "mig-placement", "nvmlDeviceCreateGpuInstanceWithPlacement"));
  capabilities.push_back(
      BySymbol(nvml, "mps-process-list", "nvmlDeviceGetMPSComputeRunningProcesses_v3"));
  // The first drivers with these are those of CUDA 13.1 and 13.4 (r615). Both are features of the
  // MPS programs, which have no call that tells them.
  capabilities.push_back(ByCudaVersion(node.driver.cuda_version, "mps-sm-partitions", 13010));
  capabilities.push_back(ByCudaVersion(node.driver.cuda_version, "mps-namespaces", 13040));
  Capability limits = BySymbol(nvml, "memory-limits", "nvmlDeviceSetMemoryLimits_v1");
  if (limits.available && !node.host.cgroup2) {
    limits = {.name = "memory-limits",
              .available = false,
              .how = "nvml has them, but cgroup v2 is not mounted at /sys/fs/cgroup"};
  }
  capabilities.push_back(std::move(limits));
  return capabilities;
}

}  // namespace

Status ReadNvml(const NvmlLibrary& nvml, const BoardCatalogue& boards, const std::string& sysfs,
                Inventory& node) {
  const Api& api = nvml.api();
  node.driver.version = ReadText(api.system_driver_version);
  if (api.system_nvml_version != nullptr) {
    node.driver.nvml_version = ReadText(api.system_nvml_version);
  }
  int cuda = 0;
  if (api.system_cuda_version != nullptr && api.system_cuda_version(&cuda) == nvml::kSuccess) {
    node.driver.cuda_version = cuda;
  }
  node.driver.simulated = nvml.Exports("subletSimProcessStart");
  unsigned count = 0;
  RETURN_IF_ERROR(FromNvml(api.device_count(&count), "counting GPUs"));
  std::vector<nvml::Device> devices;
  for (unsigned i = 0; i < count; ++i) {
    Gpu gpu;
    gpu.index = static_cast<int>(i);
    devices.push_back(ReadGpu(api, boards, sysfs, gpu));
    node.gpus.push_back(std::move(gpu));
  }
  node.links = ReadLinks(api, devices, node.gpus);
  node.driver.capabilities = ProbeCapabilities(nvml, node);
  return {};
}

}  // namespace sublet
