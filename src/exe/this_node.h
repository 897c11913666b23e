// exe/this_node.h
//
// The node that a verb works on: this one, through the driver, or one that was recorded.
#pragma once

#include <string>
#include <utility>

#include "base/result.h"
#include "model/inventory.h"

namespace sublet {

// A simulated node for this process and all that it starts, with a state of its own, so that it
// meets no other simulation. The state goes with the object.
//
//   ASSIGN_OR_RETURN(const SimulatedNode simulation, SimulatedNode::Start("h200"));
class SimulatedNode {
 public:
  // None: this machine as it is, or as SUBLET_SIM has it.
  SimulatedNode() = default;
  static Result<SimulatedNode> Start(const std::string& preset);
  SimulatedNode(SimulatedNode&& other) noexcept : state_(std::exchange(other.state_, {})) {}
  SimulatedNode& operator=(SimulatedNode&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }
  ~SimulatedNode();

 private:
  std::string state_;  // The folder; empty where nothing is simulated.
};

struct ThisNode {
  std::string nvml;  // Path of the management library; empty: SUBLET_NVML, SUBLET_SIM, default.
  double timeout_s = 60;  // Patience with a driver that hangs.
};

Result<Inventory> TakeThisNode(const ThisNode& options);

// The driver's libraries: as `flag` says, else as the environment does, else the system's.
std::string NvmlPath(const std::string& flag);
std::string CudaPath(const std::string& flag);

// Reads what `sublet inspect --record` wrote.
Result<Inventory> LoadNode(const std::string& path);

}  // namespace sublet
