// exe/planning_node.h
//
// The node as the planner shall see it while shares run on it.
//
//   ASSIGN_OR_RETURN(const Inventory inventory, node.ReadInventory());
//   ASSIGN_OR_RETURN(const NodeStatus status, node.ReadStatus());
//   const Inventory free = ForPlanning(inventory, status);
//
// The planner leaves out a GPU on which anybody runs. What the node runs itself is no reason: the
// plan's replicas are what is planned, and the node puts the rest beside them or says why it can't.
//
// Thread safety: pure.
#pragma once

#include "model/inventory.h"
#include "model/node_status.h"

namespace sublet {

// Of the processes, those stay that aren't the node's, and those of a share of `sublet run` that
// has its GPU to itself.
Inventory ForPlanning(Inventory node, const NodeStatus& status);

}  // namespace sublet
