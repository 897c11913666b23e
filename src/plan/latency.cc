#include "plan/latency.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"

namespace sublet {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNormalP99 = 2.3263;  // 99 % quantile of the standard normal distribution.

// The number in an M/M/k queue, as far as needed: P(N < n) for n <= k, then a geometric tail.
class Occupancy {
 public:
  // REQUIRES: 0 <= erlangs < slots.
  Occupancy(double erlangs, int slots) : slots_(slots), ratio_(erlangs / slots) {
    double weight = 1;
    double sum = 0;
    for (int n = 0; n < slots; ++n) {
      weights_[static_cast<std::size_t>(n)] = weight;
      sum += weight;
      weight *= erlangs / (n + 1);
    }
    const double tail = weight / (1 - ratio_);  // `weight` is that of n = slots.
    total_ = sum + tail;
    tail_probability_ = tail / total_;
  }

  // The smallest n with P(N > n) <= 1 - q.
  double Quantile(double q) const {
    double below = 0;
    for (int n = 0; n < slots_; ++n) {
      below += weights_[static_cast<std::size_t>(n)] / total_;
      if (below >= q) return n;
    }
    // P(N > slots + j) = tail * ratio^(j+1).
    const double j = std::ceil(std::log((1 - q) / tail_probability_) / std::log(ratio_)) - 1;
    return slots_ + std::max(0.0, j);
  }

  // E[max(1, (N + 1) / k)].
  double MeanSlowdown() const {
    const double tail_mean =
        (slots_ + 1.0) / slots_ + ratio_ / (1 - ratio_) / static_cast<double>(slots_);
    return (1 - tail_probability_) + tail_probability_ * tail_mean;
  }

 private:
  int slots_;
  double ratio_;
  double total_ = 0;
  double tail_probability_ = 0;
  std::array<double, kSlotsMax> weights_{};
};

Slowdown Compute(double load, int slots) {
  if (load == 0) return {};
  const Occupancy occupancy(load * slots, slots);
  const auto stretched = [&](double q) {
    return std::max(1.0, (occupancy.Quantile(q) + 1) / slots);
  };
  Slowdown slowdown{
      .mean = occupancy.MeanSlowdown(), .p50 = stretched(0.50), .p99 = stretched(0.99)};
  // Half of the requests may find nobody, but somebody comes later.
  slowdown.p50 = std::max(slowdown.p50, slowdown.mean);
  slowdown.p99 = std::max(slowdown.p99, slowdown.p50);
  // The spread is read off the 99 % quantile, as if it were normal.
  const double spread = std::max(0.0, slowdown.p99 - slowdown.mean) / kNormalP99;
  slowdown.jitter = spread * spread / slowdown.mean;
  return slowdown;
}

constexpr std::size_t TableIndex(int step, int slots) {
  return static_cast<std::size_t>((slots - 1) * (kLoadGrid + 1) + step);
}

// Quantiles are whole numbers of neighbours and jump, the mean grows evenly; between two jumps the
// jitter would shrink. It is kept at the largest of any smaller load and of any more slots.
std::vector<Slowdown> BuildTable() {
  std::vector<Slowdown> table(TableIndex(0, kSlotsMax + 1));
  for (int slots = kSlotsMax; slots >= 1; --slots) {
    double jitter = 0;
    for (int step = 0; step <= kLoadGrid; ++step) {
      Slowdown& entry = table[TableIndex(step, slots)];
      const double load = static_cast<double>(step) / kLoadGrid;
      if (load > kUtilisationMax) {
        entry = {kInfinity, kInfinity, kInfinity, kInfinity};
        continue;
      }
      entry = Compute(load, slots);
      if (slots < kSlotsMax) jitter = std::max(jitter, table[TableIndex(step, slots + 1)].jitter);
      jitter = std::max(jitter, entry.jitter);
      entry.jitter = jitter;
    }
  }
  return table;
}

// The planner asks for the same few thousand values millions of times.
const Slowdown& Tabled(int step, int slots) {
  static const auto* const table = new std::vector<Slowdown>(BuildTable());
  return (*table)[TableIndex(step, slots)];
}

// q-quantile over mean of a lognormal service time with this coefficient of variation.
double ServiceQuantileFactor(double variability, double z) {
  if (variability == 0) return 1;
  const double sigma2 = std::log(1 + variability * variability);
  return std::exp(z * std::sqrt(sigma2) - sigma2 / 2);
}

}  // namespace

Slowdown SlowdownBy(const Neighbours& neighbours) {
  CHECK(neighbours.slots >= 1 && neighbours.slots <= kSlotsMax);
  // The small amount taken off keeps sums of exact grid values on their grid point.
  const double step = std::ceil(neighbours.others_load * kLoadGrid - 1e-6);
  const double total = neighbours.others_load + neighbours.own_load;
  if (step > kLoadGrid || (step > 0 && total > kUtilisationMax + 1e-9)) {
    return {kInfinity, kInfinity, kInfinity, kInfinity};
  }
  return Tabled(std::max(0, static_cast<int>(step)), neighbours.slots);
}

Latency PredictLatency(const RequestStream& stream, const Slowdown& slowdown) {
  const double service_mean_ms = stream.service_ms * slowdown.mean;
  const double utilisation = stream.rate_per_s * service_mean_ms / 1000;
  if (!(utilisation <= kUtilisationMax)) {
    return {.stable = false, .utilisation = utilisation, .p50_ms = kInfinity, .p99_ms = kInfinity};
  }
  const double variation =
      stream.burstiness + stream.service_variability * stream.service_variability;
  const double decay_ms =
      stream.service_ms * (slowdown.mean * variation + slowdown.jitter) / (2 * (1 - utilisation));
  const auto wait_ms = [&](double q) {
    return utilisation > 1 - q ? decay_ms * std::log(utilisation / (1 - q)) : 0.0;
  };
  const auto latency_ms = [&](double q, double stretch, double z) {
    return stream.service_ms * stretch * ServiceQuantileFactor(stream.service_variability, z) +
           wait_ms(q);
  };
  return {.stable = true,
          .utilisation = utilisation,
          .p50_ms = latency_ms(0.50, slowdown.p50, 0),
          .p99_ms = latency_ms(0.99, slowdown.p99, kNormalP99)};
}

}  // namespace sublet
