#include "mig/mig_change.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "model/document.h"
#include "model/json_fields.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

const EnumWords<MigStep::Kind> kKinds{{"enable-mig", MigStep::Kind::kEnableMode},
                                      {"disable-mig", MigStep::Kind::kDisableMode},
                                      {"keep-mig-mode", MigStep::Kind::kKeepMode},
                                      {"destroy", MigStep::Kind::kDestroy},
                                      {"create", MigStep::Kind::kCreate}};

// Whether one can stay for the other. An old driver doesn't name profiles, so names don't count.
bool IsSameSeat(const MigSeat& a, const MigSeat& b) {
  return a.profile_id == b.profile_id && a.start == b.start && a.size == b.size &&
         a.compute_slices == b.compute_slices;
}

bool Holds(const std::vector<MigSeat>& seats, const MigSeat& wanted) {
  return std::ranges::any_of(seats, [&](const MigSeat& seat) { return IsSameSeat(seat, wanted); });
}

// What lies at a place now, with the id that the driver gave it.
struct Occupied {
  MigSeat seat;
  int id = 0;
};

Result<std::vector<Occupied>> OccupiedSeats(const Gpu& gpu) {
  ASSIGN_OR_RETURN(const MigTarget current, CurrentTarget(gpu));
  std::vector<Occupied> occupied;
  for (const MigSeat& seat : current.instances) {
    const auto instance = std::ranges::find_if(gpu.instances, [&](const GpuInstance& one) {
      return one.placement == Placement{seat.start, seat.size};
    });
    CHECK(instance != gpu.instances.end());
    occupied.push_back({seat, instance->id});
  }
  return occupied;
}

// Who stands in the way of the steps; empty where nobody does.
std::vector<std::string> InTheWay(const std::vector<MigStep>& steps, const Gpu& now,
                                  const MigTarget& target, const MigUse& use) {
  std::vector<std::string> reasons;
  for (const MigStep& step : steps) {
    if (step.kind != MigStep::Kind::kDestroy) continue;
    const auto users = use.instances.find(*step.instance_id);
    if (users == use.instances.end()) continue;
    reasons.push_back(fmt::format("{}, GPU instance {}, is used by {}", DescribeSeat(step.seat),
                                  *step.instance_id, fmt::join(users->second, ", ")));
  }
  if (now.mig_enabled != target.mig && !use.whole.empty()) {
    reasons.push_back(
        fmt::format("the GPU is used by {}, and its MIG mode can only be changed while it is idle",
                    fmt::join(use.whole, ", ")));
  }
  return reasons;
}

std::vector<MigStep> FewestSteps(const std::vector<Occupied>& occupied, const Gpu& now,
                                 const MigTarget& target) {
  std::vector<MigStep> steps;
  const auto add = [&](MigStep::Kind kind, const MigSeat& seat, std::optional<int> id) {
    steps.push_back({.kind = kind, .gpu_uuid = now.uuid, .seat = seat, .instance_id = id});
  };
  std::vector<MigSeat> kept;
  for (const Occupied& one : occupied) {
    if (Holds(target.instances, one.seat)) {
      kept.push_back(one.seat);
    } else {
      add(MigStep::Kind::kDestroy, one.seat, one.id);
    }
  }
  if (now.mig_enabled != target.mig) {
    add(target.mig ? MigStep::Kind::kEnableMode : MigStep::Kind::kDisableMode, {}, {});
  } else if (now.mig_pending != target.mig) {
    add(MigStep::Kind::kKeepMode, {}, {});
  }
  for (const MigSeat& seat : target.instances) {
    if (!Holds(kept, seat)) add(MigStep::Kind::kCreate, seat, {});
  }
  return steps;
}

std::string_view OnOff(bool on) {
  return on ? "on" : "off";
}

Result<std::vector<MigStep>> ReadMigSteps(const Node& node) {
  if (node.kind != Node::Kind::kSequence) return FailAt(node, "a list is expected here");
  std::vector<MigStep> steps;
  for (const Node& item : node.items) {
    ASSIGN_OR_RETURN(MigStep step, ReadMigStep(item));
    steps.push_back(std::move(step));
  }
  return steps;
}

}  // namespace

std::string Describe(const MigStep& step) {
  switch (step.kind) {
    case MigStep::Kind::kEnableMode:
      return "turn MIG mode on";
    case MigStep::Kind::kDisableMode:
      return "turn MIG mode off";
    case MigStep::Kind::kKeepMode:
      return "take back the change of MIG mode that waits for a reset";
    case MigStep::Kind::kDestroy:
      return step.instance_id ? fmt::format("destroy {}, GPU instance {}", DescribeSeat(step.seat),
                                            *step.instance_id)
                              : fmt::format("destroy {}", DescribeSeat(step.seat));
    case MigStep::Kind::kCreate:
      return fmt::format("create {}", DescribeSeat(step.seat));
  }
  CHECK(false);
}

MigStep Inverse(const MigStep& step) {
  MigStep inverse{
      .kind = step.kind, .gpu_uuid = step.gpu_uuid, .seat = step.seat, .instance_id = {}};
  switch (step.kind) {
    case MigStep::Kind::kEnableMode:
      inverse.kind = MigStep::Kind::kDisableMode;
      break;
    case MigStep::Kind::kDisableMode:
      inverse.kind = MigStep::Kind::kEnableMode;
      break;
    case MigStep::Kind::kKeepMode:
      break;
    case MigStep::Kind::kDestroy:
      inverse.kind = MigStep::Kind::kCreate;
      break;
    case MigStep::Kind::kCreate:
      inverse.kind = MigStep::Kind::kDestroy;
      break;
  }
  return inverse;
}

std::string CommandFor(const MigStep& step) {
  const std::string mig = fmt::format("nvidia-smi mig -i {}", step.gpu_uuid);
  switch (step.kind) {
    case MigStep::Kind::kEnableMode:
      return fmt::format("nvidia-smi -i {} -mig 1", step.gpu_uuid);
    case MigStep::Kind::kDisableMode:
      return fmt::format("nvidia-smi -i {} -mig 0", step.gpu_uuid);
    case MigStep::Kind::kKeepMode:
      return fmt::format("nvidia-smi -i {} -q -d MIG", step.gpu_uuid);
    case MigStep::Kind::kDestroy:
      // Without the id, a person has to look which one lies there.
      if (!step.instance_id) return mig + " -lgi";
      return fmt::format("{0} -dci -gi {1} && {0} -dgi -gi {1}", mig, *step.instance_id);
    case MigStep::Kind::kCreate:
      return fmt::format("{} -cgi {}:{}{}", mig, step.seat.profile_id, step.seat.start,
                         step.seat.compute_slices ? "" : " -C");
  }
  CHECK(false);
}

Result<std::vector<MigStep>> StepsBetween(const Gpu& now, const MigTarget& wanted,
                                          const MigUse& use) {
  CHECK(now.uuid == wanted.gpu_uuid);
  if (!now.problem.empty()) {
    return Fail(ErrorCode::kUnavailable,
                fmt::format("{} can't be used: {}", now.uuid, now.problem));
  }
  ASSIGN_OR_RETURN(const MigTarget target, ResolveTarget(now, wanted));
  if (!now.mig_capable) return std::vector<MigStep>{};  // Without MIG, and none is asked for.
  ASSIGN_OR_RETURN(const std::vector<Occupied> occupied, OccupiedSeats(now));
  std::vector<MigStep> steps = FewestSteps(occupied, now, target);
  const std::vector<std::string> reasons = InTheWay(steps, now, target, use);
  if (!reasons.empty()) {
    return Fail(ErrorCode::kConflict, fmt::format("{}", fmt::join(reasons, "; ")),
                "stop what runs there first, or keep it as it is");
  }
  return steps;
}

Result<std::vector<MigStep>> StepsForNode(const Inventory& now,
                                          const std::vector<MigTarget>& targets,
                                          const std::map<std::string, MigUse>& use) {
  std::vector<MigStep> all;
  for (const MigTarget& target : targets) {
    const Gpu* const gpu = now.FindGpu(target.gpu_uuid);
    if (gpu == nullptr) {
      return Fail(ErrorCode::kNotFound,
                  fmt::format("no such GPU: {}", target.gpu_uuid.substr(0, 64)),
                  "sublet inspect lists the GPUs of this node");
    }
    const auto users = use.find(target.gpu_uuid);
    auto steps = StepsBetween(*gpu, target, users == use.end() ? MigUse{} : users->second);
    if (!steps) {
      return tl::unexpected<Error>(
          std::move(steps).error().Prefixed(fmt::format("GPU {}", gpu->index)));
    }
    all.insert(all.end(), steps->begin(), steps->end());
  }
  return all;
}

std::vector<std::string> DifferencesFrom(const Gpu& now, const MigTarget& target) {
  std::vector<std::string> differences;
  if (now.mig_enabled != target.mig) {
    differences.push_back(
        fmt::format("MIG mode is {}, not {}", OnOff(now.mig_enabled), OnOff(target.mig)));
  } else if (now.mig_capable && now.mig_pending != target.mig) {
    differences.push_back(
        fmt::format("MIG mode waits for a reset to be turned {}", OnOff(now.mig_pending)));
  }
  const auto current = CurrentTarget(now);
  if (!current) {
    differences.push_back(current.error().message);
    return differences;
  }
  for (const MigSeat& seat : target.instances) {
    if (!Holds(current->instances, seat)) differences.push_back("no " + DescribeSeat(seat));
  }
  for (const MigSeat& seat : current->instances) {
    if (!Holds(target.instances, seat)) {
      differences.push_back(DescribeSeat(seat) + " is there, too");
    }
  }
  return differences;
}

Json MigStepToJson(const MigStep& step) {
  Json json{{"step", WordOf(kKinds, step.kind)}, {"gpu", step.gpu_uuid}};
  if (!step.ChangesMode()) json["instance"] = MigSeatToJson(step.seat);
  PutField(json, "instance_id", step.instance_id);
  return json;
}

Json MigStepsToJson(const std::vector<MigStep>& steps) {
  return ListToJson(steps, MigStepToJson);
}

Result<MigStep> ReadMigStep(const Node& node) {
  MigStep step;
  ObjectReader in(node, "mig step");
  in.RequiredEnum("step", step.kind, kKinds);
  in.Required("gpu", step.gpu_uuid);
  in.Optional("instance", step.seat, ReadMigSeat);
  in.Optional("instance_id", step.instance_id, {.min = 0, .max = 1023});
  const bool needs_seat = !step.ChangesMode();
  if (needs_seat != in.Has("instance")) {
    in.Reject("instance", needs_seat ? "this step needs an instance" : "this step has no instance");
  }
  RETURN_IF_ERROR(in.Finish());
  return step;
}

Result<std::vector<MigStep>> ParseMigSteps(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadMigSteps);
}

}  // namespace sublet
