#include "visible_devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

namespace sublet::sim {
namespace {

Result<SimDevice> WholeGpu(Driver& driver, int gpu) {
  SimDevice device;
  if (driver.Resolve(DeviceHandle(gpu), device.target) != nvml::kSuccess) {
    return Fail(ErrorCode::kUnavailable, fmt::format("GPU {} is lost", gpu));
  }
  const Gpu& facts = driver.gpu(device.target).facts;
  device.uuid = driver.UuidOf(device.target);
  device.name = facts.product;
  device.sm_count = facts.sm_count.value_or(132);
  device.memory = facts.memory;
  return device;
}

std::vector<SimDevice> MigDevices(Driver& driver, const SimDevice& whole) {
  std::vector<SimDevice> devices;
  for (const sublet::GpuInstance& instance : whole.target.gpu_state().instances) {
    const SimGpu& gpu = driver.gpu(whole.target);
    const ReportedProfile* const profile = gpu.facts.FindProfile(instance.profile_id);
    if (profile == nullptr) continue;
    for (const sublet::ComputeInstance& compute : instance.compute_instances) {
      SimDevice device = whole;
      device.target.gpu_instance = instance.id;
      device.target.compute_instance = compute.id;
      device.uuid = driver.UuidOf(device.target);
      device.name = fmt::format("{} MIG {}", gpu.facts.product, profile->name);
      const bool all = compute.placement.size == profile->compute_slices;
      device.sm_count = all ? profile->sm_count
                            : compute.placement.size * driver.gpu(whole.target).slice_sm_count;
      device.memory = profile->memory;
      devices.push_back(std::move(device));
    }
  }
  return devices;
}

// What CUDA counts without CUDA_VISIBLE_DEVICES: GPUs without MIG, or the first MIG device.
std::vector<SimDevice> AllDevices(Driver& driver, std::vector<SimDevice>& instances) {
  std::vector<SimDevice> whole;
  for (int gpu = 0; gpu < static_cast<int>(driver.node().gpus.size()); ++gpu) {
    Result<SimDevice> device = WholeGpu(driver, gpu);
    if (!device) continue;
    if (!device->target.gpu_state().mig) {
      whole.push_back(std::move(*device));
      continue;
    }
    for (SimDevice& mig : MigDevices(driver, *device)) instances.push_back(std::move(mig));
  }
  if (whole.empty() && !instances.empty()) whole.push_back(instances.front());
  return whole;
}

}  // namespace

// The list ends at the first entry that names nothing, as with the real driver.
std::vector<SimDevice> VisibleDevices(Driver& driver, const char* variable) {
  std::vector<SimDevice> instances;
  const std::vector<SimDevice> all = AllDevices(driver, instances);
  if (variable == nullptr) return all;
  std::vector<SimDevice> visible;
  std::string_view rest = variable;
  while (!rest.empty()) {
    const std::string_view entry = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(entry.size() + 1, rest.size()));
    const SimDevice* found = nullptr;
    std::size_t index = 0;
    const auto [end, ec] = std::from_chars(entry.data(), entry.data() + entry.size(), index);
    if (ec == std::errc() && end == entry.data() + entry.size()) {
      if (index < all.size()) found = &all[index];
    } else if (entry.size() > 4) {  // More than "GPU-": an abbreviated UUID will do.
      for (const auto* list : {&all, &std::as_const(instances)}) {
        for (const SimDevice& one : *list) {
          if (found == nullptr && one.uuid.starts_with(entry)) found = &one;
        }
      }
    }
    const bool again = found != nullptr && std::ranges::any_of(visible, [&](const SimDevice& one) {
                         return one.uuid == found->uuid;
                       });
    if (found == nullptr || again) break;
    visible.push_back(*found);
  }
  return visible;
}

}  // namespace sublet::sim
