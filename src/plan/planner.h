// plan/planner.h
//
// From a fleet to a plan: which replica runs on which GPU, in which sharing mode, with which
// limits.
//
// MakePlan() is a pure function: the same request gives the same Plan, byte for byte. It reads no
// clock, file or GPU.
//
//   PlanRequest request{.fleet = fleet, .catalogue = &BuiltInBoards(),
//                       .calibration = &DefaultCalibration()};
//   ASSIGN_OR_RETURN(Plan plan, MakePlan(request));
//
// Goals, in this order: the least cost; then the most headroom below the latency targets, the
// tightest one first; then the most work of always-busy replicas, and the least slowdown; then,
// where a current plan is given, the fewest replicas moved. The cost comes with a lower bound that
// is proven (plan/solver.h); the rest is exact for a handful of replicas and a local search beyond.
//
// What it obeys: memory with the CUDA context of the mode, 48 MPS clients on a GPU, MIG geometry
// and media engines, isolation between tenants, latency targets through plan/latency.h, and what
// each node can run. Every plan passes VerifyPlan() (plan/verify.h) before it is returned.
//
// Thread safety: no shared state.
#pragma once

#include "base/result.h"
#include "model/board.h"
#include "model/calibration.h"
#include "model/fleet.h"
#include "model/inventory.h"
#include "model/plan.h"

namespace sublet {

struct PlanRequest {
  Fleet fleet;
  const BoardCatalogue* catalogue = nullptr;
  const Calibration* calibration = nullptr;
  // The GPUs that exist. Without it, the fleet's pools say what may be used.
  const Inventory* node = nullptr;
  // What runs now; the new plan keeps its replicas where they are as far as the goals allow.
  const Plan* current = nullptr;
  // Compare with each single sharing mode (Plan::strategies); costs about as much again.
  bool compare = true;
};

// Fails with kInfeasible (a workload that fits no GPU, a pool that is too small: the message says
// what is missing), kNotFound (unknown board), kInvalid (no GPUs to plan for), kConflict (the
// current plan names GPUs that the node doesn't have).
Result<Plan> MakePlan(const PlanRequest& request);

}  // namespace sublet
