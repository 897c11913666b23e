#include "plan/refine.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "base/check.h"
#include "plan/outlook.h"

namespace sublet {
namespace {

constexpr double kNoticeable = 1e-6;  // Headroom gained by a move, to be worth it.

// Less of a difference than this in the work of always-busy replicas is within what measurements
// scatter; the memory that a tighter cap saves is not.
constexpr double kWorkNoticeable = 0.01;

const Offer& OfferOf(const Problem& problem, int board, const PartitionChoice& partition) {
  return problem.boards[static_cast<std::size_t>(board)]
      .offers[static_cast<std::size_t>(partition.offer)];
}

void DropSurplus(const Problem& problem, const Solution& solution, std::vector<Pattern>& gpus) {
  std::vector<int> surplus;
  for (std::size_t w = 0; w < problem.fleet->workloads.size(); ++w) {
    surplus.push_back(solution.not_placed[w] - problem.fleet->workloads[w].replicas);
  }
  for (const Pattern& gpu : gpus) {
    for (const auto& [w, n] : gpu.counts) surplus[static_cast<std::size_t>(w)] += n;
  }
  for (std::size_t g = gpus.size(); g-- > 0;) {
    for (PartitionChoice& partition : gpus[g].partitions) {
      for (auto& [variant, count] : partition.contents) {
        int& over = surplus[static_cast<std::size_t>(variant->workload)];
        const int dropped = std::clamp(over, 0, count);
        over -= dropped;
        count -= dropped;
      }
      std::erase_if(partition.contents, [](const auto& c) { return c.second == 0; });
    }
    std::erase_if(gpus[g].partitions, [](const auto& p) { return p.contents.empty(); });
    gpus[g].Tally();
  }
  std::erase_if(gpus, [](const Pattern& gpu) { return gpu.partitions.empty(); });
}

// The same replicas with every cap at its tightest, or at its knee.
PartitionChoice WithCaps(const Problem& problem, int board, PartitionChoice partition, bool knee) {
  const Offer& offer = OfferOf(problem, board, partition);
  std::vector<std::pair<const Variant*, int>> contents;
  for (const auto& [variant, count] : partition.contents) {
    const Variant* chosen = variant;
    for (const Variant& other : offer.mps) {
      if (other.workload != variant->workload) continue;
      if (knee ? other.sm_percent > chosen->sm_percent : other.sm_percent < chosen->sm_percent) {
        chosen = &other;
      }
    }
    if (!contents.empty() && contents.back().first == chosen) {
      contents.back().second += count;
    } else {
      contents.emplace_back(chosen, count);
    }
  }
  partition.contents = std::move(contents);
  return partition;
}

bool Better(const Outlook& a, const Outlook& b) {
  if (std::abs(a.headroom - b.headroom) > kNoticeable) return a.headroom > b.headroom;
  if (std::abs(a.work - b.work) > kWorkNoticeable * std::max(a.work, b.work)) {
    return a.work > b.work;
  }
  if (a.work > 0 && b.work > 0 && a.memory != b.memory) return a.memory < b.memory;
  if (std::abs(a.stretch_sum - b.stretch_sum) > kNoticeable) return a.stretch_sum < b.stretch_sum;
  return a.stranded < b.stranded;
}

// The same replicas with the always-busy ones at this cap, all or those of one content.
std::optional<PartitionChoice> WithBusyCap(const Offer& offer, PartitionChoice partition, int cap,
                                           std::optional<std::size_t> only) {
  bool changed = false;
  for (std::size_t c = 0; c < partition.contents.size(); ++c) {
    const Variant*& variant = partition.contents[c].first;
    if (only.value_or(c) != c || !variant->busy) continue;
    for (const Variant& v : offer.busy_caps) {
      if (v.workload != variant->workload || v.sm_percent != cap) continue;
      changed |= v.sm_percent != variant->sm_percent;
      variant = &v;
    }
  }
  if (!changed) return std::nullopt;
  return partition;
}

// Raises `best` to the caps at which the always-busy replicas get the most work done: the best one
// for all, then for each workload the best beside the others' (a hill climb: with several workloads
// another set may be better still).
void ImproveBusyCaps(const Problem& problem, int board, PartitionChoice& best, Outlook& outlook) {
  const Offer& offer = OfferOf(problem, board, best);
  std::set<int> caps;
  for (const Variant& v : offer.busy_caps) caps.insert(v.sm_percent);
  const auto try_caps = [&](std::optional<std::size_t> only) {
    for (const int cap : caps) {
      std::optional<PartitionChoice> option = WithBusyCap(offer, best, cap, only);
      if (!option) continue;
      const Outlook candidate = OutlookOf(problem, board, *option);
      if (!candidate.refusal.empty() || !Better(candidate, outlook)) continue;
      outlook = candidate;
      best = std::move(*option);
    }
  };
  try_caps(std::nullopt);
  if (best.contents.size() < 2) return;
  for (std::size_t c = 0; c < best.contents.size(); ++c) try_caps(c);
}

// The best way to hold these replicas in this partition; nullopt when none is possible.
std::optional<PartitionChoice> BestCaps(const Problem& problem, int board,
                                        const PartitionChoice& partition, Outlook& outlook) {
  std::vector<PartitionChoice> options{partition};
  if (partition.mode == SharingMode::kMps && !partition.servers) {
    options.push_back(WithCaps(problem, board, partition, true));
    options.push_back(WithCaps(problem, board, partition, false));
  }
  if (partition.contents.size() == 1 && partition.contents[0].second == 1) {
    for (const Variant& v : OfferOf(problem, board, partition).exclusive) {
      if (v.workload != partition.contents[0].first->workload) continue;
      options.push_back({partition.offer, SharingMode::kExclusive, false, {{&v, 1}}});
    }
  }
  std::optional<PartitionChoice> best;
  for (PartitionChoice& option : options) {
    const Outlook candidate = OutlookOf(problem, board, option);
    if (!candidate.refusal.empty() || (best && !Better(candidate, outlook))) continue;
    outlook = candidate;
    best = std::move(option);
  }
  if (best && best->mode == SharingMode::kMps) ImproveBusyCaps(problem, board, *best, outlook);
  return best;
}

// All replicas of a cut GPU together on the whole one, if that is possible and better for them.
void TryWhole(const Problem& problem, Pattern& gpu) {
  if (gpu.partitions[0].offer == 0) return;
  Outlook cut;
  std::map<int, int> counts;
  for (const PartitionChoice& partition : gpu.partitions) {
    const Outlook outlook = OutlookOf(problem, gpu.board, partition);
    cut.headroom = std::min(cut.headroom, outlook.headroom);
    cut.stretch_sum += outlook.stretch_sum;
    cut.stranded += outlook.stranded;
    cut.work += outlook.work;
    cut.memory += outlook.memory;
    for (const auto& [variant, count] : partition.contents) counts[variant->workload] += count;
  }
  const Offer& offer = problem.boards[static_cast<std::size_t>(gpu.board)].offers[0];
  PartitionChoice whole{0, SharingMode::kMps, false, {}};
  for (const Variant& v : offer.mps) {
    const auto it = counts.find(v.workload);
    if (it == counts.end()) continue;
    whole.contents.emplace_back(&v, it->second);
    counts.erase(it);
  }
  if (!counts.empty()) return;
  Outlook outlook;
  auto best = BestCaps(problem, gpu.board, whole, outlook);
  if (best && Better(outlook, cut)) gpu.partitions = {std::move(*best)};
}

class Balancer {
 public:
  Balancer(const Problem& problem, std::vector<Pattern>& gpus) : problem_(problem), gpus_(gpus) {
    for (std::size_t g = 0; g < gpus.size(); ++g) {
      for (std::size_t p = 0; p < gpus[g].partitions.size(); ++p) {
        slots_.push_back({g, p, Settle(g, gpus[g].partitions[p])});
      }
    }
  }

  void Run() {
    for (int move = 0; move < kRefineMovesMax && MoveFromWorst(); ++move) {
    }
    for (Pattern& gpu : gpus_) {
      std::erase_if(gpu.partitions, [](const auto& p) { return p.contents.empty(); });
      gpu.Tally();
    }
  }

 private:
  struct Slot {
    std::size_t gpu;
    std::size_t partition;
    Outlook outlook;
  };

  PartitionChoice& At(const Slot& slot) { return gpus_[slot.gpu].partitions[slot.partition]; }

  Outlook Settle(std::size_t gpu, PartitionChoice& partition) const {
    Outlook outlook;
    auto best = BestCaps(problem_, gpus_[gpu].board, partition, outlook);
    CHECK(best.has_value());
    partition = std::move(*best);
    return outlook;
  }

  // The variant of this workload that fits the way in which a partition is shared.
  const Variant* VariantFor(const Slot& slot, int workload) {
    const PartitionChoice& partition = At(slot);
    const Offer& offer = OfferOf(problem_, gpus_[slot.gpu].board, partition);
    const std::vector<Variant>& variants = partition.servers ? offer.servers
                                           : partition.mode == SharingMode::kMps
                                               ? offer.mps
                                               : offer.time_slicing;
    for (const Variant& v : variants) {
      if (v.workload == workload) return &v;
    }
    return nullptr;
  }

  bool MoveFromWorst() {
    if (slots_.size() < 2) return false;
    Slot* worst = &slots_[0];
    for (Slot& slot : slots_) {
      if (slot.outlook.headroom < worst->outlook.headroom) worst = &slot;
    }
    if (worst->outlook.headroom >= 1 || At(*worst).mode == SharingMode::kExclusive) return false;
    for (std::size_t c = 0; c < At(*worst).contents.size(); ++c) {
      PartitionChoice without = At(*worst);
      const int workload = without.contents[c].first->workload;
      if (--without.contents[c].second == 0) {
        without.contents.erase(without.contents.begin() + static_cast<std::ptrdiff_t>(c));
      }
      if (without.contents.empty()) continue;
      Outlook relieved;
      const auto rest = BestCaps(problem_, gpus_[worst->gpu].board, without, relieved);
      if (!rest || relieved.headroom <= worst->outlook.headroom + kNoticeable) continue;
      if (GiveTo(*worst, workload, *rest, relieved)) return true;
    }
    return false;
  }

  bool GiveTo(Slot& worst, int workload, const PartitionChoice& rest, const Outlook& relieved) {
    for (Slot& slot : slots_) {
      if (&slot == &worst || At(slot).mode == SharingMode::kExclusive) continue;
      // A move only helps where the receiver starts with more room than the giver.
      if (slot.outlook.headroom <= worst.outlook.headroom + kNoticeable) continue;
      const Variant* variant = VariantFor(slot, workload);
      if (variant == nullptr) continue;
      PartitionChoice with = At(slot);
      const auto place = std::find_if(with.contents.begin(), with.contents.end(),
                                      [&](auto& c) { return c.first->workload >= workload; });
      if (place != with.contents.end() && place->first->workload == workload) {
        ++place->second;
      } else {
        with.contents.insert(place, {variant, 1});
      }
      Outlook burdened;
      const auto filled = BestCaps(problem_, gpus_[slot.gpu].board, with, burdened);
      if (!filled || burdened.headroom <= worst.outlook.headroom + kNoticeable) continue;
      At(worst) = rest;
      worst.outlook = relieved;
      At(slot) = *filled;
      slot.outlook = burdened;
      return true;
    }
    return false;
  }

  const Problem& problem_;
  std::vector<Pattern>& gpus_;
  std::vector<Slot> slots_;
};

}  // namespace

std::vector<Pattern> Refine(const Problem& problem, const Solution& solution) {
  std::vector<Pattern> gpus;
  for (const auto& [pattern, copies] : solution.chosen) {
    gpus.insert(gpus.end(), static_cast<std::size_t>(copies), pattern);
  }
  DropSurplus(problem, solution, gpus);
  for (Pattern& gpu : gpus) TryWhole(problem, gpu);
  Balancer(problem, gpus).Run();
  return gpus;
}

}  // namespace sublet
