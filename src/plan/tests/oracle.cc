#include "plan/tests/oracle.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

namespace sublet {
namespace {

constexpr double kRounding = 1e-9;
constexpr int kClientsMax = 48;

struct Place {
  const Board& board;
  const MigProfile* profile;
  Calibration calibration;

  double sm_part() const {
    return profile == nullptr ? 1.0 : static_cast<double>(profile->sm_count) / board.sm_count;
  }
  double bandwidth_part() const {
    return profile == nullptr ? 1.0 : static_cast<double>(profile->size) / board.memory_units;
  }
  std::int64_t memory_mib() const {
    const double reserve = static_cast<double>(calibration.device_reserve.count);
    const Bytes all = profile == nullptr ? board.memory : profile->memory;
    return (all.count - static_cast<std::int64_t>(reserve * bandwidth_part())) >> 20;
  }
  const EngineCounts& engines() const {
    return profile == nullptr ? board.engines : profile->engines;
  }
};

// Speed with `percent` of the SMs of the board that the figures are of.
double Speed(const ComputeNeed& need, double percent) {
  if (need.profile.empty()) return std::min(1.0, percent / need.sm_percent);
  double x = 0;
  double y = 0;
  for (const SpeedPoint& point : need.profile) {
    if (percent <= point.sm_percent) {
      return y + (point.speed - y) * (percent - x) / (point.sm_percent - x);
    }
    x = point.sm_percent;
    y = point.speed;
  }
  return y;
}

// A smaller board than the one measured on: the same percentage is fewer SMs there.
double SizeRatio(const Rulebook& rules, const Board& board, const ComputeNeed& need) {
  if (need.measured_on.empty()) return 1;
  const Board& reference = **rules.catalogue.Find(need.measured_on);
  return std::min(1.0, static_cast<double>(board.sm_count) / reference.sm_count);
}

// Service time with this part of the board, over that on the board it was measured on.
double Stretch(const Rulebook& rules, const Board& board, const ComputeNeed& need, double sm_part,
               double bandwidth_part) {
  double board_ratio = 1;
  if (!need.measured_on.empty() && need.measured_on != board.name) {
    const Board& reference = **rules.catalogue.Find(need.measured_on);
    board_ratio = std::max({board_ratio, reference.dense_bf16_tflops / board.dense_bf16_tflops,
                            reference.memory_bandwidth_gbps / board.memory_bandwidth_gbps});
  }
  const double by_sm = 1 / Speed(need, sm_part * 100 * SizeRatio(rules, board, need));
  const double by_bandwidth = need.bandwidth_percent / 100 / bandwidth_part;
  return board_ratio * std::max({1.0, by_sm, by_bandwidth});
}

double RatePerReplica(const Workload& workload) {
  return workload.load->requests_per_second / workload.replicas;
}

// One occupant by itself.
struct Standing {
  double service_ms = 0;
  double share = 1;
  double busy = 1;
  Bytes context;
};

Standing StandingOf(const Rulebook& rules, const Place& place, Sharing sharing,
                    const Occupant& occupant) {
  const Workload& workload = *occupant.workload;
  const bool mps = sharing == Sharing::kOneServer || sharing == Sharing::kServerEach;
  const bool turns = sharing == Sharing::kTurns || sharing == Sharing::kServerEach;
  const double cap = mps ? occupant.cap / 100.0 : 1.0;
  const double stretch =
      Stretch(rules, place.board, workload.compute, cap * place.sm_part(), place.bandwidth_part());
  Standing standing;
  standing.context = place.calibration.ContextAt(cap * place.sm_part() * 100);
  if (workload.load) {
    standing.service_ms = workload.load->service_ms * stretch;
    if (mps) standing.service_ms *= place.calibration.mps_service_factor;
    if (turns) standing.service_ms += workload.load->steps * place.calibration.switch_ms;
    standing.busy = RatePerReplica(workload) * standing.service_ms / 1000;
  }
  if (sharing == Sharing::kOneServer) {
    const double full = Stretch(rules, place.board, workload.compute, 1, 1);
    const double bandwidth =
        workload.compute.bandwidth_percent / 100 / place.bandwidth_part() * full / stretch;
    standing.share = std::min(1.0, std::max(cap, bandwidth));
  }
  return standing;
}

bool Kept(Isolation isolation, Sharing sharing) {
  switch (isolation) {
    case Isolation::kNone:
      return true;
    case Isolation::kMemory:
      return sharing == Sharing::kOneServer || sharing == Sharing::kServerEach;
    case Isolation::kFault:
      return sharing == Sharing::kServerEach;
    case Isolation::kHardware:
      return false;
  }
  return false;
}

std::string CountedRefusal(const Place& place, Sharing sharing,
                           const std::vector<Occupant>& occupants,
                           const std::vector<Standing>& standings) {
  std::int64_t mib = 0;
  EngineCounts engines;
  std::set<std::string> tenants;
  bool kept = true;
  for (std::size_t i = 0; i < occupants.size(); ++i) {
    const Workload& workload = *occupants[i].workload;
    mib += (workload.memory + standings[i].context).mib_rounded_up();
    engines.decoder += workload.engines.decoder;
    engines.encoder += workload.engines.encoder;
    engines.jpeg += workload.engines.jpeg;
    engines.ofa += workload.engines.ofa;
    tenants.insert(workload.tenant);
    kept = kept && Kept(workload.isolation, sharing);
  }
  if (mib > place.memory_mib()) return "memory";
  const EngineCounts& have = place.engines();
  if (engines.decoder > have.decoder || engines.encoder > have.encoder ||
      engines.jpeg > have.jpeg || engines.ofa > have.ofa) {
    return "engines";
  }
  if (tenants.size() > 1 && !kept) return "isolation";
  if (static_cast<int>(occupants.size()) > kClientsMax) return "clients";
  return {};
}

bool Meets(const Workload& workload, const Latency& latency) {
  return latency.stable &&
         latency.p50_ms <= workload.latency.p50_ms.value_or(latency.p50_ms) * (1 + kRounding) &&
         latency.p99_ms <= workload.latency.p99_ms.value_or(latency.p99_ms) * (1 + kRounding);
}

}  // namespace

Verdict JudgePartition(const Rulebook& rules, const Board& board, const MigProfile* profile,
                       Sharing sharing, const std::vector<Occupant>& occupants) {
  const Place place{board, profile, ForBoard(rules.calibration, board)};
  std::vector<Standing> standings;
  double shares = 0;
  double load = 0;
  double largest = 0;
  for (const Occupant& occupant : occupants) {
    standings.push_back(StandingOf(rules, place, sharing, occupant));
    shares += standings.back().share;
    load += standings.back().share * standings.back().busy;
    largest = std::max(largest, standings.back().share);
  }
  Verdict verdict;
  verdict.refusal = CountedRefusal(place, sharing, occupants, standings);
  if (sharing == Sharing::kAlone && occupants.size() > 1) verdict.refusal = "not alone";
  const int slots = std::clamp(static_cast<int>(1 / largest + kRounding), 1, kSlotsMax);
  const bool side_by_side = sharing == Sharing::kOneServer && shares <= 1 + kRounding;
  for (std::size_t i = 0; i < occupants.size(); ++i) {
    const Workload& workload = *occupants[i].workload;
    verdict.service_ms.push_back(standings[i].service_ms);
    verdict.context.push_back(standings[i].context);
    verdict.latency.emplace_back();
    if (!workload.load) continue;
    Slowdown slowdown;
    if (sharing != Sharing::kAlone && !side_by_side) {
      slowdown = SlowdownBy({.others_load = load - standings[i].share * standings[i].busy,
                             .own_load = standings[i].share * standings[i].busy,
                             .slots = slots});
    }
    verdict.latency.back() =
        PredictLatency({.rate_per_s = RatePerReplica(workload),
                        .service_ms = standings[i].service_ms,
                        .service_variability = workload.load->service_variability,
                        .burstiness = workload.load->burstiness},
                       slowdown);
    if (verdict.refusal.empty() && !Meets(workload, verdict.latency.back())) {
      verdict.refusal = "latency";
    }
  }
  return verdict;
}

namespace {

using Subset = unsigned;

// Whether sets of one fleet's replicas fit the GPUs of one board.
class BoardTrial {
 public:
  BoardTrial(const std::vector<const Workload*>& replicas, const Rulebook& rules,
             const Board& board, Caps caps)
      : replicas_(replicas), rules_(rules), board_(board), caps_(caps) {}

  bool Holds(Subset set) {
    const auto known = holds_.find(set);
    if (known != holds_.end()) return known->second;
    bool holds = FitsPartition(nullptr, set);
    if (!holds && board_.HasMig()) {
      tried_.clear();
      holds = FitsCut(set, std::vector<int>(board_.profiles.size(), 0));
    }
    return holds_[set] = holds;
  }

 private:
  // Puts the replicas of `set` into further instances beside those already `used`.
  bool FitsCut(Subset set, const std::vector<int>& used) {
    if (set == 0) return true;
    if (!tried_.insert({set, used}).second) return false;
    const Subset first = set & (~set + 1);
    for (Subset part = set; part != 0; part = (part - 1) & set) {
      if ((part & first) == 0) continue;
      for (std::size_t p = 0; p < board_.profiles.size(); ++p) {
        if (!FitsPartition(&board_.profiles[p], part)) continue;
        std::vector<int> more = used;
        ++more[p];
        if (CanLie(more) && FitsCut(set & ~part, more)) return true;
      }
    }
    return false;
  }

  // Lays the instances down in the order of the table, each at every start.
  bool CanLie(const std::vector<int>& counts) {
    const auto known = can_lie_.find(counts);
    if (known != can_lie_.end()) return known->second;
    EngineCounts sum;
    std::vector<const MigProfile*> instances;
    bool allowed = true;
    for (std::size_t p = 0; p < counts.size(); ++p) {
      const MigProfile& profile = board_.profiles[p];
      allowed = allowed && counts[p] <= profile.max_instances;
      for (int n = 0; n < counts[p]; ++n) {
        instances.push_back(&profile);
        sum.copy += profile.engines.copy;
        sum.decoder += profile.engines.decoder;
        sum.encoder += profile.engines.encoder;
        sum.jpeg += profile.engines.jpeg;
        sum.ofa += profile.engines.ofa;
      }
    }
    const EngineCounts& have = board_.engines;
    allowed = allowed && sum.copy <= have.copy && sum.decoder <= have.decoder &&
              sum.encoder <= have.encoder && sum.jpeg <= have.jpeg && sum.ofa <= have.ofa;
    std::vector<bool> taken(static_cast<std::size_t>(board_.memory_units), false);
    const std::function<bool(std::size_t)> lay = [&](std::size_t i) {
      if (i == instances.size()) return true;
      for (const int start : instances[i]->starts) {
        const auto begin = taken.begin() + start;
        if (std::find(begin, begin + instances[i]->size, true) != begin + instances[i]->size) {
          continue;
        }
        std::fill(begin, begin + instances[i]->size, true);
        if (lay(i + 1)) return true;
        std::fill(begin, begin + instances[i]->size, false);
      }
      return false;
    };
    return can_lie_[counts] = allowed && lay(0);
  }

  bool FitsPartition(const MigProfile* profile, Subset set) {
    const auto known = fits_.find({profile, set});
    if (known != fits_.end()) return known->second;
    std::vector<Occupant> occupants;
    for (std::size_t r = 0; r < replicas_.size(); ++r) {
      if ((set >> r & 1) != 0) occupants.push_back({replicas_[r], 100});
    }
    bool fits = occupants.size() == 1 && Judge(profile, Sharing::kAlone, occupants);
    fits = fits || (occupants.size() > 1 && Judge(profile, Sharing::kTurns, occupants));
    for (const Sharing sharing : {Sharing::kOneServer, Sharing::kServerEach}) {
      fits = fits || WithSomeCaps(profile, sharing, occupants, 0);
    }
    return fits_[{profile, set}] = fits;
  }

  bool Judge(const MigProfile* profile, Sharing sharing, const std::vector<Occupant>& occupants) {
    return JudgePartition(rules_, board_, profile, sharing, occupants).refusal.empty();
  }

  bool WithSomeCaps(const MigProfile* profile, Sharing sharing, std::vector<Occupant>& occupants,
                    std::size_t i) {
    if (i == occupants.size()) return Judge(profile, sharing, occupants);
    for (const int cap : CapsFor(profile, sharing, *occupants[i].workload)) {
      occupants[i].cap = cap;
      if (WithSomeCaps(profile, sharing, occupants, i + 1)) return true;
    }
    return false;
  }

  const std::vector<int>& CapsFor(const MigProfile* profile, Sharing sharing,
                                  const Workload& workload) {
    auto& caps = caps_for_[{profile, sharing, workload.name}];
    if (!caps.empty()) return caps;
    if (caps_ == Caps::kAll) {
      for (int cap = 5; cap <= 100; cap += 5) caps.push_back(cap);
      return caps;
    }
    const int knee = Knee(profile, workload);
    caps.push_back(knee);
    if (sharing == Sharing::kServerEach || !workload.load) return caps;
    for (int cap = 5; cap < knee; cap += 5) {
      if (JudgePartition(rules_, board_, profile, sharing, {{&workload, cap}}).refusal !=
          "latency") {
        caps.push_back(cap);
        break;
      }
    }
    return caps;
  }

  // The smallest multiple of 5 % that has the SMs which the workload can use.
  int Knee(const MigProfile* profile, const Workload& workload) const {
    double percent = workload.compute.sm_percent;
    if (!workload.compute.profile.empty()) {
      percent = std::find_if(workload.compute.profile.begin(), workload.compute.profile.end(),
                             [](const SpeedPoint& point) { return point.speed >= 0.95; })
                    ->sm_percent;
    }
    const double sms =
        percent / SizeRatio(rules_, board_, workload.compute) / 100 * board_.sm_count;
    const int there = profile == nullptr ? board_.sm_count : profile->sm_count;
    for (int cap = 5; cap < 100; cap += 5) {
      if (cap / 100.0 * there >= sms - 1e-6) return cap;
    }
    return 100;
  }

  const std::vector<const Workload*>& replicas_;
  const Rulebook& rules_;
  const Board& board_;
  const Caps caps_;
  std::map<Subset, bool> holds_;
  std::map<std::pair<const MigProfile*, Subset>, bool> fits_;
  std::map<std::vector<int>, bool> can_lie_;
  std::set<std::pair<Subset, std::vector<int>>> tried_;
  std::map<std::tuple<const MigProfile*, Sharing, std::string>, std::vector<int>> caps_for_;
};

// Splits the replicas over GPUs in every way.
class FleetTrial {
 public:
  FleetTrial(const Fleet& fleet, const Rulebook& rules, Caps caps) : fleet_(fleet) {
    for (const Workload& workload : fleet.workloads) {
      for (int r = 0; r < workload.replicas; ++r) replicas_.push_back(&workload);
    }
    for (const GpuPool& pool : fleet.gpus) {
      const Board& board = **rules.catalogue.Find(pool.board);
      trials_.emplace_back(replicas_, rules, board, caps);
      prices_.push_back(pool.price_usd_hour.value_or(board.price_usd_hour));
      left_.push_back(pool.count.value_or(static_cast<int>(replicas_.size())));
    }
  }

  std::optional<double> Cheapest() {
    const double cost = Rest((1u << replicas_.size()) - 1);
    if (std::isinf(cost)) return std::nullopt;
    return cost;
  }

 private:
  double Rest(Subset open) {
    if (open == 0) return 0;
    const auto known = rest_.find({open, left_});
    if (known != rest_.end()) return known->second;
    double best = std::numeric_limits<double>::infinity();
    const Subset first = open & (~open + 1);
    for (Subset set = open; set != 0; set = (set - 1) & open) {
      if ((set & first) == 0) continue;
      for (std::size_t b = 0; b < trials_.size(); ++b) {
        if (left_[b] == 0 || !trials_[b].Holds(set)) continue;
        --left_[b];
        best = std::min(best, prices_[b] + Rest(open & ~set));
        ++left_[b];
      }
    }
    return rest_[{open, left_}] = best;
  }

  const Fleet& fleet_;
  std::vector<const Workload*> replicas_;
  std::vector<BoardTrial> trials_;
  std::vector<double> prices_;
  std::vector<int> left_;
  std::map<std::pair<Subset, std::vector<int>>, double> rest_;
};

}  // namespace

std::optional<double> CheapestByTrying(const Fleet& fleet, const Rulebook& rules, Caps caps) {
  return FleetTrial(fleet, rules, caps).Cheapest();
}

}  // namespace sublet
