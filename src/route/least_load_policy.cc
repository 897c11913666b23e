// The replica with the fewest tokens still to prefill, and of those with the fewest requests.
// Tokens rather than requests, since prompts differ by a factor of a thousand.
#include "route/policy.h"
#include "route/ranking.h"

namespace sublet {
namespace {

// A request that decodes delays a prefill by a step now and then, worth some tokens of it. So it
// decides only between replicas whose queues are about alike.
constexpr double kTokensARequest = 16;

}  // namespace

PolicyChoice ChooseLeastLoad(const FleetView& fleet, const PolicyQuery& query) {
  const auto load = [](const ReplicaView& replica) {
    return (replica.queued_tokens + kTokensARequest * replica.in_flight) / replica.slow_start;
  };
  return {.index = LeastOf(fleet, query, load), .rule = "the fewest tokens to prefill"};
}

}  // namespace sublet
