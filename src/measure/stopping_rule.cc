#include "measure/stopping_rule.h"

#include <fmt/format.h>

#include <cmath>
#include <cstddef>
#include <limits>

#include "base/check.h"
#include "measure/statistics.h"

namespace sublet {
namespace {

// |difference| over the median; a median of 0 with any difference is as unsure as can be.
double Relative(double difference, double median) {
  if (difference == 0) return 0;
  if (median == 0) return std::numeric_limits<double>::infinity();
  return std::abs(difference) / median;
}

}  // namespace

StoppingOptions StoppingOptionsFor(std::string_view effort) {
  if (effort == "quick") return {};
  CHECK(effort == "full");
  return {.rounds_min = 9,
          .rounds_max = 40,
          .half_width_max = 0.01,
          .trend_max = 0.02,
          .budget_ms = 30'000};
}

StoppingRule::StoppingRule(const StoppingOptions& options) : options_(options) {
  CHECK(1 <= options.rounds_min && options.rounds_min <= options.rounds_max);
  CHECK(options.half_width_max >= 0 && options.trend_max >= 0 && options.budget_ms >= 0);
}

StoppingVerdict StoppingRule::Add(const RoundRate& round) {
  CHECK(std::isfinite(round.rate_per_s) && round.rate_per_s >= 0);
  CHECK(std::isfinite(round.cost_ms) && round.cost_ms >= 0);
  rates_.push_back(round.rate_per_s);
  spent_ms_ += round.cost_ms;

  const double half_width = HalfWidth();
  const double trend = Trend();
  const bool narrow = half_width <= options_.half_width_max;
  const bool steady = trend <= options_.trend_max;
  settled_ = rounds() >= options_.rounds_min && narrow && steady;
  using Kind = StoppingVerdict::Kind;
  if (settled_) {
    return {Kind::kSettled,
            fmt::format("median known to {:.1f} % after {} rounds", 100 * half_width, rounds())};
  }
  const bool no_rounds = rounds() >= options_.rounds_max;
  if (!no_rounds && spent_ms_ < options_.budget_ms) return {};
  std::string why;
  if (!steady) {
    why = fmt::format("the rate drifts: its halves differ by {:.1f} %, {:.1f} % are allowed",
                      100 * trend, 100 * options_.trend_max);
  } else if (!narrow) {
    why = fmt::format("the median is known to {:.1f} %, {:.1f} % were wanted", 100 * half_width,
                      100 * options_.half_width_max);
  } else {
    why = fmt::format("at least {} rounds were wanted", options_.rounds_min);
  }
  return {Kind::kGaveUp, no_rounds ? fmt::format("after {} rounds {}", rounds(), why)
                                   : fmt::format("the time was up after {} rounds, {:.0f} ms: {}",
                                                 rounds(), spent_ms_, why)};
}

Estimate StoppingRule::estimate() const {
  return MedianWithInterval(rates_);
}

double StoppingRule::HalfWidth() const {
  const Estimate now = estimate();
  return Relative((now.high - now.low) / 2, now.value);
}

// The older half against the newer one; of an odd number the round in the middle belongs to
// neither. A single odd round moves no median of three or more, so it is no trend.
double StoppingRule::Trend() const {
  const auto half = static_cast<std::ptrdiff_t>(rates_.size() / 2);
  if (half == 0) return 0;
  const std::vector<double> older(rates_.begin(), rates_.begin() + half);
  const std::vector<double> newer(rates_.end() - half, rates_.end());
  return Relative(Median(newer) - Median(older), Median(rates_));
}

}  // namespace sublet
