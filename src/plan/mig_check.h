// plan/mig_check.h
//
// The answer of `sublet mig check`: can these MIG instances exist on this board, where do they lie,
// what fits beside them, and if not, why not.
//
//   ASSIGN_OR_RETURN(const MigCheck check, CheckProfiles(catalogue, *board, {"3g.40gb",
//   "1g.10gb"})); fmt::print("{}", MigCheckToText(check)); return check.placeable() ? 0 : 1;
//
// Thread safety: pure functions; the catalogue must outlive the MigCheck.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/board.h"
#include "model/mig_config.h"
#include "plan/geometry.h"

namespace sublet {

inline constexpr std::string_view kMigCheckVersion = "sublet.mig-check/v1";

// One multiset of profiles that was asked about.
struct MigQuestion {
  std::string label;  // Of the mig-parted file; empty for profiles of the command line.
  int entry = 0;      // Which of the label's entries, from 0.
  ProfileCounts profiles;
  std::optional<Geometry> where;  // Absent where the instances can't exist together.
  ProfileCounts room;             // With `where`: of each profile alone, how many more would fit.
  std::string reason;             // Without `where`: why not.
  ProfileCounts largest_part;     // Without `where`: the most of these instances that fit together.
};

struct MigCheck {
  const Board* board = nullptr;
  bool from_file = false;  // The questions come from a mig-parted file.
  std::vector<MigQuestion> questions;
  std::vector<std::string> skipped;  // Entries that ask nothing of this board, and why.

  bool placeable() const;
};

// Fails with kUnsupported where the board has no MIG or a name asks for a compute instance, and
// with kNotFound where the board has no such profile: then the hint says which boards have it.
Result<MigCheck> CheckProfiles(const BoardCatalogue& catalogue, const Board& board,
                               const std::vector<std::string>& names);

// Every entry of `label`, or of all labels, that is meant for this board: no filter, or one with a
// PCI id of it. Where all labels are asked about, entries whose profiles are another board's are
// skipped, because files often serve several boards; a name that no board has is an error always.
//
// Fails as CheckProfiles() does, with the label in front, and with kNotFound where the file has no
// such label or nothing in it is meant for this board.
Result<MigCheck> CheckConfig(const BoardCatalogue& catalogue, const Board& board,
                             const MigConfig& config, const std::optional<std::string>& label);

// For people: each answer with a drawing of the memory units, a table, and the nvidia-smi command
// that creates just these placements.
std::string MigCheckToText(const MigCheck& check);

// For programs: version, board, placeable, and either the fields of the one question or `labels`,
// a list of them.
nlohmann::ordered_json MigCheckToJson(const MigCheck& check);

}  // namespace sublet
