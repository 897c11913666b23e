// The oracle tries every whole number of every item.
#include "plan/knapsack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "plan/tests/random_fleet.h"

namespace sublet {
namespace {

constexpr double kRounding = 1e-9;
// SolveKnapsack() ends where the bound is within 0.02 % of the best found.
constexpr double kPromised = 2.1e-4;
constexpr int kNodesMax = 100'000;

struct Instance {
  std::vector<KnapsackItem> items;
  std::vector<int> limits;  // By group.
};

Instance RandomInstance(Dice& dice) {
  Instance instance;
  const int groups = dice.Int(1, 5);
  for (int g = 0; g < groups; ++g) {
    instance.limits.push_back(dice.Int(0, 4));
    const double value = dice.Chance(0.3) ? 1 : dice.Real(0.1, 5);
    for (int v = dice.Int(1, 2); v > 0; --v) {
      KnapsackItem item{value, g, {}};
      item.weight[0] = dice.Real(0.05, 0.6);
      item.weight[1] = dice.Chance(0.2) ? 0 : dice.Real(0.02, 0.8);
      if (dice.Chance(0.5)) item.weight[2] = 1.0 / dice.Int(2, 6);
      if (dice.Chance(0.2)) item.weight[3] = 1.0 / dice.Int(1, 3);
      instance.items.push_back(item);
    }
  }
  return instance;
}

bool Feasible(const Instance& instance, const std::vector<int>& counts) {
  std::vector<int> used(instance.limits.size(), 0);
  std::array<double, kKnapsackDimensions> sum{};
  for (std::size_t i = 0; i < counts.size(); ++i) {
    used[static_cast<std::size_t>(instance.items[i].group)] += counts[i];
    for (std::size_t d = 0; d < kKnapsackDimensions; ++d) {
      sum[d] += counts[i] * instance.items[i].weight[d];
    }
  }
  for (std::size_t g = 0; g < used.size(); ++g) {
    if (used[g] > instance.limits[g]) return false;
  }
  return std::all_of(sum.begin(), sum.end(), [](double s) { return s <= 1 + kRounding; });
}

double ValueOf(const Instance& instance, const std::vector<int>& counts) {
  double value = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) value += counts[i] * instance.items[i].value;
  return value;
}

double BestByTrying(const Instance& instance, std::vector<int>& counts, std::size_t i) {
  if (i == counts.size()) return ValueOf(instance, counts);
  double best = 0;
  for (int n = 0; n <= 4; ++n) {
    counts[i] = n;
    if (!Feasible(instance, counts)) break;
    best = std::max(best, BestByTrying(instance, counts, i + 1));
  }
  counts[i] = 0;
  return best;
}

double BestByTrying(const Instance& instance) {
  std::vector<int> counts(instance.items.size(), 0);
  return BestByTrying(instance, counts, 0);
}

TEST(Knapsack, FindsWhatTryingEverythingFinds) {
  Dice dice(1);
  for (int n = 0; n < 3000; ++n) {
    const Instance instance = RandomInstance(dice);
    const double best = BestByTrying(instance);
    Multipliers hint{};
    const KnapsackResult result =
        SolveKnapsack(instance.items, instance.limits, 0, kNodesMax, hint);
    ASSERT_LE(result.value, best + kRounding) << n;
    ASSERT_GE(result.value * (1 + kPromised), best - kRounding) << n;
    ASSERT_GE(result.value_max, best - kRounding) << n;
    ASSERT_LE(result.value_max, best * (1 + kPromised) + kRounding) << n;
    if (best == 0) continue;
    ASSERT_TRUE(Feasible(instance, result.counts)) << n;
    ASSERT_NEAR(ValueOf(instance, result.counts), result.value, kRounding) << n;
  }
}

TEST(Knapsack, KeepsItsPromiseWhenItRunsOutOfNodes) {
  Dice dice(2);
  int short_of = 0;
  for (int n = 0; n < 3000; ++n) {
    const Instance instance = RandomInstance(dice);
    const double best = BestByTrying(instance);
    Multipliers hint{};
    const KnapsackResult result =
        SolveKnapsack(instance.items, instance.limits, 0, dice.Int(0, 5), hint);
    ASSERT_LE(result.value, best + kRounding) << n;
    ASSERT_GE(result.value_max, best - kRounding) << n;
    ASSERT_TRUE(result.counts.empty() || Feasible(instance, result.counts)) << n;
    short_of += result.value < best - 1e-3;
  }
  EXPECT_GT(short_of, 50);  // The limit was felt.
}

TEST(Knapsack, BoundsTheBestWithAnyHint) {
  Dice dice(3);
  for (int n = 0; n < 3000; ++n) {
    const Instance instance = RandomInstance(dice);
    const double best = BestByTrying(instance);
    Multipliers hint{};
    for (double& u : hint) u = dice.Chance(0.5) ? 0 : dice.Real(0, 3);
    ASSERT_GE(KnapsackBound(instance.items, instance.limits, 0, hint), best - kRounding) << n;
    for (const double u : hint) ASSERT_GE(u, 0);
    // The hint that came out gives the same bound again.
    Multipliers again = hint;
    const double bound = KnapsackBound(instance.items, instance.limits, 0, hint);
    ASSERT_GE(KnapsackBound(instance.items, instance.limits, 0, again), best - kRounding) << n;
    ASSERT_NEAR(KnapsackBound(instance.items, instance.limits, 0, again), bound, 1e-6) << n;
  }
}

// Along two capacities the bound is that of the linear relaxation: no more than one item of each
// capacity is broken, so it exceeds the best by less than the two most valuable.
TEST(Knapsack, BoundIsWithinTwoItemsOfTheBestForTwoCapacities) {
  Dice dice(4);
  for (int n = 0; n < 1000; ++n) {
    Instance instance;
    for (int g = 0; g < 5; ++g) {
      instance.limits.push_back(3);
      instance.items.push_back(
          {dice.Real(0.5, 2), g, {dice.Real(0.05, 0.4), dice.Real(0.05, 0.4)}});
    }
    std::vector<double> values;
    for (const KnapsackItem& item : instance.items) values.push_back(item.value);
    std::sort(values.begin(), values.end(), std::greater<>());
    Multipliers hint{};
    EXPECT_LE(KnapsackBound(instance.items, instance.limits, 0, hint),
              BestByTrying(instance) + (values[0] + values[1]) * 1.01)
        << n;
  }
}

TEST(Knapsack, LooksForNothingThatIsWorthLessThanAsked) {
  Dice dice(5);
  for (int n = 0; n < 1000; ++n) {
    const Instance instance = RandomInstance(dice);
    const double best = BestByTrying(instance);
    const double wanted = best * dice.Real(0.5, 1.5);
    Multipliers hint{};
    const KnapsackResult result =
        SolveKnapsack(instance.items, instance.limits, wanted, kNodesMax, hint);
    ASSERT_GE(result.value, wanted) << n;
    ASSERT_GE(result.value_max, best - kRounding) << n;
    ASSERT_TRUE(best > wanted || result.counts.empty()) << n;
    if (best > wanted * (1 + kPromised) + kRounding) {
      ASSERT_FALSE(result.counts.empty()) << n;
      ASSERT_GE(result.value * (1 + kPromised), best - kRounding) << n;
    }
  }
}

TEST(Knapsack, OfNothingIsWorthNothing) {
  Multipliers hint{};
  EXPECT_EQ(SolveKnapsack({}, {}, 0, kNodesMax, hint).value, 0);
  const std::vector<KnapsackItem> too_large{{5, 0, {1.5}}};
  const KnapsackResult result = SolveKnapsack(too_large, {3}, 0, kNodesMax, hint);
  EXPECT_EQ(result.value, 0);
  EXPECT_TRUE(result.counts.empty());
}

}  // namespace
}  // namespace sublet
