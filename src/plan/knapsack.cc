#include "plan/knapsack.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sublet {
namespace {

constexpr double kSlack = 1e-9;  // Parts of a capacity: absorbs the rounding of sums.
// Relative. Chasing the last fiftieth of a percent of a value costs most of the nodes, and a bound
// on a fleet's cost that is lower by as much still rounds up to the same number of GPUs, or nearly.
constexpr double kValueSlack = 2e-4;
constexpr int kGoldenSteps = 14;          // Narrows a multiplier to 0.1 % of its range.
constexpr int kSweeps = 2;                // Over the dimensions beyond the two that matter most.
constexpr std::size_t kSortedAtOnce = 8;  // So few are sorted quicker than divided.

// The items without what can't matter: capacities that everything together doesn't fill. Of the
// seven, two or three are left as a rule, and each is a row of its own, for loops over all items.
class Packed {
 public:
  Packed(const std::vector<KnapsackItem>& items, const std::vector<int>& group_limits)
      : count_(items.size()), limit_(items.size()), row_((kKnapsackDimensions + 1) * items.size()) {
    std::array<double, kKnapsackDimensions> total{};
    for (std::size_t i = 0; i < count_; ++i) {
      double most = group_limits[static_cast<std::size_t>(items[i].group)];
      for (const double weight : items[i].weight) {
        if (weight * most > 1) most = (1 + kSlack) / weight;
      }
      limit_[i] = static_cast<int>(most);
      for (std::size_t d = 0; d < kKnapsackDimensions; ++d) {
        total[d] += items[i].weight[d] * limit_[i];
      }
    }
    for (std::size_t d = 0; d < kKnapsackDimensions; ++d) {
      if (total[d] > 1) scarce_[rows_++] = d;
    }
    // The scarcest first.
    std::stable_sort(scarce_.begin(), scarce_.begin() + static_cast<std::ptrdiff_t>(rows_),
                     [&](std::size_t a, std::size_t b) { return total[a] > total[b]; });
    for (std::size_t i = 0; i < count_; ++i) {
      row_[i] = items[i].value;
      for (std::size_t r = 0; r < rows_; ++r) {
        row_[(r + 1) * count_ + i] = items[i].weight[scarce_[r]];
      }
    }
  }

  std::size_t count() const { return count_; }
  // Number of capacities that matter, and which of the seven each is.
  std::size_t rows() const { return rows_; }
  std::size_t dimension(std::size_t row) const { return scarce_[row]; }
  int limit(std::size_t i) const { return limit_[i]; }
  const double* values() const { return row_.data(); }
  const double* weights(std::size_t row) const { return row_.data() + (row + 1) * count_; }

 private:
  std::size_t count_;
  std::size_t rows_ = 0;
  std::array<std::size_t, kKnapsackDimensions> scarce_{};
  std::vector<int> limit_;
  std::vector<double> row_;
};

// Prices of the capacities, by row of a Packed.
using Prices = std::array<double, kKnapsackDimensions>;

// The linear relaxation, through its dual.
class Relaxation {
 public:
  explicit Relaxation(const Packed& items) : items_(items), rest_(items.count()) {}

  double BoundAt(const Prices& u) {
    Deduct(u, items_.rows());
    double bound = 0;
    for (std::size_t r = 0; r < items_.rows(); ++r) bound += u[r];
    for (std::size_t i = 0; i < rest_.size(); ++i) {
      bound += std::max(0.0, rest_[i]) * items_.limit(i);
    }
    return bound;
  }

  // Improves `u` until its bound is at most `wanted` or no better one is found; returns the bound.
  double Minimise(double wanted, Prices& u) {
    double bound = BoundAt(u);
    if (bound <= wanted || items_.rows() == 0) return bound;
    Prices fresh{};
    if (items_.rows() == 1) {
      MinimiseAlong(0, fresh);
    } else {
      MinimisePair(wanted, fresh);
      for (int sweep = 0; sweep < kSweeps && items_.rows() > 2; ++sweep) {
        for (std::size_t r = items_.rows(); r-- > 0;) MinimiseAlong(r, fresh);
      }
    }
    if (const double better = BoundAt(fresh); better < bound) {
      bound = better;
      u = fresh;
    }
    return bound;
  }

 private:
  struct Offer {
    double ratio;  // Value of a unit of the capacity.
    double weight;
  };

  // What is left of each value when the capacities are paid for, but for that of row `except`.
  void Deduct(const Prices& u, std::size_t except) {
    std::copy(items_.values(), items_.values() + rest_.size(), rest_.begin());
    for (std::size_t r = 0; r < items_.rows(); ++r) {
      if (r == except || u[r] == 0) continue;
      const double* weights = items_.weights(r);
      const double price = u[r];
      for (std::size_t i = 0; i < rest_.size(); ++i) rest_[i] -= price * weights[i];
    }
  }

  // Exact in one dimension: the price at which what is still worth buying just fills it.
  void MinimiseAlong(std::size_t row, Prices& u) {
    Deduct(u, row);
    offers_.clear();
    const double* weights = items_.weights(row);
    double total = 0;
    for (std::size_t i = 0; i < rest_.size(); ++i) {
      const double weight = weights[i] * items_.limit(i);
      if (weight <= 0 || rest_[i] <= 0) continue;
      offers_.push_back({rest_[i] / weights[i], weight});
      total += weight;
    }
    u[row] = total > 1 ? MarginalRatio() : 0;
  }

  // The ratio of the offer with which the best ones fill the capacity. REQUIRES: all of them do.
  double MarginalRatio() {
    const auto better = [](const Offer& a, const Offer& b) { return a.ratio > b.ratio; };
    auto begin = offers_.begin();
    auto end = offers_.end();
    double filled = 0;
    while (static_cast<std::size_t>(end - begin) > kSortedAtOnce) {
      const auto middle = begin + (end - begin) / 2;
      std::nth_element(begin, middle, end, better);
      const double half = std::accumulate(
          begin, middle, filled, [](double sum, const Offer& o) { return sum + o.weight; });
      if (half > 1) {
        end = middle;
      } else {
        filled = half;
        begin = middle;
      }
    }
    std::sort(begin, end, better);
    for (; begin + 1 < end; ++begin) {
      filled += begin->weight;
      if (filled > 1) break;
    }
    return begin->ratio;
  }

  // Over the first two rows, until the bound is at most `wanted` or the best there is: the bound is
  // convex in the price of one when that of the other is the best for it.
  void MinimisePair(double wanted, Prices& u) {
    constexpr double kGolden = 0.6180339887498949;
    // The price of a capacity is never more than where it alone is scarce.
    Prices alone{};
    MinimiseAlong(0, alone);
    double high = alone[0];
    const auto at = [&](double price) {
      u[0] = price;
      MinimiseAlong(1, u);
      return BoundAt(u);
    };
    double low = 0;
    double a = high - kGolden * (high - low);
    double b = low + kGolden * (high - low);
    double at_a = at(a);
    double at_b = at(b);
    for (int step = 0; step < kGoldenSteps && std::min(at_a, at_b) > wanted; ++step) {
      if (at_a <= at_b) {
        high = b;
        b = a;
        at_b = at_a;
        a = high - kGolden * (high - low);
        at_a = at(a);
      } else {
        low = a;
        a = b;
        at_a = at_b;
        b = low + kGolden * (high - low);
        at_b = at(b);
      }
    }
    at(at_a <= at_b ? a : b);
  }

  const Packed& items_;
  std::vector<double> rest_;
  std::vector<Offer> offers_;
};

class Search {
 public:
  Search(const std::vector<KnapsackItem>& items, const Packed& packed,
         const std::vector<int>& group_limits, const Prices& prices, int nodes_max)
      : items_(items), rows_(packed.rows()), group_left_(group_limits), nodes_max_(nodes_max) {
    capacity_.fill(1);
    Order(packed, prices);
  }

  KnapsackResult Run(double bound, double wanted) {
    result_.value = wanted;
    counts_.assign(items_.size(), 0);
    Descend(0, 0);
    // Where the search ended by itself, what it found (or the threshold) is the maximum.
    result_.value_max = nodes_ <= nodes_max_ ? std::min(bound, Beaten()) : bound;
    result_.nodes = nodes_;
    return std::move(result_);
  }

 private:
  // An item in the order of the search.
  struct Step {
    std::size_t item;
    double value;
    int group;
    int limit;
    // What the items from here on can add beyond the price of the capacity that they use.
    double rest;
    std::array<double, kKnapsackDimensions> weight;  // By row.
  };

  double Beaten() const { return result_.value * (1 + kValueSlack) + 1e-12; }

  // The most valuable for their price first.
  void Order(const Packed& packed, const Prices& prices) {
    prices_ = prices;
    std::vector<double> cost(items_.size(), 0);
    std::vector<double> density(items_.size());
    for (std::size_t i = 0; i < items_.size(); ++i) {
      for (std::size_t r = 0; r < rows_; ++r) cost[i] += prices[r] * packed.weights(r)[i];
      const double sum = std::accumulate(items_[i].weight.begin(), items_[i].weight.end(), 0.0);
      density[i] = items_[i].value / (cost[i] + 1e-6 * sum + 1e-12);
    }
    std::vector<std::size_t> order(items_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return density[a] > density[b]; });
    double rest = 0;
    for (std::size_t k = order.size(); k-- > 0;) {
      const std::size_t i = order[k];
      rest += std::max(0.0, items_[i].value - cost[i]) * packed.limit(i);
      Step& step =
          steps_.emplace_back(Step{i, items_[i].value, items_[i].group, packed.limit(i), rest, {}});
      for (std::size_t r = 0; r < rows_; ++r) step.weight[r] = packed.weights(r)[i];
    }
    std::reverse(steps_.begin(), steps_.end());
  }

  // How many of this item fit into what is left.
  int Fitting(const Step& step) const {
    double most = std::min(step.limit, group_left_[static_cast<std::size_t>(step.group)]);
    for (std::size_t r = 0; r < rows_; ++r) {
      const double left = capacity_[r] + kSlack;
      if (step.weight[r] * most > left) most = left / step.weight[r];
    }
    return static_cast<int>(most);
  }

  void Descend(std::size_t position, double value) {
    if (value > Beaten()) {
      result_.value = value;
      result_.counts = counts_;
    }
    double price_left = 0;
    for (std::size_t r = 0; r < rows_; ++r) price_left += prices_[r] * capacity_[r];
    int fitting = 0;
    for (; position < steps_.size(); ++position) {
      if (value + price_left + steps_[position].rest <= Beaten()) return;
      fitting = Fitting(steps_[position]);
      if (fitting > 0) break;
    }
    if (position == steps_.size() || ++nodes_ > nodes_max_) return;
    Branch(position, fitting, value);
  }

  void Branch(std::size_t position, int fitting, double value) {
    const Step& step = steps_[position];
    int& group = group_left_[static_cast<std::size_t>(step.group)];
    const std::array<double, kKnapsackDimensions> before = capacity_;
    for (int n = fitting; n >= 0; --n) {
      for (std::size_t r = 0; r < rows_; ++r) capacity_[r] = before[r] - n * step.weight[r];
      group -= n;
      counts_[step.item] = n;
      Descend(position + 1, value + n * step.value);
      group += n;
      if (nodes_ > nodes_max_) break;
    }
    counts_[step.item] = 0;
    capacity_ = before;
  }

  const std::vector<KnapsackItem>& items_;
  const std::size_t rows_;
  std::vector<int> group_left_;
  Prices prices_{};
  std::array<double, kKnapsackDimensions> capacity_{};  // By row.
  std::vector<Step> steps_;
  std::vector<int> counts_;
  int nodes_max_;
  int nodes_ = 0;
  KnapsackResult result_;
};

// The hint is by dimension, the prices are by row; what is not scarce costs nothing.
Prices PricesOf(const Packed& items, const Multipliers& hint) {
  Prices prices{};
  for (std::size_t r = 0; r < items.rows(); ++r) prices[r] = hint[items.dimension(r)];
  return prices;
}

Multipliers HintOf(const Packed& items, const Prices& prices) {
  Multipliers hint{};
  for (std::size_t r = 0; r < items.rows(); ++r) hint[items.dimension(r)] = prices[r];
  return hint;
}

}  // namespace

double KnapsackBound(const std::vector<KnapsackItem>& items, const std::vector<int>& group_limits,
                     double wanted, Multipliers& hint) {
  const Packed packed(items, group_limits);
  Prices prices = PricesOf(packed, hint);
  const double bound = Relaxation(packed).Minimise(wanted, prices);
  hint = HintOf(packed, prices);
  return bound;
}

KnapsackResult SolveKnapsack(const std::vector<KnapsackItem>& items,
                             const std::vector<int>& group_limits, double wanted, int nodes_max,
                             Multipliers& hint) {
  const Packed packed(items, group_limits);
  Prices prices = PricesOf(packed, hint);
  const double bound = Relaxation(packed).Minimise(wanted, prices);
  hint = HintOf(packed, prices);
  if (bound <= wanted) return {wanted, wanted, {}};
  return Search(items, packed, group_limits, prices, nodes_max).Run(bound, wanted);
}

}  // namespace sublet
