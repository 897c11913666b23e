#include "kube/gpu_sets.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace sublet {
namespace {

using GpuSet = std::uint32_t;  // Bit i: place i.

constexpr int kNvLinkScore = 100;

int PathScore(PciPath path) {
  switch (path) {
    case PciPath::kSameBoard:
      return 60;
    case PciPath::kOneSwitch:
      return 50;
    case PciPath::kSwitches:
      return 40;
    case PciPath::kHostBridge:
      return 30;
    case PciPath::kNumaNode:
      return 20;
    case PciPath::kSystem:
      return 10;
  }
  return 0;
}

GpuSet Lowest(GpuSet set) {
  return set & (~set + 1);
}

// Of two sets of one size: the one with the lower places, compared from the lowest.
bool HasLowerPlaces(GpuSet a, GpuSet b) {
  return a != b && (a & Lowest(a ^ b)) != 0;
}

// Calls visit(subset) for each subset of `set` with `size` members.
template <typename Visit>
void ForEachSubset(GpuSet set, int size, GpuSet chosen, const Visit& visit) {
  if (size == 0) return visit(chosen);
  while (std::popcount(set) >= size) {
    const GpuSet member = Lowest(set);
    set ^= member;
    ForEachSubset(set, size - 1, chosen | member, visit);
  }
}

// Exact, by rules 1 to 4 of the header.
class ExactSearch {
 public:
  ExactSearch(const LinkScores& scores, GpuSet required, int size)
      : count_(static_cast<int>(scores.size())), required_(required), size_(size) {
    FindInner(scores);
    FindTwins(scores);
    parts_.assign(std::size_t{1} << count_, kUnknown);
  }

  GpuSet Run() {
    const GpuSet all = (GpuSet{1} << count_) - 1;
    std::vector<GpuSet> best;
    int best_score = -1;
    ForEachSubset(all & ~required_, size_ - std::popcount(required_), required_, [&](GpuSet set) {
      const int score = inner_[set];
      if (score < best_score || HasTwinToSpare(set)) return;
      if (score > best_score) best.clear();
      best_score = score;
      best.push_back(set);
    });
    std::optional<std::pair<int, int>> most;
    GpuSet chosen = 0;
    for (const GpuSet set : best) {
      const GpuSet rest = all ^ set;
      const std::pair left(best.size() > 1 ? BestParts(rest) : 0, inner_[rest]);
      if (most && (left < *most || (left == *most && !HasLowerPlaces(set, chosen)))) continue;
      most = left;
      chosen = set;
    }
    return chosen;
  }

 private:
  static constexpr int kUnknown = -1;

  // inner_[set]: the score of the set.
  void FindInner(const LinkScores& scores) {
    inner_.assign(std::size_t{1} << count_, 0);
    for (GpuSet set = 1; set < inner_.size(); ++set) {
      const GpuSet others = set & (set - 1);
      const auto& row = scores[static_cast<std::size_t>(std::countr_zero(set))];
      int sum = inner_[others];
      for (GpuSet left = others; left != 0; left &= left - 1) {
        sum += row[static_cast<std::size_t>(std::countr_zero(left))];
      }
      inner_[set] = sum;
    }
  }

  // GPUs that are linked to all others alike can be exchanged for each other. Of sets that differ
  // by such an exchange only the one with the lowest places is looked at: behind NVSwitch that is
  // one set instead of 12,870.
  void FindTwins(const LinkScores& scores) {
    lower_twin_.assign(scores.size(), 0);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      for (std::size_t j = i + 1; j < scores.size(); ++j) {
        if (((required_ >> i | required_ >> j) & 1) != 0) continue;
        bool alike = true;
        for (std::size_t k = 0; k < scores.size() && alike; ++k) {
          alike = k == i || k == j || scores[i][k] == scores[j][k];
        }
        if (alike) lower_twin_[j] |= GpuSet{1} << i;
      }
    }
  }

  // It has a GPU where a twin of it with a lower place would do.
  bool HasTwinToSpare(GpuSet set) const {
    for (GpuSet left = set; left != 0; left &= left - 1) {
      if ((lower_twin_[static_cast<std::size_t>(std::countr_zero(left))] & ~set) != 0) return true;
    }
    return false;
  }

  // The highest sum of scores of `set` divided into sets of size_, what is over in one of its own.
  // The lowest member's set is chosen first, so each division is looked at once.
  int BestParts(GpuSet set) {
    if (size_ == 1 || set == 0) return 0;
    if (parts_[set] != kUnknown) return parts_[set];
    const GpuSet lowest = Lowest(set);
    int best = 0;
    const auto try_size = [&](int size) {
      ForEachSubset(set ^ lowest, size - 1, lowest, [&](GpuSet part) {
        best = std::max(best, inner_[part] + BestParts(set ^ part));
      });
    };
    const int over = std::popcount(set) % size_;
    if (over != 0) try_size(over);
    if (std::popcount(set) >= size_) try_size(size_);
    return parts_[set] = best;
  }

  const int count_;
  const GpuSet required_;
  const int size_;
  std::vector<int> inner_;
  std::vector<int> parts_;          // Of BestParts(), once known.
  std::vector<GpuSet> lower_twin_;  // Of each place: the twins at lower places.
};

// For more GPUs than ExactSearch takes: from each GPU the set that grows by the best next one, then
// exchanges of one GPU for another as long as they help.
class BoundedSearch {
 public:
  BoundedSearch(const LinkScores& scores, const std::vector<int>& required, int size)
      : scores_(scores), fixed_(scores.size(), false), size_(size) {
    for (const int place : required) fixed_[static_cast<std::size_t>(place)] = true;
  }

  std::vector<int> Run() {
    std::vector<bool> best;
    for (std::size_t seed = 0; seed < scores_.size(); ++seed) {
      std::vector<bool> set = fixed_;
      if (Count(set) < size_) set[seed] = true;
      while (Count(set) < size_) set[BestNext(set)] = true;
      Improve(set);
      if (best.empty() || ValueOf(set) > ValueOf(best)) best = std::move(set);
    }
    std::vector<int> places;
    for (std::size_t i = 0; i < best.size(); ++i) {
      if (best[i]) places.push_back(static_cast<int>(i));
    }
    return places;
  }

 private:
  // Each exchange raises the score, so this is a bound on a search that ends by itself.
  static constexpr int kExchangesMax = 1'000;

  static int Count(const std::vector<bool>& set) {
    return static_cast<int>(std::ranges::count(set, true));
  }

  int LinksTo(std::size_t place, const std::vector<bool>& set, bool inside) const {
    int sum = 0;
    for (std::size_t i = 0; i < set.size(); ++i) {
      if (set[i] == inside) sum += scores_[place][i];
    }
    return sum;
  }

  std::size_t BestNext(const std::vector<bool>& set) const {
    std::size_t best = set.size();
    std::pair<int, int> most;
    for (std::size_t i = 0; i < set.size(); ++i) {
      if (set[i]) continue;
      const std::pair value(LinksTo(i, set, true), -LinksTo(i, set, false));
      if (best == set.size() || value > most) std::tie(best, most) = std::pair(i, value);
    }
    return best;
  }

  // Score inside, and score of what is left.
  std::pair<int, int> ValueOf(const std::vector<bool>& set) const {
    std::pair<int, int> value;
    for (std::size_t i = 0; i < set.size(); ++i) {
      (set[i] ? value.first : value.second) += LinksTo(i, set, set[i]);
    }
    return value;
  }

  void Improve(std::vector<bool>& set) const {
    std::pair<int, int> value = ValueOf(set);
    for (int exchanges = 0; exchanges < kExchangesMax; ++exchanges) {
      if (!ExchangeOne(set, value)) return;
    }
  }

  bool ExchangeOne(std::vector<bool>& set, std::pair<int, int>& value) const {
    for (std::size_t out = 0; out < set.size(); ++out) {
      if (!set[out] || fixed_[out]) continue;
      for (std::size_t in = 0; in < set.size(); ++in) {
        if (set[in]) continue;
        set[out] = false;
        set[in] = true;
        const std::pair<int, int> changed = ValueOf(set);
        if (changed > value) {
          value = changed;
          return true;
        }
        set[out] = true;
        set[in] = false;
      }
    }
    return false;
  }

  const LinkScores& scores_;
  std::vector<bool> fixed_;
  const int size_;
};

}  // namespace

LinkScores ScoresOf(const Inventory& inventory, const std::vector<int>& gpus) {
  LinkScores scores(gpus.size(), std::vector<int>(gpus.size(), 0));
  const auto place = [&](int gpu) {
    return static_cast<std::size_t>(std::ranges::find(gpus, gpu) - gpus.begin());
  };
  constexpr int kNvLinksMax = 64;  // NVML counts up to 18; a recording may say anything.
  for (const GpuLink& link : inventory.links) {
    const std::size_t a = place(link.a);
    const std::size_t b = place(link.b);
    if (a == gpus.size() || b == gpus.size() || a == b) continue;
    const int nvlinks = std::clamp(link.nvlinks.value_or(0), 0, kNvLinksMax);
    const int score = (link.pci_path ? PathScore(*link.pci_path) : 0) + kNvLinkScore * nvlinks;
    scores[a][b] = score;
    scores[b][a] = score;
  }
  return scores;
}

std::vector<int> BestLinkedSet(const LinkScores& scores, const std::vector<int>& required,
                               int size) {
  const int count = static_cast<int>(scores.size());
  CHECK(static_cast<int>(required.size()) <= size && size <= count);
  if (size == 0) return {};
  if (size == count) {
    std::vector<int> all(scores.size());
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  if (count > kExactGpusMax) return BoundedSearch(scores, required, size).Run();
  GpuSet fixed = 0;
  for (const int place : required) fixed |= GpuSet{1} << place;
  std::vector<int> places;
  for (GpuSet set = ExactSearch(scores, fixed, size).Run(); set != 0; set &= set - 1) {
    places.push_back(std::countr_zero(set));
  }
  return places;
}

}  // namespace sublet
