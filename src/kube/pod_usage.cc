#include "kube/pod_usage.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

namespace sublet {
namespace {

constexpr int kWholeSm = 100;

// Where a device is, by its UUID.
struct DevicePlace {
  int gpu_index = 0;
  std::string gpu_uuid;
};

using RowKey = std::tuple<std::string, std::string, std::string, int, std::string>;
using HolderName = std::tuple<std::string, std::string, std::string>;

class PodJoin {
 public:
  explicit PodJoin(const PodUsageInput& input) : input_(input) {
    for (const Gpu& gpu : input.inventory.gpus) {
      places_[gpu.uuid] = {gpu.index, gpu.uuid};
      for (const GpuInstance& instance : gpu.instances) {
        for (const ComputeInstance& compute : instance.compute_instances) {
          if (compute.uuid.empty()) continue;
          places_[compute.uuid] = {gpu.index, gpu.uuid};
          instances_[{gpu.uuid, instance.id}].insert(compute.uuid);
        }
      }
    }
    if (input.pods != nullptr) AddHolders();
  }

  PodUsage Run() {
    for (const GpuUsage& gpu : input_.usage.gpus) {
      for (const ProcessUsage& process : gpu.processes) Add(gpu, process);
    }
    AddIdle();
    PodUsage usage;
    for (auto& [key, row] : rows_) usage.rows.push_back(std::move(row));
    for (auto& [key, one] : unattributed_) usage.unattributed.push_back(one);
    for (auto& [gpu, holders] : holders_of_gpu_) {
      if (holders.size() == 1) usage.sole_holders.emplace(gpu, std::move(holders.begin()->second));
    }
    return usage;
  }

 private:
  PodDeviceUse& Row(const PodName& pod, const std::string& container, const DevicePlace& at,
                    const std::string& device) {
    const RowKey key(pod.pod_namespace, pod.pod, container, at.gpu_index, device);
    const auto [row, is_new] = rows_.try_emplace(key);
    if (is_new) {
      row->second.pod_namespace = pod.pod_namespace;
      row->second.pod = pod.pod;
      row->second.container = container;
      row->second.device = device;
      row->second.gpu_index = at.gpu_index;
      row->second.gpu_uuid = at.gpu_uuid;
    }
    return row->second;
  }

  void AddHolders() {
    // kubelet names each device, or those of each NUMA node, in an entry of its own.
    std::map<std::tuple<PodName, std::string, std::string>, std::map<std::string, int>> held;
    for (const PodDevices& pod : *input_.pods) {
      for (const std::string& id : pod.ids) {
        const std::string device(PhysicalId(id));
        const auto at = places_.find(device);
        if (at == places_.end()) continue;  // Another plugin's, or gone.
        ++held[{{pod.pod_namespace, pod.pod}, pod.container, device}][pod.resource];
        const HolderName holder(pod.pod_namespace, pod.pod, pod.container);
        holders_of_gpu_[at->second.gpu_uuid].emplace(holder, pod);
      }
    }
    for (const auto& [holder, counts] : held) {
      const auto& [name, container, device] = holder;
      PodDeviceUse& row = Row(name, container, places_.at(device), device);
      row.holds = true;
      held_[name].insert({device, container});
      // By two resources it has two limits, and which of them holds isn't known.
      if (counts.size() != 1) continue;
      row.limit = LimitOf(counts.begin()->first, device, counts.begin()->second);
    }
  }

  ShareSize LimitOf(const std::string& resource, const std::string& device, int count) const {
    const auto offered = std::ranges::find(input_.resources, resource, &AdvertisedResource::name);
    if (offered == input_.resources.end()) return {};
    const auto found = std::ranges::find(offered->devices, device, &AdvertisedDevice::uuid);
    if (found == offered->devices.end() || found->mode == SharingMode::kTimeSlicing) return {};
    if (found->mode == SharingMode::kExclusive) return {found->memory, kWholeSm};
    ShareSize limit;
    if (found->size.memory) {
      limit.memory = *found->size.memory * count;
      if (found->memory.count > 0) limit.memory = std::min(*limit.memory, found->memory);
    }
    if (found->size.sm_percent)
      limit.sm_percent = std::min(kWholeSm, *found->size.sm_percent * count);
    return limit;
  }

  // Which devices a process may be on.
  std::set<std::string> DevicesOf(const GpuUsage& gpu, const ProcessUsage& process) const {
    if (!process.gpu_instance) return {gpu.uuid};
    const auto found = instances_.find({gpu.uuid, *process.gpu_instance});
    return found == instances_.end() ? std::set<std::string>() : found->second;
  }

  void Add(const GpuUsage& gpu, const ProcessUsage& process) {
    const auto place = input_.places.find(process.pid);
    if (place == input_.places.end() || place->second.pod_uid.empty()) {
      const bool server = place != input_.places.end() && place->second.mps_server;
      return Leave(gpu, process, server ? "mps-server" : "outside");
    }
    if (input_.pods == nullptr) return Leave(gpu, process, "kubelet");
    const auto name = input_.names.find(place->second.pod_uid);
    if (name == input_.names.end()) {
      // The plugin's own pod, say, which isn't to be looked for where there are no folders.
      return Leave(gpu, process, place->second.mps_server ? "mps-server" : "unknown-pod");
    }
    std::set<std::string> devices;
    std::set<std::string> containers;
    const std::set<std::string> candidates = DevicesOf(gpu, process);
    if (const auto held = held_.find(name->second); held != held_.end()) {
      for (const auto& [device, container] : held->second) {
        if (!candidates.contains(device)) continue;
        devices.insert(device);
        containers.insert(container);
      }
    }
    if (devices.empty()) {
      return Leave(gpu, process, place->second.mps_server ? "mps-server" : "no-device");
    }
    PodDeviceUse& row = Row(name->second, containers.size() == 1 ? *containers.begin() : "",
                            {gpu.index, gpu.uuid}, devices.size() == 1 ? *devices.begin() : "");
    ++row.processes;
    if (process.memory) row.memory_used = row.memory_used.value_or(Bytes{}) + *process.memory;
    if (process.sm_percent) {
      row.sm_percent = std::min(100.0, row.sm_percent.value_or(0) + *process.sm_percent);
    }
  }

  void Leave(const GpuUsage& gpu, const ProcessUsage& process, std::string_view reason) {
    UnattributedUse& one = unattributed_[{gpu.index, reason}];
    one.gpu_index = gpu.index;
    one.gpu_uuid = gpu.uuid;
    one.reason = reason;
    one.memory += process.memory.value_or(Bytes{});
    ++one.processes;
  }

  // Who has a device and no process on it uses nothing of it, if the driver has told them all and
  // nobody's use is left open.
  void AddIdle() {
    std::set<std::tuple<std::string, std::string, std::string>> open;  // Namespace, pod, GPU.
    for (const auto& [key, row] : rows_) {
      if (!row.holds) open.emplace(row.pod_namespace, row.pod, row.gpu_uuid);
    }
    for (auto& [key, row] : rows_) {
      const auto gpu = std::ranges::find(input_.usage.gpus, row.gpu_uuid, &GpuUsage::uuid);
      const bool known =
          gpu != input_.usage.gpus.end() && gpu->problem.empty() && gpu->processes_known;
      if (!known || row.processes > 0) continue;
      if (open.contains({row.pod_namespace, row.pod, row.gpu_uuid})) continue;
      row.memory_used = Bytes{};
      row.sm_percent = 0;
    }
  }

  const PodUsageInput& input_;
  std::map<std::string, DevicePlace> places_;
  std::map<std::pair<std::string, int>, std::set<std::string>> instances_;
  std::map<PodName, std::set<std::pair<std::string, std::string>>> held_;  // Device, container.
  std::map<std::string, std::map<HolderName, PodDevices>> holders_of_gpu_;
  std::map<RowKey, PodDeviceUse> rows_;
  std::map<std::pair<int, std::string_view>, UnattributedUse> unattributed_;
};

}  // namespace

PodUsage JoinPodUsage(const PodUsageInput& input) {
  return PodJoin(input).Run();
}

}  // namespace sublet
