#include "measure/stream_tally.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sublet {
namespace {

// Each power of two has 128 classes of equal width, so a class is at most 1/128 of its values wide
// and its middle at most 0.4 % away from them. Below 128 ns each nanosecond is a class.
constexpr int kBitsInPower = 7;
constexpr std::int64_t kClassesInPower = 1 << kBitsInPower;
// 2^40 ns are 18 minutes: no unit takes longer than a round may.
constexpr int kPowers = 40 - kBitsInPower;

std::size_t ClassOf(std::int64_t ns) {
  const auto value = static_cast<std::uint64_t>(std::max<std::int64_t>(0, ns));
  const int shift = std::max(0, static_cast<int>(std::bit_width(value)) - 1 - kBitsInPower);
  const std::size_t at =
      (static_cast<std::size_t>(shift) << kBitsInPower) + static_cast<std::size_t>(value >> shift);
  return std::min(at, static_cast<std::size_t>((kPowers + 1) * kClassesInPower - 1));
}

double MiddleOf(std::size_t at) {
  if (at < 2 * kClassesInPower) return static_cast<double>(at);  // Of one nanosecond.
  const std::size_t shift = (at >> kBitsInPower) - 1;
  const std::size_t first = at - (shift << kBitsInPower);
  return std::ldexp(static_cast<double>(first) + 0.5, static_cast<int>(shift)) - 0.5;
}

constexpr double kMsPerNs = 1e-6;

}  // namespace

LatencyHistogram::LatencyHistogram()
    : counts_(static_cast<std::size_t>((kPowers + 1) * kClassesInPower)) {}

void LatencyHistogram::Add(std::int64_t ns) {
  ++counts_[ClassOf(ns)];
  ++count_;
  max_ns_ = std::max(max_ns_, ns);
}

double LatencyHistogram::PercentileNs(double share) const {
  const auto wanted = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(count_)));
  std::int64_t seen = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    seen += counts_[i];
    if (seen > 0 && seen >= wanted) return std::min(MiddleOf(i), static_cast<double>(max_ns_));
  }
  return 0;
}

void StreamTally::Finished(std::int64_t launched_ns, std::int64_t ended_ns) {
  const std::int64_t began_ns = last_end_ns_ == 0 ? launched_ns : last_end_ns_;
  last_end_ns_ = ended_ns;
  const std::int64_t inside =
      std::min(ended_ns, window_.end_ns) - std::max(began_ns, window_.begin_ns);
  const std::int64_t length = ended_ns - began_ns;
  if (inside <= 0) {
    // Outside the window, or of no length at all: a unit that took no time counts where it is.
    if (length == 0 && ended_ns >= window_.begin_ns && ended_ns < window_.end_ns) {
      parts_ += 1;
      latencies_.Add(ended_ns - launched_ns);
    }
    return;
  }
  parts_ += static_cast<double>(inside) / static_cast<double>(length);
  gap_ns_max_ = std::max(gap_ns_max_, length);
  if (ended_ns < window_.end_ns) {
    latencies_.Add(ended_ns - launched_ns);
  } else {
    crossing_latency_ns_ = ended_ns - launched_ns;
  }
}

StreamFigures StreamTally::Figures() const {
  StreamFigures figures;
  figures.units = latencies_.count();
  figures.rate_per_s = parts_ / (static_cast<double>(window_.end_ns - window_.begin_ns) * 1e-9);
  figures.gap_ms_max = static_cast<double>(gap_ns_max_) * kMsPerNs;
  if (latencies_.count() > 0) {
    figures.latency_ms_p50 = latencies_.PercentileNs(0.5) * kMsPerNs;
    figures.latency_ms_p99 = latencies_.PercentileNs(0.99) * kMsPerNs;
    figures.latency_ms_max = static_cast<double>(latencies_.max_ns()) * kMsPerNs;
  } else {
    const double latency_ms = static_cast<double>(crossing_latency_ns_) * kMsPerNs;
    figures.latency_ms_p50 = figures.latency_ms_p99 = figures.latency_ms_max = latency_ms;
  }
  return figures;
}

}  // namespace sublet
