// measure/stream_tally.h
//
// What one stream did in the window of a round, from the times of its units.
//
//   StreamTally tally({.begin_ns = start + warmup, .end_ns = start + warmup + window});
//   tally.Finished(launched_ns, ended_ns);            // One after the other.
//   if (tally.Crossed()) ...                          // A unit has ended after the window.
//   StreamFigures figures = tally.Figures();
//
// The rate counts the units that the window cuts by the part that lies in it: a unit occupies its
// stream from the end of the one before it until its own end, and a half of that in the window is
// half a unit. Counting ends alone would be right on average too, but off by up to a unit each way,
// which is 5 % where 20 units fit. Counting parts has no bias in a steady state: at a random moment
// the unit that covers it has length L with a probability in proportion to L and adds 1/L.
//
// Latencies are those of the units that end in the window; where none did, of the one that was
// under way at its end.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "measure/crew.h"

namespace sublet {

// Durations by logarithmic classes: a percentile is off by less than 0.4 %, whatever its size, and
// the memory is the same for ten units and ten million.
class LatencyHistogram {
 public:
  LatencyHistogram();
  void Add(std::int64_t ns);
  std::int64_t count() const { return count_; }
  std::int64_t max_ns() const { return max_ns_; }
  // The smallest duration that at least `share` (0 to 1) of all don't exceed: the middle of its
  // class, but never above max_ns(). 0 where there is none.
  double PercentileNs(double share) const;

 private:
  std::vector<std::int64_t> counts_;
  std::int64_t count_ = 0;
  std::int64_t max_ns_ = 0;
};

struct RoundWindow {
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
};

class StreamTally {
 public:
  explicit StreamTally(RoundWindow window) : window_(window) {}

  void Finished(std::int64_t launched_ns, std::int64_t ended_ns);
  bool Crossed() const { return last_end_ns_ >= window_.end_ns; }
  StreamFigures Figures() const;

 private:
  RoundWindow window_;
  LatencyHistogram latencies_;
  std::int64_t last_end_ns_ = 0;  // 0: no unit has ended yet.
  std::int64_t gap_ns_max_ = 0;
  std::int64_t crossing_latency_ns_ = 0;  // Of the unit under way at the window's end.
  double parts_ = 0;                      // Units, with those that are cut counted in part.
};

}  // namespace sublet
