#include "route/cost_model.h"

#include <algorithm>

namespace sublet {
namespace {

// Loading a block from the host's memory takes a quarter of computing it: Dynamo's host weight.
constexpr double kOffloadedWorth = 0.75;
// The cache of a replica whose events have a gap has changed since by some unknown part.
constexpr double kStaleWorth = 0.5;

// kRoomMs * u / (1 - u) for the used part u, by one division: a thousand of these are a third of a
// decision.
double PressureMs(double tokens_used, double capacity) {
  if (tokens_used >= kRoomUsedMax * capacity) return kRoomMs * kRoomUsedMax / (1 - kRoomUsedMax);
  return kRoomMs * tokens_used / (capacity - tokens_used);
}

}  // namespace

CostContext CostContextOf(const FleetView& fleet) {
  CostContext context{.fleet = fleet};
  const double waiting = 1 + fleet.mean_prefills;
  context.work_worth = std::clamp(waiting * waiting, kWorkWorthMin, kWorkWorthMax);
  double rates = 0;
  for (const ReplicaView& replica : fleet.replicas) rates += RateOf(replica);
  context.mean_ms_a_token = 1000 * static_cast<double>(fleet.replicas.size()) / rates;
  return context;
}

double RateOf(const ReplicaView& replica) {
  return replica.prefill_tokens_per_second * replica.slow_start;
}

double UncachedTokens(const ReplicaView& replica, const PolicyQuery& query) {
  const double worth = replica.knowledge == CacheKnowledge::kStale ? kStaleWorth : 1;
  const double held = worth * (replica.cached_tokens + kOffloadedWorth * replica.offloaded_tokens);
  return std::max(1.0, query.prompt_tokens - held);
}

double LaterTokens(const ReplicaView& replica, const CostContext& context, const PolicyQuery& query,
                   double uncached) {
  const double own = std::max(0.0, static_cast<double>(query.prompt_tokens) - query.common_tokens);
  const double idle = 1 - std::min(kBusyMax, replica.busy);
  return (context.work_worth - 1) * std::min(uncached, own) +
         (1 / (idle * idle) - 1) * kFollowTokens;
}

CostTerms CostOf(const ReplicaView& replica, const CostContext& context, const PolicyQuery& query) {
  const double uncached = UncachedTokens(replica, query);
  const double ms_a_token = 1000 / RateOf(replica);
  const CoTenancy* gpu =
      replica.gpu < 0 ? nullptr : &context.fleet.gpus[static_cast<std::size_t>(replica.gpu)];
  CostTerms terms;
  terms.queue_ms = replica.queued_tokens * ms_a_token;
  terms.prefill_ms = uncached * ms_a_token;
  terms.later_ms = LaterTokens(replica, context, query, uncached) * context.mean_ms_a_token;
  terms.pressure_ms = PressureMs(replica.tokens_in_use + uncached, replica.tokens_capacity);
  if (gpu != nullptr) {
    const CoTenantDelay delay = gpu->DelayOf(replica.tenant, terms.prefill_ms);
    terms.cotenant_ms = delay.own_ms + delay.others_ms;
  }
  if (replica.decode_step_ms > 0) {
    // Half a step until the one that runs has ended, and one with each chunk.
    const double steps = 0.5 + (replica.queued_tokens + uncached) / kStepTokens;
    const double slowdown = gpu != nullptr ? gpu->DecodeSlowdown(replica.tenant) : 1;
    terms.decode_ms = steps * replica.decode_step_ms * slowdown;
  }
  return terms;
}

}  // namespace sublet
