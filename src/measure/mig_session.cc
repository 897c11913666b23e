#include "measure/mig_session.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "inventory/nvml_mig.h"
#include "model/inventory.h"

namespace sublet {
namespace {

// What a session changes of a GPU. Unlike an Inventory, which leaves out what the driver doesn't
// tell, it is read whole or not at all.
struct MigState {
  bool on = false;
  bool pending = false;        // What the mode will be after a reset; `on` where nothing waits.
  std::vector<int> instances;  // Ids of GPU instances, ascending.

  friend bool operator==(const MigState&, const MigState&) = default;
};

// A GPU instance of ours. Handles name it for the driver, ids for people.
struct Made {
  nvml::GpuInstance instance = nullptr;
  nvml::ComputeInstance compute = nullptr;
  std::optional<int> id;  // Absent where the driver made it and then didn't tell.
  std::optional<int> compute_id;
};

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
  need(api.compute_instance_info, "nvmlComputeInstanceGetInfo_v2");
  need(api.create_compute_instance, "nvmlGpuInstanceCreateComputeInstance");
  need(api.destroy_compute_instance, "nvmlComputeInstanceDestroy");
  if (missing.empty()) return {};
  return Fail(ErrorCode::kUnsupported,
              fmt::format("the driver can't change MIG: it has no {}", fmt::join(missing, ", ")),
              "install a newer driver, or cut the GPU with nvidia-smi and measure it as it is");
}

Status ReadInstancesOf(const nvml::Api& api, nvml::Device device,
                       const nvml::GpuInstanceProfileInfo& profile, std::vector<int>& ids) {
  std::vector<nvml::GpuInstance> handles(std::max(profile.instance_count, 1U));
  auto count = static_cast<unsigned>(handles.size());
  RETURN_IF_ERROR(FromNvml(api.gpu_instances(device, profile.id, handles.data(), &count),
                           "listing the GPU instances"));
  for (std::size_t i = 0; i < std::min<std::size_t>(count, handles.size()); ++i) {
    nvml::GpuInstanceInfo info{};
    RETURN_IF_ERROR(FromNvml(api.gpu_instance_info(handles[i], &info), "asking a GPU instance"));
    ids.push_back(static_cast<int>(info.id));
  }
  return {};
}

Result<MigState> ReadState(const nvml::Api& api, nvml::Device device) {
  unsigned current = 0;
  unsigned pending = 0;
  RETURN_IF_ERROR(FromNvml(api.device_mig_mode(device, &current, &pending), "asking for MIG mode"));
  MigState state{
      .on = current == nvml::kMigEnable, .pending = pending == nvml::kMigEnable, .instances = {}};
  if (!state.on) return state;
  for (unsigned i = 0; i < nvml::kGpuInstanceProfileCount; ++i) {
    nvml::GpuInstanceProfileInfo profile{};
    const nvml::Return code = api.gi_profile_info(device, i, &profile);
    if (NotOffered(code)) continue;
    RETURN_IF_ERROR(FromNvml(code, "asking for a MIG profile"));
    RETURN_IF_ERROR(ReadInstancesOf(api, device, profile, state.instances));
  }
  std::ranges::sort(state.instances);
  // A profile may be listed under two numbers.
  const auto twice = std::ranges::unique(state.instances);
  state.instances.erase(twice.begin(), twice.end());
  return state;
}

// Pids of all that use the GPU. Fails where the driver doesn't tell: then it isn't known to be
// idle.
Result<std::vector<unsigned>> ProcessesOn(const nvml::Api& api, nvml::Device device) {
  constexpr unsigned kListed = 64;  // Enough to name; one is enough to refuse.
  std::vector<unsigned> pids;
  for (const auto list :
       {api.device_compute_processes, api.device_graphics_processes, api.device_mps_processes}) {
    if (list == nullptr) continue;
    std::array<nvml::ProcessInfo, kListed> infos{};
    unsigned count = kListed;
    const nvml::Return code = list(device, &count, infos.data());
    if (code == nvml::kNotSupported) continue;
    if (code == nvml::kInsufficientSize) {
      return Fail(ErrorCode::kConflict, fmt::format("{} processes use the GPU", count));
    }
    RETURN_IF_ERROR(FromNvml(code, "asking which processes use the GPU"));
    for (unsigned i = 0; i < std::min(count, kListed); ++i) pids.push_back(infos[i].pid);
  }
  return pids;
}

void WaitShortly(const Deadline& deadline) {
  constexpr int kMilliseconds = 50;
  static_cast<void>(::poll(nullptr, 0, std::min(kMilliseconds, deadline.PollMilliseconds())));
}

Status WaitUntilIdle(const nvml::Api& api, nvml::Device device, double patience_s) {
  const Deadline deadline = Deadline::In(patience_s);
  for (;;) {
    ASSIGN_OR_RETURN(const std::vector<unsigned> pids, ProcessesOn(api, device));
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

// Repeats a call while the driver says that something is in use.
template <typename Call>
nvml::Return WhileInUse(const Deadline& deadline, const Call& call) {
  for (;;) {
    const nvml::Return code = call();
    if (code != nvml::kInUse || deadline.Passed()) return code;
    WaitShortly(deadline);
  }
}

// "+me", "+gfx", "-me": variants that have more or fewer engines than the slice brings with it.
bool IsPlain(const ReportedProfile& profile) {
  if (!profile.name.empty()) return profile.name.find_first_of("+-") == std::string::npos;
  return profile.nvml_profile <= static_cast<int>(nvml::kGpuInstanceProfile6Slice) ||
         profile.nvml_profile == static_cast<int>(nvml::kGpuInstanceProfile1SliceRev2);
}

std::string NameOf(const ReportedProfile& profile) {
  return profile.name.empty() ? fmt::format("profile {}", profile.id) : profile.name;
}

Result<ReportedProfile> Choose(const std::vector<ReportedProfile>& offered,
                               const std::string& wanted) {
  std::vector<std::string> names;
  const ReportedProfile* chosen = nullptr;
  for (const ReportedProfile& profile : offered) {
    names.push_back(NameOf(profile));
    if (wanted.empty() ? !IsPlain(profile) : names.back() != wanted) continue;
    const auto size = [](const ReportedProfile& p) {
      return std::pair(p.compute_slices, p.memory);
    };
    if (chosen == nullptr || size(profile) < size(*chosen)) chosen = &profile;
  }
  if (chosen != nullptr) return *chosen;
  if (wanted.empty()) return Fail(ErrorCode::kUnsupported, "the driver offers no MIG profiles");
  return Fail(ErrorCode::kNotFound, fmt::format("no such MIG profile: {}", wanted),
              fmt::format("the GPU offers {}", fmt::join(names, ", ")));
}

// The compute instance profile that takes all of a GPU instance.
Result<unsigned> FullComputeProfile(const nvml::Api& api, nvml::GpuInstance instance,
                                    unsigned slices) {
  for (unsigned i = 0; i < nvml::kComputeInstanceProfileCount; ++i) {
    nvml::ComputeInstanceProfileInfo info{};
    const nvml::Return code =
        api.ci_profile_info(instance, i, nvml::kComputeInstanceEngineShared, &info);
    if (NotOffered(code)) continue;
    RETURN_IF_ERROR(FromNvml(code, "asking for a compute instance profile"));
    if (info.slice_count == slices) return info.id;
  }
  return Fail(ErrorCode::kUnsupported, "no compute instance takes all of a GPU instance");
}

std::string_view OnOff(bool on) {
  return on ? "on" : "off";
}

}  // namespace

class MigSession::State {
 public:
  State(const nvml::Api& api, std::string uuid, double patience_s)
      : api_(api), uuid_(std::move(uuid)), patience_s_(patience_s) {}

  // Reads what is there, and refuses what a session must not touch. Changes nothing.
  Status Look(const std::string& wanted);
  // On a failure half-way, Restore() undoes what was done.
  Status Cut();
  Status Restore();

  const std::vector<MigInstance>& instances() const { return instances_; }
  const std::string& profile() const { return profile_name_; }

 private:
  Status TurnOn();
  Status Complete(Made& made) const;
  Status Describe();
  Status Destroy(Made& made, const Deadline& deadline) const;
  Status PutModeBack(const Deadline& deadline) const;
  Error WhatIsLeft(const Result<MigState>& now, const std::optional<Error>& complaint) const;
  std::string UndoCommands(const std::vector<int>& instances, bool mode) const;

  const nvml::Api& api_;
  const std::string uuid_;
  const double patience_s_;
  nvml::Device device_ = nullptr;
  MigState found_;
  ReportedProfile profile_;
  std::string profile_name_;
  bool mode_asked_ = false;  // The driver was asked to turn MIG mode on.
  bool restored_ = false;
  std::vector<Made> made_;
  std::vector<MigInstance> instances_;
};

Status MigSession::State::Look(const std::string& wanted) {
  RETURN_IF_ERROR(CheckFunctions(api_));
  ASSIGN_OR_RETURN(device_, FindDevice(api_, uuid_));
  Result<MigState> found = ReadState(api_, device_);
  if (!found && found.error().code == ErrorCode::kUnsupported) {
    return Fail(ErrorCode::kUnsupported, fmt::format("{} has no MIG", uuid_));
  }
  RETURN_IF_ERROR(found);
  found_ = *found;
  if (found_.pending != found_.on) {
    return Fail(ErrorCode::kConflict,
                fmt::format("{}: MIG mode is {}, and waits for a reset to be turned {}", uuid_,
                            OnOff(found_.on), OnOff(found_.pending)),
                "finish that change first: reset the GPU or reboot");
  }
  if (!found_.instances.empty()) {
    return Fail(
        ErrorCode::kConflict,
        fmt::format("{} has GPU instances already: {}", uuid_, fmt::join(found_.instances, ", ")),
        "they are left alone; destroy them yourself if nobody needs them");
  }
  // With MIG mode on and no instances there is no place where a process could be.
  if (!found_.on) RETURN_IF_ERROR(WaitUntilIdle(api_, device_, patience_s_));
  Gpu gpu;
  ReadMig(api_, device_, gpu);
  ASSIGN_OR_RETURN(profile_, Choose(gpu.profiles, wanted));
  profile_name_ = NameOf(profile_);
  return {};
}

Status MigSession::State::Cut() {
  if (!found_.on) RETURN_IF_ERROR(TurnOn());
  for (int i = 0; i < std::max(profile_.max_instances, 1); ++i) {
    nvml::GpuInstance instance = nullptr;
    const nvml::Return code =
        api_.create_gpu_instance(device_, static_cast<unsigned>(profile_.id), &instance);
    // Another limit than the profile's own, as the GPU's engines, may come first.
    if (code == nvml::kInsufficientResources && i > 0) break;
    RETURN_IF_ERROR(FromNvml(code, fmt::format("making a GPU instance {}", profile_name_)));
    made_.push_back({.instance = instance, .compute = nullptr, .id = {}, .compute_id = {}});
    RETURN_IF_ERROR(Complete(made_.back()));
  }
  return Describe();
}

Status MigSession::State::TurnOn() {
  nvml::Return activation = nvml::kSuccess;
  mode_asked_ = true;
  RETURN_IF_ERROR(FromNvml(api_.set_mig_mode(device_, nvml::kMigEnable, &activation),
                           fmt::format("turning MIG mode on, {}", uuid_)));
  // Turning it on may have reset the GPU, and what was known of it may be no more.
  ASSIGN_OR_RETURN(device_, FindDevice(api_, uuid_));
  ASSIGN_OR_RETURN(const MigState now, ReadState(api_, device_));
  if (now.on) return {};
  if (now.pending) {
    return Fail(ErrorCode::kConflict,
                fmt::format("turning MIG mode on, {}: it stays pending until the GPU is reset ({})",
                            uuid_, nvml::ReturnName(activation)),
                "end what holds the GPU, as monitoring agents do, or turn MIG mode on beforehand: "
                "nvidia-smi -mig 1, then reset the GPU or reboot");
  }
  const nvml::Return why = activation == nvml::kSuccess ? nvml::kUnknown : activation;
  return FromNvml(why, fmt::format("turning MIG mode on, {}: it stays off", uuid_));
}

// Gives a new GPU instance its compute instance, and asks for the ids of both.
Status MigSession::State::Complete(Made& made) const {
  nvml::GpuInstanceInfo info{};
  RETURN_IF_ERROR(
      FromNvml(api_.gpu_instance_info(made.instance, &info), "asking the new GPU instance"));
  made.id = static_cast<int>(info.id);
  ASSIGN_OR_RETURN(
      const unsigned full,
      FullComputeProfile(api_, made.instance, static_cast<unsigned>(profile_.compute_slices)));
  RETURN_IF_ERROR(FromNvml(api_.create_compute_instance(made.instance, full, &made.compute),
                           fmt::format("making a compute instance in {}", profile_name_)));
  nvml::ComputeInstanceInfo compute{};
  RETURN_IF_ERROR(FromNvml(api_.compute_instance_info(made.compute, &compute),
                           "asking the new compute instance"));
  made.compute_id = static_cast<int>(compute.id);
  return {};
}

// What the driver shows must be what was made: nothing is measured in an instance that isn't the
// one it is taken for.
Status MigSession::State::Describe() {
  Gpu gpu;
  ReadMig(api_, device_, gpu);
  if (gpu.instances.size() != made_.size()) {
    return Fail(ErrorCode::kConflict, fmt::format("{} GPU instances were made, the driver shows {}",
                                                  made_.size(), gpu.instances.size()));
  }
  for (const GpuInstance& instance : gpu.instances) {
    const auto made = std::ranges::find(made_, std::optional(instance.id), &Made::id);
    const bool ours = made != made_.end() && instance.profile_id == profile_.id &&
                      instance.compute_instances.size() == 1 &&
                      made->compute_id == instance.compute_instances[0].id;
    if (!ours || instance.compute_instances[0].uuid.empty()) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("GPU instance {} isn't what was made: {} with {} compute instances",
                              instance.id, instance.profile, instance.compute_instances.size()));
    }
    instances_.push_back({.uuid = instance.compute_instances[0].uuid, .profile = profile_name_});
  }
  return {};
}

Status MigSession::State::Destroy(Made& made, const Deadline& deadline) const {
  Status compute;
  if (made.compute != nullptr) {
    const nvml::Return code =
        WhileInUse(deadline, [&] { return api_.destroy_compute_instance(made.compute); });
    if (code == nvml::kSuccess || code == nvml::kNotFound) made.compute = nullptr;
    if (made.compute != nullptr) compute = FromNvml(code, "destroying a compute instance");
  }
  // Also tried where the compute instance seems to be left, because a call may fail in its answer.
  const nvml::Return code =
      WhileInUse(deadline, [&] { return api_.destroy_gpu_instance(made.instance); });
  if (code == nvml::kSuccess || code == nvml::kNotFound) return {};
  RETURN_IF_ERROR(compute);
  return FromNvml(code, "destroying a GPU instance");
}

Status MigSession::State::PutModeBack(const Deadline& deadline) const {
  const Result<MigState> now = ReadState(api_, device_);
  if (now && now->on == found_.on && now->pending == found_.on) return {};
  const unsigned mode = found_.on ? nvml::kMigEnable : nvml::kMigDisable;
  const nvml::Return code = WhileInUse(deadline, [&] {
    nvml::Return activation = nvml::kSuccess;
    const nvml::Return answer = api_.set_mig_mode(device_, mode, &activation);
    return answer == nvml::kSuccess ? activation : answer;
  });
  return FromNvml(code, fmt::format("turning MIG mode {}", OnOff(found_.on)));
}

Status MigSession::State::Restore() {
  if (restored_) return {};
  if (const Result<nvml::Device> device = FindDevice(api_, uuid_)) device_ = *device;
  const Deadline deadline = Deadline::In(patience_s_);
  std::optional<Error> complaint;
  const auto note = [&](const Status& status) {
    if (!status && !complaint) complaint = status.error();
    return status.has_value();
  };
  std::erase_if(made_, [&](Made& made) { return note(Destroy(made, deadline)); });
  if (mode_asked_) note(PutModeBack(deadline));
  const Result<MigState> now = ReadState(api_, device_);
  if (!now || *now != found_) return tl::unexpected<Error>(WhatIsLeft(now, complaint));
  restored_ = true;
  return {};
}

Error MigSession::State::WhatIsLeft(const Result<MigState>& now,
                                    const std::optional<Error>& complaint) const {
  std::vector<std::string> left;
  std::vector<int> ours;
  if (!now) {
    // What was asked for and not seen to be undone.
    std::vector<std::string> ids;
    for (const Made& made : made_) {
      ids.push_back(made.id ? fmt::format("{}", *made.id) : "unknown");
      if (made.id) ours.push_back(*made.id);
    }
    if (mode_asked_) left.emplace_back("MIG mode is on");
    if (!ids.empty())
      left.push_back(fmt::format("GPU instances with ids {}", fmt::join(ids, ", ")));
    return {ErrorCode::kConflict,
            fmt::format("can't tell whether {} is as it was found: {}; what may be left: {}", uuid_,
                        now.error().message,
                        left.empty() ? "nothing" : fmt::format("{}", fmt::join(left, "; "))),
            UndoCommands(ours, mode_asked_)};
  }
  const bool mode = now->on != found_.on || now->pending != found_.pending;
  if (now->on != found_.on) {
    left.push_back(fmt::format("MIG mode is {}, it was {}", OnOff(now->on), OnOff(found_.on)));
  } else if (mode) {
    left.push_back(fmt::format("MIG mode waits for a reset to be turned {}", OnOff(now->pending)));
  }
  for (const int id : now->instances) {
    const bool known = std::ranges::find(made_, std::optional(id), &Made::id) != made_.end();
    if (known) ours.push_back(id);
    left.push_back(fmt::format("GPU instance {}{}", id, known ? "" : ", not known as ours"));
  }
  std::string message = fmt::format("{} is not as it was found: {}", uuid_, fmt::join(left, "; "));
  if (complaint) message += fmt::format(" ({})", complaint->message);
  return {ErrorCode::kConflict, std::move(message), UndoCommands(ours, mode)};
}

// For a person, where this program couldn't.
std::string MigSession::State::UndoCommands(const std::vector<int>& instances, bool mode) const {
  std::vector<std::string> commands;
  if (!instances.empty()) {
    for (const char* const what : {"-dci", "-dgi"}) {
      commands.push_back(
          fmt::format("nvidia-smi mig -i {} {} -gi {}", uuid_, what, fmt::join(instances, ",")));
    }
  }
  if (mode) commands.push_back(fmt::format("nvidia-smi -i {} -mig {}", uuid_, found_.on ? 1 : 0));
  // To look, where nothing is known that should be undone.
  if (commands.empty()) commands.push_back(fmt::format("nvidia-smi mig -i {} -lgi", uuid_));
  return fmt::format("as root: {}", fmt::join(commands, " && "));
}

Result<MigSession> MigSession::Start(const nvml::Api& api, const std::string& gpu_uuid,
                                     const MigSessionOptions& options) {
  auto state = std::make_unique<State>(api, gpu_uuid, options.patience_s);
  RETURN_IF_ERROR(state->Look(options.profile));
  if (Status cut = state->Cut(); !cut) {
    Error error = std::move(cut).error();
    if (const Status undone = state->Restore(); !undone) {
      error.code = ErrorCode::kUnavailable;
      error.message += "; then " + undone.error().message;
      error.hint = undone.error().hint;
    }
    return tl::unexpected<Error>(std::move(error));
  }
  return MigSession(std::move(state));
}

MigSession::MigSession(std::unique_ptr<State> state) : state_(std::move(state)) {}
MigSession::MigSession(MigSession&& other) noexcept = default;

MigSession::~MigSession() {
  if (state_ != nullptr) static_cast<void>(state_->Restore());
}

const std::vector<MigInstance>& MigSession::instances() const {
  return state_->instances();
}

const std::string& MigSession::profile() const {
  return state_->profile();
}

Status MigSession::Restore() {
  return state_->Restore();
}

}  // namespace sublet
