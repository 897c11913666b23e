#include "mig/mig_apply.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/crash_point.h"
#include "inventory/nvml_mig.h"
#include "mig/mig_gpu.h"

namespace sublet {
namespace {

// The GPU instance of that profile and place; nullptr where there is none.
const MigFound* FindAt(const MigState& state, const MigSeat& seat) {
  const auto found = std::ranges::find_if(state.instances, [&](const MigFound& one) {
    return one.profile_id == seat.profile_id && one.placement.start == seat.start;
  });
  return found == state.instances.end() ? nullptr : &*found;
}

// What lies on any of the seat's memory units.
const MigFound* FindOverlap(const MigState& state, const MigSeat& seat) {
  const auto found = std::ranges::find_if(state.instances, [&](const MigFound& one) {
    return one.placement.start < seat.start + seat.size &&
           seat.start < one.placement.start + one.placement.size;
  });
  return found == state.instances.end() ? nullptr : &*found;
}

Error Changed(std::string what) {
  return {ErrorCode::kConflict, "the GPU has changed meanwhile: " + std::move(what),
          "look at it, and try again: sublet mig plan"};
}

// Does steps, and undoes them, on one GPU.
class Bench {
 public:
  Bench(MigGpu gpu, const MigPatience& patience) : gpu_(std::move(gpu)), patience_(patience) {}

  // Whether the step can be done as things are. Changes nothing.
  Status Check(const MigStep& step) const;
  Status Do(const MigStep& step);
  Status Undo(const MigStep& step);

  // The commands with which a person does what Undo() couldn't.
  std::string UndoCommand(const MigStep& step) const;
  const MigGpu& gpu() const { return gpu_; }

 private:
  Deadline Until() const { return Deadline::In(patience_.in_use_s); }
  Status CheckMode(const MigStep& step, const MigState& state) const;
  Status Create(const MigSeat& seat);
  Status Destroy(const MigSeat& seat);
  Status MakeAgain(const MigSeat& seat);
  Status SetBack(bool on);

  MigGpu gpu_;
  MigPatience patience_;
};

Status Bench::CheckMode(const MigStep& step, const MigState& state) const {
  const bool on = step.kind == MigStep::Kind::kEnableMode;
  if (step.kind == MigStep::Kind::kKeepMode || state.on == on) return {};
  if (!state.instances.empty()) {
    return tl::unexpected<Error>(
        Changed(fmt::format("it has GPU instance {}", state.instances[0].id)));
  }
  return gpu_.WaitUntilIdle(Until());
}

Status Bench::Check(const MigStep& step) const {
  ASSIGN_OR_RETURN(const MigState state, gpu_.Read());
  if (step.ChangesMode()) return CheckMode(step, state);
  if (!state.on) return tl::unexpected<Error>(Changed("its MIG mode is off"));
  if (step.kind == MigStep::Kind::kDestroy) {
    const MigFound* const there = FindAt(state, step.seat);
    const bool same = there != nullptr && step.instance_id.value_or(there->id) == there->id;
    if (same) return {};
    return tl::unexpected<Error>(Changed("there is no " + DescribeSeat(step.seat)));
  }
  const MigFound* const there = FindOverlap(state, step.seat);
  if (there == nullptr) return {};
  return tl::unexpected<Error>(
      Changed(fmt::format("GPU instance {} lies at {}", there->id, there->placement.start)));
}

Status Bench::Do(const MigStep& step) {
  switch (step.kind) {
    case MigStep::Kind::kEnableMode:
      return gpu_.SetMode(true, Until());
    case MigStep::Kind::kDisableMode:
      return gpu_.SetMode(false, Until());
    case MigStep::Kind::kKeepMode: {
      ASSIGN_OR_RETURN(const MigState state, gpu_.Read());
      return gpu_.SetMode(state.on, Until());
    }
    case MigStep::Kind::kDestroy:
      return Destroy(step.seat);
    case MigStep::Kind::kCreate:
      return Create(step.seat);
  }
  CHECK(false);
}

// REQUIRES: nothing lies there, so that what is found there later is what was made here.
Status Bench::Create(const MigSeat& seat) {
  MigMade made;
  const auto room = gpu_.Make(seat.profile_id, Placement{seat.start, seat.size}, made);
  if (room && !*room) {
    return Fail(ErrorCode::kConflict,
                fmt::format("the driver has no room for {}", DescribeSeat(seat)));
  }
  Status done = room ? gpu_.Complete(seat.compute_slices, made) : tl::unexpected(room.error());
  // A call that failed may have done its work all the same.
  ASSIGN_OR_RETURN(const MigState state, gpu_.Read());
  const MigFound* const there = FindAt(state, seat);
  if (there != nullptr) {
    ASSIGN_OR_RETURN(const MigComputeState compute, gpu_.ReadCompute(there->handle));
    if (compute.SeatSlices() == seat.compute_slices) return {};
  }
  RETURN_IF_ERROR(done);
  return Fail(ErrorCode::kConflict,
              fmt::format("the driver made something else than {}", DescribeSeat(seat)));
}

// Whatever compute instances it has. Nothing to do where nothing lies there.
Status Bench::Destroy(const MigSeat& seat) {
  ASSIGN_OR_RETURN(const MigState state, gpu_.Read());
  const MigFound* const there = FindAt(state, seat);
  if (there == nullptr) return {};
  ASSIGN_OR_RETURN(const MigComputeState compute, gpu_.ReadCompute(there->handle));
  MigMade made{.instance = there->handle, .id = there->id, .compute = {}, .compute_ids = {}};
  for (const MigComputeFound& one : compute.instances) made.compute.push_back(one.handle);
  const Status done = gpu_.Destroy(made, Until());
  ASSIGN_OR_RETURN(const MigState after, gpu_.Read());
  if (FindAt(after, seat) == nullptr) return {};
  RETURN_IF_ERROR(done);
  return Fail(ErrorCode::kConflict, fmt::format("{} is still there", DescribeSeat(seat)));
}

// The slices that `there` lacks to be as `wanted` has it; absent where it has others than those.
std::optional<std::vector<int>> MissingSlices(const MigComputeState& there,
                                              const std::optional<std::vector<int>>& wanted) {
  std::vector<int> missing = wanted.value_or(std::vector<int>{there.whole});
  for (const MigComputeFound& one : there.instances) {
    const auto same = std::ranges::find(missing, one.slices);
    if (same == missing.end()) return std::nullopt;
    missing.erase(same);
  }
  return missing;
}

// What was destroyed, or half destroyed: a part of it may be in use, and stays.
Status Bench::MakeAgain(const MigSeat& seat) {
  ASSIGN_OR_RETURN(const MigState state, gpu_.Read());
  if (const MigFound* const there = FindAt(state, seat)) {
    ASSIGN_OR_RETURN(const MigComputeState compute, gpu_.ReadCompute(there->handle));
    MigMade made{.instance = there->handle, .id = there->id, .compute = {}, .compute_ids = {}};
    const auto missing = MissingSlices(compute, seat.compute_slices);
    if (missing) return gpu_.Complete(missing, made);
    RETURN_IF_ERROR(Destroy(seat));
  } else if (const MigFound* const other = FindOverlap(state, seat)) {
    return tl::unexpected<Error>(
        Changed(fmt::format("GPU instance {} lies at {}", other->id, other->placement.start)));
  }
  return Create(seat);
}

Status Bench::SetBack(bool on) {
  ASSIGN_OR_RETURN(const MigState state, gpu_.Read());
  if (state.on == on && state.pending == on) return {};
  return gpu_.SetMode(on, Until());
}

Status Bench::Undo(const MigStep& step) {
  RETURN_IF_ERROR(gpu_.FindAgain());
  switch (step.kind) {
    case MigStep::Kind::kEnableMode:
      return SetBack(false);
    case MigStep::Kind::kDisableMode:
      return SetBack(true);
    case MigStep::Kind::kKeepMode:
      return {};  // Asked for once more, an idle GPU would change its mode at once.
    case MigStep::Kind::kDestroy:
      return MakeAgain(step.seat);
    case MigStep::Kind::kCreate:
      return Destroy(step.seat);
  }
  CHECK(false);
}

std::string Bench::UndoCommand(const MigStep& step) const {
  MigStep inverse = Inverse(step);
  if (inverse.kind == MigStep::Kind::kDestroy) {
    const auto state = gpu_.Read();
    const MigFound* const there = state ? FindAt(*state, step.seat) : nullptr;
    if (there != nullptr) inverse.instance_id = there->id;
  }
  return CommandFor(inverse);
}

// The GPUs of the steps, each opened once.
class Benches {
 public:
  Benches(const nvml::Api& api, const MigPatience& patience) : api_(api), patience_(patience) {}

  Result<Bench*> For(const std::string& uuid) {
    const auto known = benches_.find(uuid);
    if (known != benches_.end()) return &known->second;
    ASSIGN_OR_RETURN(MigGpu gpu, MigGpu::Open(api_, uuid));
    return &benches_.emplace(uuid, Bench(std::move(gpu), patience_)).first->second;
  }

 private:
  const nvml::Api& api_;
  MigPatience patience_;
  std::map<std::string, Bench> benches_;
};

Status DoStep(Bench& bench, const MigStep& step, MigJournal& journal, std::size_t& begun) {
  RETURN_IF_ERROR(bench.Check(step));
  RETURN_IF_ERROR(journal.WillDo(step));
  ++begun;
  CrashPoint("mig-step-will");
  RETURN_IF_ERROR(bench.Do(step));
  CrashPoint("mig-step-done");
  journal.Done(step);
  return {};
}

// The error of a change that was undone, or couldn't be.
Error AfterUndo(Error error, const Status& undone) {
  if (undone) {
    error.message += "; nothing is changed";
    return error;
  }
  return {ErrorCode::kUnavailable,
          fmt::format("{}; then {}", error.message, undone.error().message), undone.error().hint};
}

// A Gpu as DifferencesFrom() looks at it.
Result<Gpu> ReadBack(const nvml::Api& api, const MigGpu& device, const MigTarget& target) {
  ASSIGN_OR_RETURN(const MigState state, device.Read());
  Gpu named;
  ReadMig(api, device.device(), named);
  Gpu gpu;
  gpu.uuid = target.gpu_uuid;
  gpu.mig_capable = true;
  gpu.mig_enabled = state.on;
  gpu.mig_pending = state.pending;
  for (const MigFound& one : state.instances) {
    ASSIGN_OR_RETURN(const MigComputeState compute, device.ReadCompute(one.handle));
    GpuInstance instance{.id = one.id,
                         .profile_id = one.profile_id,
                         .profile = {},
                         .placement = one.placement,
                         .compute_instances = {}};
    ReportedProfile profile;
    profile.id = one.profile_id;
    profile.compute_slices = compute.whole;
    if (const ReportedProfile* const offered = named.FindProfile(one.profile_id)) {
      instance.profile = profile.name = offered->name;
    }
    for (const MigComputeFound& part : compute.instances) {
      ComputeInstance found;
      found.id = part.id;
      found.placement.size = part.slices;
      instance.compute_instances.push_back(std::move(found));
    }
    gpu.instances.push_back(std::move(instance));
    gpu.profiles.push_back(std::move(profile));
  }
  std::ranges::sort(gpu.instances, {}, [](const GpuInstance& one) { return one.placement.start; });
  return gpu;
}

}  // namespace

Status ApplySteps(const nvml::Api& api, std::span<const MigStep> steps, MigJournal& journal,
                  const MigPatience& patience) {
  Benches benches(api, patience);
  std::size_t begun = 0;
  for (const MigStep& step : steps) {
    const auto bench = benches.For(step.gpu_uuid);
    const Status done = bench ? DoStep(**bench, step, journal, begun)
                              : Status(tl::unexpected<Error>(bench.error()));
    if (done) continue;
    Error error =
        Error(done.error()).Prefixed(fmt::format("{}: {}", step.gpu_uuid, Describe(step)));
    return tl::unexpected<Error>(
        AfterUndo(std::move(error), UndoSteps(api, steps.first(begun), patience)));
  }
  return {};
}

Status UndoSteps(const nvml::Api& api, std::span<const MigStep> steps,
                 const MigPatience& patience) {
  Benches benches(api, patience);
  std::vector<std::string> left;
  std::vector<std::string> commands;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const auto bench = benches.For(step->gpu_uuid);
    const Status undone =
        bench ? (*bench)->Undo(*step) : Status(tl::unexpected<Error>(bench.error()));
    if (undone) continue;
    left.push_back(fmt::format("{} ({})", Describe(Inverse(*step)), undone.error().message));
    commands.push_back(bench ? (*bench)->UndoCommand(*step) : CommandFor(Inverse(*step)));
  }
  if (left.empty()) return {};
  return Fail(ErrorCode::kUnavailable,
              fmt::format("it can't all be undone; what is left to do: {}", fmt::join(left, "; ")),
              fmt::format("as root: {}", fmt::join(commands, " && ")));
}

Status VerifyTarget(const nvml::Api& api, const MigTarget& target) {
  ASSIGN_OR_RETURN(const MigGpu device, MigGpu::Open(api, target.gpu_uuid));
  const auto gpu = ReadBack(api, device, target);
  if (!gpu && gpu.error().code == ErrorCode::kUnsupported && !target.mig) return {};
  RETURN_IF_ERROR(gpu);
  const std::vector<std::string> differences = DifferencesFrom(*gpu, target);
  if (differences.empty()) return {};
  return Fail(ErrorCode::kConflict, fmt::format("{} is not as asked for: {}", target.gpu_uuid,
                                                fmt::join(differences, "; ")));
}

Status ApplyTargets(const nvml::Api& api, std::span<const MigStep> steps,
                    std::span<const MigTarget> targets, MigJournal& journal,
                    const MigPatience& patience) {
  RETURN_IF_ERROR(ApplySteps(api, steps, journal, patience));
  for (const MigTarget& target : targets) {
    const Status verified = VerifyTarget(api, target);
    if (verified) continue;
    return tl::unexpected<Error>(AfterUndo(verified.error(), UndoSteps(api, steps, patience)));
  }
  return {};
}

}  // namespace sublet
