// sim/driver/sim_node.h
//
// The machine that is simulated: what never changes while it runs.
//
//   ASSIGN_OR_RETURN(SimNode node, LoadSimNode("h100-80gb:2,l4:1", ""));   // catalogue boards
//   ASSIGN_OR_RETURN(SimNode node, LoadSimNode("/tmp/h200.node.json", ""));
//
// A preset gives boards of the catalogue (data/boards.yaml) and invents what a catalogue doesn't
// say: UUIDs (the same each time), PCI addresses, two NUMA nodes, NVSwitch between boards that are
// sold on NVSwitch bases. A node file gives all that as recorded.
//
// Thread safety: values; constant after construction.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/board.h"
#include "model/inventory.h"

namespace sublet::sim {

struct SimGpu {
  // Identity, memory, MIG profiles. mig_*, instances and compute_mode are what the state starts
  // with; processes are empty.
  Gpu facts;
  EngineCounts engines;    // Of the whole GPU; media engines limit MIG geometries.
  int compute_slices = 0;  // 0 without MIG.
  int memory_units = 0;
  int slice_sm_count = 0;  // SMs of the smallest profile.
  bool mig_toggle_needs_reset = false;
  int nvswitch_links = 0;
};

struct SimNode {
  std::string key;  // Names the state's files; fit for a file name.
  std::string driver_version;
  int cuda_version = 0;
  std::vector<SimGpu> gpus;
  std::vector<GpuLink> links;
};

inline constexpr int kSimGpusMax = 64;  // Four times the largest server.

// `preset` is "BOARD:COUNT[,BOARD:COUNT...]" or, with a '/' or ending in ".json", a node file's
// path. `driver_version` replaces the default "580.159.04" (or the recorded one) when it isn't
// empty.
Result<SimNode> LoadSimNode(std::string_view preset, std::string_view driver_version);

}  // namespace sublet::sim
