#include "plan/saturation.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"

namespace sublet {
namespace {

BusyFigures FiguresOf(const BusyKind& kind, double slowdown) {
  const double latency_ms = kind.unit_ms * slowdown;
  return {.slowdown = slowdown, .rate_per_s = 1000 / latency_ms, .latency_ms = latency_ms};
}

// The slowdown of each kind among clients of one server.
std::vector<double> SlowdownsOf(const std::vector<BusyKind>& kinds, double other_load) {
  double demand = other_load;
  double part = other_load;
  double sharpness = kSharpnessMax;  // The softest of them: it slows the most.
  int replicas = 0;
  for (const BusyKind& kind : kinds) {
    demand += kind.demand * kind.count;
    part += kind.part * kind.count;
    sharpness = std::min(sharpness, kind.sharpness);
    replicas += kind.count;
  }
  std::vector<double> slowdowns;
  for (const BusyKind& kind : kinds) {
    if (replicas == 1 && other_load == 0) {
      slowdowns.push_back(1);
      continue;
    }
    const double others = std::pow(demand, sharpness) - std::pow(kind.demand, sharpness);
    const double curve = std::pow(1 + std::max(0.0, others), 1 / sharpness);
    slowdowns.push_back(std::max({1.0, curve, part}));
  }
  return slowdowns;
}

}  // namespace

std::vector<BusyFigures> TakingTurns(const std::vector<BusyKind>& kinds, double switch_ms) {
  int replicas = 0;
  double cycle_ms = 0;  // Until everybody had a turn.
  for (const BusyKind& kind : kinds) {
    CHECK(kind.count >= 1 && kind.unit_ms > 0 && kind.steps >= 1);
    replicas += kind.count;
    cycle_ms += kind.count * (kind.unit_ms / kind.steps + switch_ms);
  }
  std::vector<BusyFigures> figures;
  for (const BusyKind& kind : kinds) {
    const double latency_ms = replicas == 1 ? kind.unit_ms : kind.steps * cycle_ms;
    figures.push_back(FiguresOf(kind, latency_ms / kind.unit_ms));
  }
  return figures;
}

std::vector<BusyFigures> UnderMps(const std::vector<BusyKind>& kinds, double other_load) {
  const std::vector<double> slowdowns = SlowdownsOf(kinds, other_load);
  std::vector<BusyFigures> figures;
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    CHECK(kinds[k].count >= 1 && kinds[k].unit_ms > 0);
    figures.push_back(FiguresOf(kinds[k], slowdowns[k]));
  }
  return figures;
}

std::vector<BusyFigures> UnderMpsServers(const std::vector<BusyKind>& kinds, double switch_ms) {
  std::map<int, std::vector<BusyKind>> servers;
  for (const BusyKind& kind : kinds) servers[kind.server].push_back(kind);
  if (servers.size() < 2) return UnderMps(kinds, 0);
  double cycle_ms = 0;
  for (const auto& [server, clients] : servers) {
    const std::vector<double> slowdowns = SlowdownsOf(clients, 0);
    double turn_ms = 0;
    for (std::size_t k = 0; k < clients.size(); ++k) {
      turn_ms = std::max(turn_ms, clients[k].unit_ms / clients[k].steps * slowdowns[k]);
    }
    cycle_ms += turn_ms + switch_ms;
  }
  std::vector<BusyFigures> figures;
  for (const BusyKind& kind : kinds) {
    figures.push_back(FiguresOf(kind, kind.steps * cycle_ms / kind.unit_ms));
  }
  return figures;
}

double TotalPerS(const std::vector<BusyKind>& kinds, const std::vector<BusyFigures>& figures) {
  CHECK(kinds.size() == figures.size());
  double total = 0;
  for (std::size_t k = 0; k < kinds.size(); ++k) total += kinds[k].count * figures[k].rate_per_s;
  return total;
}

BusyKind KindUnderMps(const WorkloadProfile& profile, const MpsShare& share) {
  BusyKind kind;
  kind.unit_ms = 1000 / profile.points.back().alone_per_s * share.stretch;
  kind.steps = profile.steps;
  const std::optional<double> crowd_per_s = profile.CrowdAt(share.sm_percent);
  if (!crowd_per_s) {
    kind.demand = kind.part = share.share;
    kind.sharpness = kSharpnessMax;
    return kind;
  }
  const double alone_per_s = 1000 / kind.unit_ms;
  const double full_per_s = *crowd_per_s * share.capacity;
  kind.sharpness = profile.SharpnessAt(share.sm_percent);
  kind.demand = DemandOfOne(alone_per_s, {profile.crowd, full_per_s}, kind.sharpness);
  kind.part = alone_per_s / full_per_s;
  return kind;
}

}  // namespace sublet
