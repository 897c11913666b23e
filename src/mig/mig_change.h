// mig/mig_change.h
//
// The steps from the MIG instances that a GPU has to those that it shall have: the fewest, and none
// that touches an instance in use.
//
//   ASSIGN_OR_RETURN(const std::vector<MigStep> steps,
//                    StepsBetween(gpu, target, UseByProcesses(gpu)));
//   for (const MigStep& step : steps) fmt::print("{}\n", Describe(step));
//   // destroy 3g.40gb at 0 (GPU instance 1)
//   // create 1g.10gb at 0
//
// An instance that is at its profile and place already, with the same compute instances, stays
// untouched. Destroys come before what turns the mode on or off, and that before creates, all by
// ascending start: destroying first makes room for every create, in any order.
//
// Thread safety: pure functions.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/inventory.h"
#include "model/mig_target.h"

namespace sublet {

struct Node;  // model/document.h

struct MigStep {
  // kKeepMode: the mode is as it shall be, but a change of it waits for a reset and is taken back.
  enum class Kind { kEnableMode, kDisableMode, kKeepMode, kDestroy, kCreate };

  Kind kind = Kind::kCreate;
  std::string gpu_uuid;
  MigSeat seat;                    // Of kDestroy and kCreate: what lies, or will lie, where.
  std::optional<int> instance_id;  // Of kDestroy: which GPU instance.

  // It is about the GPU's mode, not about an instance.
  bool ChangesMode() const { return kind != Kind::kDestroy && kind != Kind::kCreate; }
  friend bool operator==(const MigStep&, const MigStep&) = default;
};

// "create 1g.10gb at 0", "turn MIG mode on": what is done, without the GPU.
std::string Describe(const MigStep& step);
// What takes it back: a destroy for a create. The id isn't known, the seat is. kKeepMode is its
// own: asked for again, the change that was pending could come at once.
MigStep Inverse(const MigStep& step);
// "nvidia-smi mig -i GPU-... -cgi 19:0 -C": for a person, where this program couldn't.
std::string CommandFor(const MigStep& step);

// Fails with
//  - kConflict where an instance that must go is in use, or the mode must change on a GPU in use;
//    the message says which and by whom;
//  - what ResolveTarget() and CurrentTarget() fail with.
// The target need not be resolved.
Result<std::vector<MigStep>> StepsBetween(const Gpu& now, const MigTarget& target,
                                          const MigUse& use);

// The same for several GPUs, one after the other in the order of `targets`; GPUs that have no
// target are left alone. `use` by UUID; who isn't in it is idle. Fails with kNotFound for a GPU
// that isn't there.
Result<std::vector<MigStep>> StepsForNode(const Inventory& now,
                                          const std::vector<MigTarget>& targets,
                                          const std::map<std::string, MigUse>& use);

// One sentence for each way in which the GPU isn't as the target has it; empty where it is.
// Instances of one profile are compared by their places. The target is resolved.
std::vector<std::string> DifferencesFrom(const Gpu& now, const MigTarget& target);

nlohmann::ordered_json MigStepToJson(const MigStep& step);
nlohmann::ordered_json MigStepsToJson(const std::vector<MigStep>& steps);  // A list.
Result<MigStep> ReadMigStep(const Node& node);
Result<std::vector<MigStep>> ParseMigSteps(std::string_view text, std::string_view source);

}  // namespace sublet
