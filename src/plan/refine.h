// plan/refine.h
//
// Makes a plan of the same cost a better one: more of each latency target left.
//
// The solver looks for the cheapest set of GPUs and packs them tightly. Here the GPUs are fixed:
//   - replicas beyond the demand, with which a pattern may come, are dropped;
//   - the replicas of a GPU cut by MIG share the whole of it instead, where that serves them
//   better;
//   - a replica left alone in a partition gets it to itself;
//   - each MPS partition takes the caps (tight or at the knee) that leave the most headroom;
//   - always-busy replicas of known speed take the caps at which they get the most work done, the
//   tightest of those that are within 1 %, because a tight cap makes a small context;
//   - replicas move from the GPU with the least headroom to one where both end up with more.
//
// Thread safety: pure function.
#pragma once

#include <vector>

#include "plan/solver.h"

namespace sublet {

// Bounds the search on large fleets: each move looks at every GPU once.
inline constexpr int kRefineMovesMax = 200;

// One Pattern a GPU, in a stable order, holding exactly the fleet's replicas less `not_placed`.
std::vector<Pattern> Refine(const Problem& problem, const Solution& solution);

}  // namespace sublet
