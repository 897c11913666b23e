// measure/statistics.h
//
// The few statistics that the lab needs, chosen for small samples with outliers.
//
// A round of a GPU measurement is disturbed now and then: a clock steps down, the operating system
// takes a core away. A mean follows such a round, a median doesn't. So centres are medians, spreads
// are absolute deviations, and the intervals come from order statistics, which assume nothing about
// the distribution but that the rounds are independent.
//
//   Estimate rate = MedianWithInterval(rates);      // {10'013, 9'998, 10'020}
//   double p99 = Percentile(latencies, 99);
//   double fairness = JainIndex({0.5, 0.5, 0.5, 0.1});  // 0.84
//
// Pure functions of their arguments; samples need no order. Thread safety: no shared state.
#pragma once

#include <vector>

#include "model/measurement.h"

namespace sublet {

// The middle value, or the mean of the two middle ones. REQUIRES: a sample that is not empty.
double Median(std::vector<double> sample);

// The nearest-rank percentile: the smallest value of the sample that at least `percent` of it do
// not exceed. Always a value that occurred, so a p99 is a latency that somebody saw (definition 1
// of R. J. Hyndman and Y. Fan, "Sample Quantiles in Statistical Packages", 1996). percent 0: the
// smallest. REQUIRES: a sample that is not empty, 0 <= percent <= 100.
double Percentile(std::vector<double> sample, double percent);

// Median of |x - median|: half of the sample lies this close to its median. Not scaled to a
// standard deviation. (P. J. Rousseeuw and C. Croux, "Alternatives to the Median Absolute
// Deviation", 1993.)
double MedianDeviation(const std::vector<double>& sample);

// The fewest rounds whose range holds the median with 95 %: 1 - 2 / 2^6 = 97 %, of five 94 %.
inline constexpr int kIntervalSampleMin = 6;

// How many values to leave out at each end of a sorted sample of `size`, so that the range of the
// rest holds the median of the distribution with at least 95 %: the largest r with
//
//   2 P(B <= r - 1) <= 0.05      B binomial, `size` tosses of a fair coin
//
// because the median lies below the r-th smallest value only where fewer than r values fell below
// the median (H. A. David and H. N. Nagaraja, "Order Statistics", 2003, 7.1). r = 1 means the whole
// range, so r - 1 are left out; 0 as well where even the range is too narrow for 95 %.
int IntervalTrim(int size);

// The median with that interval. Of fewer than kIntervalSampleMin values: with the whole range.
// REQUIRES: a sample that is not empty.
Estimate MedianWithInterval(std::vector<double> sample);

// (sum x)^2 / (n sum x^2): 1 where all get the same, 1/n where one gets everything (R. Jain,
// D. Chiu, W. Hawe, "A Quantitative Measure of Fairness and Discrimination", DEC-TR-301, 1984). 1
// where all have 0. REQUIRES: a sample that is not empty, nothing below 0.
double JainIndex(const std::vector<double>& shares);

struct LinePoint {
  double x = 0;
  double y = 0;
};

// y = intercept + slope x.
struct FittedLine {
  double slope = 0;
  double intercept = 0;
  double residual = 0;  // The median of |y - (intercept + slope x)|.
};

// The line by Theil and Sen: the median of the slopes between all pairs of points, then the median
// of what it leaves (H. Theil, 1950; P. K. Sen, "Estimates of the Regression Coefficient Based on
// Kendall's Tau", 1968). Not least squares: there one disturbed run among ten decides the slope,
// here up to 29 % of the points may be anything. Pairs of equal x say nothing and are left out;
// with no other pairs the slope is 0. REQUIRES: at least one point. Takes n^2 / 2 steps.
FittedLine FitLine(const std::vector<LinePoint>& points);

}  // namespace sublet
