// NVML's functions about MIG: mode, profiles, GPU instances, compute instances, MIG devices.
#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "driver.h"
#include "mig_rules.h"

namespace sublet::sim {

using namespace nvml;

namespace {

const ReportedProfile* ProfileByEnum(const SimGpu& gpu, unsigned nvml_profile) {
  const auto found = std::ranges::find(gpu.facts.profiles, static_cast<int>(nvml_profile),
                                       &ReportedProfile::nvml_profile);
  return found == gpu.facts.profiles.end() ? nullptr : &*found;
}

const ReportedProfile* ProfileById(const SimGpu& gpu, unsigned id) {
  return gpu.facts.FindProfile(static_cast<int>(id));
}

template <typename Info>
void FillProfile(const ReportedProfile& profile, Info& info) {
  info.id = static_cast<unsigned>(profile.id);
  info.slice_count = static_cast<unsigned>(profile.compute_slices);
  info.instance_count = static_cast<unsigned>(profile.max_instances);
  info.multiprocessor_count = static_cast<unsigned>(profile.sm_count);
  info.copy_engine_count = static_cast<unsigned>(profile.engines.copy);
  info.decoder_count = static_cast<unsigned>(profile.engines.decoder);
  info.encoder_count = static_cast<unsigned>(profile.engines.encoder);
  info.jpeg_count = static_cast<unsigned>(profile.engines.jpeg);
  info.ofa_count = static_cast<unsigned>(profile.engines.ofa);
  info.memory_size_mib = static_cast<unsigned long long>(profile.memory.mib());
}

bool HasProcess(const SimState& state, int gpu, int gpu_instance, int compute_instance) {
  return std::ranges::any_of(state.processes, [&](const ProcessState& process) {
    return process.gpu == gpu && (gpu_instance < 0 || process.gpu_instance == gpu_instance) &&
           (compute_instance < 0 || process.compute_instance == compute_instance);
  });
}

GpuState& StateOf(SimState& state, const Target& target) {
  return state.gpus[static_cast<std::size_t>(target.gpu)];
}

// The profile's slices of the target's GPU instance; 0 where it is unknown.
int SlicesOf(const Driver& driver, const Target& target, const sublet::GpuInstance& instance) {
  const ReportedProfile* profile = driver.gpu(target).facts.FindProfile(instance.profile_id);
  return profile == nullptr ? 0 : profile->compute_slices;
}

// The profile of one number of slices in the target's GPU instance.
struct ComputeProfile {
  int id = 0;
  int slices = 0;
  int instances = 0;
  int sm_count = 0;
  const ReportedProfile* parent = nullptr;
};

Return FindComputeProfile(const Driver& driver, const Target& target, unsigned profile,
                          unsigned engine_profile, ComputeProfile& out) {
  if (profile >= kComputeInstanceProfileCount || engine_profile != kComputeInstanceEngineShared) {
    return kInvalidArgument;
  }
  const auto* instance = FindInstance(target.gpu_state(), target.gpu_instance);
  out.parent = driver.gpu(target).facts.FindProfile(instance->profile_id);
  if (out.parent == nullptr) return kNotSupported;
  const auto slices = SlicesOfComputeProfile(static_cast<int>(profile), out.parent->compute_slices);
  if (!slices) return kNotSupported;
  out.id = static_cast<int>(profile);
  out.slices = *slices;
  out.instances = out.parent->compute_slices / *slices;
  out.sm_count = *slices == out.parent->compute_slices
                     ? out.parent->sm_count
                     : *slices * driver.gpu(target).slice_sm_count;
  return kSuccess;
}

template <typename Info>
void FillComputeProfile(const ComputeProfile& profile, Info& info) {
  info.id = static_cast<unsigned>(profile.id);
  info.slice_count = static_cast<unsigned>(profile.slices);
  info.instance_count = static_cast<unsigned>(profile.instances);
  info.multiprocessor_count = static_cast<unsigned>(profile.sm_count);
  const EngineCounts& engines = profile.parent->engines;
  info.shared_copy_engine_count = static_cast<unsigned>(engines.copy);
  info.shared_decoder_count = static_cast<unsigned>(engines.decoder);
  info.shared_encoder_count = static_cast<unsigned>(engines.encoder);
  info.shared_jpeg_count = static_cast<unsigned>(engines.jpeg);
  info.shared_ofa_count = static_cast<unsigned>(engines.ofa);
}

std::string ComputeProfileName(const ComputeProfile& profile) {
  if (profile.slices == profile.parent->compute_slices) return "MIG " + profile.parent->name;
  return fmt::format("MIG {}c.{}", profile.slices, profile.parent->name);
}

// Profiles are there with MIG mode off, instances only with it on.
Return NeedMig(const Driver& driver, const Target& target) {
  if (!driver.gpu(target).facts.mig_capable) return kNotSupported;
  return target.gpu_state().mig ? kSuccess : kNotSupported;
}

Return CreateGpuInstance(const char* function, Device device, unsigned profile_id,
                         const InstancePlacement* placement, nvml::GpuInstance* out) {
  return CallOnGpu(function, device, [&](Driver& driver, const Target& target) {
    if (out == nullptr) return kInvalidArgument;
    if (driver.unprivileged()) return kNoPermission;
    if (const Return code = NeedMig(driver, target); code != kSuccess) return code;
    const ReportedProfile* profile = ProfileById(driver.gpu(target), profile_id);
    if (profile == nullptr) return kInvalidArgument;
    std::optional<int> start;
    if (placement != nullptr) {
      start = static_cast<int>(placement->start);
      const bool known = std::ranges::find(profile->placements,
                                           Placement{*start, static_cast<int>(placement->size)}) !=
                         profile->placements.end();
      if (!known) return kInvalidArgument;
    }
    int id = -1;
    const Return code = driver.Update([&](SimState& state) {
      GpuState& gpu = StateOf(state, target);
      return gpu.mig ? CreateInstance(driver.gpu(target), gpu, *profile, start, id) : kNotSupported;
    });
    if (code == kSuccess) *out = InstanceHandle(target.gpu, id);
    return code;
  });
}

Return MakeComputeInstance(const char* function, nvml::GpuInstance parent, unsigned profile_id,
                           const InstancePlacement* placement, nvml::ComputeInstance* out) {
  return CallOn(function, parent, [&](Driver& driver, const Target& target) {
    if (out == nullptr) return kInvalidArgument;
    if (driver.unprivileged()) return kNoPermission;
    std::optional<Placement> place;
    if (placement != nullptr) {
      place = Placement{static_cast<int>(placement->start), static_cast<int>(placement->size)};
    }
    int id = -1;
    const Return code = driver.Update([&](SimState& state) {
      auto* instance = FindInstance(StateOf(state, target), target.gpu_instance);
      if (instance == nullptr) return kNotFound;
      return CreateComputeInstance(*instance, SlicesOf(driver, target, *instance),
                                   static_cast<int>(profile_id), place, id);
    });
    if (code == kSuccess) *out = ComputeHandle(target.gpu, target.gpu_instance, id);
    return code;
  });
}

}  // namespace

// ---- mode ----

SIM_EXPORT Return nvmlDeviceGetMigMode(Device device, unsigned* current, unsigned* pending) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (current == nullptr || pending == nullptr) return kInvalidArgument;
    if (!driver.gpu(target).facts.mig_capable) return kNotSupported;
    *current = target.gpu_state().mig ? kMigEnable : kMigDisable;
    *pending = target.gpu_state().mig_pending ? kMigEnable : kMigDisable;
    return kSuccess;
  });
}

// The call succeeds whenever the request is noted; whether it took effect is the activation status.
// A board that needs a reset for it keeps the request pending while processes use the GPU.
SIM_EXPORT Return nvmlDeviceSetMigMode(Device device, unsigned mode, Return* activation) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (activation == nullptr || mode > kMigEnable) return kInvalidArgument;
    if (!driver.gpu(target).facts.mig_capable) return kNotSupported;
    if (driver.unprivileged()) return kNoPermission;
    return driver.Update([&](SimState& state) {
      GpuState& gpu = StateOf(state, target);
      const bool wanted = mode == kMigEnable;
      *activation = kSuccess;
      if (gpu.mig == wanted) {
        gpu.mig_pending = wanted;
        return kSuccess;
      }
      const bool needs_reset = driver.gpu(target).mig_toggle_needs_reset;
      if (HasProcess(state, target.gpu, -1, -1) || !gpu.instances.empty()) {
        if (needs_reset) gpu.mig_pending = wanted;
        *activation = kInUse;
        return kSuccess;
      }
      gpu.mig = gpu.mig_pending = wanted;
      return kSuccess;
    });
  });
}

// ---- GPU instances ----

SIM_EXPORT Return nvmlDeviceGetGpuInstanceProfileInfo(Device device, unsigned profile,
                                                      GpuInstanceProfileInfo* info) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (info == nullptr || profile >= kGpuInstanceProfileCount) return kInvalidArgument;
    const ReportedProfile* found = ProfileByEnum(driver.gpu(target), profile);
    if (found == nullptr) return kNotSupported;
    *info = {};
    FillProfile(*found, *info);
    return kSuccess;
  });
}

// Takes the second version of the structure and the third; the version field tells which one it is.
SIM_EXPORT Return nvmlDeviceGetGpuInstanceProfileInfoV(Device device, unsigned profile,
                                                       GpuInstanceProfileInfoV2* info) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (info == nullptr || profile >= kGpuInstanceProfileCount) return kInvalidArgument;
    const ReportedProfile* found = ProfileByEnum(driver.gpu(target), profile);
    const auto fill = [&](auto& out) {
      if (found == nullptr) return kNotSupported;
      const unsigned version = out.version;
      out = {};
      out.version = version;
      FillProfile(*found, out);
      return PutText("MIG " + found->name, out.name, sizeof out.name);
    };
    if (info->version == StructVersion<GpuInstanceProfileInfoV2>(2)) return fill(*info);
    if (info->version == StructVersion<GpuInstanceProfileInfoV3>(3)) {
      return fill(*reinterpret_cast<GpuInstanceProfileInfoV3*>(info));
    }
    return kArgumentVersionMismatch;
  });
}

SIM_EXPORT Return nvmlDeviceGetGpuInstancePossiblePlacements_v2(Device device, unsigned profile_id,
                                                                InstancePlacement* placements,
                                                                unsigned* count) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    const ReportedProfile* profile = ProfileById(driver.gpu(target), profile_id);
    if (!driver.gpu(target).facts.mig_capable) return kNotSupported;
    if (profile == nullptr) return kInvalidArgument;
    std::vector<InstancePlacement> list;
    for (const Placement& placement : profile->placements) {
      list.push_back(
          {static_cast<unsigned>(placement.start), static_cast<unsigned>(placement.size)});
    }
    if (placements == nullptr && count != nullptr) return Put(list.size(), count);
    return PutList(list, count, placements);
  });
}

SIM_EXPORT Return nvmlDeviceGetGpuInstanceRemainingCapacity(Device device, unsigned profile_id,
                                                            unsigned* count) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (const Return code = NeedMig(driver, target); code != kSuccess) return code;
    const ReportedProfile* profile = ProfileById(driver.gpu(target), profile_id);
    if (profile == nullptr) return kInvalidArgument;
    return Put(RemainingInstances(driver.gpu(target), target.gpu_state(), *profile), count);
  });
}

SIM_EXPORT Return nvmlDeviceCreateGpuInstance(Device device, unsigned profile_id,
                                              nvml::GpuInstance* instance) {
  return CreateGpuInstance(__func__, device, profile_id, nullptr, instance);
}

SIM_EXPORT Return nvmlDeviceCreateGpuInstanceWithPlacement(Device device, unsigned profile_id,
                                                           const InstancePlacement* placement,
                                                           nvml::GpuInstance* instance) {
  if (placement == nullptr) return kInvalidArgument;
  return CreateGpuInstance(__func__, device, profile_id, placement, instance);
}

SIM_EXPORT Return nvmlGpuInstanceDestroy(nvml::GpuInstance instance) {
  return CallOn(__func__, instance, [&](Driver& driver, const Target& target) {
    if (driver.unprivileged()) return kNoPermission;
    return driver.Update([&](SimState& state) {
      GpuState& gpu = StateOf(state, target);
      const auto* found = FindInstance(gpu, target.gpu_instance);
      if (found == nullptr) return kNotFound;
      if (!found->compute_instances.empty() ||
          HasProcess(state, target.gpu, target.gpu_instance, -1)) {
        return kInUse;
      }
      std::erase_if(gpu.instances,
                    [&](const sublet::GpuInstance& one) { return one.id == target.gpu_instance; });
      return kSuccess;
    });
  });
}

SIM_EXPORT Return nvmlDeviceGetGpuInstances(Device device, unsigned profile_id,
                                            nvml::GpuInstance* instances, unsigned* count) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (driver.unprivileged()) return kNoPermission;
    if (const Return code = NeedMig(driver, target); code != kSuccess) return code;
    if (ProfileById(driver.gpu(target), profile_id) == nullptr) return kInvalidArgument;
    std::vector<nvml::GpuInstance> list;
    for (const sublet::GpuInstance& instance : target.gpu_state().instances) {
      if (instance.profile_id == static_cast<int>(profile_id)) {
        list.push_back(InstanceHandle(target.gpu, instance.id));
      }
    }
    return PutList(list, count, instances);
  });
}

SIM_EXPORT Return nvmlDeviceGetGpuInstanceById(Device device, unsigned id,
                                               nvml::GpuInstance* instance) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (driver.unprivileged()) return kNoPermission;
    if (const Return code = NeedMig(driver, target); code != kSuccess) return code;
    if (FindInstance(target.gpu_state(), static_cast<int>(id)) == nullptr) return kNotFound;
    return Put(InstanceHandle(target.gpu, static_cast<int>(id)), instance);
  });
}

SIM_EXPORT Return nvmlGpuInstanceGetInfo(nvml::GpuInstance instance, GpuInstanceInfo* info) {
  return CallOn(__func__, instance, [&](Driver&, const Target& target) {
    if (info == nullptr) return kInvalidArgument;
    const auto* found = FindInstance(target.gpu_state(), target.gpu_instance);
    *info = {.device = DeviceHandle(target.gpu),
             .id = static_cast<unsigned>(found->id),
             .profile_id = static_cast<unsigned>(found->profile_id),
             .placement = {static_cast<unsigned>(found->placement.start),
                           static_cast<unsigned>(found->placement.size)}};
    return kSuccess;
  });
}

// ---- compute instances ----

SIM_EXPORT Return nvmlGpuInstanceGetComputeInstanceProfileInfo(nvml::GpuInstance instance,
                                                               unsigned profile,
                                                               unsigned engine_profile,
                                                               ComputeInstanceProfileInfo* info) {
  return CallOn(__func__, instance, [&](Driver& driver, const Target& target) {
    if (info == nullptr) return kInvalidArgument;
    ComputeProfile found;
    const Return code = FindComputeProfile(driver, target, profile, engine_profile, found);
    if (code != kSuccess) return code;
    *info = {};
    FillComputeProfile(found, *info);
    return kSuccess;
  });
}

// Takes the second and third version, as nvmlDeviceGetGpuInstanceProfileInfoV.
SIM_EXPORT Return nvmlGpuInstanceGetComputeInstanceProfileInfoV(
    nvml::GpuInstance instance, unsigned profile, unsigned engine_profile,
    ComputeInstanceProfileInfoV2* info) {
  return CallOn(__func__, instance, [&](Driver& driver, const Target& target) {
    if (info == nullptr) return kInvalidArgument;
    ComputeProfile found;
    const Return code = FindComputeProfile(driver, target, profile, engine_profile, found);
    const auto fill = [&](auto& out) {
      if (code != kSuccess) return code;
      const unsigned version = out.version;
      out = {};
      out.version = version;
      FillComputeProfile(found, out);
      return PutText(ComputeProfileName(found), out.name, sizeof out.name);
    };
    if (info->version == StructVersion<ComputeInstanceProfileInfoV2>(2)) return fill(*info);
    if (info->version == StructVersion<ComputeInstanceProfileInfoV3>(3)) {
      return fill(*reinterpret_cast<ComputeInstanceProfileInfoV3*>(info));
    }
    return kArgumentVersionMismatch;
  });
}

SIM_EXPORT Return nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvml::GpuInstance instance,
                                                                     unsigned profile_id,
                                                                     unsigned* count) {
  return CallOn(__func__, instance, [&](Driver& driver, const Target& target) {
    const auto* found = FindInstance(target.gpu_state(), target.gpu_instance);
    const int slices = SlicesOf(driver, target, *found);
    if (!SlicesOfComputeProfile(static_cast<int>(profile_id), slices)) return kNotSupported;
    return Put(RemainingComputeInstances(*found, slices, static_cast<int>(profile_id)), count);
  });
}

SIM_EXPORT Return nvmlGpuInstanceGetComputeInstancePossiblePlacements(nvml::GpuInstance instance,
                                                                      unsigned profile_id,
                                                                      InstancePlacement* placements,
                                                                      unsigned* count) {
  return CallOn(__func__, instance, [&](Driver& driver, const Target& target) {
    const auto* found = FindInstance(target.gpu_state(), target.gpu_instance);
    const int parent = SlicesOf(driver, target, *found);
    const auto slices = SlicesOfComputeProfile(static_cast<int>(profile_id), parent);
    if (!slices) return kNotSupported;
    std::vector<InstancePlacement> list;
    for (int start = 0; start + *slices <= parent; ++start) {
      list.push_back({static_cast<unsigned>(start), static_cast<unsigned>(*slices)});
    }
    if (placements == nullptr && count != nullptr) return Put(list.size(), count);
    return PutList(list, count, placements);
  });
}

SIM_EXPORT Return nvmlGpuInstanceCreateComputeInstance(nvml::GpuInstance instance,
                                                       unsigned profile_id,
                                                       nvml::ComputeInstance* out) {
  return MakeComputeInstance(__func__, instance, profile_id, nullptr, out);
}

SIM_EXPORT Return nvmlGpuInstanceCreateComputeInstanceWithPlacement(
    nvml::GpuInstance instance, unsigned profile_id, const InstancePlacement* placement,
    nvml::ComputeInstance* out) {
  if (placement == nullptr) return kInvalidArgument;
  return MakeComputeInstance(__func__, instance, profile_id, placement, out);
}

SIM_EXPORT Return nvmlComputeInstanceDestroy(nvml::ComputeInstance instance) {
  return CallOn(__func__, instance, [&](Driver& driver, const Target& target) {
    if (driver.unprivileged()) return kNoPermission;
    return driver.Update([&](SimState& state) {
      auto* parent = FindInstance(StateOf(state, target), target.gpu_instance);
      if (parent == nullptr) return kNotFound;
      if (HasProcess(state, target.gpu, target.gpu_instance, target.compute_instance)) {
        return kInUse;
      }
      const auto gone = std::erase_if(
          parent->compute_instances,
          [&](const sublet::ComputeInstance& one) { return one.id == target.compute_instance; });
      return gone == 0 ? kNotFound : kSuccess;
    });
  });
}

SIM_EXPORT Return nvmlGpuInstanceGetComputeInstances(nvml::GpuInstance instance,
                                                     unsigned profile_id,
                                                     nvml::ComputeInstance* instances,
                                                     unsigned* count) {
  return CallOn(__func__, instance, [&](Driver& driver, const Target& target) {
    if (driver.unprivileged()) return kNoPermission;
    const auto* found = FindInstance(target.gpu_state(), target.gpu_instance);
    std::vector<nvml::ComputeInstance> list;
    for (const sublet::ComputeInstance& compute : found->compute_instances) {
      if (compute.profile_id == static_cast<int>(profile_id)) {
        list.push_back(ComputeHandle(target.gpu, target.gpu_instance, compute.id));
      }
    }
    return PutList(list, count, instances);
  });
}

SIM_EXPORT Return nvmlGpuInstanceGetComputeInstanceById(nvml::GpuInstance instance, unsigned id,
                                                        nvml::ComputeInstance* out) {
  return CallOn(__func__, instance, [&](Driver& driver, const Target& target) {
    if (driver.unprivileged()) return kNoPermission;
    const auto* found = FindInstance(target.gpu_state(), target.gpu_instance);
    if (FindComputeInstance(*found, static_cast<int>(id)) == nullptr) return kNotFound;
    return Put(ComputeHandle(target.gpu, target.gpu_instance, static_cast<int>(id)), out);
  });
}

SIM_EXPORT Return nvmlComputeInstanceGetInfo_v2(nvml::ComputeInstance instance,
                                                ComputeInstanceInfo* info) {
  return CallOn(__func__, instance, [&](Driver&, const Target& target) {
    if (info == nullptr) return kInvalidArgument;
    const auto* parent = FindInstance(target.gpu_state(), target.gpu_instance);
    const auto* found = FindComputeInstance(*parent, target.compute_instance);
    *info = {.device = DeviceHandle(target.gpu),
             .gpu_instance = InstanceHandle(target.gpu, target.gpu_instance),
             .id = static_cast<unsigned>(found->id),
             .profile_id = static_cast<unsigned>(found->profile_id),
             .placement = {static_cast<unsigned>(found->placement.start),
                           static_cast<unsigned>(found->placement.size)}};
    return kSuccess;
  });
}

// ---- MIG devices ----

SIM_EXPORT Return nvmlDeviceIsMigDeviceHandle(Device device, unsigned* is_mig_device) {
  return CallOn(__func__, device, [&](Driver&, const Target& target) {
    return Put(target.IsMigDevice() ? 1 : 0, is_mig_device);
  });
}

SIM_EXPORT Return nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned* count) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    return Put(driver.gpu(target).facts.mig_capable ? driver.gpu(target).compute_slices : 0, count);
  });
}

SIM_EXPORT Return nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device* mig) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (mig == nullptr) return kInvalidArgument;
    if (const Return code = NeedMig(driver, target); code != kSuccess) return code;
    std::vector<std::pair<int, int>> devices;
    for (const sublet::GpuInstance& instance : target.gpu_state().instances) {
      for (const sublet::ComputeInstance& compute : instance.compute_instances) {
        devices.emplace_back(instance.id, compute.id);
      }
    }
    std::ranges::sort(devices);
    if (index >= devices.size()) return kNotFound;
    *mig = DeviceHandle(target.gpu, devices[index].first, devices[index].second);
    return kSuccess;
  });
}

SIM_EXPORT Return nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device mig, Device* device) {
  return CallOn(__func__, mig, [&](Driver&, const Target& target) {
    return target.IsMigDevice() ? Put(DeviceHandle(target.gpu), device) : kInvalidArgument;
  });
}

SIM_EXPORT Return nvmlDeviceGetGpuInstanceId(Device device, unsigned* id) {
  return CallOn(__func__, device, [&](Driver&, const Target& target) {
    return target.IsMigDevice() ? Put(target.gpu_instance, id) : kInvalidArgument;
  });
}

SIM_EXPORT Return nvmlDeviceGetComputeInstanceId(Device device, unsigned* id) {
  return CallOn(__func__, device, [&](Driver&, const Target& target) {
    return target.IsMigDevice() ? Put(target.compute_instance, id) : kInvalidArgument;
  });
}

}  // namespace sublet::sim
