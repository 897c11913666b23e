#include "plan/exact.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>

#include "base/check.h"
#include "plan/outlook.h"

namespace sublet {
namespace {

using Mask = unsigned;

// What makes one arrangement better than another, in this order. Costs add up and the headroom is a
// minimum, so a best whole is made of parts that are best in these two.
struct Score {
  double cost = std::numeric_limits<double>::infinity();
  double headroom = 1;
  double stretch = 0;
  std::int64_t stranded = 0;  // MiB.
  int complexity = 0;

  Score Plus(const Score& other) const {
    return {cost + other.cost, std::min(headroom, other.headroom), stretch + other.stretch,
            stranded + other.stranded, complexity + other.complexity};
  }
  bool Possible() const { return !std::isinf(cost); }
  bool BetterThan(const Score& other) const {
    constexpr double kEqual = 1e-9;
    if (!Possible() || !other.Possible()) return Possible() && !other.Possible();
    if (std::abs(cost - other.cost) > kEqual) return cost < other.cost;
    if (std::abs(headroom - other.headroom) > kEqual) return headroom > other.headroom;
    if (std::abs(stretch - other.stretch) > kEqual) return stretch < other.stretch;
    if (stranded != other.stranded) return stranded < other.stranded;
    return complexity < other.complexity;
  }
};

constexpr Score kNothing{0, 1, 0, 0, 0};

int Complexity(SharingMode mode, bool servers) {
  if (mode == SharingMode::kExclusive) return 0;
  if (mode == SharingMode::kMps) return servers ? 3 : 1;
  return 2;
}

// The variants that may be chosen from.
using Options = std::vector<const Variant*>;

struct Filling {
  Score score;
  PartitionChoice choice;
};

struct Gpu {
  Score score;
  std::vector<PartitionChoice> partitions;
};

class Exact {
 public:
  explicit Exact(const Problem& problem) : problem_(problem) {
    for (std::size_t w = 0; w < problem.fleet->workloads.size(); ++w) {
      for (int r = 0; r < problem.fleet->workloads[w].replicas; ++r) {
        replicas_.push_back(static_cast<int>(w));
      }
    }
    CHECK(replicas_.size() <= kExactReplicasMax);
    all_ = (1u << replicas_.size()) - 1;
  }

  std::optional<Solution> Run() {
    std::vector<Score> best(all_ + 1);
    best[0] = kNothing;
    struct Step {
      Mask set = 0;
      int board = -1;
    };
    std::vector<std::vector<Step>> steps;
    std::vector<std::vector<Gpu>> gpus;
    // One GPU at a time; a board's GPUs are taken one after the other, up to its count.
    for (std::size_t b = 0; b < problem_.boards.size(); ++b) {
      gpus.push_back(GpusOf(static_cast<int>(b)));
      const int count = problem_.boards[b].pool.count;
      const int rounds = count < 0 ? static_cast<int>(replicas_.size())
                                   : std::min(count, static_cast<int>(replicas_.size()));
      for (int round = 0; round < rounds; ++round) {
        std::vector<Step>& step = steps.emplace_back(all_ + 1);
        std::vector<Score> next = best;
        for (Mask whole = 1; whole <= all_; ++whole) {
          for (Mask set = whole; set != 0; set = (set - 1) & whole) {
            const Score score = best[whole & ~set].Plus(gpus[b][set].score);
            if (!score.BetterThan(next[whole])) continue;
            next[whole] = score;
            step[whole] = {set, static_cast<int>(b)};
          }
        }
        best = std::move(next);
      }
    }
    if (!best[all_].Possible()) return std::nullopt;
    Solution solution;
    solution.cost_usd_hour = best[all_].cost;
    solution.bound_usd_hour = best[all_].cost;
    solution.not_placed.assign(problem_.fleet->workloads.size(), 0);
    Mask left = all_;
    for (std::size_t s = steps.size(); s-- > 0 && left != 0;) {
      const Step step = steps[s][left];
      if (step.board < 0) continue;
      const Gpu& gpu = gpus[static_cast<std::size_t>(step.board)][step.set];
      Pattern pattern{step.board, gpu.partitions, {}};
      pattern.Tally();
      solution.chosen.emplace_back(std::move(pattern), 1);
      left &= ~step.set;
    }
    CHECK(left == 0);
    return solution;
  }

 private:
  // The best filling of every set of replicas for one offer.
  std::vector<Filling> FillingsOf(int board, int offer_index) const {
    const Offer& offer = problem_.boards[static_cast<std::size_t>(board)]
                             .offers[static_cast<std::size_t>(offer_index)];
    const std::vector<Options> mps_at_caps = MpsAtCaps(offer);
    std::vector<Filling> fillings(all_ + 1);
    fillings[0].score = kNothing;
    for (Mask set = 1; set <= all_; ++set) {
      const std::vector<int> counts = CountsOf(set);
      if (std::popcount(set) == 1) {
        Consider(board, offer_index, SharingMode::kExclusive, false, AllOf(offer.exclusive), counts,
                 fillings[set]);
      } else {
        Consider(board, offer_index, SharingMode::kTimeSlicing, false, AllOf(offer.time_slicing),
                 counts, fillings[set]);
        Consider(board, offer_index, SharingMode::kMps, true, AllOf(offer.servers), counts,
                 fillings[set]);
      }
      Consider(board, offer_index, SharingMode::kMps, false, AllOf(offer.mps), counts,
               fillings[set]);
      for (const Options& options : mps_at_caps) {
        Consider(board, offer_index, SharingMode::kMps, false, options, counts, fillings[set]);
      }
    }
    return fillings;
  }

  static Options AllOf(const std::vector<Variant>& variants) {
    Options options;
    for (const Variant& v : variants) options.push_back(&v);
    return options;
  }

  // The ways to be under MPS with all always-busy replicas at one cap, for every cap.
  static std::vector<Options> MpsAtCaps(const Offer& offer) {
    std::map<int, Options> by_cap;
    for (const Variant& v : offer.busy_caps) by_cap[v.sm_percent].push_back(&v);
    std::vector<Options> all;
    for (auto& [cap, options] : by_cap) {
      for (const Variant& v : offer.mps) {
        if (!v.busy) options.push_back(&v);
      }
      all.push_back(std::move(options));
    }
    return all;
  }

  std::vector<int> CountsOf(Mask set) const {
    std::vector<int> counts(problem_.fleet->workloads.size(), 0);
    for (std::size_t r = 0; r < replicas_.size(); ++r) {
      if ((set >> r & 1) != 0) ++counts[static_cast<std::size_t>(replicas_[r])];
    }
    return counts;
  }

  // Tries every choice of variants for these replicas, workload by workload.
  void Consider(int board, int offer, SharingMode mode, bool servers, const Options& variants,
                const std::vector<int>& counts, Filling& best) const {
    PartitionChoice choice{offer, mode, servers, {}};
    Choose(board, variants, counts, 0, choice, best);
  }

  void Choose(int board, const Options& variants, const std::vector<int>& counts,
              std::size_t workload, PartitionChoice& choice, Filling& best) const {
    while (workload < counts.size() && counts[workload] == 0) ++workload;
    if (workload == counts.size()) {
      const Outlook outlook = OutlookOf(problem_, board, choice);
      if (!outlook.refusal.empty()) return;
      const Score score{0, outlook.headroom, outlook.stretch_sum, outlook.stranded.mib(),
                        Complexity(choice.mode, choice.servers)};
      if (score.BetterThan(best.score)) best = {score, choice};
      return;
    }
    std::vector<const Variant*> options;
    for (const Variant* v : variants) {
      if (v->workload == static_cast<int>(workload)) options.push_back(v);
    }
    // With two variants (knee and tight cap) any split of the replicas between them is an option.
    for (std::size_t i = 0; i < options.size(); ++i) {
      for (std::size_t j = i; j < options.size(); ++j) {
        const int splits = i == j ? 1 : counts[workload] - 1;
        for (int s = 1; s <= splits; ++s) {
          const std::size_t before = choice.contents.size();
          choice.contents.emplace_back(options[i], i == j ? counts[workload] : s);
          if (i != j) choice.contents.emplace_back(options[j], counts[workload] - s);
          Choose(board, variants, counts, workload + 1, choice, best);
          choice.contents.resize(before);
        }
      }
    }
  }

  // The best use of one GPU for every set of replicas.
  std::vector<Gpu> GpusOf(int board) const {
    const BoardOffers& offers = problem_.boards[static_cast<std::size_t>(board)];
    std::vector<std::vector<Filling>> fillings;
    for (std::size_t o = 0; o < offers.offers.size(); ++o) {
      fillings.push_back(FillingsOf(board, static_cast<int>(o)));
    }
    std::vector<Gpu> gpus(all_ + 1);
    for (Mask set = 1; set <= all_; ++set) {
      if (!fillings[0][set].score.Possible()) continue;
      gpus[set] = {fillings[0][set].score, {fillings[0][set].choice}};
    }
    if (offers.geometry != nullptr) {
      for (const std::vector<int>& cut : offers.geometry->MaximalMultisets()) {
        TryCut(cut, fillings, gpus);
      }
    }
    for (Gpu& gpu : gpus) {
      if (gpu.score.Possible()) gpu.score.cost = offers.pool.price_usd_hour;
    }
    return gpus;
  }

  void TryCut(const std::vector<int>& cut, const std::vector<std::vector<Filling>>& fillings,
              std::vector<Gpu>& gpus) const {
    std::vector<Gpu> reached(all_ + 1);
    reached[0].score = kNothing;
    for (std::size_t p = 0; p < cut.size(); ++p) {
      for (int n = 0; n < cut[p]; ++n) {
        std::vector<Gpu> next = reached;
        for (Mask whole = 1; whole <= all_; ++whole) {
          for (Mask set = whole; set != 0; set = (set - 1) & whole) {
            const Filling& filling = fillings[p + 1][set];
            if (!filling.score.Possible()) continue;
            const Score score = reached[whole & ~set].score.Plus(filling.score);
            if (!score.BetterThan(next[whole].score)) continue;
            next[whole].score = score;
            next[whole].partitions = reached[whole & ~set].partitions;
            next[whole].partitions.push_back(filling.choice);
          }
        }
        reached = std::move(next);
      }
    }
    for (Mask set = 1; set <= all_; ++set) {
      // MIG is one thing more to set up than a whole GPU.
      reached[set].score.complexity += 1;
      if (reached[set].score.BetterThan(gpus[set].score)) gpus[set] = std::move(reached[set]);
    }
  }

  const Problem& problem_;
  std::vector<int> replicas_;  // Workload by replica.
  Mask all_ = 0;
};

}  // namespace

std::optional<Solution> SolveExactly(const Problem& problem) {
  return Exact(problem).Run();
}

}  // namespace sublet
