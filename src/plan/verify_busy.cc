#include "plan/verify_busy.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace sublet {

VerifiedClient ClientUnderMps(const WorkloadProfile& profile, const VerifiedPlace& place) {
  VerifiedClient client;
  const double alone_per_s = profile.points.back().alone_per_s / place.stretch;
  client.alone_ms = 1000 / alone_per_s;
  client.steps = profile.steps;
  const std::optional<double> crowd_per_s = profile.CrowdAt(place.sm_percent);
  if (!crowd_per_s) {
    // Disjoint shares: nobody waits until they add up, which is the sharpest curve there is.
    client.demand = place.share;
    client.part = place.share;
    client.sharpness = kSharpnessMax;
    return client;
  }
  client.part = alone_per_s / (*crowd_per_s * place.capacity);
  client.sharpness = profile.SharpnessAt(place.sm_percent);
  // slowdown^p = 1 + (N^p - 1) demand^p, solved for the demand of one of the N in the crowd.
  const double p = client.sharpness;
  const double slowdown = client.part * profile.crowd;
  const double waited = std::max(0.0, std::pow(slowdown, p) - 1);
  client.demand = std::min(
      1.0, std::pow(waited / (std::pow(static_cast<double>(profile.crowd), p) - 1), 1 / p));
  return client;
}

std::vector<double> UnitMsInTurns(const std::vector<VerifiedClient>& clients, double switch_ms) {
  if (clients.size() == 1) return {clients[0].alone_ms};
  double round_ms = 0;
  for (const VerifiedClient& client : clients) {
    round_ms += client.alone_ms / client.steps + switch_ms;
  }
  std::vector<double> units_ms;
  for (const VerifiedClient& client : clients) units_ms.push_back(client.steps * round_ms);
  return units_ms;
}

std::vector<double> UnitMsBeside(const std::vector<VerifiedClient>& clients, double other_load) {
  if (clients.size() == 1 && other_load == 0) return {clients[0].alone_ms};
  double all_demand = other_load;
  double all_parts = other_load;
  double p = kSharpnessMax;
  for (const VerifiedClient& client : clients) {
    all_demand += client.demand;
    all_parts += client.part;
    p = std::min(p, client.sharpness);
  }
  std::vector<double> units_ms;
  for (const VerifiedClient& client : clients) {
    const double powers = 1 - std::pow(client.demand, p) + std::pow(all_demand, p);
    const double slowdown = std::max(std::pow(std::max(1.0, powers), 1 / p), all_parts);
    units_ms.push_back(client.alone_ms * slowdown);
  }
  return units_ms;
}

std::vector<double> UnitMsByServer(const std::vector<VerifiedClient>& clients, double switch_ms) {
  std::map<int, std::vector<VerifiedClient>> servers;
  for (const VerifiedClient& client : clients) servers[client.server].push_back(client);
  if (servers.size() == 1) return UnitMsBeside(clients, 0);
  double round_ms = 0;
  for (const auto& [server, members] : servers) {
    const std::vector<double> units_ms = UnitMsBeside(members, 0);
    double slowest_step_ms = 0;
    for (std::size_t m = 0; m < members.size(); ++m) {
      slowest_step_ms = std::max(slowest_step_ms, units_ms[m] / members[m].steps);
    }
    round_ms += slowest_step_ms + switch_ms;
  }
  std::vector<double> units_ms;
  for (const VerifiedClient& client : clients) units_ms.push_back(client.steps * round_ms);
  return units_ms;
}

}  // namespace sublet
