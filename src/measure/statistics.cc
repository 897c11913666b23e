#include "measure/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/check.h"

namespace sublet {
namespace {

constexpr double kMissed = 0.05;  // What a 95 % interval may miss.

// Of a sorted sample.
double MiddleOf(const std::vector<double>& sorted) {
  const std::size_t half = sorted.size() / 2;
  if (sorted.size() % 2 == 1) return sorted[half];
  // Halved first: the sum of two large values could overflow, their halves' can't.
  return sorted[half - 1] / 2 + sorted[half] / 2;
}

}  // namespace

double Median(std::vector<double> sample) {
  CHECK(!sample.empty());
  std::sort(sample.begin(), sample.end());
  return MiddleOf(sample);
}

double Percentile(std::vector<double> sample, double percent) {
  CHECK(!sample.empty());
  CHECK(percent >= 0 && percent <= 100);
  // 99 % of 100 values must be the 99th, whatever 0.99 * 100 is in binary.
  constexpr double kRounding = 1e-9;
  const double rank = std::ceil(percent * static_cast<double>(sample.size()) / 100 - kRounding);
  const auto index = static_cast<std::ptrdiff_t>(std::max(rank, 1.0)) - 1;
  std::nth_element(sample.begin(), sample.begin() + index, sample.end());
  return sample[static_cast<std::size_t>(index)];
}

double MedianDeviation(const std::vector<double>& sample) {
  const double median = Median(sample);
  std::vector<double> deviations;
  for (const double value : sample) deviations.push_back(std::abs(value - median));
  return Median(std::move(deviations));
}

int IntervalTrim(int size) {
  CHECK(size >= 1);
  // P(B = k) as logarithms: 2^-size is 0 as a double above 1,074 tosses.
  const double log_half = size * std::log(0.5);
  double below = 0;  // P(B <= k)
  int trim = 0;
  for (int k = 0; 2 * k < size; ++k) {
    below += std::exp(std::lgamma(size + 1.0) - std::lgamma(k + 1.0) - std::lgamma(size - k + 1.0) +
                      log_half);
    if (2 * below > kMissed) break;
    trim = k;
  }
  return trim;
}

Estimate MedianWithInterval(std::vector<double> sample) {
  CHECK(!sample.empty());
  std::sort(sample.begin(), sample.end());
  const auto trim = static_cast<std::size_t>(IntervalTrim(static_cast<int>(sample.size())));
  return {.value = MiddleOf(sample), .low = sample[trim], .high = sample[sample.size() - 1 - trim]};
}

double JainIndex(const std::vector<double>& shares) {
  CHECK(!shares.empty());
  const double largest = *std::max_element(shares.begin(), shares.end());
  if (largest == 0) return 1;
  double sum = 0;
  double squares = 0;
  for (const double share : shares) {
    CHECK(share >= 0);
    // Over the largest, so that no square over- or underflows.
    const double part = share / largest;
    sum += part;
    squares += part * part;
  }
  // Rounding may end a hair above 1, which no index is.
  return std::min(1.0, sum * sum / (static_cast<double>(shares.size()) * squares));
}

FittedLine FitLine(const std::vector<LinePoint>& points) {
  CHECK(!points.empty());
  std::vector<double> slopes;
  for (std::size_t i = 0; i < points.size(); ++i) {
    for (std::size_t j = i + 1; j < points.size(); ++j) {
      const double run = points[j].x - points[i].x;
      if (run != 0) slopes.push_back((points[j].y - points[i].y) / run);
    }
  }
  FittedLine line;
  if (!slopes.empty()) line.slope = Median(std::move(slopes));
  std::vector<double> rest;
  for (const LinePoint& point : points) rest.push_back(point.y - line.slope * point.x);
  line.intercept = Median(rest);
  for (double& value : rest) value = std::abs(value - line.intercept);
  line.residual = Median(std::move(rest));
  return line;
}

}  // namespace sublet
