// plan/master.h
//
// The linear program of column generation: how much of each known pattern to use.
//
//   minimise  sum of price_p * x_p  +  penalty * missing
//   such that sum of count_pw * x_p + missing_w >= demand_w   for each workload w
//             sum of x_p over board b            <= pool_b     for each board that is limited
//
// The dual values are what one more replica of a workload is worth, and what one more GPU of a
// scarce board would save. Solved by COIN-OR CLP, warm from the previous solution.
//
// Thread safety: thread-compatible.
#pragma once

#include <memory>
#include <vector>

#include "plan/pricing.h"

namespace sublet {

class Master {
 public:
  Master(const Problem& problem, const std::vector<int>& demand);
  ~Master();
  Master(const Master&) = delete;
  Master& operator=(const Master&) = delete;

  // Returns false where an equal pattern is known already.
  bool Add(Pattern pattern);
  void SetDemand(const std::vector<int>& demand);
  void SetPool(int board, int count);
  void Minimise();

  const std::vector<Pattern>& patterns() const;
  // Of the last Minimise():
  double value() const;
  std::vector<double> Amounts() const;  // By pattern.
  std::vector<double> Worths() const;   // By workload, >= 0.
  double Scarcity(int board) const;     // <= 0; 0 for a board without limit.

  // Whole amounts by branch and bound (CBC) over the known patterns. Empty when none was found that
  // costs less than `cost_below` within the node limit.
  std::vector<int> Round(double cost_below, int nodes_max) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
