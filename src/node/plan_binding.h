// node/plan_binding.h
//
// Which of this machine's GPUs each GPU of a plan is.
//
//   ASSIGN_OR_RETURN(plan, BindPlan(std::move(plan), inventory, current));
//   plan.gpus[0].uuid        // "GPU-...": of each, from here on
//
// A plan that was made for this node names its GPUs by UUID. One that was made for boards ("two
// a100-80gb") names none: such a GPU becomes the one of its board where most of its replicas run
// already, so that the fewest have to move; where none run, the first that is free. Keep the bound
// plan: bound again when other things run, it might come out differently.
//
// Thread safety: pure.
#pragma once

#include "base/result.h"
#include "model/inventory.h"
#include "model/plan.h"
#include "node/plan_diff.h"

namespace sublet {

// Sets uuid and index of each GPU. `current`: what runs. Fails with kInfeasible where the node
// doesn't have the plan's GPUs, or a GPU stands twice in the plan.
Result<Plan> BindPlan(Plan plan, const Inventory& inventory, const PlanTarget& current);

}  // namespace sublet
