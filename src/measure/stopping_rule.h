// measure/stopping_rule.h
//
// When a run of the lab has been measured well enough.
//
// The rule is an object without a GPU or a clock: it is told each round's total rate and what the
// round took, and answers whether another one is worth it. A run has settled when the median of its
// rounds is known to within a few percent and the rounds don't drift; it is given up when it has
// had its rounds or its time. Either way the answer carries the reason, as the report prints it.
//
//   StoppingRule rule(StoppingOptionsFor("quick"));
//   for (;;) {
//     RunRound(...);
//     const StoppingVerdict verdict = rule.Add({.rate_per_s = rate, .cost_ms = 310});
//     if (verdict.kind != StoppingVerdict::Kind::kContinue) break;
//   }
//   run.total_per_s = rule.estimate();   // run.settled = rule.settled()
//
// Why not stop by the standard error of the mean, as is usual: one disturbed round widens it for
// good, and its interval assumes a normal distribution, which rates on a shared machine don't have.
// Why look for drift at all: a GPU that heats up gives ever narrower intervals around a rate that
// it no longer has.
//
// Thread safety: one thread at a time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/measurement.h"

namespace sublet {

struct StoppingOptions {
  // No verdict before: with fewer than kIntervalSampleMin (measure/statistics.h) the interval is
  // not one of 95 %. More rounds find slower drifts.
  int rounds_min = 6;
  // Then it is given up. Larger: noisy runs cost more time.
  int rounds_max = 12;
  // Half the interval's width over the median, at which the run is well enough known. Smaller: more
  // rounds.
  double half_width_max = 0.02;
  // The medians of the older and of the newer half of the rounds may differ by this much of the
  // median. Twice half_width_max lets steady runs pass: for normal noise the difference of the
  // halves' medians has a standard deviation of about one half width.
  double trend_max = 0.04;
  // Of all rounds together, after which none is begun. Larger than rounds_max rounds take, this
  // only stops runs whose rounds hang.
  double budget_ms = 3000;
};

// "quick": 2 %, 6 to 12 rounds, 3 s. "full": 1 %, 9 to 40 rounds, 30 s; nine rounds are the fewest
// whose interval leaves out the worst round at each end. REQUIRES: one of these two.
StoppingOptions StoppingOptionsFor(std::string_view effort);

struct RoundRate {
  double rate_per_s = 0;  // Of all tenants, their units added up.
  double cost_ms = 0;     // The round's whole time, warm-up included.
};

struct StoppingVerdict {
  enum class Kind { kContinue, kSettled, kGaveUp };

  Kind kind = Kind::kContinue;
  // "median known to 1.2 % after 7 rounds", "12 rounds and the interval is still 3.4 % wide ..."
  std::string reason;
};

class StoppingRule {
 public:
  // REQUIRES: 1 <= rounds_min <= rounds_max; the others not below 0.
  explicit StoppingRule(const StoppingOptions& options);

  // REQUIRES: rate and cost are finite and not below 0. After a verdict other than kContinue more
  // rounds may be added; the rule judges them as if it had gone on.
  StoppingVerdict Add(const RoundRate& round);

  int rounds() const { return static_cast<int>(rates_.size()); }
  bool settled() const { return settled_; }  // By the last Add().
  // REQUIRES: at least one round.
  Estimate estimate() const;

 private:
  double HalfWidth() const;
  double Trend() const;

  StoppingOptions options_;
  std::vector<double> rates_;  // In the order of the rounds.
  double spent_ms_ = 0;
  bool settled_ = false;
};

}  // namespace sublet
