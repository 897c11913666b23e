#include "inventory/nvml_mig.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace sublet {
namespace {

// "MIG 1g.18gb" and "1g.18gb" are both seen; the second is what every tool takes as input.
std::string ProfileName(const char* text) {
  std::string_view name(text);
  if (name.starts_with("MIG ")) name.remove_prefix(4);
  return std::string(name);
}

template <typename Info>
ReportedProfile FromInfo(const Info& info, unsigned nvml_profile) {
  ReportedProfile profile;
  profile.id = static_cast<int>(info.id);
  profile.nvml_profile = static_cast<int>(nvml_profile);
  profile.compute_slices = static_cast<int>(info.slice_count);
  profile.max_instances = static_cast<int>(info.instance_count);
  profile.memory = Bytes::FromMib(static_cast<std::int64_t>(info.memory_size_mib));
  profile.sm_count = static_cast<int>(info.multiprocessor_count);
  profile.engines = {.copy = static_cast<int>(info.copy_engine_count),
                     .decoder = static_cast<int>(info.decoder_count),
                     .encoder = static_cast<int>(info.encoder_count),
                     .jpeg = static_cast<int>(info.jpeg_count),
                     .ofa = static_cast<int>(info.ofa_count)};
  return profile;
}

std::optional<ReportedProfile> ReadOneProfile(const nvml::Api& api, nvml::Device device,
                                              unsigned nvml_profile) {
  if (api.gi_profile_info_v != nullptr) {
    nvml::GpuInstanceProfileInfoV2 info{};
    info.version = nvml::StructVersion<nvml::GpuInstanceProfileInfoV2>(2);
    if (api.gi_profile_info_v(device, nvml_profile, &info) == nvml::kSuccess) {
      info.name[sizeof(info.name) - 1] = '\0';
      ReportedProfile profile = FromInfo(info, nvml_profile);
      profile.name = ProfileName(info.name);
      return profile;
    }
  }
  if (api.gi_profile_info != nullptr) {
    nvml::GpuInstanceProfileInfo info{};
    if (api.gi_profile_info(device, nvml_profile, &info) == nvml::kSuccess) {
      return FromInfo(info, nvml_profile);
    }
  }
  return std::nullopt;
}

std::vector<Placement> ReadPlacements(const nvml::Api& api, nvml::Device device, int profile_id) {
  constexpr unsigned kPlacementsMax = 64;  // RTX PRO 6000 has 12 memory units, no board more.
  std::array<nvml::InstancePlacement, kPlacementsMax> buffer{};
  unsigned count = kPlacementsMax;
  if (api.gi_placements == nullptr || api.gi_placements(device, static_cast<unsigned>(profile_id),
                                                        buffer.data(), &count) != nvml::kSuccess) {
    return {};
  }
  std::vector<Placement> placements;
  for (unsigned i = 0; i < std::min(count, kPlacementsMax); ++i) {
    placements.push_back(
        {.start = static_cast<int>(buffer[i].start), .size = static_cast<int>(buffer[i].size)});
  }
  std::ranges::sort(placements, {}, &Placement::start);
  return placements;
}

std::vector<ReportedProfile> ReadProfiles(const nvml::Api& api, nvml::Device device) {
  std::vector<ReportedProfile> profiles;
  for (unsigned i = 0; i < nvml::kGpuInstanceProfileCount; ++i) {
    std::optional<ReportedProfile> profile = ReadOneProfile(api, device, i);
    if (!profile) continue;
    profile->placements = ReadPlacements(api, device, profile->id);
    profiles.push_back(std::move(*profile));
  }
  std::ranges::sort(profiles, {}, &ReportedProfile::id);
  return profiles;
}

struct MigDevice {
  int gpu_instance = 0;
  int compute_instance = 0;
  std::string uuid;
};

std::vector<MigDevice> ReadMigDevices(const nvml::Api& api, nvml::Device device) {
  std::vector<MigDevice> devices;
  unsigned count = 0;
  if (api.mig_device_count_max == nullptr || api.mig_device_by_index == nullptr ||
      api.mig_device_gi_id == nullptr || api.mig_device_ci_id == nullptr ||
      api.mig_device_count_max(device, &count) != nvml::kSuccess) {
    return devices;
  }
  for (unsigned i = 0; i < count; ++i) {
    nvml::Device mig = nullptr;
    if (api.mig_device_by_index(device, i, &mig) != nvml::kSuccess) continue;  // A gap.
    unsigned gpu_instance = 0;
    unsigned compute_instance = 0;
    std::array<char, nvml::kUuidBufferSize> uuid{};
    if (api.mig_device_gi_id(mig, &gpu_instance) != nvml::kSuccess ||
        api.mig_device_ci_id(mig, &compute_instance) != nvml::kSuccess ||
        api.device_uuid(mig, uuid.data(), uuid.size()) != nvml::kSuccess) {
      continue;
    }
    devices.push_back({.gpu_instance = static_cast<int>(gpu_instance),
                       .compute_instance = static_cast<int>(compute_instance),
                       .uuid = uuid.data()});
  }
  return devices;
}

std::vector<ComputeInstance> ReadComputeInstances(const nvml::Api& api, nvml::GpuInstance parent) {
  std::map<int, ComputeInstance> found;  // A profile may be listed under two enums.
  if (api.ci_profile_info == nullptr || api.compute_instances == nullptr ||
      api.compute_instance_info == nullptr) {
    return {};
  }
  for (unsigned i = 0; i < nvml::kComputeInstanceProfileCount; ++i) {
    nvml::ComputeInstanceProfileInfo profile{};
    if (api.ci_profile_info(parent, i, nvml::kComputeInstanceEngineShared, &profile) !=
        nvml::kSuccess) {
      continue;
    }
    std::vector<nvml::ComputeInstance> handles(std::max(profile.instance_count, 1U));
    unsigned count = static_cast<unsigned>(handles.size());
    if (api.compute_instances(parent, profile.id, handles.data(), &count) != nvml::kSuccess) {
      continue;
    }
    for (unsigned j = 0; j < std::min<std::size_t>(count, handles.size()); ++j) {
      nvml::ComputeInstanceInfo info{};
      if (api.compute_instance_info(handles[j], &info) != nvml::kSuccess) continue;
      found[static_cast<int>(info.id)] = {.id = static_cast<int>(info.id),
                                          .profile_id = static_cast<int>(info.profile_id),
                                          .placement = {static_cast<int>(info.placement.start),
                                                        static_cast<int>(info.placement.size)},
                                          .uuid = {}};
    }
  }
  std::vector<ComputeInstance> instances;
  for (auto& [id, instance] : found) instances.push_back(std::move(instance));
  return instances;
}

// False where the driver refuses to tell.
bool ReadGpuInstances(const nvml::Api& api, nvml::Device device, Gpu& gpu) {
  if (api.gpu_instances == nullptr || api.gpu_instance_info == nullptr) return false;
  for (const ReportedProfile& profile : gpu.profiles) {
    std::vector<nvml::GpuInstance> handles(
        static_cast<std::size_t>(std::max(profile.max_instances, 1)));
    unsigned count = static_cast<unsigned>(handles.size());
    const nvml::Return status =
        api.gpu_instances(device, static_cast<unsigned>(profile.id), handles.data(), &count);
    if (status == nvml::kNoPermission) return false;
    if (status != nvml::kSuccess) continue;
    for (unsigned i = 0; i < std::min<std::size_t>(count, handles.size()); ++i) {
      nvml::GpuInstanceInfo info{};
      if (api.gpu_instance_info(handles[i], &info) != nvml::kSuccess) continue;
      gpu.instances.push_back({.id = static_cast<int>(info.id),
                               .profile_id = static_cast<int>(info.profile_id),
                               .profile = profile.name,
                               .placement = {static_cast<int>(info.placement.start),
                                             static_cast<int>(info.placement.size)},
                               .compute_instances = ReadComputeInstances(api, handles[i])});
    }
  }
  return true;
}

void AddUuids(const std::vector<MigDevice>& devices, bool instances_known, Gpu& gpu) {
  for (const MigDevice& device : devices) {
    auto parent = std::ranges::find(gpu.instances, device.gpu_instance, &GpuInstance::id);
    if (parent == gpu.instances.end()) {
      if (instances_known) continue;  // Destroyed between the two questions.
      GpuInstance seen;
      seen.id = device.gpu_instance;
      parent = gpu.instances.insert(gpu.instances.end(), std::move(seen));
    }
    auto instance =
        std::ranges::find(parent->compute_instances, device.compute_instance, &ComputeInstance::id);
    if (instance == parent->compute_instances.end()) {
      if (instances_known) continue;
      ComputeInstance seen;
      seen.id = device.compute_instance;
      instance = parent->compute_instances.insert(parent->compute_instances.end(), seen);
    }
    instance->uuid = device.uuid;
  }
}

}  // namespace

void ReadMig(const nvml::Api& api, nvml::Device device, Gpu& gpu) {
  unsigned current = 0;
  unsigned pending = 0;
  if (api.device_mig_mode == nullptr ||
      api.device_mig_mode(device, &current, &pending) != nvml::kSuccess) {
    return;
  }
  gpu.mig_capable = true;
  gpu.mig_enabled = current == nvml::kMigEnable;
  gpu.mig_pending = pending == nvml::kMigEnable;
  gpu.profiles = ReadProfiles(api, device);
  if (!gpu.mig_enabled) return;
  const bool known = ReadGpuInstances(api, device, gpu);
  AddUuids(ReadMigDevices(api, device), known, gpu);
  std::ranges::sort(gpu.instances, {}, [](const GpuInstance& instance) {
    return std::pair(instance.placement.start, instance.id);
  });
}

}  // namespace sublet
