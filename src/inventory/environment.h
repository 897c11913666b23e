// inventory/environment.h
//
// Which sharing modes this environment can run, and why not the others.
//
// CheckModes() is a pure function of the facts that were gathered, so that every environment, WSL2
// or a container without a pipe, can be tested on any machine.
//
//   for (const ModeCheck& check : CheckModes(node, BuiltInBoards())) ...
//
// It answers "could it be started here now", not "is it wise": what a mode isolates and costs is
// `sublet modes`.
//
// A simulated driver stands for a bare-metal host on which NVIDIA's programs are installed and
// Sublet is root: what the machine around it lacks is not held against it.
//
// Thread safety: no shared state.
#pragma once

#include <vector>

#include "model/board.h"
#include "model/inventory.h"

namespace sublet {

// One ModeCheck for each sharing mode, in the enum's order. Reasons name the GPUs they hold for.
std::vector<ModeCheck> CheckModes(const Inventory& node, const BoardCatalogue& boards);

// Whether driver version `have` ("580.159.04") is at least `need` ("525", "550.90.07").
bool DriverAtLeast(std::string_view have, std::string_view need);

}  // namespace sublet
