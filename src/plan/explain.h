// plan/explain.h
//
// Why a plan is as it is: the reason for each share, why the other modes were passed over, what
// each single mode would have cost, and what stands in the way where there is no plan.
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/plan.h"
#include "plan/planner.h"
#include "plan/solver.h"

namespace sublet {

// One sentence on why `variant` is in this partition with these limits.
std::string ReasonFor(const Problem& problem, int board, const PartitionChoice& partition,
                      const Variant& variant);

// What holds a replica's memory, SMs and neighbours' faults in check, or that nothing does.
std::vector<Enforcement> EnforcementOf(const Problem& problem, const PartitionChoice& partition,
                                       const Variant& variant);

// For each workload and each mode that it did not get: the reason. `chosen` as Refine() returned
// it.
std::vector<Rejection> RejectionsOf(const Problem& problem, const std::vector<Pattern>& chosen);

// The fleet under each single mode beside the chosen plan.
Result<std::vector<Strategy>> CompareStrategies(const PlanRequest& request,
                                                const std::vector<Pool>& pools,
                                                const Problem& problem,
                                                const std::vector<Pattern>& chosen);

// kInfeasible for a workload that fits no partition of any board, with what comes closest; success
// when all fit somewhere.
Status CheckEachFitsSomewhere(const Problem& problem);

}  // namespace sublet
