// By what the prompt begins with (or its session), on the replica that the hash wants most of those
// which have no more than 1.25 times their part of all requests. So equal beginnings meet without
// anything being known of caches, and one that is very popular spills over to its second choice.
// Source: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016; with
// rendezvous hashing in place of a ring, which needs no virtual nodes and spreads more evenly.
#include <cmath>

#include "route/policy.h"
#include "route/ranking.h"

namespace sublet {
namespace {

// Of the mean; the value that HAProxy and KubeAI use. Less moves more requests, more waits longer.
constexpr double kBound = 1.25;

}  // namespace

PolicyChoice ChooseConsistentHash(const FleetView& fleet, const PolicyQuery& query) {
  const std::uint64_t key = query.session != 0 ? query.session : TieKey(query);
  double requests = 1;  // With this one.
  double due = 0;
  for (const ReplicaView& replica : fleet.replicas) {
    requests += replica.in_flight;
    due += replica.slow_start;
  }
  const auto has_room = [&](const ReplicaView& replica) {
    return replica.in_flight + 1 <= std::ceil(kBound * requests * replica.slow_start / due);
  };
  std::optional<std::size_t> wanted;
  std::optional<std::size_t> best;
  for (std::size_t r = 0; r < fleet.replicas.size(); ++r) {
    const ReplicaView& replica = fleet.replicas[r];
    if (!wanted || Rather(key, replica, fleet.replicas[*wanted])) wanted = r;
    if (!has_room(replica)) continue;
    if (!best || Rather(key, replica, fleet.replicas[*best])) best = r;
  }
  // Somebody nearly always has room: not all can be above the mean.
  const std::size_t index = best.value_or(*wanted);
  return {.index = index,
          .rule = index == *wanted ? "its hash's" : "its hash's is above 1.25 times the mean load"};
}

}  // namespace sublet
