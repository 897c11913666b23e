#include "plan/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/check.h"
#include "model/enforcer.h"
#include "plan/outlook.h"
#include "plan/refine.h"

namespace sublet {
namespace {

const Workload& WorkloadOf(const Problem& problem, int workload) {
  return problem.fleet->workloads[static_cast<std::size_t>(workload)];
}

const BoardOffers& BoardAt(const Problem& problem, int board) {
  return problem.boards[static_cast<std::size_t>(board)];
}

std::string OfferName(const Problem& problem, int board, int offer) {
  const Board& b = *BoardAt(problem, board).pool.board;
  if (offer == 0) return fmt::format("a whole {}", b.name);
  return fmt::format("{} on {}", b.profiles[static_cast<std::size_t>(offer - 1)].name, b.name);
}

const std::vector<Variant>& VariantsOf(const Offer& offer, SharingMode mode, bool servers) {
  if (mode == SharingMode::kExclusive) return offer.exclusive;
  if (mode == SharingMode::kTimeSlicing) return offer.time_slicing;
  return servers ? offer.servers : offer.mps;
}

// "25,589", "640", "6.4".
std::string Rate(double per_s) {
  if (per_s < 100) return fmt::format("{:.2g}", per_s);
  std::string digits = fmt::format("{:.0f}", per_s);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

// The same replicas in the same partition under another mode; nullopt with the reason where one of
// them can't be in it at all.
std::optional<PartitionChoice> Under(const Problem& problem, int board,
                                     const PartitionChoice& partition, SharingMode mode,
                                     bool servers, std::string& why) {
  const Offer& offer = BoardAt(problem, board).offers[static_cast<std::size_t>(partition.offer)];
  PartitionChoice other{partition.offer, mode, servers, {}};
  for (const auto& [variant, count] : partition.contents) {
    const Variant* found = nullptr;
    for (const Variant& v : VariantsOf(offer, mode, servers)) {
      if (v.workload == variant->workload) found = &v;  // The last is the tightest.
    }
    if (found == nullptr) {
      why = fmt::format(
          "{} {}", WorkloadOf(problem, variant->workload).name,
          WhyNoVariant(problem, board, partition.offer, variant->workload, mode, servers));
      return std::nullopt;
    }
    if (!other.contents.empty() && other.contents.back().first == found) {
      other.contents.back().second += count;
    } else {
      other.contents.emplace_back(found, count);
    }
  }
  return other;
}

// Why these replicas don't share this partition in that mode.
std::string WhyNotUnder(const Problem& problem, int board, const PartitionChoice& partition,
                        SharingMode mode, const Outlook& chosen) {
  std::string why;
  const auto other = Under(problem, board, partition, mode, false, why);
  if (!other) return why;
  const Outlook outlook = OutlookOf(problem, board, *other);
  if (!outlook.refusal.empty()) return outlook.refusal;
  if (outlook.headroom < chosen.headroom - 1e-9) {
    return fmt::format(
        "possible on the same GPU, but leaves {:.0f} % below the latency target "
        "instead of {:.0f} %",
        outlook.headroom * 100, chosen.headroom * 100);
  }
  if (chosen.work > 0 && outlook.work < chosen.work) {
    return fmt::format(
        "possible on the same GPU, but the always-busy replicas would get {} units/s "
        "of work together instead of {}",
        Rate(outlook.throughput_per_s), Rate(chosen.throughput_per_s));
  }
  return "possible on the same GPU, but each replica would be slower or less confined";
}

// The smallest instance that holds the workload by itself, as an offer; -1 where none does.
int SmallestInstance(const Problem& problem, int board, int workload) {
  const BoardOffers& offers = BoardAt(problem, board);
  int best = -1;
  for (std::size_t o = 1; o < offers.offers.size(); ++o) {
    for (const Variant& v : offers.offers[o].exclusive) {
      if (v.workload != workload) continue;
      if (best < 0 ||
          offers.offers[o].memory < offers.offers[static_cast<std::size_t>(best)].memory) {
        best = static_cast<int>(o);
      }
    }
  }
  return best;
}

std::string WhyNotMig(const Problem& problem, int board, int workload, int replicas_on_gpu) {
  const BoardOffers& offers = BoardAt(problem, board);
  if (!offers.pool.board->HasMig()) return fmt::format("{} has no MIG", offers.pool.board->name);
  if (offers.geometry == nullptr) return "this node can't change its MIG geometry";
  const int offer = SmallestInstance(problem, board, workload);
  if (offer < 0) {
    const int largest = static_cast<int>(offers.offers.size()) - 1;
    return fmt::format(
        "no profile of {} holds a replica: in {} it {}", offers.pool.board->name,
        OfferName(problem, board, largest),
        WhyNoVariant(problem, board, largest, workload, SharingMode::kExclusive, false));
  }
  const MigProfile& profile = offers.pool.board->profiles[static_cast<std::size_t>(offer - 1)];
  if (replicas_on_gpu > profile.max_instances) {
    return fmt::format(
        "the smallest instance that holds it is {}, of which a GPU has {}; {} "
        "replicas are on this one",
        profile.name, profile.max_instances, replicas_on_gpu);
  }
  return fmt::format("possible with {}, but an instance has {} of {} SMs for good, busy or not",
                     profile.name, profile.sm_count, offers.pool.board->sm_count);
}

int ReplicasOn(const Pattern& gpu) {
  int replicas = 0;
  for (const auto& [w, n] : gpu.counts) replicas += n;
  return replicas;
}

void RejectFor(const Problem& problem, int workload, const Pattern& gpu,
               const PartitionChoice& partition, std::vector<Rejection>& out) {
  const std::string& name = WorkloadOf(problem, workload).name;
  const Outlook chosen = OutlookOf(problem, gpu.board, partition);
  const int on_gpu = ReplicasOn(gpu);
  if (partition.mode != SharingMode::kExclusive && on_gpu > 1) {
    out.push_back(
        {name, SharingMode::kExclusive,
         fmt::format("a GPU of its own would serve one replica; this one holds {}", on_gpu)});
  }
  out.push_back({name, SharingMode::kStreams,
                 "replicas are processes of their own; streams overlap work within one process"});
  if (partition.mode != SharingMode::kTimeSlicing) {
    out.push_back({name, SharingMode::kTimeSlicing,
                   on_gpu == 1 ? "nothing shares its GPU"
                               : WhyNotUnder(problem, gpu.board, partition,
                                             SharingMode::kTimeSlicing, chosen)});
  }
  if (partition.mode != SharingMode::kMps) {
    out.push_back({name, SharingMode::kMps,
                   on_gpu == 1
                       ? "nothing shares its GPU"
                       : WhyNotUnder(problem, gpu.board, partition, SharingMode::kMps, chosen)});
  }
  if (partition.offer == 0) {
    out.push_back({name, SharingMode::kMig, WhyNotMig(problem, gpu.board, workload, on_gpu)});
  }
}

struct PureStrategy {
  std::string_view name;
  SharingMode mode;
  ModeSet modes;
  bool for_busy = false;  // Compared only where there are always-busy replicas of known speed.
};

constexpr PureStrategy kStrategies[] = {
    {"exclusive", SharingMode::kExclusive, {true, false, false, false, false}},
    {"time-slicing", SharingMode::kTimeSlicing, {true, false, true, false, false}},
    {"mps-uncapped", SharingMode::kMps, {true, false, false, true, false, false}, true},
    {"mps", SharingMode::kMps, {true, false, false, true, false}},
    {"mig", SharingMode::kMig, {true, true, false, false, false}},
};

bool HasBusy(const Fleet& fleet) {
  return std::any_of(fleet.workloads.begin(), fleet.workloads.end(), [](const Workload& workload) {
    return !workload.load && workload.compute.measured;
  });
}

// The worst predicted latencies, and what the weakest shared partition keeps apart.
void Judge(const Problem& problem, const std::vector<Pattern>& gpus, Strategy& strategy) {
  Isolation weakest = Isolation::kHardware;
  for (const Pattern& gpu : gpus) {
    for (const PartitionChoice& partition : gpu.partitions) {
      const Occupancy occupancy = OccupancyOf(partition);
      for (const auto& [variant, count] : partition.contents) {
        const Prediction p = PredictIn(problem, gpu.board, partition, occupancy, *variant);
        if (p.throughput_per_s) {
          strategy.throughput_per_s =
              strategy.throughput_per_s.value_or(0) + *p.throughput_per_s * count;
        }
        if (p.latency_ms_p50 && *p.latency_ms_p50 > strategy.latency_ms_p50.value_or(0)) {
          strategy.latency_ms_p50 = p.latency_ms_p50;
        }
        if (p.latency_ms_p99 && *p.latency_ms_p99 > strategy.latency_ms_p99.value_or(0)) {
          strategy.latency_ms_p99 = p.latency_ms_p99;
        }
      }
      if (occupancy.replicas < 2) continue;
      if (partition.mode == SharingMode::kTimeSlicing)
        weakest = std::min(weakest, Isolation::kNone);
      if (partition.mode == SharingMode::kMps) {
        weakest = std::min(weakest, partition.servers ? Isolation::kFault : Isolation::kMemory);
      }
    }
  }
  strategy.isolation = IsolationName(weakest);
}

// What goes wrong when a mode alone must do with the GPUs of the chosen plan.
void NoteBreaks(const Problem& problem, const std::vector<Pattern>& chosen,
                const PureStrategy& pure, Strategy& strategy) {
  std::set<std::string> seen;
  for (const Pattern& gpu : chosen) {
    for (const PartitionChoice& partition : gpu.partitions) {
      if (partition.offer != 0 || partition.mode == SharingMode::kExclusive) continue;
      if (pure.mode == SharingMode::kTimeSlicing || pure.mode == SharingMode::kMps) {
        if (partition.mode == pure.mode) continue;
        std::string why;
        const auto other = Under(problem, gpu.board, partition, pure.mode, false, why);
        if (other) why = OutlookOf(problem, gpu.board, *other).refusal;
        if (!why.empty() && seen.insert(why).second) {
          strategy.breaks.push_back(fmt::format("on the chosen GPUs: {}", why));
        }
      }
      if (seen.size() == 3) return;  // Enough to see why.
    }
  }
}

std::vector<std::pair<int, int>> CountByBoard(const Problem& problem,
                                              const std::vector<Pattern>& chosen) {
  std::vector<std::pair<int, int>> counts;
  for (std::size_t b = 0; b < problem.boards.size(); ++b)
    counts.emplace_back(static_cast<int>(b), 0);
  for (const Pattern& gpu : chosen) ++counts[static_cast<std::size_t>(gpu.board)].second;
  return counts;
}

// What a mode would take may be more than is there: each board whose number is limited can be had
// in any number at the dearest price that it is offered at. Keeps the pools' indices.
void AddSpares(std::vector<Pool>& pools) {
  const std::size_t offered = pools.size();
  for (std::size_t p = 0; p < offered; ++p) {
    Pool spare = pools[p];
    bool first = true;
    bool unlimited = false;
    for (std::size_t q = 0; q < offered; ++q) {
      if (pools[q].board != spare.board) continue;
      first &= q >= p;
      unlimited |= pools[q].count < 0;
      spare.price_usd_hour = std::max(spare.price_usd_hour, pools[q].price_usd_hour);
    }
    if (!first || unlimited) continue;
    spare.count = -1;
    pools.push_back(spare);
  }
}

bool Offers(const ModeSet& modes, SharingMode mode) {
  switch (mode) {
    case SharingMode::kTimeSlicing:
      return modes.time_slicing;
    case SharingMode::kMps:
      return modes.mps;
    case SharingMode::kMig:
      return modes.mig;
    case SharingMode::kExclusive:
    case SharingMode::kStreams:
      return modes.exclusive;
  }
  CHECK(false);
}

Result<Strategy> Evaluate(const PlanRequest& request, std::vector<Pool> pools,
                          const PureStrategy& pure, const Problem& chosen_problem,
                          const std::vector<Pattern>& chosen) {
  Strategy strategy;
  strategy.name = pure.name;
  AddSpares(pools);
  ASSIGN_OR_RETURN(const Problem problem, BuildProblem(request.fleet, pools, *request.catalogue,
                                                       *request.calibration, pure.modes));
  if (const bool offered =
          std::any_of(pools.begin(), pools.end(),
                      [&](const Pool& pool) { return Offers(pool.modes, pure.mode); });
      !offered) {
    strategy.breaks.emplace_back("no GPU of this node can run it (sublet inspect says why)");
    strategy.isolation = IsolationName(Isolation::kNone);
    return strategy;
  }
  NoteBreaks(chosen_problem, chosen, pure, strategy);
  if (const Status fits = CheckEachFitsSomewhere(problem); !fits) {
    strategy.breaks.insert(strategy.breaks.begin(), fits.error().message);
    strategy.isolation = IsolationName(Isolation::kNone);
    strategy.holds = HoldsAtMost(problem, CountByBoard(problem, chosen));
    return strategy;
  }
  const Solution solution = Solve(problem, {.prove = false, .rounds_max = 60, .cbc_nodes_max = 0});
  CHECK(solution.Complete());
  const std::vector<Pattern> gpus = Refine(problem, solution);
  strategy.feasible = true;
  strategy.gpus = static_cast<int>(gpus.size());
  for (const Pattern& gpu : gpus) {
    strategy.cost_month_usd += BoardAt(problem, gpu.board).pool.price_usd_hour * kHoursPerMonth;
  }
  strategy.holds = HoldsAtMost(problem, CountByBoard(problem, chosen));
  Judge(problem, gpus, strategy);
  return strategy;
}

// What these replicas would do together without caps; 0 where they don't fit so.
double UncappedPerS(const Problem& problem, int board, const PartitionChoice& partition) {
  const Offer& offer = BoardAt(problem, board).offers[static_cast<std::size_t>(partition.offer)];
  PartitionChoice uncapped = partition;
  for (auto& [variant, count] : uncapped.contents) {
    for (const Variant& v : offer.busy_caps) {
      if (v.workload == variant->workload && v.sm_percent == 100) variant = &v;
    }
  }
  const Outlook outlook = OutlookOf(problem, board, uncapped);
  return outlook.refusal.empty() ? outlook.throughput_per_s : 0;
}

// "; always busy: 640 units/s each, 25,589 with the others, 10,790 without caps".
std::string BusyReason(const Problem& problem, int board, const PartitionChoice& partition,
                       const Prediction& prediction) {
  const Outlook outlook = OutlookOf(problem, board, partition);
  std::string reason =
      fmt::format("; always busy: {} units/s, {} together with its neighbours",
                  Rate(*prediction.throughput_per_s), Rate(outlook.throughput_per_s));
  if (partition.mode != SharingMode::kMps || partition.servers) return reason;
  const double uncapped = UncappedPerS(problem, board, partition);
  if (uncapped > 0) {
    reason += fmt::format("; the cap with the most work done, {} without one", Rate(uncapped));
  }
  return reason;
}

}  // namespace

std::string ReasonFor(const Problem& problem, int board, const PartitionChoice& partition,
                      const Variant& variant) {
  const Workload& workload = WorkloadOf(problem, variant.workload);
  const Occupancy occupancy = OccupancyOf(partition);
  const std::string where = OfferName(problem, board, partition.offer);
  if (partition.mode == SharingMode::kExclusive) {
    return fmt::format(
        "alone in {}: {} of {} used", where, FormatBytes(variant.memory),
        FormatBytes(
            BoardAt(problem, board).offers[static_cast<std::size_t>(partition.offer)].memory));
  }
  std::string reason = fmt::format("one of {} in {}", occupancy.replicas, where);
  if (partition.mode == SharingMode::kTimeSlicing) {
    reason += ", taking turns";
  } else {
    reason += fmt::format(", capped at {} % of the SMs", variant.sm_percent);
  }
  const Prediction prediction = PredictIn(problem, board, partition, occupancy, variant);
  if (prediction.throughput_per_s) {
    return reason + BusyReason(problem, board, partition, prediction);
  }
  const Slowdown slowdown = SlowdownIn(partition, occupancy, variant);
  if (SideBySide(partition, occupancy)) {
    reason += fmt::format("; the shares add up to {:.0f} %, so nobody waits for another's SMs",
                          occupancy.share * 100);
  } else if (workload.load && slowdown.mean < 1e6) {
    reason += fmt::format("; the others keep {:.0f} % busy, which slows it {:.2f}x on average",
                          (occupancy.load - variant.load) * 100, slowdown.mean);
  } else {
    reason += "; no load is given for it, so it may wait for the others at any time";
  }
  return reason;
}

std::vector<Enforcement> EnforcementOf(const Problem& problem, const PartitionChoice& partition,
                                       const Variant& variant) {
  const std::string whole(partition.offer == 0 ? kByWholeGpu : kByMigInstance);
  const bool alone = partition.mode == SharingMode::kExclusive;
  if (alone) return {{"memory", whole, true}, {"sm", whole, true}, {"fault", whole, true}};
  if (partition.mode == SharingMode::kTimeSlicing) {
    return {{"memory", std::string(kNoMemoryEnforcer), false},
            {"sm", std::string(kNoSmEnforcer), false},
            {"fault", std::string(kByOwnProcess), true}};
  }
  std::set<int> tenants;
  for (const auto& [v, count] : partition.contents) {
    tenants.insert(problem.tenant_of[static_cast<std::size_t>(v->workload)]);
  }
  const bool own_server = partition.servers || tenants.size() == 1;
  const bool capped = variant.sm_percent < 100;
  std::vector<Enforcement> result{
      {"memory", std::string(kByMpsMemoryLimit), true},
      {"sm", std::string(capped ? kByMpsThreadPercentage : kNoSmCap), capped}};
  result.push_back(own_server
                       ? Enforcement{"fault", std::string(kByTenantsServer), true}
                       : Enforcement{"fault",
                                     "not enforced: a crash of another tenant in the same MPS "
                                     "server ends it",
                                     false});
  return result;
}

std::vector<Rejection> RejectionsOf(const Problem& problem, const std::vector<Pattern>& chosen) {
  std::vector<Rejection> rejections;
  std::set<int> seen;
  for (const Pattern& gpu : chosen) {
    for (const PartitionChoice& partition : gpu.partitions) {
      for (const auto& [variant, count] : partition.contents) {
        if (!seen.insert(variant->workload).second) continue;
        RejectFor(problem, variant->workload, gpu, partition, rejections);
      }
    }
  }
  return rejections;
}

Result<std::vector<Strategy>> CompareStrategies(const PlanRequest& request,
                                                const std::vector<Pool>& pools,
                                                const Problem& problem,
                                                const std::vector<Pattern>& chosen) {
  std::vector<Strategy> strategies;
  Strategy own;
  own.name = "chosen";
  own.feasible = true;
  own.gpus = static_cast<int>(chosen.size());
  for (const Pattern& gpu : chosen) {
    own.cost_month_usd += BoardAt(problem, gpu.board).pool.price_usd_hour * kHoursPerMonth;
    own.holds += ReplicasOn(gpu);
  }
  Judge(problem, chosen, own);
  strategies.push_back(std::move(own));
  for (const PureStrategy& pure : kStrategies) {
    if (pure.for_busy && !HasBusy(request.fleet)) continue;
    ASSIGN_OR_RETURN(Strategy strategy, Evaluate(request, pools, pure, problem, chosen));
    strategies.push_back(std::move(strategy));
  }
  Strategy streams;
  streams.name = "streams";
  streams.isolation = IsolationName(Isolation::kNone);
  streams.breaks.push_back(
      "streams overlap work within one process; replicas are processes of their own");
  strategies.push_back(std::move(streams));
  return strategies;
}

Status CheckEachFitsSomewhere(const Problem& problem) {
  std::vector<bool> fits(problem.fleet->workloads.size(), false);
  for (const BoardOffers& board : problem.boards) {
    for (const Offer& offer : board.offers) {
      for (const auto* variants :
           {&offer.exclusive, &offer.time_slicing, &offer.mps, &offer.servers}) {
        for (const Variant& v : *variants) fits[static_cast<std::size_t>(v.workload)] = true;
      }
    }
  }
  for (std::size_t w = 0; w < fits.size(); ++w) {
    if (fits[w]) continue;
    // The whole GPU of each board comes closest.
    std::vector<std::string> reasons;
    for (std::size_t b = 0; b < problem.boards.size(); ++b) {
      reasons.push_back(
          fmt::format("on {} it {}", OfferName(problem, static_cast<int>(b), 0),
                      WhyNoVariant(problem, static_cast<int>(b), 0, static_cast<int>(w),
                                   SharingMode::kExclusive, false)));
    }
    return Fail(ErrorCode::kInfeasible,
                fmt::format("{} fits no GPU: {}", problem.fleet->workloads[w].name,
                            fmt::join(reasons, "; ")),
                "offer a larger board, shard the model, or relax its latency target");
  }
  return {};
}

}  // namespace sublet
