// SGLang's rule: while the load is about even, the replica that holds the most of the prompt, where
// that is more than half of it; in all other cases the one with the fewest requests.
// Source: sgl-model-gateway's policy cache_aware, with its library's defaults.
#include <algorithm>

#include "route/policy.h"
#include "route/ranking.h"

namespace sublet {
namespace {

constexpr double kCacheThreshold = 0.5;
constexpr double kBalanceAbsolute = 32;
constexpr double kBalanceRelative = 1.1;

double Load(const ReplicaView& replica) {
  return replica.in_flight / replica.slow_start;
}

}  // namespace

PolicyChoice ChooseCacheAware(const FleetView& fleet, const PolicyQuery& query) {
  double most = 0;
  double fewest = fleet.replicas[0].in_flight;
  std::uint32_t matched = 0;
  for (const ReplicaView& replica : fleet.replicas) {
    most = std::max(most, replica.in_flight);
    fewest = std::min(fewest, replica.in_flight);
    matched = std::max(matched, replica.cached_tokens);
  }
  if (most - fewest > kBalanceAbsolute && most > kBalanceRelative * fewest) {
    return {.index = LeastOf(fleet, query, Load), .rule = "load is uneven: the fewest requests"};
  }
  if (matched <= kCacheThreshold * query.prompt_tokens) {
    return {.index = LeastOf(fleet, query, Load),
            .rule = "nobody holds half of it: the fewest requests"};
  }
  // Those that hold less are worse than any load.
  const auto load_of_holders = [&](const ReplicaView& replica) {
    return replica.cached_tokens == matched ? Load(replica) : 1e300;
  };
  return {.index = LeastOf(fleet, query, load_of_holders), .rule = "holds the most"};
}

}  // namespace sublet
