// exe/this_node.h
//
// The node that a verb works on: this one, through the driver, or one that was recorded.
#pragma once

#include <string>

#include "base/result.h"
#include "model/inventory.h"

namespace sublet {

struct ThisNode {
  std::string nvml;  // Path of the management library; empty: SUBLET_NVML, SUBLET_SIM, default.
  double timeout_s = 60;  // Patience with a driver that hangs.
};

Result<Inventory> TakeThisNode(const ThisNode& options);

// Reads what `sublet inspect --record` wrote.
Result<Inventory> LoadNode(const std::string& path);

}  // namespace sublet
