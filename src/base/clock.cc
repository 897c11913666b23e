#include "base/clock.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <ctime>
#include <limits>

namespace sublet {
namespace {

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
constexpr double kSecondsMax = 1e9;  // 30 years: more would overflow the sum in nanoseconds.

}  // namespace

std::string UtcMilliseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(now.tv_sec),
                     now.tv_nsec / 1'000'000);
}

std::int64_t MonotonicNanoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Deadline Deadline::In(double seconds) {
  const double bounded = std::clamp(seconds, -kSecondsMax, kSecondsMax);
  return Deadline(MonotonicNanoseconds() + static_cast<std::int64_t>(bounded * 1e9));
}

Deadline Deadline::Never() {
  return Deadline(kNever);
}

bool Deadline::Passed() const {
  return at_ns_ != kNever && MonotonicNanoseconds() >= at_ns_;
}

double Deadline::SecondsLeft() const {
  if (at_ns_ == kNever) return kSecondsMax;
  return std::max(0.0, static_cast<double>(at_ns_ - MonotonicNanoseconds()) * 1e-9);
}

int Deadline::PollMilliseconds() const {
  if (at_ns_ == kNever) return -1;
  const std::int64_t left = std::max<std::int64_t>(0, at_ns_ - MonotonicNanoseconds());
  return static_cast<int>(std::min<std::int64_t>((left + 999'999) / 1'000'000, 1'000'000'000));
}

}  // namespace sublet
