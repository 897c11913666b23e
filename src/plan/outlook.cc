#include "plan/outlook.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

namespace sublet {
namespace {

constexpr double kSumSlack = 1e-9;

// The part of `target` that `latency` leaves; negative when it is missed.
double Left(double latency, double target) {
  return (target - latency) / target;
}

std::optional<double> HeadroomOf(const Workload& workload, const Latency& latency) {
  std::optional<double> headroom;
  const auto consider = [&](double predicted, const std::optional<double>& target) {
    if (!target) return;
    headroom = std::min(headroom.value_or(1), latency.stable ? Left(predicted, *target) : -1.0);
  };
  consider(latency.p50_ms, workload.latency.p50_ms);
  consider(latency.p99_ms, workload.latency.p99_ms);
  return headroom;
}

Latency LatencyOf(const Workload& workload, const Variant& variant, const Slowdown& slowdown) {
  return PredictLatency(StreamOf(workload, variant.service_ms), slowdown);
}

// Memory, clients and engines: what is counted, not predicted.
std::string CountedRefusal(const Problem& problem, const Offer& offer,
                           const PartitionChoice& partition, const Occupancy& occupancy) {
  if (occupancy.memory > offer.memory) {
    return fmt::format("memory: {} needed of {}", FormatBytes(occupancy.memory),
                       FormatBytes(offer.memory));
  }
  if (partition.mode == SharingMode::kMps && occupancy.replicas > offer.clients_max) {
    return fmt::format("MPS clients: {} of at most {}", occupancy.replicas, offer.clients_max);
  }
  EngineCounts need;
  for (const auto& [variant, count] : partition.contents) {
    const EngineCounts& one =
        problem.fleet->workloads[static_cast<std::size_t>(variant->workload)].engines;
    need.decoder += one.decoder * count;
    need.encoder += one.encoder * count;
    need.jpeg += one.jpeg * count;
    need.ofa += one.ofa * count;
  }
  const auto lacks = [](const char* what, int needed, int have) {
    return needed > have ? fmt::format("{}: {} needed of {}", what, needed, have) : std::string();
  };
  for (const std::string& lack : {lacks("decoders", need.decoder, offer.engines.decoder),
                                  lacks("encoders", need.encoder, offer.engines.encoder),
                                  lacks("JPEG engines", need.jpeg, offer.engines.jpeg),
                                  lacks("OFA engines", need.ofa, offer.engines.ofa)}) {
    if (!lack.empty()) return lack;
  }
  return {};
}

std::string StrangersRefusal(const Problem& problem, const PartitionChoice& partition) {
  const auto tenant = [&](const Variant* v) {
    return problem.tenant_of[static_cast<std::size_t>(v->workload)];
  };
  const bool strangers = std::any_of(
      partition.contents.begin(), partition.contents.end(),
      [&](const auto& c) { return tenant(c.first) != tenant(partition.contents[0].first); });
  if (!strangers) return {};
  for (const auto& [variant, count] : partition.contents) {
    const Workload& workload =
        problem.fleet->workloads[static_cast<std::size_t>(variant->workload)];
    if (!ToleratesStrangers(workload.isolation, partition.mode, partition.servers)) {
      return fmt::format("isolation: {} needs '{}' against other tenants", workload.name,
                         IsolationName(workload.isolation));
    }
  }
  return {};
}

// Units alone on a whole GPU, of those that a replica does in a second.
double WorkOf(const Workload& workload, const BusyFigures& figures) {
  return figures.rate_per_s * workload.compute.measured->service_ms / 1000;
}

}  // namespace

std::vector<BusyFigures> BusyIn(const Problem& problem, int board,
                                const PartitionChoice& partition) {
  std::vector<BusyFigures> result(partition.contents.size());
  std::vector<BusyKind> kinds;
  std::vector<std::size_t> where;  // Of each kind.
  std::set<int> tenants;
  bool known = true;  // Of all: what they do when it is their turn.
  double other_load = 0;
  for (std::size_t c = 0; c < partition.contents.size(); ++c) {
    const auto& [variant, count] = partition.contents[c];
    tenants.insert(problem.tenant_of[static_cast<std::size_t>(variant->workload)]);
    if (!variant->busy) {
      known = false;
      other_load += variant->load * count;
      continue;
    }
    kinds.push_back(*variant->busy);
    kinds.back().count = count;
    kinds.back().server = problem.tenant_of[static_cast<std::size_t>(variant->workload)];
    where.push_back(c);
  }
  const bool servers = partition.servers && tenants.size() > 1;
  if (kinds.empty()) return result;
  if (!known && (servers || partition.mode == SharingMode::kTimeSlicing)) return result;
  const double switch_ms = problem.boards[static_cast<std::size_t>(board)].calibration.switch_ms;
  std::vector<BusyFigures> figures;
  if (partition.mode != SharingMode::kMps) {
    figures = TakingTurns(kinds, switch_ms);
  } else {
    figures =
        servers ? UnderMpsServers(kinds, switch_ms) : UnderMps(kinds, std::min(1.0, other_load));
  }
  for (std::size_t k = 0; k < kinds.size(); ++k) result[where[k]] = figures[k];
  return result;
}

namespace {

Prediction PredictBusy(const Variant& variant, const BusyFigures& figures) {
  Prediction prediction;
  prediction.service_ms = variant.busy->unit_ms;
  prediction.slowdown_mean = figures.slowdown;
  prediction.utilisation = 1;
  prediction.latency_ms_p50 = figures.latency_ms;
  prediction.throughput_per_s = figures.rate_per_s;
  return prediction;
}

}  // namespace

Prediction PredictIn(const Problem& problem, int board, const PartitionChoice& partition,
                     const Occupancy& occupancy, const Variant& variant) {
  if (variant.busy) {
    const std::vector<BusyFigures> busy = BusyIn(problem, board, partition);
    for (std::size_t c = 0; c < busy.size(); ++c) {
      if (partition.contents[c].first != &variant || busy[c].rate_per_s == 0) continue;
      return PredictBusy(variant, busy[c]);
    }
  }
  const Workload& workload = problem.fleet->workloads[static_cast<std::size_t>(variant.workload)];
  const Slowdown slowdown = SlowdownIn(partition, occupancy, variant);
  Prediction prediction;
  prediction.service_ms = variant.service_ms;
  // Neighbours that may always be busy can at worst take turns with it.
  prediction.slowdown_mean =
      std::isinf(slowdown.mean) ? std::max(1.0, occupancy.share) : slowdown.mean;
  prediction.utilisation = 1;
  if (!workload.load) return prediction;
  const Latency latency = LatencyOf(workload, variant, slowdown);
  prediction.utilisation = std::min(1.0, latency.utilisation);
  if (!latency.stable) return prediction;
  prediction.latency_ms_p50 = latency.p50_ms;
  prediction.latency_ms_p99 = latency.p99_ms;
  if (const auto headroom = HeadroomOf(workload, latency)) {
    prediction.headroom_percent = *headroom * 100;
  }
  return prediction;
}

Outlook OutlookOf(const Problem& problem, int board, const PartitionChoice& partition) {
  const Offer& offer = problem.boards[static_cast<std::size_t>(board)]
                           .offers[static_cast<std::size_t>(partition.offer)];
  const Occupancy occupancy = OccupancyOf(partition);
  Outlook outlook;
  if (partition.offer != 0) outlook.stranded = offer.memory - occupancy.memory;
  outlook.memory = occupancy.memory;
  outlook.refusal = CountedRefusal(problem, offer, partition, occupancy);
  if (outlook.refusal.empty()) outlook.refusal = StrangersRefusal(problem, partition);
  const std::vector<BusyFigures> busy = BusyIn(problem, board, partition);
  for (std::size_t c = 0; c < partition.contents.size(); ++c) {
    const auto& [variant, count] = partition.contents[c];
    const Workload& workload =
        problem.fleet->workloads[static_cast<std::size_t>(variant->workload)];
    if (busy[c].rate_per_s > 0) {
      const double work = WorkOf(workload, busy[c]);
      outlook.throughput_per_s += busy[c].rate_per_s * count;
      outlook.work += work * count;
      outlook.stretch_sum += count / work;
      continue;
    }
    const Slowdown slowdown = SlowdownIn(partition, occupancy, *variant);
    const double mean = std::isinf(slowdown.mean) ? std::max(1.0, occupancy.share) : slowdown.mean;
    outlook.stretch_sum += variant->stretch * mean * count;
    if (!workload.load) continue;
    const Latency latency = LatencyOf(workload, *variant, slowdown);
    if (const auto headroom = HeadroomOf(workload, latency)) {
      outlook.headroom = std::min(outlook.headroom, *headroom);
    }
    if (!outlook.refusal.empty()) continue;
    if (std::isinf(slowdown.mean)) {
      outlook.refusal = fmt::format(
          "load: the neighbours of {} would keep the GPU busy {:.0f} % "
          "of the time",
          workload.name, (occupancy.load - variant->load) * 100);
    } else if (!latency.stable) {
      outlook.refusal = fmt::format("load: {} would be busy {:.0f} % of the time", workload.name,
                                    latency.utilisation * 100);
    } else if (HeadroomOf(workload, latency).value_or(0) < -kSumSlack) {
      outlook.refusal =
          fmt::format("latency: {} would see {}", workload.name, MissOf(workload, latency));
    }
  }
  return outlook;
}

}  // namespace sublet
