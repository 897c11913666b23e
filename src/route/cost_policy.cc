// The default: the replica where the request costs the least, itself and the others together
// (route/cost_model.h).
#include <algorithm>
#include <limits>
#include <vector>

#include "route/cost_model.h"
#include "route/policy.h"
#include "route/ranking.h"

namespace sublet {
namespace {

// Costs that differ by less are the same: rates are estimates, and an idle fleet whose rates differ
// by a hundredth would send everything to one replica.
constexpr double kTiePart = 0.01;
constexpr double kTieMs = 0.5;

// The least of `costs` but for one.
std::optional<std::size_t> NextBest(const std::vector<double>& costs, std::size_t but) {
  if (costs.size() < 2) return std::nullopt;
  std::size_t best = but == 0 ? 1 : 0;
  double least = costs[best];
  for (std::size_t r = best + 1; r < costs.size(); ++r) {
    // The least so far is beaten a few times in a thousand.
    if (costs[r] < least && r != but) [[unlikely]] {
      best = r;
      least = costs[r];
    }
  }
  return best;
}

}  // namespace

PolicyChoice ChooseByCost(const FleetView& fleet, const PolicyQuery& query) {
  std::vector<double> costs(fleet.replicas.size());
  const CostContext context = CostContextOf(fleet);
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t r = 0; r < costs.size(); ++r) {
    costs[r] = CostOf(fleet.replicas[r], context, query).Total();
    least = std::min(least, costs[r]);
  }
  const double tied = least + std::max(kTieMs, kTiePart * least);
  const std::uint64_t key = TieKey(query);
  std::optional<std::size_t> best;
  for (std::size_t r = 0; r < costs.size(); ++r) {
    if (costs[r] > tied) continue;
    if (!best || Rather(key, fleet.replicas[r], fleet.replicas[*best])) best = r;
  }
  PolicyChoice choice{.index = *best, .rule = "the least cost", .cost_ms = costs[*best]};
  choice.next_best = NextBest(costs, *best);
  if (choice.next_best) choice.next_best_ms = costs[*choice.next_best];
  return choice;
}

}  // namespace sublet
