#include "kube/physical_devices.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/mig_config.h"

namespace sublet {
namespace {

// NVIDIA, "Multi-Process Service": 48 clients from compute capability 7.5 on in its device plugin's
// table, 16 before.
constexpr int kMpsClientsVolta = 48;
constexpr int kMpsClientsOld = 16;

bool AtLeast(const Gpu& gpu, int major, int minor) {
  if (gpu.compute_capability_major == 0) return true;  // The driver doesn't tell.
  if (gpu.compute_capability_major != major) return gpu.compute_capability_major > major;
  return gpu.compute_capability_minor >= minor;
}

std::vector<std::string> PathsOf(const Inventory& inventory, const Gpu& gpu) {
  // Under Windows' driver one node stands for all GPUs.
  if (inventory.host.wsl2) return {"/dev/dxg"};
  if (!gpu.minor_number) return {};
  return {fmt::format("/dev/nvidia{}", *gpu.minor_number)};
}

PhysicalDevice WholeGpu(const Inventory& inventory, const Gpu& gpu) {
  PhysicalDevice whole;
  whole.device.uuid = gpu.uuid;
  whole.device.gpu_uuid = gpu.uuid;
  whole.device.gpu_index = gpu.index;
  whole.device.index = std::to_string(gpu.index);
  // A machine without NUMA reports -1.
  if (gpu.numa_node && *gpu.numa_node >= 0) whole.device.numa_node = gpu.numa_node;
  whole.device.paths = PathsOf(inventory, gpu);
  whole.device.memory = gpu.memory;
  whole.usable = gpu.memory - gpu.memory_reserved.value_or(Bytes{});
  whole.mig_mode = gpu.mig_enabled;
  whole.mps_clients_max = AtLeast(gpu, 7, 5) ? kMpsClientsVolta : kMpsClientsOld;
  whole.mps_limits = AtLeast(gpu, 7, 0);
  return whole;
}

// "1c.3g.40gb" where the compute instance has a part of its GPU instance only.
std::string ProfileOf(const GpuInstance& instance, int gpu_slices, int compute_slices) {
  if (compute_slices == 0 || compute_slices == gpu_slices) return instance.profile;
  return fmt::format("{}c.{}", compute_slices, instance.profile);
}

void AppendMigDevices(const Inventory& inventory, const Gpu& gpu,
                      const std::map<std::string, std::vector<std::string>>& mig_nodes,
                      std::vector<PhysicalDevice>& devices) {
  std::vector<const GpuInstance*> instances;
  for (const GpuInstance& instance : gpu.instances) instances.push_back(&instance);
  // The driver numbers MIG devices by instance, not by place.
  std::ranges::sort(instances, {}, [](const GpuInstance* instance) { return instance->id; });
  int index = 0;
  for (const GpuInstance* instance : instances) {
    const ReportedProfile* const profile = gpu.FindProfile(instance->profile_id);
    for (const ComputeInstance& compute : instance->compute_instances) {
      if (compute.uuid.empty()) continue;
      PhysicalDevice mig = WholeGpu(inventory, gpu);
      mig.mig_mode = false;
      mig.start = instance->placement.start;
      mig.instance_profile_id = instance->profile_id;
      mig.compute_slices = compute.placement.size;
      AdvertisedDevice& device = mig.device;
      device.uuid = compute.uuid;
      device.index = fmt::format("{}:{}", gpu.index, index++);
      device.profile = ProfileOf(*instance, profile != nullptr ? profile->compute_slices : 0,
                                 profile != nullptr ? compute.placement.size : 0);
      device.gpu_instance = instance->id;
      device.compute_instance = compute.id;
      device.memory = profile != nullptr ? profile->memory : Bytes{};
      mig.usable = device.memory;
      if (const auto nodes = mig_nodes.find(compute.uuid); nodes != mig_nodes.end()) {
        device.paths.insert(device.paths.end(), nodes->second.begin(), nodes->second.end());
      }
      devices.push_back(std::move(mig));
    }
  }
}

// Whether a device goes by this name: "0", "0:1", a UUID, or the old form of a MIG device's.
bool GoesBy(const PhysicalDevice& physical, std::string_view name) {
  const AdvertisedDevice& device = physical.device;
  if (name == device.uuid || name == device.index) return true;
  return device.IsMig() && device.gpu_instance && device.compute_instance &&
         name == fmt::format("MIG-{}/{}/{}", device.gpu_uuid, *device.gpu_instance,
                             *device.compute_instance);
}

}  // namespace

std::string PhysicalDevice::Describe() const {
  if (!device.IsMig()) return fmt::format("GPU {}", device.index);
  return fmt::format("MIG device {} ({})", device.index, device.profile);
}

std::vector<PhysicalDevice> PhysicalDevicesOf(
    const Inventory& inventory, const std::map<std::string, std::vector<std::string>>& mig_nodes) {
  std::vector<PhysicalDevice> devices;
  for (const Gpu& gpu : inventory.gpus) {
    if (gpu.uuid.empty()) continue;
    devices.push_back(WholeGpu(inventory, gpu));
    if (gpu.mig_enabled) AppendMigDevices(inventory, gpu, mig_nodes, devices);
  }
  return devices;
}

Result<std::vector<const PhysicalDevice*>> SelectDevices(
    const DeviceSelection& selection, const std::vector<const PhysicalDevice*>& candidates,
    std::string_view what) {
  if (selection.All()) return candidates;
  if (selection.count) {
    const auto count = static_cast<std::size_t>(*selection.count);
    if (count > candidates.size()) {
      return Fail(ErrorCode::kNotFound,
                  fmt::format("{}: requested {} devices to be replicated, but only {} devices "
                              "available",
                              what, count, candidates.size()));
    }
    return std::vector(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count));
  }
  std::vector<const PhysicalDevice*> chosen;
  for (const std::string& name : selection.list) {
    const auto found = std::ranges::find_if(
        candidates, [&](const PhysicalDevice* physical) { return GoesBy(*physical, name); });
    if (found == candidates.end()) {
      const bool by_uuid = name.find('-') != std::string::npos;
      return Fail(ErrorCode::kNotFound, fmt::format("{}: no matching device {}: {}", what,
                                                    by_uuid ? "with UUID" : "at index", name));
    }
    if (std::ranges::find(chosen, *found) != chosen.end()) {
      return Fail(ErrorCode::kInvalid,
                  fmt::format("{}: {} twice, by two names: {}", what, (*found)->Describe(), name));
    }
    chosen.push_back(*found);
  }
  return chosen;
}

}  // namespace sublet
