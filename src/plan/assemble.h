// plan/assemble.h
//
// Turns the chosen patterns into a Plan: real GPUs, MIG placements, names, replicas with their
// limits, predictions and reasons, and the difference to what runs now.
//
// GPUs of one board are alike to the solver; here each pattern gets the GPU (of the node, or of the
// current plan) on which it keeps the most replicas that run there already.
//
// Thread safety: pure function.
#pragma once

#include <string>
#include <vector>

#include "model/plan.h"
#include "plan/pricing.h"

namespace sublet {

// A GPU that a pattern may be put on.
struct GpuSeat {
  std::string board;
  std::string node;
  std::string uuid;  // Empty for a GPU that is only planned.
  int index = -1;
};

// `seats` are the GPUs of the node, or empty where the plan is for GPUs to come. `current` may be
// null. Fills everything but summary's bound, strategies, rejections and warnings.
Plan AssemblePlan(const Problem& problem, const std::vector<Pattern>& gpus,
                  const std::vector<GpuSeat>& seats, const Plan* current);

}  // namespace sublet
