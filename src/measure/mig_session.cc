#include "measure/mig_session.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "inventory/nvml_mig.h"
#include "mig/mig_gpu.h"
#include "model/inventory.h"

namespace sublet {
namespace {

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

std::string_view OnOff(bool on) {
  return on ? "on" : "off";
}

}  // namespace

class MigSession::State {
 public:
  State(const nvml::Api& api, MigGpu gpu, double patience_s)
      : api_(api), gpu_(std::move(gpu)), patience_s_(patience_s) {}

  // Reads what is there, and refuses what a session must not touch. Changes nothing.
  Status Look(const std::string& wanted);
  // On a failure half-way, Restore() undoes what was done.
  Status Cut();
  Status Restore();

  const std::vector<MigInstance>& instances() const { return instances_; }
  const std::string& profile() const { return profile_name_; }

 private:
  Status Describe();
  Status PutModeBack(const Deadline& deadline);
  Error WhatIsLeft(const Result<MigState>& now, const std::optional<Error>& complaint) const;
  std::string UndoCommands(const std::vector<int>& instances, bool mode) const;

  const nvml::Api& api_;
  MigGpu gpu_;
  const double patience_s_;
  MigState found_;
  ReportedProfile profile_;
  std::string profile_name_;
  bool mode_asked_ = false;  // The driver was asked to turn MIG mode on.
  bool restored_ = false;
  std::vector<MigMade> made_;
  std::vector<MigInstance> instances_;
};

Status MigSession::State::Look(const std::string& wanted) {
  Result<MigState> found = gpu_.Read();
  if (!found && found.error().code == ErrorCode::kUnsupported) {
    return Fail(ErrorCode::kUnsupported, fmt::format("{} has no MIG", gpu_.uuid()));
  }
  RETURN_IF_ERROR(found);
  found_ = *found;
  if (found_.pending != found_.on) {
    return Fail(ErrorCode::kConflict,
                fmt::format("{}: MIG mode is {}, and waits for a reset to be turned {}",
                            gpu_.uuid(), OnOff(found_.on), OnOff(found_.pending)),
                "finish that change first: reset the GPU or reboot");
  }
  if (!found_.instances.empty()) {
    std::vector<int> ids;
    for (const MigFound& instance : found_.instances) ids.push_back(instance.id);
    return Fail(ErrorCode::kConflict,
                fmt::format("{} has GPU instances already: {}", gpu_.uuid(), fmt::join(ids, ", ")),
                "they are left alone; destroy them yourself if nobody needs them");
  }
  // With MIG mode on and no instances there is no place where a process could be.
  if (!found_.on) RETURN_IF_ERROR(gpu_.WaitUntilIdle(Deadline::In(patience_s_)));
  Gpu gpu;
  ReadMig(api_, gpu_.device(), gpu);
  ASSIGN_OR_RETURN(profile_, Choose(gpu.profiles, wanted));
  profile_name_ = NameOf(profile_);
  return {};
}

Status MigSession::State::Cut() {
  if (!found_.on) {
    mode_asked_ = true;
    RETURN_IF_ERROR(gpu_.SetMode(true, Deadline::In(patience_s_)));
  }
  for (int i = 0; i < std::max(profile_.max_instances, 1); ++i) {
    MigMade made;
    ASSIGN_OR_RETURN(const bool room, gpu_.Make(profile_.id, std::nullopt, made));
    // Another limit than the profile's own, as the GPU's engines, may come first.
    if (!room && i > 0) break;
    if (!room) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("the driver has no room for a GPU instance {}", profile_name_));
    }
    made_.push_back(std::move(made));
    RETURN_IF_ERROR(gpu_.Complete(std::nullopt, made_.back()));
  }
  return Describe();
}

// What the driver shows must be what was made: nothing is measured in an instance that isn't the
// one it is taken for.
Status MigSession::State::Describe() {
  Gpu gpu;
  ReadMig(api_, gpu_.device(), gpu);
  if (gpu.instances.size() != made_.size()) {
    return Fail(ErrorCode::kConflict, fmt::format("{} GPU instances were made, the driver shows {}",
                                                  made_.size(), gpu.instances.size()));
  }
  for (const GpuInstance& instance : gpu.instances) {
    const auto made = std::ranges::find(made_, std::optional(instance.id), &MigMade::id);
    const bool ours = made != made_.end() && instance.profile_id == profile_.id &&
                      instance.compute_instances.size() == 1 &&
                      made->compute_ids == std::vector{instance.compute_instances[0].id};
    if (!ours || instance.compute_instances[0].uuid.empty()) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("GPU instance {} isn't what was made: {} with {} compute instances",
                              instance.id, instance.profile, instance.compute_instances.size()));
    }
    instances_.push_back({.uuid = instance.compute_instances[0].uuid, .profile = profile_name_});
  }
  return {};
}

Status MigSession::State::PutModeBack(const Deadline& deadline) {
  const Result<MigState> now = gpu_.Read();
  if (now && now->on == found_.on && now->pending == found_.on) return {};
  return gpu_.SetMode(found_.on, deadline);
}

Status MigSession::State::Restore() {
  if (restored_) return {};
  static_cast<void>(gpu_.FindAgain());  // Where that fails, the handle known so far may do.
  const Deadline deadline = Deadline::In(patience_s_);
  std::optional<Error> complaint;
  const auto note = [&](const Status& status) {
    if (!status && !complaint) complaint = status.error();
    return status.has_value();
  };
  std::erase_if(made_, [&](MigMade& made) { return note(gpu_.Destroy(made, deadline)); });
  if (mode_asked_) note(PutModeBack(deadline));
  const Result<MigState> now = gpu_.Read();
  if (!now || !now->IsLike(found_)) return tl::unexpected<Error>(WhatIsLeft(now, complaint));
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
    for (const MigMade& made : made_) {
      ids.push_back(made.id ? fmt::format("{}", *made.id) : "unknown");
      if (made.id) ours.push_back(*made.id);
    }
    if (mode_asked_) left.emplace_back("MIG mode is on");
    if (!ids.empty())
      left.push_back(fmt::format("GPU instances with ids {}", fmt::join(ids, ", ")));
    return {ErrorCode::kConflict,
            fmt::format("can't tell whether {} is as it was found: {}; what may be left: {}",
                        gpu_.uuid(), now.error().message,
                        left.empty() ? "nothing" : fmt::format("{}", fmt::join(left, "; "))),
            UndoCommands(ours, mode_asked_)};
  }
  const bool mode = now->on != found_.on || now->pending != found_.pending;
  if (now->on != found_.on) {
    left.push_back(fmt::format("MIG mode is {}, it was {}", OnOff(now->on), OnOff(found_.on)));
  } else if (mode) {
    left.push_back(fmt::format("MIG mode waits for a reset to be turned {}", OnOff(now->pending)));
  }
  for (const MigFound& instance : now->instances) {
    const int id = instance.id;
    const bool known = std::ranges::find(made_, std::optional(id), &MigMade::id) != made_.end();
    if (known) ours.push_back(id);
    left.push_back(fmt::format("GPU instance {}{}", id, known ? "" : ", not known as ours"));
  }
  std::string message =
      fmt::format("{} is not as it was found: {}", gpu_.uuid(), fmt::join(left, "; "));
  if (complaint) message += fmt::format(" ({})", complaint->message);
  return {ErrorCode::kConflict, std::move(message), UndoCommands(ours, mode)};
}

// For a person, where this program couldn't.
std::string MigSession::State::UndoCommands(const std::vector<int>& instances, bool mode) const {
  std::vector<std::string> commands;
  if (!instances.empty()) {
    for (const char* const what : {"-dci", "-dgi"}) {
      commands.push_back(fmt::format("nvidia-smi mig -i {} {} -gi {}", gpu_.uuid(), what,
                                     fmt::join(instances, ",")));
    }
  }
  if (mode)
    commands.push_back(fmt::format("nvidia-smi -i {} -mig {}", gpu_.uuid(), found_.on ? 1 : 0));
  // To look, where nothing is known that should be undone.
  if (commands.empty()) commands.push_back(fmt::format("nvidia-smi mig -i {} -lgi", gpu_.uuid()));
  return fmt::format("as root: {}", fmt::join(commands, " && "));
}

Result<MigSession> MigSession::Start(const nvml::Api& api, const std::string& gpu_uuid,
                                     const MigSessionOptions& options) {
  ASSIGN_OR_RETURN(MigGpu gpu, MigGpu::Open(api, gpu_uuid));
  auto state = std::make_unique<State>(api, std::move(gpu), options.patience_s);
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
