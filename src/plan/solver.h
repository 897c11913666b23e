// plan/solver.h
//
// The cheapest set of patterns that holds every replica, with a proven lower bound on its cost.
//
//   Solution best = Solve(problem, {});
//   best.chosen          // patterns and how many GPUs have each
//   best.cost_usd_hour, best.bound_usd_hour
//
// The steps, each ending as soon as cost and bound meet:
//   1. Up to kExactReplicasMax replicas: all sets of replicas for a GPU are tried (dynamic
//   programming
//      over subsets), so that the result is optimal in cost, and among the cheapest in headroom.
//   2. Column generation (Gilmore and Gomory 1961): a linear program (CLP) over the patterns known
//   so
//      far says what one more replica of each workload is worth; the Pricer looks for a pattern
//      worth more than its GPU costs; until there is none. The value is a lower bound, and so is
//      Farley's bound (1990) before that. Prices come in steps, so the bound is rounded up to the
//      next sum of GPU prices.
//   3. Diving: whole parts of the fractional solution are fixed, the rest is solved again.
//   4. Branch and bound (CBC) over the patterns found, where a gap is left.
//
// Deterministic: limits are counts of nodes and rounds, never time. Thread safety: no shared state.
#pragma once

#include <utility>
#include <vector>

#include "plan/pricing.h"
#include "plan/problem.h"

namespace sublet {

inline constexpr int kExactReplicasMax = 8;  // 3^8 splits into two sets for each board and offer.

// How much more a replica of this priority counts than one of priority 0, where not all can be
// served alike: 25 steps double it.
double PriorityWeight(int priority);

struct SolverOptions {
  bool exact_when_small = true;
  bool prove = true;        // Raise the bound; without, the pattern search makes less effort, too.
  int rounds_max = 400;     // Of column generation; a fleet of 100 workloads takes about 150.
  int cbc_nodes_max = 300;  // 0: no CBC. Enough to close gaps of one GPU.
};

struct Solution {
  std::vector<std::pair<Pattern, int>> chosen;
  double cost_usd_hour = 0;
  double bound_usd_hour = 0;    // No plan for this problem costs less.
  std::vector<int> not_placed;  // By workload; all zero when the solution is complete.
  bool Complete() const;
};

// REQUIRES: every workload has a variant somewhere; see plan/explain.h for those that have none.
Solution Solve(const Problem& problem, const SolverOptions& options);

// The most replicas (each counts one) that fit on `gpus` GPUs of `board`, filled one after the
// other. For strategies: how many of the fleet the chosen GPUs would hold under other modes.
int HoldsAtMost(const Problem& problem, const std::vector<std::pair<int, int>>& gpus_by_board);

}  // namespace sublet
