// route/breaker.h
//
// Keeps requests away from a replica that fails them, and lets one in now and then to see whether
// it is well again.
//
//   Breaker breaker;
//   if (!breaker.Allows(now_ns)) ...              // Not a candidate.
//   const std::uint32_t sent = breaker.OnSent(now_ns);  // The probe, where it is half-open.
//   breaker.OnFailure(sent, now_ns);  breaker.OnSuccess(sent);  breaker.OnNothing(sent);
//
//   closed     requests go there
//   open       nobody goes there, for a pause that doubles with each opening in a row
//   half-open  the pause is over: one request may go there, and what becomes of it decides
//
// What may surprise: an answer that blames the client (4xx) is OnNothing(). It proves nothing about
// the replica, and one client's bad requests must not take a fleet away from the others. So is a
// request that was cancelled. A replica that says it is full (429, 503) is well: OnSuccess().
//
// Results of requests that were sent before it opened come in late; they don't open it further, nor
// do they close it.
//
// Thread safety: a value; its owner's.
#pragma once

#include <cstdint>
#include <string_view>

namespace sublet {

struct BreakerOptions {
  // In a row. A replica that died fails all of them; one that is merely unlucky seldom fails five.
  int failures_in_a_row = 5;
  // Or this part of the last 32, of which each says something.
  double failed_part = 0.5;
  double pause_s = 1;
  double pause_s_max = 30;
  // A probe that brings nothing within this time has given its place away.
  double probe_s_max = 60;
};

enum class BreakerState { kClosed, kOpen, kHalfOpen };
std::string_view BreakerStateName(BreakerState state);  // "closed", "open", "half-open"

class Breaker {
 public:
  explicit Breaker(const BreakerOptions& options = {}) : options_(options) {}

  BreakerState StateAt(std::int64_t now_ns) const;
  bool Allows(std::int64_t now_ns) const { return !tripped_ || AllowsProbe(now_ns); }

  // Returns the number by which its result is told. REQUIRES: Allows(now_ns).
  std::uint32_t OnSent(std::int64_t now_ns);
  void OnSuccess(std::uint32_t sent);
  void OnFailure(std::uint32_t sent, std::int64_t now_ns);
  void OnNothing(std::uint32_t sent);

  // Something else than a request has shown that it is well (a health check after a restart): the
  // pause is over, and the next request is the probe.
  void EndPause(std::int64_t now_ns);

  std::int64_t open_until_ns() const { return open_until_ns_; }
  int failures_in_a_row() const { return in_a_row_; }

 private:
  bool AllowsProbe(std::int64_t now_ns) const;
  void Record(bool failed);
  void Open(std::int64_t now_ns);
  void Close();
  bool ProbeIsOut(std::int64_t now_ns) const;

  BreakerOptions options_;
  bool tripped_ = false;            // Open or half-open.
  std::uint32_t epoch_ = 0;         // Goes up with each change; a result of an older one is late.
  std::int64_t open_until_ns_ = 0;  // While tripped.
  std::int64_t probe_sent_ns_ = -1;
  int openings_ = 0;  // In a row, without a success between.
  int in_a_row_ = 0;
  std::uint32_t history_ = 0;  // One bit a result, 1: failed; the last one lowest.
  int results_ = 0;            // In the history.
};

}  // namespace sublet
