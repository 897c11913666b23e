#include "plan/solver.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>

#include "base/check.h"
#include "plan/exact.h"
#include "plan/master.h"

namespace sublet {
namespace {

constexpr double kMoney = 1e-6;      // $/h: two costs closer than this are equal.
constexpr double kPriceStep = 1e-4;  // $/h: prices are multiples of a hundredth of a cent.
constexpr double kReduced =
    1e-7;  // Relative: a pattern must be worth this much more than it costs.
constexpr int kSumsMax = 2'000'000;   // Combinations tried to round a bound up: a few milliseconds.
constexpr double kProofSlack = 1e-3;  // A bound this close to the program's value ends the proof.
constexpr std::int64_t kEffortMax = 200'000'000;  // Nodes for the whole fleet: some ten seconds.
constexpr int kProofNodesMax = 1 << 19;  // A tenth of a second for the one hardest partition.
// Less gain in so many rounds is the long tail of column generation, in which the program's value
// creeps while the patterns that matter are known.
constexpr int kProgressRounds = 20;
constexpr double kProgress = 5e-4;
constexpr int kDiveRoundsMax = 12;  // The patterns of the step before still serve; a few are new.
constexpr std::size_t kFixPart = 40;
constexpr double kFixAbove =
    0.9;  // Diving fixes a pattern once that is more likely right than not.

// The least sum of GPU prices that is at least `bound`.
double RoundUpToPrices(double bound, const Problem& problem) {
  std::vector<double> prices;
  for (const BoardOffers& board : problem.boards) prices.push_back(board.pool.price_usd_hour);
  std::sort(prices.begin(), prices.end(), std::greater<>());
  prices.erase(std::unique(prices.begin(), prices.end()), prices.end());
  if (prices.back() <= 0) return bound;
  double combinations = 1;
  for (std::size_t i = 0; i + 1 < prices.size(); ++i) combinations *= bound / prices[i] + 2;
  if (combinations > kSumsMax) {
    // Every sum is a multiple of the prices' greatest common divisor.
    long divisor = 0;
    for (const double price : prices) divisor = std::gcd(divisor, std::lround(price / kPriceStep));
    const double step = static_cast<double>(divisor) * kPriceStep;
    return std::ceil(bound / step - kMoney) * step;
  }
  double best = std::numeric_limits<double>::infinity();
  const auto descend = [&](const auto& self, std::size_t i, double sum) -> void {
    if (sum >= best) return;
    if (i + 1 == prices.size()) {
      const double rest = std::max(0.0, std::ceil((bound - sum) / prices[i] - kMoney));
      best = std::min(best, sum + rest * prices[i]);
      return;
    }
    for (int n = 0;; ++n) {
      self(self, i + 1, sum + n * prices[i]);
      if (sum + n * prices[i] >= bound) return;
    }
  };
  descend(descend, 0, 0);
  return best;
}

class ColumnGeneration {
 public:
  ColumnGeneration(const Problem& problem, const SolverOptions& options)
      : problem_(problem),
        options_(options),
        pricer_(problem),
        demand_(DemandOf(problem)),
        master_(problem, demand_) {}

  Solution Run() {
    GuessWorths();
    Greedy();
    if (!Done()) {
      AddPatternsOfOneWorkload();
      Generate(demand_, options_.rounds_max, options_.prove);
      if (options_.prove || MayImprove()) Dive();
    }
    if (!Done() && options_.cbc_nodes_max > 0) Round();
    best_.bound_usd_hour = std::min(bound_, best_.cost_usd_hour);
    return std::move(best_);
  }

 private:
  static std::vector<int> DemandOf(const Problem& problem) {
    std::vector<int> demand;
    for (const Workload& workload : problem.fleet->workloads) demand.push_back(workload.replicas);
    return demand;
  }

  double Price(int board) const {
    return problem_.boards[static_cast<std::size_t>(board)].pool.price_usd_hour;
  }
  int boards() const { return static_cast<int>(problem_.boards.size()); }
  bool Done() const { return best_.Complete() && best_.cost_usd_hour <= bound_ + kMoney; }

  // No whole numbers of the patterns known cost less than the linear program's fractions.
  bool MayImprove() const {
    return !best_.Complete() ||
           best_.cost_usd_hour > RoundUpToPrices(master_.value() * (1 - 1e-9), problem_) + kMoney;
  }

  // A first worth for every workload: the scarcest part that a replica takes of a whole GPU.
  void GuessWorths() {
    worth_.assign(demand_.size(), std::numeric_limits<double>::infinity());
    double cheapest = std::numeric_limits<double>::infinity();
    for (const BoardOffers& board : problem_.boards) {
      const double price = std::max(board.pool.price_usd_hour, kPriceStep);
      cheapest = std::min(cheapest, board.pool.price_usd_hour);
      for (const Offer& offer : board.offers) {
        const double part = offer.bandwidth_fraction;
        const auto guess = [&](const Variant& v, double taken) {
          double& worth = worth_[static_cast<std::size_t>(v.workload)];
          worth = std::min(worth, price * part * taken);
        };
        for (const Variant& v : offer.exclusive) guess(v, 1);
        for (const auto* variants : {&offer.time_slicing, &offer.mps, &offer.servers}) {
          for (const Variant& v : *variants) {
            const double memory =
                static_cast<double>(v.memory.count) / static_cast<double>(offer.memory.count);
            guess(v, std::max({memory, std::min(v.share, v.load), 1.0 / kSlotsMax / 2}));
          }
        }
      }
    }
    // Where GPUs are limited, those of high priority take theirs first.
    const bool limited =
        std::any_of(problem_.boards.begin(), problem_.boards.end(),
                    [](const BoardOffers& board) { return board.pool.count >= 0; });
    for (std::size_t w = 0; limited && w < worth_.size(); ++w) {
      worth_[w] *= PriorityWeight(problem_.fleet->workloads[w].priority);
    }
    // At least one GPU is needed; that alone proves many small plans optimal.
    bound_ = cheapest;
  }

  // Each workload by itself: a start for the linear program in which nothing is missing.
  void AddPatternsOfOneWorkload() {
    std::vector<double> one(demand_.size(), 0);
    std::vector<int> alone(demand_.size(), 0);
    for (std::size_t w = 0; w < demand_.size(); ++w) {
      one[w] = 1;
      alone[w] = demand_[w];
      for (int b = 0; b < boards(); ++b) {
        Priced priced = pricer_.Best(b, one, alone);
        if (priced.pattern) master_.Add(std::move(*priced.pattern));
      }
      one[w] = 0;
      alone[w] = 0;
    }
  }

  // Fills GPU after GPU with the pattern that is worth the most for its price.
  void Greedy() {
    Draft draft(*this);
    while (draft.Open()) {
      std::optional<Pattern> best;
      double best_ratio = 0;
      for (int b = 0; b < boards(); ++b) {
        if (draft.pools[static_cast<std::size_t>(b)] == 0) continue;
        Priced priced = pricer_.Best(b, worth_, draft.left);
        if (!priced.pattern) continue;
        const double ratio = priced.value / std::max(Price(b), kPriceStep);
        if (ratio <= best_ratio) continue;
        best_ratio = ratio;
        best = std::move(priced.pattern);
      }
      if (!best) break;
      master_.Add(*best);
      draft.Take(*best, draft.Copies(*best));
    }
    Keep(std::move(draft));
  }

  // A plan in the making.
  struct Draft {
    explicit Draft(const ColumnGeneration& owner) : problem(owner.problem_), left(owner.demand_) {
      for (const BoardOffers& board : problem.boards) {
        pools.push_back(board.pool.count < 0 ? std::numeric_limits<int>::max() : board.pool.count);
      }
    }
    bool Open() const {
      return std::any_of(left.begin(), left.end(), [](int n) { return n > 0; });
    }
    // How often the pattern can be used without placing more replicas than asked for; at least
    // once.
    int Copies(const Pattern& pattern) const {
      int copies = pools[static_cast<std::size_t>(pattern.board)];
      for (const auto& [w, n] : pattern.counts) {
        copies = std::min(copies, std::max(1, left[static_cast<std::size_t>(w)] / n));
      }
      return copies;
    }
    void Take(const Pattern& pattern, int copies) {
      CHECK(copies >= 1);
      chosen.emplace_back(pattern, copies);
      pools[static_cast<std::size_t>(pattern.board)] -= copies;
      for (const auto& [w, n] : pattern.counts) {
        int& open = left[static_cast<std::size_t>(w)];
        open = std::max(0, open - n * copies);
      }
      cost += copies * problem.boards[static_cast<std::size_t>(pattern.board)].pool.price_usd_hour;
    }

    const Problem& problem;
    std::vector<int> left;
    std::vector<int> pools;
    std::vector<std::pair<Pattern, int>> chosen;
    double cost = 0;
  };

  void Keep(Draft draft) {
    const bool better =
        best_.not_placed.empty() || (!draft.Open() && !best_.Complete()) ||
        (draft.Open() == !best_.Complete() && draft.cost < best_.cost_usd_hour - kMoney);
    if (!better) return;
    best_.chosen = std::move(draft.chosen);
    best_.cost_usd_hour = draft.cost;
    best_.not_placed = std::move(draft.left);
  }

  // Solves the linear program for `demand`; with `prove`, raises the bound on the way.
  void Generate(const std::vector<int>& demand, int rounds_max, bool prove) {
    int effort = options_.prove ? kPricingNodes : kPricingNodes / 4;
    double milestone = std::numeric_limits<double>::infinity();
    pricer_.SetEffort(effort);
    for (int round = 0; round < rounds_max; ++round) {
      master_.Minimise();
      const std::vector<double> worth = master_.Worths();
      bool added = false;
      std::vector<double> limits;
      for (int b = 0; b < boards(); ++b) {
        const double cost = Price(b) - master_.Scarcity(b);
        Priced priced = pricer_.Best(b, worth, demand, cost * (1 + kReduced));
        limits.push_back(std::max(priced.value_max, cost));
        if (priced.pattern) added |= master_.Add(std::move(*priced.pattern));
      }
      if (prove) {
        RaiseBound(worth, limits);
        if (Done()) break;
      }
      const bool creeping =
          round % kProgressRounds == kProgressRounds - 1 &&
          std::exchange(milestone, master_.value()) < master_.value() * (1 + kProgress);
      if (added && !creeping) continue;
      // Nothing is left to gain, if the pricing was exact: from here on it is about the proof.
      const bool proven = bound_ >= RoundUpToPrices(master_.value() * (1 - kProofSlack), problem_);
      if (!prove || proven || effort >= kProofNodesMax) break;
      if (pricer_.effort_spent() > kEffortMax) break;
      effort *= 8;
      pricer_.SetEffort(effort);
    }
    pricer_.SetEffort(kPricingNodes);
  }

  // Farley's bound: worths scaled down until no pattern is worth more than its price are a feasible
  // dual solution. A limited board may be dearer than its price by what its scarcity is worth.
  void RaiseBound(const std::vector<double>& worth, const std::vector<double>& limits) {
    double total = 0;
    for (std::size_t w = 0; w < worth.size(); ++w) total += worth[w] * demand_[w];
    std::vector<double> scales{1};
    for (int b = 0; b < boards(); ++b) {
      scales.push_back(limits[static_cast<std::size_t>(b)] / std::max(Price(b), kPriceStep));
    }
    double best = 0;
    for (const double scale : scales) {
      if (scale < 1) continue;
      double bound = total / scale;
      for (int b = 0; b < boards(); ++b) {
        const double over = limits[static_cast<std::size_t>(b)] / scale - Price(b);
        if (over <= kMoney * Price(b)) continue;
        const int count = problem_.boards[static_cast<std::size_t>(b)].pool.count;
        bound = count < 0 ? 0 : bound - over * count;
      }
      best = std::max(best, bound);
    }
    if (best > 0) bound_ = std::max(bound_, RoundUpToPrices(best * (1 - 1e-9), problem_));
  }

  // Fixes whole parts of the fractional solution, solves for the rest, until everything is placed.
  // Where no whole part is left, the largest fractions are fixed at 1, a few at once while many
  // GPUs are open, one at a time towards the end, where each decides.
  void Dive() {
    Draft draft(*this);
    while (draft.Open()) {
      const std::size_t before = draft.chosen.size();
      const std::vector<double> amounts = master_.Amounts();
      std::vector<std::size_t> fractions;
      for (std::size_t p = 0; p < amounts.size(); ++p) {
        const auto whole = static_cast<int>(std::floor(amounts[p] + 1 - kFixAbove));
        if (whole > 0) Fix(master_.patterns()[p], whole, draft);
        if (whole == 0 && amounts[p] > kMoney) fractions.push_back(p);
      }
      if (draft.chosen.size() == before) {
        std::stable_sort(fractions.begin(), fractions.end(),
                         [&](std::size_t a, std::size_t b) { return amounts[a] > amounts[b]; });
        fractions.resize(std::min(fractions.size(), 1 + fractions.size() / kFixPart));
        for (const std::size_t p : fractions) Fix(master_.patterns()[p], 1, draft);
      }
      if (draft.chosen.size() == before) break;
      if (draft.cost >= best_.cost_usd_hour - kMoney && best_.Complete()) break;
      master_.SetDemand(draft.left);
      for (int b = 0; b < boards(); ++b) {
        master_.SetPool(b, draft.pools[static_cast<std::size_t>(b)]);
      }
      Generate(draft.left, kDiveRoundsMax, false);
    }
    if (!draft.Open()) Keep(std::move(draft));
  }

  // Uses the pattern as often as it still places mostly replicas that are open.
  void Fix(const Pattern& pattern, int copies, Draft& draft) const {
    copies = std::min(copies, draft.pools[static_cast<std::size_t>(pattern.board)]);
    int open = 0;
    for (const auto& [w, n] : pattern.counts) {
      const int left = draft.left[static_cast<std::size_t>(w)];
      open = std::max(open, (left + n - 1) / n);
    }
    copies = std::min(copies, open);
    if (copies > 0) draft.Take(pattern, copies);
  }

  void Round() {
    master_.SetDemand(demand_);
    for (int b = 0; b < boards(); ++b) {
      master_.SetPool(b, problem_.boards[static_cast<std::size_t>(b)].pool.count);
    }
    const double below =
        best_.Complete() ? best_.cost_usd_hour : std::numeric_limits<double>::max() / 4;
    const std::vector<int> amounts = master_.Round(below, options_.cbc_nodes_max);
    if (amounts.empty()) return;
    Draft draft(*this);
    for (std::size_t p = 0; p < amounts.size(); ++p) {
      if (amounts[p] > 0) draft.Take(master_.patterns()[p], amounts[p]);
    }
    Keep(std::move(draft));
  }

  const Problem& problem_;
  const SolverOptions& options_;
  Pricer pricer_;
  std::vector<int> demand_;
  Master master_;
  std::vector<double> worth_;
  double bound_ = 0;
  Solution best_;
};

}  // namespace

double PriorityWeight(int priority) {
  return std::exp2(priority / 25.0);
}

bool Solution::Complete() const {
  return !not_placed.empty() &&
         std::all_of(not_placed.begin(), not_placed.end(), [](int n) { return n == 0; });
}

Solution Solve(const Problem& problem, const SolverOptions& options) {
  CHECK(!problem.boards.empty() && !problem.fleet->workloads.empty());
  if (options.exact_when_small && problem.fleet->ReplicaCount() <= kExactReplicasMax) {
    if (auto exact = SolveExactly(problem)) return std::move(*exact);
  }
  return ColumnGeneration(problem, options).Run();
}

int HoldsAtMost(const Problem& problem, const std::vector<std::pair<int, int>>& gpus_by_board) {
  Pricer pricer(problem);
  std::vector<int> left;
  for (const Workload& workload : problem.fleet->workloads) left.push_back(workload.replicas);
  const std::vector<double> one(left.size(), 1);
  int held = 0;
  for (const auto& [board, count] : gpus_by_board) {
    for (int n = 0; n < count;) {
      const Priced priced = pricer.Best(board, one, left);
      if (!priced.pattern) break;
      int copies = count - n;
      for (const auto& [w, c] : priced.pattern->counts) {
        copies = std::min(copies, std::max(1, left[static_cast<std::size_t>(w)] / c));
      }
      for (const auto& [w, c] : priced.pattern->counts) {
        int& open = left[static_cast<std::size_t>(w)];
        const int taken = std::min(open, c * copies);
        open -= taken;
        held += taken;
      }
      n += copies;
    }
  }
  return held;
}

}  // namespace sublet
