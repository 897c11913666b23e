// plan/verify.h
//
// Does this plan keep every promise? A judge that shares the model of time with the search
// (latency.h, and ServiceStretch() of problem.h), and nothing else.
//
// Works from the plan's own figures, the fleet and the catalogue: every replica placed once;
// memory, SM caps, MPS clients, engines and MIG placements within what exists; isolation kept;
// predicted latency, worked out again from the neighbours in the plan, within the targets; cost and
// bound add up. MakePlan() never returns a plan that fails here, and tests judge random plans with
// it.
//
//   RETURN_IF_ERROR(VerifyPlan(plan, fleet, catalogue, calibration));
//
// Fails with kInternal and the first broken promise. Thread safety: pure function.
#pragma once

#include "base/result.h"
#include "model/board.h"
#include "model/calibration.h"
#include "model/fleet.h"
#include "model/plan.h"

namespace sublet {

Status VerifyPlan(const Plan& plan, const Fleet& fleet, const BoardCatalogue& catalogue,
                  const Calibration& calibration);

}  // namespace sublet
