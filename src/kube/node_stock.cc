#include "kube/node_stock.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "base/files.h"
#include "cdi/device_nodes.h"
#include "cdi/node_specs.h"
#include "cdi/spec_files.h"
#include "inventory/take.h"
#include "model/document.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kOptionalNodes[] = {"/dev/nvidiactl", "/dev/nvidia-uvm",
                                               "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"};
constexpr int kAllSms = 100;  // Percent.
// A limit above this part of a device is none: its probe would have to take all of the memory.
constexpr std::int64_t kWallPercentMax = 90;

// What kubelet's gRPC takes in one message, and of a device beside its id: its health, its NUMA
// node and what goes before each field.
constexpr std::size_t kListBytesMax = 4u << 20;
constexpr std::size_t kDeviceBytesMax = 32;

// A longer list would break kubelet's stream off, again and again.
Status CheckListSize(const AdvertisedResource& resource) {
  std::size_t bytes = 0;
  for (const AdvertisedReplica& replica : resource.replicas) {
    bytes += replica.id.size() + kDeviceBytesMax;
  }
  if (bytes <= kListBytesMax) return {};
  return Fail(ErrorCode::kInfeasible,
              fmt::format("{}: a list of {} replicas has up to {} bytes, and kubelet takes {}",
                          resource.name, resource.replicas.size(), bytes, kListBytesMax),
              "fewer replicas, or several resources");
}

std::optional<std::string> ProcessEnvironment(const char* name) {
  const char* const value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

// As the node has them: in the folder of device nodes where this process sees it, else its own.
std::set<std::string, std::less<>> PresentNodes(const PluginFlags& flags) {
  std::set<std::string, std::less<>> present;
  for (const std::string_view node : kOptionalNodes) {
    for (const std::string& root : {flags.dev_root, flags.container_driver_root, std::string()}) {
      std::error_code ignored;
      if (fs::exists(fmt::format("{}{}", root == "/" ? "" : root, node), ignored)) {
        present.emplace(node);
      }
    }
  }
  return present;
}

// The capability nodes of MIG devices, by UUID.
std::map<std::string, std::vector<std::string>> MigNodes(const Inventory& inventory) {
  std::map<std::string, std::vector<std::string>> nodes;
  if (std::ranges::all_of(inventory.gpus, [](const Gpu& gpu) { return gpu.instances.empty(); })) {
    return nodes;
  }
  NodePlaces places;
  places.simulated = inventory.driver.simulated;
  if (places.simulated) places.dev_root.reset();
  for (const auto& [gpu, found] : FindDeviceNodes(inventory, places, {}).gpus) {
    for (const MigDeviceNodes& device : found.mig) {
      for (const FoundNode& node : device.capabilities) nodes[device.uuid].push_back(node.path);
    }
  }
  return nodes;
}

Status WriteSpecs(const Inventory& inventory, const StockSource& source,
                  const DevicePluginConfig& config, std::vector<std::string>& notes) {
  const PluginFlags& flags = config.flags;
  if (!flags.Uses(DeviceListStrategy::kCdiAnnotations) &&
      !flags.Uses(DeviceListStrategy::kCdiCri)) {
    return {};
  }
  if (inventory.driver.simulated && source.cdi_folder == kCdiFolder) {
    return Fail(ErrorCode::kUsage,
                fmt::format("simulated GPUs are not written into {}", source.cdi_folder),
                "--cdi-dir names another folder");
  }
  CdiRequest request;
  request.driver_root.host = flags.driver_root;
  std::error_code ignored;
  const bool mounted = fs::is_directory(flags.container_driver_root, ignored);
  request.driver_root.here = mounted ? flags.container_driver_root : flags.driver_root;
  request.driver_root_named = mounted || flags.driver_root != "/";
  request.dev_root = flags.dev_root;
  request.hook_path = flags.cdi_hook_path;
  request.config.disabled_hooks.insert(flags.cdi_disable_hooks.begin(),
                                       flags.cdi_disable_hooks.end());
  request.config.imex_channels = config.imex.channel_ids;
  request.config.gdrcopy = flags.gdrcopy_enabled;
  request.config.gds = flags.gds_enabled;
  request.config.mofed = flags.mofed_enabled;
  request.simulation.node = source.simulation;
  request.simulation.folder = fs::path(source.nvml).parent_path().lexically_normal().string();
  ASSIGN_OR_RETURN(const CdiDescription found, DescribeNode(inventory, request));
  notes.insert(notes.end(), found.notes.begin(), found.notes.end());
  ASSIGN_OR_RETURN(const std::vector<CdiFileChange> changes,
                   WriteCdiSpecs(source.cdi_folder, kDevicePluginCdiVendor, found.specs));
  for (const CdiFileChange& change : changes) {
    if (change.kind == CdiFileChange::Kind::kWritten) {
      notes.push_back(fmt::format("wrote {}", change.path));
    }
  }
  for (const std::string& conflict :
       CdiConflicts({source.cdi_folder, std::string(kCdiStaticFolder)}, found.specs)) {
    notes.push_back(fmt::format("{}; runtimes give out neither", conflict));
  }
  return {};
}

// SMs of a whole GPU, or of a MIG device that has all of its instance.
int SmCountOf(const AdvertisedDevice& device, const Inventory& inventory) {
  const Gpu* const gpu = inventory.FindGpu(device.gpu_uuid);
  if (gpu == nullptr) return 0;
  if (!device.IsMig()) return gpu->sm_count.value_or(0);
  const auto instance = std::ranges::find_if(gpu->instances, [&](const GpuInstance& one) {
    return device.gpu_instance && one.id == *device.gpu_instance;
  });
  if (instance == gpu->instances.end() || instance->compute_instances.size() != 1) return 0;
  const ReportedProfile* const profile = gpu->FindProfile(instance->profile_id);
  return profile == nullptr ? 0 : profile->sm_count;
}

// The most that one container may have of a device by this resource; absent: all.
ShareSize MostOf(const AdvertisedResource& resource, const AdvertisedDevice& device) {
  const int replicas = resource.fail_requests_greater_than_one ? 1 : device.replicas;
  ShareSize most;
  if (device.size.memory) {
    // In whole MiB, as servers are told and as the state has it.
    const Bytes memory = Bytes::FromMib((*device.size.memory * replicas).mib());
    const bool limits = memory.count <= device.memory.count / 100 * kWallPercentMax;
    if (limits) most.memory = memory;
  }
  if (device.size.sm_percent) {
    const int percent = *device.size.sm_percent * replicas;
    if (percent < kAllSms) most.sm_percent = percent;
  }
  return most;
}

template <typename T>
void Widen(std::optional<T>& wall, const std::optional<T>& other) {
  if (!other) wall.reset();
  if (wall && other) wall = std::max(*wall, *other);
}

}  // namespace

Result<NodeStock> TakeNodeStock(const StockSource& source, const DevicePluginConfig& config) {
  TakeOptions take;
  take.nvml_path = source.nvml;
  take.patience = std::chrono::milliseconds(static_cast<std::int64_t>(source.patience_s * 1000));
  take.mps_daemons = false;
  ASSIGN_OR_RETURN(Inventory inventory, TakeInventory(take, ProcessEnvironment));
  std::optional<Plan> plan;
  if (!config.sublet.plan.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(config.sublet.plan, kDocumentBytesMax));
    ASSIGN_OR_RETURN(plan, ParsePlan(text, config.sublet.plan));
  }
  NodeStock stock;
  PluginResourcesInput input{.inventory = inventory, .config = config};
  input.plan = plan ? &*plan : nullptr;
  input.mig_nodes = MigNodes(inventory);
  ASSIGN_OR_RETURN(stock.advertised, AdvertiseNode(input));
  for (const AdvertisedResource& resource : stock.advertised.resources) {
    RETURN_IF_ERROR(CheckListSize(resource));
  }
  stock.notes = stock.advertised.warnings;
  stock.present_nodes = PresentNodes(config.flags);
  RETURN_IF_ERROR(WriteSpecs(inventory, source, config, stock.notes));
  stock.inventory = std::make_shared<const Inventory>(std::move(inventory));
  return stock;
}

std::vector<MpsWant> MpsWantsOf(const AdvertisedNode& advertised, const Inventory& inventory,
                                const DevicePluginConfig& config) {
  std::map<std::string, MpsWant> wants;
  for (const AdvertisedResource& resource : advertised.resources) {
    for (const AdvertisedDevice& device : resource.devices) {
      if (device.mode != SharingMode::kMps) continue;
      const ShareSize most = MostOf(resource, device);
      const auto [entry, added] = wants.try_emplace(device.uuid);
      MpsWant& want = entry->second;
      if (!added) {
        Widen(want.wall.memory, most.memory);
        Widen(want.wall.sm_percent, most.sm_percent);
        continue;
      }
      want.device = device.uuid;
      want.gpu_uuid = device.gpu_uuid;
      want.memory = device.memory;
      want.wall = most;
      want.sm_count = SmCountOf(device, inventory);
      want.per_tenant = config.sublet.tenancy != MpsTenancy::kResource;
    }
  }
  std::vector<MpsWant> list;
  for (auto& [device, want] : wants) list.push_back(std::move(want));
  return list;
}

}  // namespace sublet
