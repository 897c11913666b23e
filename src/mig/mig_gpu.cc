#include "mig/mig_gpu.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string_view>

#include "base/crash_point.h"

namespace sublet {
namespace {

bool NotOffered(nvml::Return code) {
  return code == nvml::kNotSupported || code == nvml::kInvalidArgument;
}

Status CheckFunctions(const nvml::Api& api) {
  std::vector<std::string_view> missing;
  const auto need = [&](auto* function, std::string_view name) {
    if (function == nullptr) missing.push_back(name);
  };
  need(api.device_mig_mode, "nvmlDeviceGetMigMode");
  need(api.set_mig_mode, "nvmlDeviceSetMigMode");
  need(api.device_compute_processes, "nvmlDeviceGetComputeRunningProcesses_v3");
  need(api.gi_profile_info, "nvmlDeviceGetGpuInstanceProfileInfo");
  need(api.gpu_instances, "nvmlDeviceGetGpuInstances");
  need(api.gpu_instance_info, "nvmlGpuInstanceGetInfo");
  need(api.create_gpu_instance, "nvmlDeviceCreateGpuInstance");
  need(api.destroy_gpu_instance, "nvmlGpuInstanceDestroy");
  need(api.ci_profile_info, "nvmlGpuInstanceGetComputeInstanceProfileInfo");
  need(api.compute_instances, "nvmlGpuInstanceGetComputeInstances");
  need(api.compute_instance_info, "nvmlComputeInstanceGetInfo_v2");
  need(api.create_compute_instance, "nvmlGpuInstanceCreateComputeInstance");
  need(api.destroy_compute_instance, "nvmlComputeInstanceDestroy");
  if (missing.empty()) return {};
  return Fail(ErrorCode::kUnsupported,
              fmt::format("the driver can't change MIG: it has no {}", fmt::join(missing, ", ")),
              "install a newer driver, or cut the GPU with nvidia-smi");
}

void WaitShortly(const Deadline& deadline) {
  constexpr int kMilliseconds = 50;
  static_cast<void>(::poll(nullptr, 0, std::min(kMilliseconds, deadline.PollMilliseconds())));
}

// Repeats a call while the driver says that something is in use.
template <typename Call>
nvml::Return WhileInUse(const Deadline& deadline, const Call& call) {
  for (;;) {
    const nvml::Return code = call();
    if (code != nvml::kInUse || deadline.Passed()) return code;
    WaitShortly(deadline);
  }
}

std::string_view OnOff(bool on) {
  return on ? "on" : "off";
}

}  // namespace

bool MigState::IsLike(const MigState& other) const {
  return on == other.on && pending == other.pending &&
         std::ranges::equal(instances, other.instances, {}, &MigFound::id, &MigFound::id);
}

std::optional<std::vector<int>> MigComputeState::SeatSlices() const {
  if (instances.size() == 1 && instances[0].slices == whole) return std::nullopt;
  std::vector<int> slices;
  for (const MigComputeFound& one : instances) slices.push_back(one.slices);
  std::ranges::sort(slices, std::greater());
  return slices;
}

Result<MigGpu> MigGpu::Open(const nvml::Api& api, std::string uuid) {
  RETURN_IF_ERROR(CheckFunctions(api));
  MigGpu gpu(api, std::move(uuid));
  RETURN_IF_ERROR(gpu.FindAgain());
  return gpu;
}

Status MigGpu::FindAgain() {
  ASSIGN_OR_RETURN(device_, FindDevice(*api_, uuid_));
  return {};
}

Status MigGpu::ReadInstancesOf(const nvml::GpuInstanceProfileInfo& profile,
                               std::vector<MigFound>& found) const {
  std::vector<nvml::GpuInstance> handles(std::max(profile.instance_count, 1U));
  auto count = static_cast<unsigned>(handles.size());
  RETURN_IF_ERROR(FromNvml(api_->gpu_instances(device_, profile.id, handles.data(), &count),
                           "listing the GPU instances"));
  for (std::size_t i = 0; i < std::min<std::size_t>(count, handles.size()); ++i) {
    nvml::GpuInstanceInfo info{};
    RETURN_IF_ERROR(FromNvml(api_->gpu_instance_info(handles[i], &info), "asking a GPU instance"));
    found.push_back({.handle = handles[i],
                     .id = static_cast<int>(info.id),
                     .profile_id = static_cast<int>(info.profile_id),
                     .placement = {static_cast<int>(info.placement.start),
                                   static_cast<int>(info.placement.size)}});
  }
  return {};
}

Result<MigState> MigGpu::Read() const {
  unsigned current = 0;
  unsigned pending = 0;
  RETURN_IF_ERROR(
      FromNvml(api_->device_mig_mode(device_, &current, &pending), "asking for MIG mode"));
  MigState state{
      .on = current == nvml::kMigEnable, .pending = pending == nvml::kMigEnable, .instances = {}};
  if (!state.on) return state;
  for (unsigned i = 0; i < nvml::kGpuInstanceProfileCount; ++i) {
    nvml::GpuInstanceProfileInfo profile{};
    const nvml::Return code = api_->gi_profile_info(device_, i, &profile);
    if (NotOffered(code)) continue;
    RETURN_IF_ERROR(FromNvml(code, "asking for a MIG profile"));
    RETURN_IF_ERROR(ReadInstancesOf(profile, state.instances));
  }
  std::ranges::sort(state.instances, {}, &MigFound::id);
  // A profile may be listed under two numbers.
  const auto twice = std::ranges::unique(state.instances, {}, &MigFound::id);
  state.instances.erase(twice.begin(), twice.end());
  return state;
}

Result<MigComputeState> MigGpu::ReadCompute(nvml::GpuInstance instance) const {
  MigComputeState state;
  for (unsigned i = 0; i < nvml::kComputeInstanceProfileCount; ++i) {
    nvml::ComputeInstanceProfileInfo profile{};
    const nvml::Return code =
        api_->ci_profile_info(instance, i, nvml::kComputeInstanceEngineShared, &profile);
    if (NotOffered(code)) continue;
    RETURN_IF_ERROR(FromNvml(code, "asking for a compute instance profile"));
    const int slices = static_cast<int>(profile.slice_count);
    state.whole = std::max(state.whole, slices);
    std::vector<nvml::ComputeInstance> handles(std::max(profile.instance_count, 1U));
    auto count = static_cast<unsigned>(handles.size());
    RETURN_IF_ERROR(FromNvml(api_->compute_instances(instance, profile.id, handles.data(), &count),
                             "listing the compute instances"));
    for (std::size_t j = 0; j < std::min<std::size_t>(count, handles.size()); ++j) {
      nvml::ComputeInstanceInfo info{};
      RETURN_IF_ERROR(
          FromNvml(api_->compute_instance_info(handles[j], &info), "asking a compute instance"));
      state.instances.push_back(
          {.handle = handles[j], .id = static_cast<int>(info.id), .slices = slices});
    }
  }
  std::ranges::sort(state.instances, {}, &MigComputeFound::id);
  const auto twice = std::ranges::unique(state.instances, {}, &MigComputeFound::id);
  state.instances.erase(twice.begin(), twice.end());
  return state;
}

// Pids of all that use the GPU.
Result<std::vector<unsigned>> MigGpu::Processes() const {
  constexpr unsigned kListed = 64;  // Enough to name; one is enough to refuse.
  std::vector<unsigned> pids;
  for (const auto list : {api_->device_compute_processes, api_->device_graphics_processes,
                          api_->device_mps_processes}) {
    if (list == nullptr) continue;
    std::array<nvml::ProcessInfo, kListed> infos{};
    unsigned count = kListed;
    const nvml::Return code = list(device_, &count, infos.data());
    if (code == nvml::kNotSupported) continue;
    if (code == nvml::kInsufficientSize) {
      return Fail(ErrorCode::kConflict, fmt::format("{} processes use the GPU", count));
    }
    RETURN_IF_ERROR(FromNvml(code, "asking which processes use the GPU"));
    for (unsigned i = 0; i < std::min(count, kListed); ++i) pids.push_back(infos[i].pid);
  }
  return pids;
}

Status MigGpu::WaitUntilIdle(const Deadline& deadline) const {
  for (;;) {
    ASSIGN_OR_RETURN(const std::vector<unsigned> pids, Processes());
    if (pids.empty()) return {};
    if (deadline.Passed()) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("MIG can't be changed while processes use the GPU: {}",
                              fmt::join(pids, ", ")),
                  "stop them first");
    }
    WaitShortly(deadline);
  }
}

Status MigGpu::SetMode(bool on, const Deadline& deadline) {
  const nvml::Return code = WhileInUse(deadline, [&] {
    nvml::Return activation = nvml::kSuccess;
    const nvml::Return answer =
        api_->set_mig_mode(device_, on ? nvml::kMigEnable : nvml::kMigDisable, &activation);
    return answer == nvml::kSuccess ? activation : answer;
  });
  const std::string what = fmt::format("turning MIG mode {}, {}", OnOff(on), uuid_);
  // It may have reset the GPU, and what was known of it may be no more.
  RETURN_IF_ERROR(FindAgain());
  unsigned current = 0;
  unsigned pending = 0;
  RETURN_IF_ERROR(
      FromNvml(api_->device_mig_mode(device_, &current, &pending), "asking for MIG mode"));
  const bool is_on = current == nvml::kMigEnable;
  const bool will_be_on = pending == nvml::kMigEnable;
  if (is_on == on && will_be_on == on) return {};
  if (is_on != on && will_be_on == on) {
    return Fail(ErrorCode::kConflict,
                fmt::format("{}: it stays pending until the GPU is reset ({})", what,
                            nvml::ReturnName(code)),
                fmt::format("end what holds the GPU, as monitoring agents do, or change the mode "
                            "beforehand: nvidia-smi -i {} -mig {}, then reset the GPU or reboot",
                            uuid_, on ? 1 : 0));
  }
  const nvml::Return why = code == nvml::kSuccess ? nvml::kUnknown : code;
  return FromNvml(why, fmt::format("{}: it stays {}", what, OnOff(is_on)));
}

Result<bool> MigGpu::Make(int profile_id, std::optional<Placement> where, MigMade& made) const {
  const auto profile = static_cast<unsigned>(profile_id);
  nvml::GpuInstance instance = nullptr;
  nvml::Return code = nvml::kSuccess;
  if (!where) {
    code = api_->create_gpu_instance(device_, profile, &instance);
  } else if (api_->create_gpu_instance_at == nullptr) {
    return Fail(ErrorCode::kUnsupported,
                "the driver can't put a GPU instance at a place of our choice: it has no "
                "nvmlDeviceCreateGpuInstanceWithPlacement",
                "install a newer driver");
  } else {
    const nvml::InstancePlacement placement{.start = static_cast<unsigned>(where->start),
                                            .size = static_cast<unsigned>(where->size)};
    code = api_->create_gpu_instance_at(device_, profile, &placement, &instance);
  }
  if (code == nvml::kInsufficientResources) return false;
  RETURN_IF_ERROR(FromNvml(code, "making a GPU instance"));
  made.instance = instance;
  return true;
}

Result<unsigned> MigGpu::ComputeProfileOf(nvml::GpuInstance instance, int slices) const {
  for (unsigned i = 0; i < nvml::kComputeInstanceProfileCount; ++i) {
    nvml::ComputeInstanceProfileInfo info{};
    const nvml::Return code =
        api_->ci_profile_info(instance, i, nvml::kComputeInstanceEngineShared, &info);
    if (NotOffered(code)) continue;
    RETURN_IF_ERROR(FromNvml(code, "asking for a compute instance profile"));
    if (static_cast<int>(info.slice_count) == slices) return info.id;
  }
  return Fail(ErrorCode::kUnsupported,
              fmt::format("no compute instance has {} slices of this GPU instance", slices));
}

Status MigGpu::AddCompute(int slices, MigMade& made) const {
  ASSIGN_OR_RETURN(const unsigned profile, ComputeProfileOf(made.instance, slices));
  nvml::ComputeInstance compute = nullptr;
  RETURN_IF_ERROR(FromNvml(api_->create_compute_instance(made.instance, profile, &compute),
                           "making a compute instance"));
  made.compute.push_back(compute);
  nvml::ComputeInstanceInfo info{};
  RETURN_IF_ERROR(
      FromNvml(api_->compute_instance_info(compute, &info), "asking the new compute instance"));
  made.compute_ids.push_back(static_cast<int>(info.id));
  return {};
}

Status MigGpu::Complete(const std::optional<std::vector<int>>& slices, MigMade& made) const {
  nvml::GpuInstanceInfo info{};
  RETURN_IF_ERROR(
      FromNvml(api_->gpu_instance_info(made.instance, &info), "asking the new GPU instance"));
  made.id = static_cast<int>(info.id);
  CrashPoint("mig-step-half");
  if (slices) {
    for (const int each : *slices) RETURN_IF_ERROR(AddCompute(each, made));
    return {};
  }
  ASSIGN_OR_RETURN(const MigComputeState compute, ReadCompute(made.instance));
  return AddCompute(compute.whole, made);
}

Status MigGpu::Destroy(MigMade& made, const Deadline& deadline) const {
  Status compute;
  std::erase_if(made.compute, [&](nvml::ComputeInstance each) {
    const nvml::Return code =
        WhileInUse(deadline, [&] { return api_->destroy_compute_instance(each); });
    if (code == nvml::kSuccess || code == nvml::kNotFound) return true;
    compute = FromNvml(code, "destroying a compute instance");
    return false;
  });
  // Also tried where a compute instance seems to be left, because a call may fail in its answer.
  const nvml::Return code =
      WhileInUse(deadline, [&] { return api_->destroy_gpu_instance(made.instance); });
  if (code == nvml::kSuccess || code == nvml::kNotFound) return {};
  RETURN_IF_ERROR(compute);
  return FromNvml(code, "destroying a GPU instance");
}

}  // namespace sublet
