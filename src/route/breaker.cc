#include "route/breaker.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace sublet {
namespace {

constexpr int kHistory = 32;
constexpr double kNsInSecond = 1e9;

}  // namespace

std::string_view BreakerStateName(BreakerState state) {
  switch (state) {
    case BreakerState::kClosed:
      return "closed";
    case BreakerState::kOpen:
      return "open";
    case BreakerState::kHalfOpen:
      return "half-open";
  }
  return "closed";
}

BreakerState Breaker::StateAt(std::int64_t now_ns) const {
  if (!tripped_) return BreakerState::kClosed;
  return now_ns < open_until_ns_ ? BreakerState::kOpen : BreakerState::kHalfOpen;
}

bool Breaker::ProbeIsOut(std::int64_t now_ns) const {
  return probe_sent_ns_ >= 0 &&
         static_cast<double>(now_ns - probe_sent_ns_) < options_.probe_s_max * kNsInSecond;
}

bool Breaker::AllowsProbe(std::int64_t now_ns) const {
  return now_ns >= open_until_ns_ && !ProbeIsOut(now_ns);
}

std::uint32_t Breaker::OnSent(std::int64_t now_ns) {
  if (!tripped_) return epoch_;
  CHECK(Allows(now_ns));
  probe_sent_ns_ = now_ns;
  return ++epoch_;  // Of all results, only this one's counts.
}

void Breaker::OnSuccess(std::uint32_t sent) {
  if (sent != epoch_) return;
  if (tripped_) return Close();
  Record(false);
}

void Breaker::OnFailure(std::uint32_t sent, std::int64_t now_ns) {
  if (sent != epoch_) return;
  if (tripped_) return Open(now_ns);
  Record(true);
  const bool many = results_ == kHistory &&
                    std::popcount(history_) >= std::lround(options_.failed_part * kHistory);
  if (in_a_row_ >= options_.failures_in_a_row || many) Open(now_ns);
}

void Breaker::OnNothing(std::uint32_t sent) {
  if (sent == epoch_) probe_sent_ns_ = -1;  // The next one may probe.
}

void Breaker::EndPause(std::int64_t now_ns) {
  if (!tripped_) return;
  open_until_ns_ = std::min(open_until_ns_, now_ns);
}

void Breaker::Record(bool failed) {
  history_ = (history_ << 1) | (failed ? 1u : 0u);
  results_ = std::min(results_ + 1, kHistory);
  in_a_row_ = failed ? in_a_row_ + 1 : 0;
}

void Breaker::Open(std::int64_t now_ns) {
  const double pause_s = std::min(options_.pause_s * std::exp2(openings_), options_.pause_s_max);
  openings_ = std::min(openings_ + 1, 30);  // 2^30 pauses are more than any limit.
  tripped_ = true;
  ++epoch_;
  open_until_ns_ = now_ns + static_cast<std::int64_t>(pause_s * kNsInSecond);
  probe_sent_ns_ = -1;
}

void Breaker::Close() {
  tripped_ = false;
  ++epoch_;
  probe_sent_ns_ = -1;
  openings_ = in_a_row_ = results_ = 0;
  history_ = 0;
}

}  // namespace sublet
