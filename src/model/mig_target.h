// model/mig_target.h
//
// What MIG instances a GPU shall have: each a profile at a place.
//
//   MigTarget target{.gpu_uuid = "GPU-...", .mig = true, .instances = {}};
//   target.instances.push_back({.profile = "3g.40gb", .start = 4});
//   ASSIGN_OR_RETURN(target, ResolveTarget(gpu, std::move(target)));   // Ids and sizes, from
//   names.
//
// plan/mig_layout.h makes targets of a mig-parted file, mig/mig_change.h the steps that lead to
// them. As JSON, the body of PUT /v1/mig:
//
//   {"gpus":[{"uuid":"GPU-...","mig":true,"instances":[{"profile":"3g.40gb","start":4}]}]}
//
// Thread safety: values; nothing is shared.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/inventory.h"

namespace sublet {

struct Node;  // model/document.h

// A GPU instance and the compute instances in it.
struct MigSeat {
  std::string profile;  // "3g.40gb"
  int profile_id = -1;  // As nvidia-smi mig -lgip numbers it; -1: not resolved yet.
  int start = 0;        // First memory unit.
  int size = 0;         // In memory units; 0: not resolved yet.
  // The compute slices of each of its compute instances, descending; empty: there are none. Absent,
  // as it should be: one that has them all.
  std::optional<std::vector<int>> compute_slices = {};

  friend bool operator==(const MigSeat&, const MigSeat&) = default;
};

// "3g.40gb at 4", "3g.40gb at 4 (compute slices 2+1)", "3g.40gb at 4 (no compute instances)"
std::string DescribeSeat(const MigSeat& seat);

struct MigTarget {
  std::string gpu_uuid;            // "GPU-..."
  bool mig = false;                // MIG mode is on.
  std::vector<MigSeat> instances;  // Ascending start; empty where MIG mode is off.

  friend bool operator==(const MigTarget&, const MigTarget&) = default;
};

// Who uses a GPU, in words: "process 4711 (python3)", "share s17 of tenant search".
struct MigUse {
  std::map<int, std::vector<std::string>> instances;  // By id of the GPU instance.
  std::vector<std::string> whole;                     // Those in no GPU instance.

  bool Idle() const { return instances.empty() && whole.empty(); }
  void Add(const MigUse& other);
};

// The processes that the driver showed.
MigUse UseByProcesses(const Gpu& gpu);

// What is there now. Fails with kPermission where the driver didn't tell where the instances lie,
// which it tells to root only.
Result<MigTarget> CurrentTarget(const Gpu& gpu);

// Fills in profile ids, names and sizes from what the GPU offers, and puts the instances in order.
// Fails with kUnsupported where the GPU has no MIG, kNotFound for a profile that it doesn't offer,
// kInvalid for instances that overlap or begin where they can't, or exist with MIG mode off.
Result<MigTarget> ResolveTarget(const Gpu& gpu, MigTarget target);

nlohmann::ordered_json MigSeatToJson(const MigSeat& seat);
nlohmann::ordered_json MigTargetsToJson(const std::vector<MigTarget>& targets);
// Strict, as every reader here; the same GPU twice fails with kInvalid. A seat's `profile_id`,
// `size` and `compute_slices` may be left out. `source` names the text in messages.
Result<std::vector<MigTarget>> ParseMigTargets(std::string_view text, std::string_view source);

Result<MigSeat> ReadMigSeat(const Node& node);  // For readers of values that hold seats.

}  // namespace sublet
