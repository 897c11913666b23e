// Of two replicas that are drawn, the one with fewer requests. Nearly as even as looking at all of
// them, and several routers that know little of each other don't run after the same replica.
// Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
#include "route/policy.h"
#include "route/ranking.h"

namespace sublet {

PolicyChoice ChoosePowerOfTwo(const FleetView& fleet, const PolicyQuery& query) {
  const std::size_t count = fleet.replicas.size();
  if (count == 1) return {.index = 0, .rule = "the only one"};
  const auto first = static_cast<std::size_t>((query.random >> 32) % count);
  auto second = static_cast<std::size_t>((query.random & 0xffffffff) % (count - 1));
  if (second >= first) ++second;
  const ReplicaView& a = fleet.replicas[first];
  const ReplicaView& b = fleet.replicas[second];
  // One more request than it has, so that a slow starter isn't drawn to by having none.
  const double load_a = (a.in_flight + 1) / a.slow_start;
  const double load_b = (b.in_flight + 1) / b.slow_start;
  const bool take_a = load_a != load_b ? load_a < load_b : Rather(TieKey(query), a, b);
  return {.index = take_a ? first : second, .rule = "the less busy of two drawn"};
}

}  // namespace sublet
