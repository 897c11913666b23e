// plan/knapsack.h
//
// The best contents of one partition: a bounded knapsack with several capacities.
//
//   maximise   sum of value_i * n_i
//   such that  sum of weight_i[d] * n_i <= 1        for every dimension d
//              sum of n_i over a group <= limit of the group, 0 <= n_i, whole numbers
//
// Weights are parts of the capacity. A group is a workload: its variants draw on one demand.
//
//   Multipliers hint{};
//   if (KnapsackBound(items, group_limits, wanted, hint) <= wanted) ...   // not worth a search
//   KnapsackResult best = SolveKnapsack(items, group_limits, wanted, 3000, hint);
//   best.value      // of best.counts, which is feasible
//   best.value_max  // proven: nothing feasible is worth more. Within 0.02 % of value unless the
//                   // search ran into its limit of nodes.
//
// Depth-first branch and bound. The bound is Lagrangian: any multipliers u >= 0 give
// sum(u) + sum of limit_i * max(0, value_i - u * weight_i). The best multipliers are the dual
// solution of the linear relaxation (Fisher, "The Lagrangian Relaxation Method", Management Science
// 1981); along one dimension they are exact, the price at which the fractional knapsack is full,
// and along the two that matter most a golden-section search over one with the other exact finds
// them, too.
//
// Pure. Thread safety: no shared state.
#pragma once

#include <array>
#include <vector>

namespace sublet {

// Memory, share or load, MPS clients, and the four media engines.
inline constexpr int kKnapsackDimensions = 7;

using Multipliers = std::array<double, kKnapsackDimensions>;

struct KnapsackItem {
  double value = 0;
  int group = 0;
  std::array<double, kKnapsackDimensions> weight{};
};

struct KnapsackResult {
  double value = 0;
  double value_max = 0;
  std::vector<int> counts;  // By item; empty where nothing is worth more than was asked.
  int nodes = 0;            // That the search took.
};

// An upper bound on the value. `hint` holds multipliers to begin with, any >= 0, and receives the
// best found; the search for better ones ends where the bound is at most `wanted`. REQUIRES: values
// and weights are >= 0; item.group indexes group_limits.
double KnapsackBound(const std::vector<KnapsackItem>& items, const std::vector<int>& group_limits,
                     double wanted, Multipliers& hint);

// Results of at most `wanted` are of no interest.
KnapsackResult SolveKnapsack(const std::vector<KnapsackItem>& items,
                             const std::vector<int>& group_limits, double wanted, int nodes_max,
                             Multipliers& hint);

}  // namespace sublet
