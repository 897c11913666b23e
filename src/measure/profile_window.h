// measure/profile_window.h
//
// From what a watched program counted to rates and latencies, and when these are worth taking.
//
//   SteadyRule rule({});
//   while (rule.state() == SteadyState::kWarming) rule.Add(ReadCounts(*observation));
//   const BurstCounts begin = ReadCounts(*observation);
//   ...
//   const WindowFigures figures = FiguresBetween(begin, ReadCounts(*observation), seconds);
//
// Pure, but for ReadCounts(), which reads shared memory. Thread safety: values.
#pragma once

#include <cstdint>
#include <vector>

#include "guard/observation.h"

namespace sublet {

// What all processes of a program have done until now.
struct BurstCounts {
  int processes = 0;                 // That spoke to a GPU.
  std::uint64_t processes_lost = 0;  // That did too, and found no place to count.
  std::uint64_t contexts = 0;
  std::uint64_t launches = 0;
  std::uint64_t waits = 0;
  std::uint64_t bytes_to_device = 0;
  std::uint64_t bytes_from_device = 0;
  std::uint64_t bursts = 0;
  std::uint64_t last_burst_end_ns = 0;   // CLOCK_MONOTONIC; 0: none yet.
  std::vector<std::uint64_t> durations;  // guard::kDurationBuckets counts.
};

BurstCounts ReadCounts(const guard::Observation& observation);

struct WindowFigures {
  std::uint64_t bursts = 0;
  double seconds = 0;  // That `bursts` took.
  double bursts_per_s = 0;
  double latency_ms_p50 = 0;
  double latency_ms_p99 = 0;
  double to_device_mib_s = 0;
  double from_device_mib_s = 0;
};

// Between two readings, `elapsed_s` apart. Where there were few bursts the time is taken from the
// end of one to the end of another, so that none counts by half. All 0 where there was none.
WindowFigures FiguresBetween(const BurstCounts& begin, const BurstCounts& end, double elapsed_s);

// The duration below which a part `q` (0 to 1) of them lies, in ms; 0 where there are none.
double DurationQuantileMs(const std::vector<std::uint64_t>& durations, double q);

struct SteadyOptions {
  double step_s = 0.5;      // Rates are taken over steps of at least this length,
  int step_bursts = 4;      // and at least so many bursts.
  int steps = 3;            // So many steps in a row
  double tolerance = 0.05;  // whose rates differ by no more than this part: steady.
  int steps_max = 20;       // After so many it won't get steadier.
};

enum class SteadyState { kWarming, kSteady, kRestless };

// Whether a program has come to do the same all the time. A step ends where a burst ends; a pause,
// as for compiling, makes one long step of a low rate.
class SteadyRule {
 public:
  explicit SteadyRule(const SteadyOptions& options) : options_(options) {}

  SteadyState Add(const BurstCounts& now);
  SteadyState state() const { return state_; }

 private:
  SteadyOptions options_;
  SteadyState state_ = SteadyState::kWarming;
  std::uint64_t mark_ns_ = 0;  // Where the step began; 0: no burst yet.
  std::uint64_t mark_bursts_ = 0;
  std::vector<double> rates_;
};

}  // namespace sublet
