#include "measure/profile_window.h"

#include <algorithm>

namespace sublet {
namespace {

// With so many bursts in a window, one more or less at its edges is below 2 %.
constexpr std::uint64_t kManyBursts = 50;

double Mib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

}  // namespace

BurstCounts ReadCounts(const guard::Observation& observation) {
  BurstCounts sum;
  sum.processes_lost = observation.processes_lost;
  sum.durations.assign(guard::kDurationBuckets, 0);
  for (const guard::ObservedProcess& process : observation.processes) {
    if (process.pid == 0) continue;
    ++sum.processes;
    sum.contexts += process.contexts;
    sum.launches += process.launches;
    sum.waits += process.waits;
    sum.bytes_to_device += process.bytes_to_device;
    sum.bytes_from_device += process.bytes_from_device;
    sum.bursts += process.bursts.load(std::memory_order_acquire);
    sum.last_burst_end_ns = std::max(sum.last_burst_end_ns, process.last_burst_end_ns.load());
    for (int i = 0; i < guard::kDurationBuckets; ++i) {
      sum.durations[static_cast<std::size_t>(i)] += process.durations[i];
    }
  }
  return sum;
}

double DurationQuantileMs(const std::vector<std::uint64_t>& durations, double q) {
  std::uint64_t total = 0;
  for (const std::uint64_t count : durations) total += count;
  if (total == 0) return 0;
  const double rank = q * static_cast<double>(total);
  double below = 0;
  for (std::size_t i = 0; i < durations.size(); ++i) {
    const auto count = static_cast<double>(durations[i]);
    if (count > 0 && below + count >= rank) {
      // Within a bucket, which is 3 % wide, as if they lay evenly.
      const auto start = static_cast<double>(guard::DurationBucketStart(static_cast<int>(i)));
      const auto end = static_cast<double>(guard::DurationBucketStart(static_cast<int>(i) + 1));
      return (start + (end - start) * (rank - below) / count) / 1e6;
    }
    below += count;
  }
  return static_cast<double>(guard::DurationBucketStart(guard::kDurationBuckets)) / 1e6;
}

WindowFigures FiguresBetween(const BurstCounts& begin, const BurstCounts& end, double elapsed_s) {
  WindowFigures figures;
  figures.bursts = end.bursts - begin.bursts;
  if (figures.bursts == 0 || elapsed_s <= 0) return figures;
  figures.seconds = elapsed_s;
  if (figures.bursts < kManyBursts && begin.last_burst_end_ns != 0) {
    figures.seconds = static_cast<double>(end.last_burst_end_ns - begin.last_burst_end_ns) / 1e9;
  }
  figures.bursts_per_s = static_cast<double>(figures.bursts) / figures.seconds;
  std::vector<std::uint64_t> durations = end.durations;
  for (std::size_t i = 0; i < durations.size(); ++i) durations[i] -= begin.durations[i];
  figures.latency_ms_p50 = DurationQuantileMs(durations, 0.50);
  figures.latency_ms_p99 = DurationQuantileMs(durations, 0.99);
  figures.to_device_mib_s = Mib(end.bytes_to_device - begin.bytes_to_device) / elapsed_s;
  figures.from_device_mib_s = Mib(end.bytes_from_device - begin.bytes_from_device) / elapsed_s;
  return figures;
}

SteadyState SteadyRule::Add(const BurstCounts& now) {
  if (state_ != SteadyState::kWarming || now.bursts == 0) return state_;
  if (mark_ns_ == 0) {
    mark_ns_ = now.last_burst_end_ns;
    mark_bursts_ = now.bursts;
    return state_;
  }
  const double seconds = static_cast<double>(now.last_burst_end_ns - mark_ns_) / 1e9;
  const std::uint64_t bursts = now.bursts - mark_bursts_;
  if (seconds < options_.step_s || bursts < static_cast<std::uint64_t>(options_.step_bursts)) {
    return state_;
  }
  rates_.push_back(static_cast<double>(bursts) / seconds);
  mark_ns_ = now.last_burst_end_ns;
  mark_bursts_ = now.bursts;
  const auto steps = static_cast<std::size_t>(options_.steps);
  if (rates_.size() >= steps) {
    const auto [least, most] = std::minmax_element(rates_.end() - options_.steps, rates_.end());
    if (*most - *least <= options_.tolerance * *most) return state_ = SteadyState::kSteady;
  }
  if (rates_.size() >= static_cast<std::size_t>(options_.steps_max)) {
    state_ = SteadyState::kRestless;
  }
  return state_;
}

}  // namespace sublet
