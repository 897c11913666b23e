#include "measure/statistics.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace sublet {
namespace {

// A sample of 1 to 60 rates, from clean to wild.
std::vector<double> AnySample() {
  const auto raw =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 1'000'000)));
  std::vector<double> sample;
  for (const int value : raw) sample.push_back(value / 64.0);
  return sample;
}

double Smallest(const std::vector<double>& sample) {
  return *std::min_element(sample.begin(), sample.end());
}
double Largest(const std::vector<double>& sample) {
  return *std::max_element(sample.begin(), sample.end());
}

// P(B <= k) for `size` tosses, by the recursion of binomial coefficients: exact for small sizes.
double AtMost(int size, int k) {
  double term = 1;
  double sum = 0;
  for (int i = 0; i <= k; ++i) {
    sum += term;
    term = term * (size - i) / (i + 1);
  }
  return sum / std::pow(2.0, size);
}

TEST(Statistics, MedianIsTheMiddleOrTheMeanOfTheTwoMiddleOnes) {
  EXPECT_EQ(Median({7}), 7);
  EXPECT_EQ(Median({9, 1, 5}), 5);
  EXPECT_EQ(Median({9, 1, 5, 6}), 5.5);
}

TEST(Statistics, PercentileIsTheNearestRank) {
  std::vector<double> hundred;
  for (int i = 100; i >= 1; --i) hundred.push_back(i);
  EXPECT_EQ(Percentile(hundred, 99), 99);
  EXPECT_EQ(Percentile(hundred, 50), 50);
  EXPECT_EQ(Percentile(hundred, 100), 100);
  EXPECT_EQ(Percentile(hundred, 0), 1);
  EXPECT_EQ(Percentile({3, 1, 2}, 99), 3);
  EXPECT_EQ(Percentile({15, 20, 35, 40, 50}, 30), 20) << "rank 1.5 is the second value";
}

RC_GTEST_PROP(StatisticsProperty, PercentileIsTheSmallestValueThatEnoughDoNotExceed, ()) {
  const std::vector<double> sample = AnySample();
  const int percent = *rc::gen::inRange(0, 101);
  const double found = Percentile(sample, percent);
  RC_ASSERT(std::count(sample.begin(), sample.end(), found) > 0);
  const auto at_most =
      std::count_if(sample.begin(), sample.end(), [&](double value) { return value <= found; });
  const auto below =
      std::count_if(sample.begin(), sample.end(), [&](double value) { return value < found; });
  const auto needed = percent * static_cast<std::ptrdiff_t>(sample.size());
  RC_ASSERT(100 * at_most >= needed);
  if (percent > 0) RC_ASSERT(100 * below < needed);
}

TEST(Statistics, MedianDeviationIgnoresAnOutlier) {
  EXPECT_EQ(MedianDeviation({10, 11, 12, 13, 1000}), 1);
  EXPECT_EQ(MedianDeviation({4, 4, 4}), 0);
}

// The table that every book on order statistics has.
TEST(Statistics, IntervalLeavesOutAsManyAsTheBinomialAllows) {
  EXPECT_EQ(IntervalTrim(1), 0);
  EXPECT_EQ(IntervalTrim(5), 0);
  EXPECT_EQ(IntervalTrim(6), 0);
  EXPECT_EQ(IntervalTrim(8), 0);
  EXPECT_EQ(IntervalTrim(9), 1);
  EXPECT_EQ(IntervalTrim(11), 1);
  EXPECT_EQ(IntervalTrim(12), 2);
  EXPECT_EQ(IntervalTrim(20), 5);
  EXPECT_EQ(IntervalTrim(40), 13);
  EXPECT_LT(2 * AtMost(kIntervalSampleMin, 0), 0.05);
  EXPECT_GT(2 * AtMost(kIntervalSampleMin - 1, 0), 0.05);
}

TEST(Statistics, IntervalOfEverySizeHasNinetyFivePercentAndNotNeedlesslyMore) {
  for (int size = kIntervalSampleMin; size <= 50; ++size) {
    const int trim = IntervalTrim(size);
    EXPECT_LE(2 * AtMost(size, trim), 0.05) << size;
    EXPECT_GT(2 * AtMost(size, trim + 1), 0.05) << size;
  }
}

TEST(Statistics, IntervalOfALargeSampleIsThatOfTheNormalApproximation) {
  // n / 2 - 0.98 sqrt(n): a textbook's rule for large n.
  EXPECT_NEAR(IntervalTrim(10'000), 5000 - 98, 2);
}

// The promise itself, tried: of 2,000 samples of a skewed distribution the interval holds the true
// median in 95 % or more (binomial noise of the trial: 0.5 %).
TEST(Statistics, IntervalHoldsTheTrueMedianAsOftenAsPromised) {
  std::mt19937 random(7);
  std::exponential_distribution<double> skewed(1);
  for (const int size : {6, 9, 15, 40}) {
    int held = 0;
    for (int trial = 0; trial < 2000; ++trial) {
      std::vector<double> sample;
      for (int i = 0; i < size; ++i) sample.push_back(skewed(random));
      const Estimate estimate = MedianWithInterval(sample);
      if (estimate.low <= std::log(2.0) && std::log(2.0) <= estimate.high) ++held;
    }
    EXPECT_GE(held, 2000 * 0.94) << size;
    EXPECT_LE(held, 2000 * 0.985) << size << ": wider than it must be";
  }
}

RC_GTEST_PROP(StatisticsProperty, EstimateLiesInTheSampleAndInItsInterval, ()) {
  const std::vector<double> sample = AnySample();
  const Estimate estimate = MedianWithInterval(sample);
  RC_ASSERT(estimate.low <= estimate.value);
  RC_ASSERT(estimate.value <= estimate.high);
  RC_ASSERT(Smallest(sample) <= estimate.low);
  RC_ASSERT(estimate.high <= Largest(sample));
  RC_ASSERT(estimate.value == Median(sample));
}

RC_GTEST_PROP(StatisticsProperty, EstimateDoesNotDependOnTheOrder, ()) {
  std::vector<double> sample = AnySample();
  const Estimate before = MedianWithInterval(sample);
  std::reverse(sample.begin(), sample.end());
  const Estimate after = MedianWithInterval(sample);
  RC_ASSERT(before.value == after.value);
  RC_ASSERT(before.low == after.low);
  RC_ASSERT(before.high == after.high);
}

TEST(Statistics, JainIndexIsOneForEqualAndOneOverNForOneTakingAll) {
  EXPECT_DOUBLE_EQ(JainIndex({3, 3, 3, 3}), 1);
  EXPECT_DOUBLE_EQ(JainIndex({0, 0, 5, 0}), 0.25);
  EXPECT_DOUBLE_EQ(JainIndex({0, 0}), 1);
  EXPECT_NEAR(JainIndex({0.5, 0.5, 0.5, 0.1}), 1.6 * 1.6 / (4 * 0.76), 1e-12);
  EXPECT_DOUBLE_EQ(JainIndex({1e-300, 1e-300}), 1) << "squares that underflow";
}

RC_GTEST_PROP(StatisticsProperty, JainIndexIsBetweenOneOverNAndOneWhateverTheUnit, ()) {
  std::vector<double> shares = AnySample();
  const double index = JainIndex(shares);
  RC_ASSERT(index <= 1);
  RC_ASSERT(index >= 1 / static_cast<double>(shares.size()) - 1e-12);
  for (double& share : shares) share *= 1000;
  RC_ASSERT(std::abs(JainIndex(shares) - index) < 1e-9);
}

RC_GTEST_PROP(StatisticsProperty, LineThroughPointsOnALineIsThatLine, ()) {
  const double slope = *rc::gen::inRange(-100, 100) / 8.0;
  const double intercept = *rc::gen::inRange(-100, 100) / 8.0;
  const int count = *rc::gen::inRange(2, 20);
  std::vector<LinePoint> points;
  for (int x = 0; x < count; ++x) {
    points.push_back({static_cast<double>(x), intercept + slope * x});
  }
  const FittedLine line = FitLine(points);
  RC_ASSERT(std::abs(line.slope - slope) < 1e-9);
  RC_ASSERT(std::abs(line.intercept - intercept) < 1e-9);
  RC_ASSERT(line.residual < 1e-9);
}

TEST(Statistics, LineIgnoresAWildPointThatLeastSquaresWouldFollow) {
  std::vector<LinePoint> points;
  for (int x = 0; x < 10; ++x) points.push_back({static_cast<double>(x), 1.0 + 2 * x});
  points[9].y = 1000;
  const FittedLine line = FitLine(points);
  EXPECT_NEAR(line.slope, 2, 1e-9);
  EXPECT_NEAR(line.intercept, 1, 1e-9);
}

TEST(Statistics, LineThroughPointsOfOneXIsLevelAtTheirMedian) {
  const FittedLine line = FitLine({{2, 5}, {2, 6}, {2, 10}});
  EXPECT_EQ(line.slope, 0);
  EXPECT_EQ(line.intercept, 6);
  EXPECT_EQ(line.residual, 1);
}

}  // namespace
}  // namespace sublet
