#include "plan/pricing.h"

#include <algorithm>
#include <cmath>
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

Slowdown SlowdownIn(const PartitionChoice& partition, const Occupancy& occupancy,
                    const Variant& variant) {
  if (partition.mode == SharingMode::kExclusive) return {};
  if (partition.mode == SharingMode::kMps && !partition.servers &&
      occupancy.share <= 1 + kSumSlack) {
    return {};
  }
  return SlowdownBy({.others_load = occupancy.load - variant.load, .slots = occupancy.slots});
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
    if (first == 0 && last + 1 == task.limits.size()) task.hint = hint;
    if (bound <= best.value) return;
    const std::size_t middle = (first + last) / 2;
    FillRange(offer, task, middle + 1, last, hint, best);
    FillRange(offer, task, first, middle, hint, best);
    return;
  }
  const KnapsackResult filled = SolveKnapsack(items_, *demand_, best.value, nodes_max_, hint);
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

std::optional<Pattern> Pricer::CutByMig(int board, const std::vector<double>& worth,
                                        const std::vector<int>& demand, double& value,
                                        double& value_max) {
  const BoardOffers& offers = problem_.boards[static_cast<std::size_t>(board)];
  const std::size_t profiles = offers.pool.board->profiles.size();
  // Most of the time no cut can compete, and bounds on the instances' worth show it.
  std::vector<double> bounds;
  for (std::size_t p = 0; p < profiles; ++p) {
    bounds.push_back(WorthAtMost(board, static_cast<int>(p) + 1, worth, demand));
  }
  double most = 0;
  for (const std::vector<int>& cut : offers.geometry->MaximalMultisets()) {
    double sum = 0;
    for (std::size_t p = 0; p < profiles; ++p) sum += cut[p] * bounds[p];
    most = std::max(most, sum);
  }
  if (most <= value) {
    value_max = std::max(value_max, most);
    return std::nullopt;
  }
  std::vector<Filled> filled;
  for (std::size_t p = 0; p < profiles; ++p) {
    filled.push_back(Fill(board, static_cast<int>(p) + 1, worth, demand, 0));
  }
  // By the sum of what each instance could be worth with the whole demand to itself.
  std::vector<std::pair<double, const std::vector<int>*>> cuts;
  for (const std::vector<int>& cut : offers.geometry->MaximalMultisets()) {
    double sum = 0;
    for (std::size_t p = 0; p < profiles; ++p) sum += cut[p] * filled[p].value_max;
    cuts.emplace_back(sum, &cut);
  }
  std::stable_sort(cuts.begin(), cuts.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  if (cuts.empty()) return std::nullopt;
  value_max = std::max(value_max, cuts[0].first);
  std::optional<Pattern> best;
  for (int tried = 0; tried < kCutsTried && tried < static_cast<int>(cuts.size()); ++tried) {
    const auto& [sum, cut] = cuts[static_cast<std::size_t>(tried)];
    if (sum <= value) break;
    Pattern pattern{board, {}, {}};
    std::vector<int> left = demand;
    double realised = 0;
    for (std::size_t p = profiles; p-- > 0;) {
      for (int n = 0; n < (*cut)[p]; ++n) {
        const auto enough = [&](const PartitionChoice& choice) {
          return std::all_of(choice.contents.begin(), choice.contents.end(), [&](const auto& c) {
            return left[static_cast<std::size_t>(c.first->workload)] >= c.second;
          });
        };
        Filled instance = filled[p];
        if (!enough(instance.choice))
          instance = Fill(board, static_cast<int>(p) + 1, worth, left, 0);
        if (instance.choice.contents.empty()) continue;
        for (const auto& [variant, count] : instance.choice.contents) {
          left[static_cast<std::size_t>(variant->workload)] -= count;
        }
        realised += instance.value;
        pattern.partitions.push_back(std::move(instance.choice));
      }
    }
    if (realised <= value) continue;
    value = realised;
    best = std::move(pattern);
  }
  return best;
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
  if (offers.geometry != nullptr) {
    if (auto cut = CutByMig(board, worth, demand, priced.value, priced.value_max)) {
      priced.pattern = std::move(cut);
    }
  }
  if (priced.pattern) priced.pattern->Tally();
  return priced;
}

}  // namespace sublet
