// plan/mig_layout.h
//
// Where the MIG instances that a mig-parted label asks for shall lie, given what is there: as many
// as possible stay where they are, those in use always.
//
//   ASSIGN_OR_RETURN(const MigConfigLabel* label, config.Find("all-balanced"));
//   ASSIGN_OR_RETURN(const NodeLayout layout, LayOutNode(boards, node, *label, use, {}));
//   for (const MigLayout& gpu : layout.gpus) ...gpu.target, gpu.reasons
//
// The file gives a multiset of profiles for each GPU. What a profile's name means, where its
// instances may begin and how many there can be is what the driver of this very GPU says; the board
// catalogue answers where an old driver doesn't. As in mig-parted, of several entries that are
// meant for one GPU the last one counts, and compute instances ("1c.3g.40gb") share GPU instances
// as far as they fit, the largest first.
//
// Thread safety: pure functions.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/board.h"
#include "model/inventory.h"
#include "model/mig_config.h"
#include "model/mig_target.h"

namespace sublet {

struct MigLayout {
  MigTarget target;
  std::vector<std::string> reasons;  // One for each of the target's instances: why it lies there.
  int gpu = 0;                       // Index of the GPU.
  int entry = 0;                     // Which of the label's entries asked for it, from 0.
};

struct NodeLayout {
  std::vector<MigLayout> gpus;   // Ascending index.
  std::vector<int> not_matched;  // Indices of the GPUs that no entry is meant for.

  std::vector<MigTarget> Targets() const;
};

// Fails with
//  - kUnsupported where MIG is asked of a GPU without it;
//  - kNotFound for a profile that the GPU doesn't offer;
//  - kInfeasible where the instances can't exist together; the message says why not;
//  - kConflict where they could but for the instances in use, or what is there isn't known.
Result<MigLayout> LayOut(const BoardCatalogue& boards, const Gpu& now, const MigConfigEntry& entry,
                         const MigUse& use);

struct LayoutOptions {
  bool mode_only = false;  // Only the MIG mode counts; instances stay where the mode stays.
};

// The same for all GPUs of a node, with the GPU in front of errors. `use` by UUID; who isn't in it
// is idle. A GPU that can't be used (Gpu::problem) fails with kUnavailable.
Result<NodeLayout> LayOutNode(const BoardCatalogue& boards, const Inventory& now,
                              const MigConfigLabel& label, const std::map<std::string, MigUse>& use,
                              const LayoutOptions& options);

// One sentence for each way in which the node isn't as the label has it: modes, and how many there
// are of each profile; empty where it is. Places don't count, as in mig-parted, where a GPU that no
// entry is meant for is a difference, too. Fails with kPermission where the driver didn't tell
// which instances there are.
Result<std::vector<std::string>> LabelDifferences(const BoardCatalogue& boards,
                                                  const Inventory& now, const MigConfigLabel& label,
                                                  const LayoutOptions& options);

// What is there as one label, in mig-parted's format: one entry for all GPUs that are alike, with
// device filters where the node has several boards. A GPU instance without compute instances is
// written down as if it had one. Fails as LabelDifferences() does, and with kUnavailable for a GPU
// that can't be read.
Result<MigConfigLabel> LabelOfNode(const BoardCatalogue& boards, const Inventory& now,
                                   std::string name);

}  // namespace sublet
