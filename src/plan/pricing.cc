#include "plan/pricing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "base/check.h"

namespace sublet {
namespace {

// Shares and loads that differ by less are the same sum in another order.
constexpr double kSumSlack = 1e-9;

// Cuts whose proven worth is within this many of the best are filled for real; the first is nearly
// always the one.
constexpr int kCutsTried = 4;

// Steps towards the rents at which instances share the demand; most cuts need less than ten.
constexpr int kRentSteps = 40;
constexpr double kRentSlack = 1e-3;  // Relative: a bound this close to the best found will do.

// The knapsack's weights of one replica, as parts of the offer's capacities.
std::array<double, kKnapsackDimensions> WeightsOf(const Variant& v, const Offer& offer,
                                                  const EngineCounts& engines, double limited,
                                                  double limit, bool mps) {
  const auto part = [](int need, int have) {
    return need == 0 ? 0.0 : static_cast<double>(need) / have;
  };
  return {static_cast<double>(v.memory.count) / static_cast<double>(offer.memory.count),
          std::isinf(limit) ? 0.0 : limited / limit,
          mps ? 1.0 / offer.clients_max : 0.0,
          part(engines.decoder, offer.engines.decoder),
          part(engines.encoder, offer.engines.encoder),
          part(engines.jpeg, offer.engines.jpeg),
          part(engines.ofa, offer.engines.ofa)};
}

}  // namespace

void Pattern::Tally() {
  std::map<int, int> sums;
  for (const PartitionChoice& partition : partitions) {
    for (const auto& [variant, count] : partition.contents) sums[variant->workload] += count;
  }
  counts.assign(sums.begin(), sums.end());
}

Occupancy OccupancyOf(const PartitionChoice& partition) {
  Occupancy sum;
  for (const auto& [variant, count] : partition.contents) {
    sum.share += variant->share * count;
    sum.load += variant->load * count;
    sum.slots = std::min(sum.slots, variant->slots());
    sum.memory += variant->memory * count;
    sum.replicas += count;
  }
  return sum;
}

bool SideBySide(const PartitionChoice& partition, const Occupancy& occupancy) {
  return partition.mode == SharingMode::kMps && !partition.servers &&
         occupancy.share <= 1 + kSumSlack;
}

Slowdown SlowdownIn(const PartitionChoice& partition, const Occupancy& occupancy,
                    const Variant& variant) {
  if (partition.mode == SharingMode::kExclusive || SideBySide(partition, occupancy)) return {};
  return SlowdownBy({.others_load = occupancy.load - variant.load,
                     .own_load = variant.load,
                     .slots = occupancy.slots});
}

bool ToleratesStrangers(Isolation isolation, SharingMode mode, bool servers) {
  switch (mode) {
    case SharingMode::kTimeSlicing:
      return isolation == Isolation::kNone;
    case SharingMode::kMps:
      return isolation <= (servers ? Isolation::kFault : Isolation::kMemory);
    case SharingMode::kExclusive:
    case SharingMode::kStreams:
    case SharingMode::kMig:
      return true;
  }
  CHECK(false);
}

Pricer::Pricer(const Problem& problem) : problem_(problem) {
  for (const BoardOffers& board : problem.boards) {
    auto& offers = tasks_.emplace_back();
    for (const Offer& offer : board.offers) offers.push_back(TasksOf(offer));
  }
}

std::vector<std::vector<const Variant*>> Pricer::Scopes(const std::vector<Variant>& variants,
                                                        SharingMode mode, bool servers) const {
  std::vector<const Variant*> mixed;
  std::map<int, std::vector<const Variant*>> by_tenant;
  std::set<int> with_loners;  // Tenants of whom some workload must not meet strangers.
  for (const Variant& v : variants) {
    const auto w = static_cast<std::size_t>(v.workload);
    const int tenant = problem_.tenant_of[w];
    by_tenant[tenant].push_back(&v);
    if (ToleratesStrangers(problem_.fleet->workloads[w].isolation, mode, servers)) {
      mixed.push_back(&v);
    } else {
      with_loners.insert(tenant);
    }
  }
  std::vector<std::vector<const Variant*>> scopes;
  if (!mixed.empty()) scopes.push_back(std::move(mixed));
  if (servers) return scopes;  // A tenant among itself needs one server only.
  for (const int tenant : with_loners) scopes.push_back(std::move(by_tenant[tenant]));
  return scopes;
}

void Pricer::AddLoadTasks(const std::vector<const Variant*>& members, SharingMode mode,
                          bool servers, std::vector<Task>& out) {
  std::set<int> classes;
  for (const Variant* v : members) classes.insert(v->slots());
  for (const int slots : classes) {
    const auto k = static_cast<std::size_t>(slots);
    Task task{mode, servers, slots, {}, {}, {}};
    std::set<double> limits;
    for (const Variant* v : members) {
      if (v->load_max[k] <= 0) continue;
      limits.insert(v->load_max[k]);
      task.members.push_back(v);
    }
    task.limits.assign(limits.begin(), limits.end());
    if (!task.members.empty()) out.push_back(std::move(task));
  }
}

std::vector<Pricer::Task> Pricer::TasksOf(const Offer& offer) const {
  std::vector<Task> tasks;
  for (const auto& scope : Scopes(offer.mps, SharingMode::kMps, false)) {
    tasks.push_back({SharingMode::kMps, false, 0, {1}, scope, {}});
    AddLoadTasks(scope, SharingMode::kMps, false, tasks);
  }
  const bool fault_isolation =
      std::any_of(problem_.fleet->workloads.begin(), problem_.fleet->workloads.end(),
                  [](const Workload& w) { return w.isolation == Isolation::kFault; });
  if (problem_.tenant_count > 1 && fault_isolation) {
    for (const auto& scope : Scopes(offer.servers, SharingMode::kMps, true)) {
      AddLoadTasks(scope, SharingMode::kMps, true, tasks);
    }
  }
  for (const auto& scope : Scopes(offer.time_slicing, SharingMode::kTimeSlicing, false)) {
    AddLoadTasks(scope, SharingMode::kTimeSlicing, false, tasks);
  }
  return tasks;
}

void Pricer::ItemsFor(const Offer& offer, const Task& task, double lowest, double highest) {
  items_.clear();
  variants_.clear();
  const bool by_share = task.slots == 0;
  for (const Variant* v : task.members) {
    const auto w = static_cast<std::size_t>(v->workload);
    if ((*worth_)[w] <= 0 || (*demand_)[w] <= 0) continue;
    if (!by_share && v->load_max[static_cast<std::size_t>(task.slots)] < lowest) continue;
    // Where nobody waits, the tightest cap (the last of a workload) is the one to take.
    if (by_share && !variants_.empty() && variants_.back()->workload == v->workload) {
      items_.pop_back();
      variants_.pop_back();
    }
    items_.push_back(
        {(*worth_)[w], v->workload,
         WeightsOf(*v, offer, problem_.fleet->workloads[w].engines, by_share ? v->share : v->load,
                   highest, task.mode == SharingMode::kMps)});
    variants_.push_back(v);
  }
}

void Pricer::FillRange(const Offer& offer, Task& task, std::size_t first, std::size_t last,
                       Multipliers hint, Filled& best) {
  ItemsFor(offer, task, task.limits[first], task.limits[last]);
  if (items_.empty()) return;
  if (first < last) {
    const double bound = KnapsackBound(items_, *demand_, best.value, hint);
    effort_spent_ += kBoundNodes;
    if (first == 0 && last + 1 == task.limits.size()) task.hint = hint;
    if (bound <= best.value) return;
    if (effort_spent_ > effort_until_) {
      // What is not looked into may be worth as much as its bound.
      best.value_max = std::max(best.value_max, bound);
      return;
    }
    const std::size_t middle = (first + last) / 2;
    FillRange(offer, task, middle + 1, last, hint, best);
    FillRange(offer, task, first, middle, hint, best);
    return;
  }
  const KnapsackResult filled = SolveKnapsack(items_, *demand_, best.value, nodes_max_, hint);
  effort_spent_ += filled.nodes + kBoundNodes;
  if (task.limits.size() == 1) task.hint = hint;
  best.value_max = std::max(best.value_max, filled.value_max);
  if (filled.counts.empty()) return;
  best.value = filled.value;
  best.choice.mode = task.mode;
  best.choice.servers = task.servers;
  best.choice.contents.clear();
  for (std::size_t i = 0; i < variants_.size(); ++i) {
    if (filled.counts[i] > 0) best.choice.contents.emplace_back(variants_[i], filled.counts[i]);
  }
}

Pricer::Filled Pricer::Fill(int board, int offer_index, const std::vector<double>& worth,
                            const std::vector<int>& demand, double worth_more_than) {
  const auto b = static_cast<std::size_t>(board);
  const auto o = static_cast<std::size_t>(offer_index);
  const Offer& offer = problem_.boards[b].offers[o];
  worth_ = &worth;
  demand_ = &demand;
  effort_until_ = effort_spent_ + static_cast<std::int64_t>(kPricingSearches) * nodes_max_;
  Filled best;
  best.choice.offer = offer_index;
  best.value = worth_more_than;
  best.value_max = worth_more_than;
  for (const Variant& v : offer.exclusive) {
    const auto w = static_cast<std::size_t>(v.workload);
    if (demand[w] <= 0 || worth[w] <= best.value) continue;
    best.value = worth[w];
    best.choice.contents = {{&v, 1}};
  }
  best.value_max = best.value;
  for (Task& task : tasks_[b][o]) {
    FillRange(offer, task, 0, task.limits.size() - 1, task.hint, best);
  }
  if (best.choice.contents.empty()) best.value = 0;
  // One alone shares nothing.
  if (best.choice.contents.size() == 1 && best.choice.contents[0].second == 1 &&
      best.choice.mode == SharingMode::kTimeSlicing) {
    for (const Variant& v : offer.exclusive) {
      if (v.workload != best.choice.contents[0].first->workload) continue;
      best.choice.mode = SharingMode::kExclusive;
      best.choice.contents = {{&v, 1}};
    }
  }
  return best;
}

double Pricer::WorthAtMost(int board, int offer_index, const std::vector<double>& worth,
                           const std::vector<int>& demand) {
  const auto b = static_cast<std::size_t>(board);
  const auto o = static_cast<std::size_t>(offer_index);
  const Offer& offer = problem_.boards[b].offers[o];
  worth_ = &worth;
  demand_ = &demand;
  double most = 0;
  for (const Variant& v : offer.exclusive) {
    const auto w = static_cast<std::size_t>(v.workload);
    if (demand[w] > 0) most = std::max(most, worth[w]);
  }
  for (Task& task : tasks_[b][o]) {
    ItemsFor(offer, task, task.limits.front(), task.limits.back());
    if (!items_.empty()) most = std::max(most, KnapsackBound(items_, demand, most, task.hint));
  }
  return most;
}

Priced Pricer::Arrange(int board, const std::vector<int>& cut, const std::vector<Filled>& filled,
                       const std::vector<double>& worth, const std::vector<int>& demand,
                       bool largest_first) {
  Priced arranged;
  Pattern pattern{board, {}, {}};
  std::vector<int> left = demand;
  for (std::size_t i = 0; i < cut.size(); ++i) {
    const std::size_t p = largest_first ? cut.size() - 1 - i : i;
    for (int n = 0; n < cut[p]; ++n) {
      Filled instance = filled[p];
      const bool enough = std::all_of(
          instance.choice.contents.begin(), instance.choice.contents.end(), [&](const auto& c) {
            return left[static_cast<std::size_t>(c.first->workload)] >= c.second;
          });
      if (!enough) instance = Fill(board, static_cast<int>(p) + 1, worth, left, 0);
      if (instance.choice.contents.empty()) continue;
      for (const auto& [variant, count] : instance.choice.contents) {
        const auto w = static_cast<std::size_t>(variant->workload);
        left[w] -= count;
        arranged.value += worth[w] * count;
      }
      pattern.partitions.push_back(std::move(instance.choice));
    }
  }
  arranged.pattern = std::move(pattern);
  return arranged;
}

void Pricer::Keep(Priced arranged, Priced& best) {
  if (arranged.value <= best.value) return;
  best.value = arranged.value;
  best.pattern = std::move(arranged.pattern);
}

std::vector<Pricer::Filled> Pricer::FillInstances(int board, const std::vector<double>& worth,
                                                  const std::vector<int>& demand) {
  std::vector<Filled> filled;
  const std::size_t profiles =
      problem_.boards[static_cast<std::size_t>(board)].pool.board->profiles.size();
  for (std::size_t p = 0; p < profiles; ++p) {
    filled.push_back(Fill(board, static_cast<int>(p) + 1, worth, demand, 0));
  }
  return filled;
}

Pricer::Cuts::Cuts(const std::vector<std::vector<int>>& multisets) {
  for (const std::vector<int>& instances : multisets) {
    all.push_back({&instances, std::numeric_limits<double>::infinity(), false});
  }
}

void Pricer::Cuts::Limit(const std::vector<Filled>& filled, double rent) {
  for (Cut& cut : all) {
    double sum = rent;
    for (std::size_t p = 0; p < filled.size(); ++p) {
      sum += (*cut.instances)[p] * filled[p].value_max;
    }
    cut.value_max = std::min(cut.value_max, sum);
  }
}

Pricer::Cuts::Cut* Pricer::Cuts::BestUntried() {
  Cut* best = nullptr;
  for (Cut& cut : all) {
    if (!cut.tried && (best == nullptr || cut.value_max > best->value_max)) best = &cut;
  }
  return best;
}

double Pricer::Cuts::ValueMax() const {
  double most = 0;
  for (const Cut& cut : all) most = std::max(most, cut.value_max);
  return most;
}

// Instances of one cut draw on the same demand. Each is filled as if it had all of it to itself, at
// a worth less the rent of a replica; rents rise where the instances together take more than there
// is, and fall where they take less (subgradient steps of Polyak's length). The rents of the whole
// demand plus what the instances are worth beyond it is a bound for any rents.
void Pricer::ShareDemand(int board, const std::vector<double>& worth,
                         const std::vector<int>& demand, Cuts& cuts, Priced& best) {
  std::vector<double> rents(worth.size(), 0);
  std::vector<Filled> filled = FillInstances(board, worth, demand);
  cuts.Limit(filled, 0);
  for (Cuts::Cut& cut : cuts.all) cut.tried = false;
  for (int step = 0; step < kRentSteps; ++step) {
    const Cuts::Cut& cut = *cuts.BestUntried();
    if (cut.value_max <= best.value * (1 + kRentSlack)) return;
    std::vector<double> excess(worth.size(), 0);
    for (std::size_t w = 0; w < worth.size(); ++w) excess[w] = -demand[w];
    double bound = 0;
    for (std::size_t p = 0; p < filled.size(); ++p) {
      bound += (*cut.instances)[p] * filled[p].value_max;
      for (const auto& [variant, count] : filled[p].choice.contents) {
        excess[static_cast<std::size_t>(variant->workload)] += (*cut.instances)[p] * count;
      }
    }
    double slope = 0;
    for (std::size_t w = 0; w < worth.size(); ++w) {
      bound += rents[w] * demand[w];
      if (excess[w] < 0 && rents[w] == 0) excess[w] = 0;
      slope += excess[w] * excess[w];
    }
    if (slope == 0) return;  // They take no more than there is: nothing to share.
    const double length = (bound - best.value) / slope;
    double rent = 0;
    std::vector<double> rest = worth;
    for (std::size_t w = 0; w < worth.size(); ++w) {
      rents[w] = std::clamp(rents[w] + length * excess[w], 0.0, worth[w]);
      rest[w] -= rents[w];
      rent += rents[w] * demand[w];
    }
    filled = FillInstances(board, rest, demand);
    cuts.Limit(filled, rent);
    Keep(Arrange(board, *cut.instances, filled, worth, demand, true), best);
  }
}

void Pricer::CutByMig(int board, const std::vector<double>& worth, const std::vector<int>& demand,
                      Priced& best) {
  const BoardOffers& offers = problem_.boards[static_cast<std::size_t>(board)];
  const std::size_t profiles = offers.pool.board->profiles.size();
  // Most of the time no cut can compete. Quick bounds on the instances show it, or exact ones on
  // those few that are in the best cut.
  std::vector<Filled> filled(profiles);
  std::vector<bool> exact(profiles, false);
  for (std::size_t p = 0; p < profiles; ++p) {
    filled[p].value_max = WorthAtMost(board, static_cast<int>(p) + 1, worth, demand);
  }
  Cuts cuts(offers.geometry->MaximalMultisets());
  cuts.Limit(filled, 0);
  for (int tried = 0; tried < kCutsTried;) {
    Cuts::Cut* cut = cuts.BestUntried();
    if (cut == nullptr || cut->value_max <= best.value) break;
    std::size_t p = 0;
    while (p < profiles && ((*cut->instances)[p] == 0 || exact[p])) ++p;
    if (p < profiles) {
      filled[p] = Fill(board, static_cast<int>(p) + 1, worth, demand, 0);
      exact[p] = true;
      cuts.Limit(filled, 0);
      continue;
    }
    cut->tried = true;
    ++tried;
    Keep(Arrange(board, *cut->instances, filled, worth, demand, true), best);
    if (best.value >= cut->value_max) continue;
    Keep(Arrange(board, *cut->instances, filled, worth, demand, false), best);
  }
  if (nodes_max_ > kPricingNodes && cuts.ValueMax() > best.value) {
    ShareDemand(board, worth, demand, cuts, best);
  }
  best.value_max = std::max(best.value_max, cuts.ValueMax());
}

Priced Pricer::Best(int board, const std::vector<double>& worth, const std::vector<int>& demand,
                    double worth_more_than) {
  const BoardOffers& offers = problem_.boards[static_cast<std::size_t>(board)];
  Priced priced;
  Filled whole = Fill(board, 0, worth, demand, worth_more_than);
  priced.value = std::max(whole.value, worth_more_than);
  priced.value_max = whole.value_max;
  if (!whole.choice.contents.empty()) {
    priced.pattern = Pattern{board, {std::move(whole.choice)}, {}};
  }
  if (offers.geometry != nullptr) CutByMig(board, worth, demand, priced);
  if (priced.pattern) priced.pattern->Tally();
  return priced;
}

}  // namespace sublet
