// route/replica_record.h
//
// Inside the router: all that it knows of one replica.
//
// A record lives as long as the replica or the last lease on it, whichever is longer; `gone` tells
// the leases that what they report is of no interest any more.
//
// Thread safety: the router's lock, but for what never changes.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "model/replica_spec.h"
#include "route/breaker.h"
#include "route/gpu_record.h"
#include "route/hedging.h"
#include "route/load_book.h"
#include "route/rate_learner.h"
#include "route/router.h"
#include "route/slow_start.h"

namespace sublet {

// Why a replica can't have a request now.
enum class Exclusion {
  kNone,
  kTried,
  kOtherTenant,
  kNotPinned,
  kDraining,
  kUnhealthy,
  kBreaker,
  kFull,  // Its own limit, or it said so a moment ago.
};

// Over which load is averaged: long beside a burst, short beside a day.
inline constexpr double kLoadMeanSeconds = 60;

// The part of the time, of late, in which there was something to prefill.
class BusyMean {
 public:
  void MoveTo(std::int64_t now_ns, bool busy) {
    if (now_ns <= at_ns_) return;
    const double passed = static_cast<double>(now_ns - at_ns_) / (1e9 * kLoadMeanSeconds);
    // A thousand replicas are moved for each decision: the first terms of the series are as exact
    // as it matters for what passes between two, and cost nothing.
    const double weight = passed < 1e-3 ? passed - passed * passed / 2 : -std::expm1(-passed);
    part_ += weight * ((busy ? 1 : 0) - part_);
    at_ns_ = now_ns;
  }
  double part() const { return part_; }

 private:
  double part_ = 0;
  std::int64_t at_ns_ = 0;
};

struct ReplicaRecord {
  // What every decision looks at comes first, in few cache lines.
  ReplicaSlot slot = 0;
  int in_flight_max = 1;
  bool has_tenant = false;     // It takes only one tenant's requests.
  std::uint64_t identity = 0;  // Hash of the name.
  bool gone = false;
  bool draining = false;
  // Told by the spec or by the replica. Until then it may serve anything.
  bool models_known = false;
  ReplicaHealth health = ReplicaHealth::kUnknown;
  std::int64_t full_until_ns = 0;             // It answered 429 or 503.
  std::optional<std::int64_t> slow_since_ns;  // Absent: it isn't new.
  LoadBook book;
  BusyMean busy;
  Breaker breaker;
  GpuRecord* gpu = nullptr;        // Null where its GPU has no name.
  std::uint32_t tenant_index = 0;  // In gpu->tenants.
  RateLearner rates;

  ReplicaSpec spec;
  std::string why;
  TtftWindow ttft;

  std::int64_t chosen = 0;
  std::int64_t served = 0;
  std::int64_t failed = 0;
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;

  double SmPart() const { return spec.share.sm_percent.value_or(100) / 100; }
  double WorkAt(std::int64_t now_ns) const {
    return gpu != nullptr ? gpu->WorkAt(now_ns) : static_cast<double>(now_ns);
  }
  // After each change of the spec.
  void TakeSpec() {
    in_flight_max = spec.in_flight_max;
    has_tenant = !spec.tenant.empty();
  }
  double SlowStart(std::int64_t now_ns) const {
    return slow_since_ns ? SlowStartPart(now_ns - *slow_since_ns) : 1;
  }
  double QueuedTokens(std::int64_t now_ns) const {
    return book.QueuedTokens(now_ns, WorkAt(now_ns), rates.PrefillTokensPerSecond());
  }
  // What its health, its breaker and its load have against a request.
  Exclusion ExclusionAt(std::int64_t now_ns) const;
};

}  // namespace sublet
