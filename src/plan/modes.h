// plan/modes.h
//
// The sharing modes of a board side by side: what each keeps apart, how many it serves, what it
// costs, what makes its limits real, and when to choose it.
//
// From the same data as the planner's decisions: the board's MIG table, the calibration's figures,
// and ToleratesStrangers() (plan/pricing.h). docs/formats/modes.md is the JSON form.
//
//   for (const ModeFacts& mode : CompareModes(*board, ForBoard(DefaultCalibration(), *board), {}))
//
// Thread safety: pure functions.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/board.h"
#include "model/calibration.h"
#include "model/inventory.h"
#include "model/plan.h"

namespace sublet {

inline constexpr std::string_view kModesVersion = "sublet.modes/v1";

struct ModeFacts {
  std::string name;  // "exclusive", "mps", "mps-servers", "mig", "mig+mps", ...
  SharingMode mode = SharingMode::kExclusive;
  Isolation isolation = Isolation::kNone;  // The most that a tenant can demand against strangers.
  // What it keeps apart, and how; each begins with "yes", "limited" or "no".
  std::string memory;
  std::string faults;
  std::string compute;
  std::string bandwidth;
  int partitions_max = 1;      // Processes that can run in it at once.
  std::string partitions_why;  // What sets that number.
  std::string cost;            // What it takes from the tenants.
  std::string cost_source;     // Where the figures in `cost` come from.
  std::string enforcer;        // What makes its limits real.
  std::string choose_when;
  std::optional<bool> available{};  // On this node; absent without one.
  std::string unavailable_why{};
};

// `here`: the node's checks, for the GPUs of this board; empty where there is no node.
std::vector<ModeFacts> CompareModes(const Board& board, const Calibration& calibration,
                                    const std::vector<ModeCheck>& here);

nlohmann::ordered_json ModesToJson(const Board& board, const std::vector<ModeFacts>& modes);

}  // namespace sublet
