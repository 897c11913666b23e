#include "plan/knapsack.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sublet {
namespace {

using Weights = std::array<double, kKnapsackDimensions>;

constexpr double kSlack = 1e-9;  // Parts of a capacity: absorbs the rounding of sums.
// Relative. Chasing the last fiftieth of a percent of a value costs most of the nodes, and a bound
// on a fleet's cost that is lower by as much still rounds up to the same number of GPUs, or nearly.
constexpr double kValueSlack = 2e-4;
constexpr int kGoldenSteps = 14;  // Narrows a multiplier to 0.1 % of its range.
constexpr int kSweeps = 2;        // Over the dimensions beyond the two that matter most.

double Dot(const Weights& a, const Weights& b) {
  double sum = 0;
  for (std::size_t d = 0; d < kKnapsackDimensions; ++d) sum += a[d] * b[d];
  return sum;
}

// How many of this item fit into what is left.
int Fitting(const Weights& weight, const Weights& left, int limit) {
  double most = limit;
  for (std::size_t d = 0; d < kKnapsackDimensions; ++d) {
    if (weight[d] > 0) most = std::min(most, (left[d] + kSlack) / weight[d]);
  }
  return most <= 0 ? 0 : static_cast<int>(most);
}

// The linear relaxation, through its dual.
class Relaxation {
 public:
  Relaxation(const std::vector<KnapsackItem>& items, const std::vector<int>& group_limits)
      : items_(items) {
    Weights capacity;
    capacity.fill(1);
    Weights total{};
    for (const KnapsackItem& item : items) {
      limit_.push_back(
          Fitting(item.weight, capacity, group_limits[static_cast<std::size_t>(item.group)]));
      for (std::size_t d = 0; d < kKnapsackDimensions; ++d) {
        total[d] += item.weight[d] * limit_.back();
      }
    }
    // A capacity that everything together doesn't fill costs nothing.
    for (std::size_t d = 0; d < kKnapsackDimensions; ++d) {
      if (total[d] > 1) scarce_.push_back(d);
    }
    std::stable_sort(scarce_.begin(), scarce_.end(),
                     [&](std::size_t a, std::size_t b) { return total[a] > total[b]; });
  }

  const std::vector<int>& limits() const { return limit_; }

  double BoundAt(const Multipliers& u) const {
    double bound = std::accumulate(u.begin(), u.end(), 0.0);
    for (std::size_t i = 0; i < items_.size(); ++i) {
      bound += std::max(0.0, items_[i].value - Dot(u, items_[i].weight)) * limit_[i];
    }
    return bound;
  }

  // Improves `u` until its bound is at most `wanted` or no better one is found; returns the bound.
  double Minimise(double wanted, Multipliers& u) {
    for (std::size_t d = 0; d < kKnapsackDimensions; ++d) {
      if (std::find(scarce_.begin(), scarce_.end(), d) == scarce_.end()) u[d] = 0;
    }
    double bound = BoundAt(u);
    if (bound <= wanted || scarce_.empty()) return bound;
    Multipliers fresh{};
    if (scarce_.size() == 1) {
      MinimiseAlong(scarce_[0], fresh);
    } else {
      MinimisePair(scarce_[0], scarce_[1], fresh);
      for (int sweep = 0; sweep < kSweeps && scarce_.size() > 2; ++sweep) {
        for (std::size_t i = scarce_.size(); i-- > 0;) MinimiseAlong(scarce_[i], fresh);
      }
    }
    if (const double better = BoundAt(fresh); better < bound) {
      bound = better;
      u = fresh;
    }
    return bound;
  }

 private:
  // Exact in one dimension: the price at which what is still worth buying just fills it.
  void MinimiseAlong(std::size_t d, Multipliers& u) {
    ratios_.clear();
    u[d] = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      if (items_[i].weight[d] <= 0 || limit_[i] == 0) continue;
      const double rest = items_[i].value - Dot(u, items_[i].weight);
      if (rest > 0)
        ratios_.emplace_back(rest / items_[i].weight[d], items_[i].weight[d] * limit_[i]);
    }
    std::sort(ratios_.begin(), ratios_.end(), std::greater<>());
    double filled = 0;
    for (const auto& [ratio, weight] : ratios_) {
      filled += weight;
      if (filled <= 1) continue;
      u[d] = ratio;
      return;
    }
  }

  // The bound is convex in the price of `outer` when the price of `inner` is the best for it.
  void MinimisePair(std::size_t outer, std::size_t inner, Multipliers& u) {
    constexpr double kGolden = 0.6180339887498949;
    double high = 0;
    for (const KnapsackItem& item : items_) {
      if (item.weight[outer] > 0) high = std::max(high, item.value / item.weight[outer]);
    }
    // The price of a capacity is never more than the value that fills it.
    Multipliers alone{};
    MinimiseAlong(outer, alone);
    high = std::min(high, alone[outer]);
    const auto at = [&](double price) {
      u[outer] = price;
      MinimiseAlong(inner, u);
      return BoundAt(u);
    };
    double low = 0;
    double a = high - kGolden * (high - low);
    double b = low + kGolden * (high - low);
    double at_a = at(a);
    double at_b = at(b);
    for (int step = 0; step < kGoldenSteps; ++step) {
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

  const std::vector<KnapsackItem>& items_;
  std::vector<int> limit_;
  std::vector<std::size_t> scarce_;  // Dimensions that can be full, the scarcest first.
  std::vector<std::pair<double, double>> ratios_;
};

class Search {
 public:
  Search(const std::vector<KnapsackItem>& items, const std::vector<int>& group_limits,
         const std::vector<int>& limits, const Multipliers& multipliers, int nodes_max)
      : items_(items),
        group_left_(group_limits),
        limit_(limits),
        multipliers_(multipliers),
        nodes_max_(nodes_max) {
    capacity_.fill(1);
  }

  KnapsackResult Run(double bound, double wanted) {
    result_.value = wanted;
    Order();
    counts_.assign(items_.size(), 0);
    Descend(0, 0);
    // Where the search ended by itself, what it found (or the threshold) is the maximum.
    result_.value_max = nodes_ <= nodes_max_ ? std::min(bound, Beaten()) : bound;
    return std::move(result_);
  }

 private:
  double Beaten() const { return result_.value * (1 + kValueSlack) + 1e-12; }

  void Order() {
    std::vector<double> density;
    for (const KnapsackItem& item : items_) {
      const double price = Dot(multipliers_, item.weight) +
                           1e-6 * std::accumulate(item.weight.begin(), item.weight.end(), 0.0);
      density.push_back(item.value / (price + 1e-12));
    }
    order_.resize(items_.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::stable_sort(order_.begin(), order_.end(),
                     [&](std::size_t a, std::size_t b) { return density[a] > density[b]; });
    // rest_[k]: what the items from position k on can add beyond the price of the capacity they
    // use.
    rest_.assign(items_.size() + 1, 0);
    for (std::size_t k = items_.size(); k-- > 0;) {
      const KnapsackItem& item = items_[order_[k]];
      const double gain = item.value - Dot(multipliers_, item.weight);
      rest_[k] = rest_[k + 1] + std::max(0.0, gain) * limit_[order_[k]];
    }
  }

  void Descend(std::size_t position, double value) {
    if (value > Beaten()) {
      result_.value = value;
      result_.counts = counts_;
    }
    const double price_left = Dot(multipliers_, capacity_);
    for (; position < items_.size(); ++position) {
      if (value + price_left + rest_[position] <= Beaten()) return;
      const std::size_t i = order_[position];
      const int group = group_left_[static_cast<std::size_t>(items_[i].group)];
      if (Fitting(items_[i].weight, capacity_, std::min(limit_[i], group)) > 0) break;
    }
    if (position == items_.size() || ++nodes_ > nodes_max_) return;
    Branch(position, value);
  }

  void Branch(std::size_t position, double value) {
    const std::size_t i = order_[position];
    const KnapsackItem& item = items_[i];
    int& group = group_left_[static_cast<std::size_t>(item.group)];
    const Weights before = capacity_;
    for (int n = Fitting(item.weight, before, std::min(limit_[i], group)); n >= 0; --n) {
      for (std::size_t d = 0; d < kKnapsackDimensions; ++d) {
        capacity_[d] = before[d] - n * item.weight[d];
      }
      group -= n;
      counts_[i] = n;
      Descend(position + 1, value + n * item.value);
      group += n;
      if (nodes_ > nodes_max_) break;
    }
    counts_[i] = 0;
    capacity_ = before;
  }

  const std::vector<KnapsackItem>& items_;
  std::vector<int> group_left_;
  const std::vector<int>& limit_;
  const Multipliers& multipliers_;
  Weights capacity_{};
  std::vector<std::size_t> order_;
  std::vector<double> rest_;
  std::vector<int> counts_;
  int nodes_max_;
  int nodes_ = 0;
  KnapsackResult result_;
};

}  // namespace

double KnapsackBound(const std::vector<KnapsackItem>& items, const std::vector<int>& group_limits,
                     double wanted, Multipliers& hint) {
  return Relaxation(items, group_limits).Minimise(wanted, hint);
}

KnapsackResult SolveKnapsack(const std::vector<KnapsackItem>& items,
                             const std::vector<int>& group_limits, double wanted, int nodes_max,
                             Multipliers& hint) {
  Relaxation relaxation(items, group_limits);
  const double bound = relaxation.Minimise(wanted, hint);
  if (bound <= wanted) return {wanted, wanted, {}};
  return Search(items, group_limits, relaxation.limits(), hint, nodes_max).Run(bound, wanted);
}

}  // namespace sublet
