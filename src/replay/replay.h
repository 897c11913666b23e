// replay/replay.h
//
// A trace through the real router and simulated engines, in virtual time: an hour of traffic in
// seconds, and the same figures each time.
//
//   ReplayOptions options;
//   ASSIGN_OR_RETURN(options.fleet, ParseReplayFleet("8*100", {.kv_blocks = 1600}));
//   for (const std::string_view policy : PolicyNames()) {
//     ASSIGN_OR_RETURN(const PolicyOutcome outcome, ReplayPolicy(trace, options, policy));
//   }
//
// Everything that decides is what `sublet route` runs: Router, FleetCache and AdmissionQueue. The
// engines are those of sim/engine. Only sockets, HTTP and the wire's encoding of events are left
// out; events arrive some milliseconds late, as they do over a network, so that requests which
// come in a burst meet a router that hasn't heard of the first.
//
// What is counted is the truth in the engines, not what the router believed: a hit is a block found
// when the prefill began. What was turned away (queue full, waited too long, no replica can hold
// it) is always counted, and counts as a request that missed its objective; a follower of it in a
// closed loop never comes, and is counted as turned away too.
//
// Thread safety: one thread a call; calls share nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "replay/replay_fleet.h"
#include "replay/trace.h"

namespace sublet {

struct ReplayOptions {
  std::vector<ReplayReplica> fleet = {};
  int block_tokens = 512;
  bool events = true;  // Otherwise the router predicts what each replica holds.
  double event_delay_ms = 5;
  double load = 1;  // Requests come so many times as fast as the trace has them.
  double step_overhead_ms = 10;
  double decode_ms_a_sequence = 0.3;
  int in_flight_max = 256;         // A replica.
  std::size_t waiting_max = 1024;  // When all replicas are full.
  double wait_s_max = 60;
  double objective_ttft_ms = 10'000;  // What "in time" means.
  std::uint64_t seed = 1;             // Of policies that draw.
  // A clock for how long decisions take; none: that isn't measured.
  std::function<std::int64_t()> wall_ns = {};
};

struct ReplicaOutcome {
  std::string name;
  std::int64_t requests = 0;
  std::int64_t prompt_blocks = 0;
  std::int64_t hit_blocks = 0;
  std::int64_t computed_tokens = 0;  // Of prompts: what it didn't find.
  double work_s = 0;                 // Those at its rate.
};

struct PolicyOutcome {
  std::string policy;
  std::int64_t requests = 0;
  std::int64_t served = 0;
  std::int64_t rejected = 0;
  std::int64_t queued = 0;  // Waited for a replica with room, then served or rejected.
  double hit_ratio = 0;
  double ttft_ms_mean = 0;
  double ttft_ms_p50 = 0;
  double ttft_ms_p90 = 0;
  double ttft_ms_p99 = 0;
  double tpot_ms_p50 = 0;  // From token to token, the mean of each request.
  double tpot_ms_p90 = 0;
  double in_time = 0;             // Share of all requests with a TTFT within the objective.
  double goodput_per_second = 0;  // Those, over the time from the first request to the last token.
  double output_tokens_per_second = 0;
  double duration_s = 0;
  double imbalance = 0;  // Most work of a replica over the mean.
  std::int64_t preemptions = 0;
  double decisions_per_second = 0;  // 0: not measured.
  std::vector<ReplicaOutcome> replicas = {};
};

// 0 to 1, of the requests that are through. Called some hundred times.
using ReplayProgress = std::function<void(double)>;

// Fails with kUsage for a policy that doesn't exist or options that can't be.
Result<PolicyOutcome> ReplayPolicy(const Trace& trace, const ReplayOptions& options,
                                   std::string_view policy, const ReplayProgress& progress = {});

}  // namespace sublet
