// route/hedging.h
//
// When a request that has had no token for long is sent to a second replica as well.
//
//   TtftWindow recent;                              // One a replica.
//   recent.Add(ttft_ms);
//   if (const auto after_ms = HedgeAfterMs(options, recent)) ... start a timer ...
//
// The first of the two answers is passed on and the other cancelled. It costs a second prefill, so
// it is off by default; with the 95th percentile at most one request in twenty is sent twice, and
// those sent also count against the retry budget (route/retry_budget.h).
//
// Source: Dean and Barroso, "The Tail at Scale", 2013.
//
// Thread safety: values; their owner's.
#pragma once

#include <array>
#include <cstddef>
#include <optional>

namespace sublet {

struct HedgeOptions {
  std::optional<double> percentile;  // Of the replica's recent times; absent: never.
  double after_ms_min = 50;          // Below it, a second one could not be first.
  std::size_t samples_min = 20;      // With fewer, a high percentile is only the largest.
};

// The last times to the first token of one replica.
class TtftWindow {
 public:
  void Add(double ttft_ms);
  std::size_t count() const { return count_; }
  // 0 to 100; the nearest rank. REQUIRES: count() > 0.
  double Percentile(double percentile) const;

 private:
  // Enough for a 95th percentile that three odd ones don't move, and 0.5 KiB a replica.
  std::array<float, 128> ms_ = {};
  std::size_t count_ = 0;
  std::size_t next_ = 0;
};

std::optional<double> HedgeAfterMs(const HedgeOptions& options, const TtftWindow& recent);

}  // namespace sublet
