// The pattern solver against an integer program over every pattern there is.
//
// For small fleets all counts of replicas that one GPU of a board can hold are listed, by asking
// for each count whether some arrangement of it passes OutlookOf(). CBC then chooses how many GPUs
// get which counts. The solver has to find the same cost when it works exactly, and when it
// generates patterns its bound must lie below and its cost not above by more than a GPU.
#include "plan/solver.h"

#include <gtest/gtest.h>

#include <CbcModel.hpp>
#include <OsiClpSolverInterface.hpp>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "plan/explain.h"
#include "plan/outlook.h"
#include "plan/tests/random_fleet.h"

namespace sublet {
namespace {

constexpr double kMoney = 1e-6;

std::shared_ptr<const GeometryTable> TableOf(const Board& board) {
  static std::map<std::string, std::shared_ptr<const GeometryTable>> tables;
  auto& table = tables[board.name];
  if (table == nullptr && board.HasMig()) {
    table = std::make_shared<const GeometryTable>(std::move(*GeometryTable::Build(board)));
  }
  return table;
}

Result<Problem> ProblemOf(const Fleet& fleet, const ModeSet& modes = {}) {
  std::vector<Pool> pools;
  for (const GpuPool& pool : fleet.gpus) {
    const Board* board = *BuiltInBoards().Find(pool.board);
    pools.push_back({board,
                     pool.count.value_or(-1),
                     pool.price_usd_hour.value_or(board->price_usd_hour),
                     {},
                     TableOf(*board)});
  }
  return BuildProblem(fleet, pools, BuiltInBoards(), DefaultCalibration(), modes);
}

// --- The oracle ---------------------------------------------------------------------------------

using Counts = std::vector<int>;  // By workload.

// Every Counts that one GPU can hold.
class PatternList {
 public:
  explicit PatternList(const Problem& problem) : problem_(problem) {
    const BoardOffers& board = problem.boards[0];
    Counts counts(problem.fleet->workloads.size(), 0);
    for (std::size_t o = 0; o < board.offers.size(); ++o) {
      std::set<Counts>& held = held_.emplace_back();
      ListCounts(static_cast<int>(o), counts, 0, held);
    }
    all_ = held_[0];
    if (board.geometry == nullptr) return;
    for (const ProfileCounts& cut : board.geometry->MaximalMultisets()) {
      std::set<Counts> reached{counts};
      for (std::size_t p = 0; p < cut.size(); ++p) {
        for (int n = 0; n < cut[p]; ++n) reached = Sums(reached, held_[p + 1]);
      }
      all_.insert(reached.begin(), reached.end());
    }
  }

  const std::set<Counts>& all() const { return all_; }

 private:
  void ListCounts(int offer, Counts& counts, std::size_t w, std::set<Counts>& held) const {
    if (w == counts.size()) {
      if (Holds(offer, counts)) held.insert(counts);
      return;
    }
    for (int n = 0; n <= problem_.fleet->workloads[w].replicas; ++n) {
      counts[w] = n;
      ListCounts(offer, counts, w + 1, held);
    }
    counts[w] = 0;
  }

  std::set<Counts> Sums(const std::set<Counts>& as, const std::set<Counts>& bs) const {
    std::set<Counts> sums = as;
    for (const Counts& a : as) {
      for (const Counts& b : bs) {
        Counts sum = a;
        bool within = true;
        for (std::size_t w = 0; w < sum.size(); ++w) {
          sum[w] += b[w];
          within = within && sum[w] <= problem_.fleet->workloads[w].replicas;
        }
        if (within) sums.insert(std::move(sum));
      }
    }
    return sums;
  }

  bool Holds(int offer_index, const Counts& counts) const {
    const Offer& offer = problem_.boards[0].offers[static_cast<std::size_t>(offer_index)];
    struct Way {
      SharingMode mode;
      bool servers;
      const std::vector<Variant>& variants;
    };
    int replicas = 0;
    for (const int n : counts) replicas += n;
    for (const Way& way :
         {Way{SharingMode::kExclusive, false, offer.exclusive},
          Way{SharingMode::kTimeSlicing, false, offer.time_slicing},
          Way{SharingMode::kMps, false, offer.mps}, Way{SharingMode::kMps, true, offer.servers}}) {
      if (way.mode == SharingMode::kExclusive && replicas > 1) continue;
      PartitionChoice choice{offer_index, way.mode, way.servers, {}};
      if (Arrange(way.variants, counts, 0, choice)) return true;
    }
    return false;
  }

  bool Arrange(const std::vector<Variant>& variants, const Counts& counts, std::size_t w,
               PartitionChoice& choice) const {
    while (w < counts.size() && counts[w] == 0) ++w;
    if (w == counts.size()) return OutlookOf(problem_, 0, choice).refusal.empty();
    std::vector<const Variant*> own;
    for (const Variant& v : variants) {
      if (v.workload == static_cast<int>(w)) own.push_back(&v);
    }
    if (own.empty()) return false;
    const std::size_t before = choice.contents.size();
    for (int first = 0; first <= counts[w]; ++first) {
      if (first > 0) choice.contents.emplace_back(own.front(), first);
      if (first < counts[w]) choice.contents.emplace_back(own.back(), counts[w] - first);
      if (Arrange(variants, counts, w + 1, choice)) return true;
      choice.contents.resize(before);
    }
    return false;
  }

  const Problem& problem_;
  std::vector<std::set<Counts>> held_;  // By offer.
  std::set<Counts> all_;
};

// The fewest GPUs that cover the demand with these patterns, by CBC; nullopt where none do.
std::optional<int> FewestGpus(const Problem& problem, const std::set<Counts>& patterns) {
  const auto& workloads = problem.fleet->workloads;
  CoinPackedMatrix matrix(false, 0, 0);
  matrix.setDimensions(0, static_cast<int>(patterns.size()));
  std::vector<double> row_lower;
  std::vector<double> row_upper;
  for (std::size_t w = 0; w < workloads.size(); ++w) {
    CoinPackedVector row;
    int column = 0;
    for (const Counts& counts : patterns) {
      if (counts[w] > 0) row.insert(column, counts[w]);
      ++column;
    }
    matrix.appendRow(row);
    row_lower.push_back(workloads[w].replicas);
    row_upper.push_back(COIN_DBL_MAX);
  }
  const int pool = problem.boards[0].pool.count;
  const std::vector<double> lower(patterns.size(), 0);
  const std::vector<double> upper(patterns.size(), pool < 0 ? 1000 : pool);
  const std::vector<double> price(patterns.size(), 1);
  OsiClpSolverInterface solver;
  solver.messageHandler()->setLogLevel(0);
  solver.loadProblem(matrix, lower.data(), upper.data(), price.data(), row_lower.data(),
                     row_upper.data());
  for (int c = 0; c < solver.getNumCols(); ++c) solver.setInteger(c);
  CbcModel model(solver);
  model.setLogLevel(0);
  model.messageHandler()->setLogLevel(0);
  model.branchAndBound();
  if (model.bestSolution() == nullptr) return std::nullopt;
  const int gpus = static_cast<int>(std::lround(model.getObjValue()));
  if (pool >= 0 && gpus > pool) return std::nullopt;
  return gpus;
}

// --- Tests --------------------------------------------------------------------------------------

struct Tally {
  int fleets = 0;
  int dearer = 0;  // Than the optimum, by column generation.
  int open = 0;    // A bound below the cost.
};

void CompareWithCbc(const FleetTaste& taste, std::uint64_t seed, Tally& tally) {
  Dice dice(seed);
  const Fleet fleet = RandomFleet(taste, dice);
  const auto problem = ProblemOf(fleet);
  ASSERT_TRUE(problem.has_value());
  if (!CheckEachFitsSomewhere(*problem)) return;
  const std::optional<int> gpus = FewestGpus(*problem, PatternList(*problem).all());
  if (!gpus) return;
  const double optimum = *gpus * problem->boards[0].pool.price_usd_hour;
  const Solution exact = Solve(*problem, {});
  if (fleet.ReplicaCount() <= kExactReplicasMax) {
    EXPECT_NEAR(exact.cost_usd_hour, optimum, kMoney) << "seed " << seed;
  }
  const Solution generated = Solve(*problem, {.exact_when_small = false});
  ASSERT_TRUE(generated.Complete()) << "seed " << seed;
  EXPECT_GE(generated.cost_usd_hour, optimum - kMoney) << "seed " << seed;
  EXPECT_LE(generated.bound_usd_hour, optimum + kMoney) << "seed " << seed;
  EXPECT_LE(generated.cost_usd_hour, optimum + problem->boards[0].pool.price_usd_hour + kMoney)
      << "seed " << seed;
  ++tally.fleets;
  tally.dearer += generated.cost_usd_hour > optimum + kMoney ? 1 : 0;
  tally.open += generated.bound_usd_hour < generated.cost_usd_hour - kMoney ? 1 : 0;
}

TEST(Solve, FindsTheCostThatCbcFindsOverAllPatternsOfAWholeGpu) {
  Tally tally;
  for (std::uint64_t seed = 0; seed < 250; ++seed) {
    CompareWithCbc({.boards = {"l40s"},
                    .replicas_max = 14,
                    .workloads_max = 4,
                    .tenants = 2,
                    .isolation_max = Isolation::kFault,
                    .memory_gib_max = 20},
                   seed, tally);
  }
  EXPECT_GT(tally.fleets, 60);
  EXPECT_LE(tally.dearer, tally.fleets / 20);
  EXPECT_LE(tally.open, tally.fleets / 15);
}

TEST(Solve, FindsTheCostThatCbcFindsOverAllCutsByMig) {
  Tally tally;
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    CompareWithCbc({.boards = {"a30"},
                    .replicas_max = 12,
                    .workloads_max = 4,
                    .tenants = 2,
                    .isolation_max = Isolation::kHardware,
                    .memory_gib_max = 12},
                   seed, tally);
  }
  EXPECT_GT(tally.fleets, 60);
  EXPECT_LE(tally.dearer, tally.fleets / 20);
  EXPECT_LE(tally.open, tally.fleets / 15);
}

// Pools that just hold the fleet: there the pattern that is needed is one of very few, and often a
// cut in which instances compete for the same replicas.
TEST(Solve, FindsTheWayIntoAPoolThatIsJustLargeEnough) {
  int tight = 0;
  int missed = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    Dice dice(seed);
    Fleet fleet = RandomFleet({.boards = {"a100-80gb"},
                               .replicas_max = 8,
                               .workloads_max = 4,
                               .tenants = 2,
                               .isolation_max = Isolation::kHardware,
                               .load_chance = 0.5},
                              dice);
    const auto free = ProblemOf(fleet);
    ASSERT_TRUE(free.has_value());
    if (!CheckEachFitsSomewhere(*free)) continue;
    int gpus = 0;
    for (const auto& [pattern, copies] : Solve(*free, {}).chosen) gpus += copies;
    fleet.gpus[0].count = gpus;
    const auto limited = ProblemOf(fleet);
    ASSERT_TRUE(limited.has_value());
    ++tight;
    missed += Solve(*limited, {.exact_when_small = false}).Complete() ? 0 : 1;
  }
  EXPECT_GT(tight, 200);
  EXPECT_LE(missed, 1);
}

TEST(Solve, PlacesEveryReplicaThatItSaysItPlaces) {
  Dice dice(7);
  for (int n = 0; n < 100; ++n) {
    const Fleet fleet = RandomFleet({.boards = {"a100-40gb", "t4"},
                                     .pool_max = 4,
                                     .replicas_max = 40,
                                     .workloads_max = 8,
                                     .tenants = 2},
                                    dice);
    const auto problem = ProblemOf(fleet);
    ASSERT_TRUE(problem.has_value());
    if (!CheckEachFitsSomewhere(*problem)) continue;
    const Solution solution = Solve(*problem, {});
    std::vector<int> placed(fleet.workloads.size(), 0);
    std::vector<int> used(fleet.gpus.size(), 0);
    double cost = 0;
    for (const auto& [pattern, copies] : solution.chosen) {
      for (const auto& [w, c] : pattern.counts) placed[static_cast<std::size_t>(w)] += c * copies;
      used[static_cast<std::size_t>(pattern.board)] += copies;
      cost += copies * problem->boards[static_cast<std::size_t>(pattern.board)].pool.price_usd_hour;
      for (const PartitionChoice& partition : pattern.partitions) {
        EXPECT_EQ(OutlookOf(*problem, pattern.board, partition).refusal, "") << n;
      }
    }
    for (std::size_t w = 0; w < placed.size(); ++w) {
      EXPECT_GE(placed[w] + solution.not_placed[w], fleet.workloads[w].replicas) << n;
    }
    for (std::size_t b = 0; b < used.size(); ++b) EXPECT_LE(used[b], *fleet.gpus[b].count) << n;
    EXPECT_NEAR(cost, solution.cost_usd_hour, kMoney) << n;
  }
}

TEST(Solve, RoundsItsBoundUpToWhatGpusCost) {
  Fleet fleet;
  fleet.tenants = {{"default", Isolation::kNone}};
  fleet.gpus = {{"l4", std::nullopt, 0.7}};
  Workload workload;
  workload.name = "w";
  workload.tenant = "default";
  workload.replicas = 20;
  workload.memory = 9_GiB;  // Two a GPU.
  workload.compute = {};
  workload.compute.sm_percent = 10;
  workload.compute.bandwidth_percent = 10;
  fleet.workloads = {workload};
  fleet.workloads[0].replicas = 21;
  const auto problem = ProblemOf(fleet);
  ASSERT_TRUE(problem.has_value());
  const Solution solution = Solve(*problem, {});
  EXPECT_NEAR(solution.cost_usd_hour, 11 * 0.7, kMoney);
  EXPECT_NEAR(solution.bound_usd_hour, 11 * 0.7, kMoney);  // The linear program says 10.5 GPUs.
}

// Prices that are no multiples of a cent, on so many boards that sums aren't tried one by one.
TEST(Solve, KeepsItsBoundBelowTheCostForOddPrices) {
  Dice dice(11);
  for (int n = 0; n < 10; ++n) {
    Fleet fleet = RandomFleet({.boards = {"l4", "t4", "a10", "l40s", "v100-16gb"},
                               .replicas_max = 400,
                               .workloads_max = 6,
                               .memory_gib_max = 14,
                               .load_chance = 0},
                              dice);
    double least = 0;
    for (GpuPool& pool : fleet.gpus) pool.price_usd_hour = dice.Real(0.5, 0.6);
    for (Workload& workload : fleet.workloads) workload.compute.sm_percent = 100;
    const auto problem = ProblemOf(fleet);
    ASSERT_TRUE(problem.has_value());
    if (!CheckEachFitsSomewhere(*problem)) continue;
    const Solution solution = Solve(*problem, {});
    // Every replica that always may be busy with all SMs needs a slot of its own somewhere; all
    // boards hold the same in that respect, so what the cheapest would cost is close to optimal.
    for (const auto& [pattern, copies] : solution.chosen) {
      least += copies * *fleet.gpus[static_cast<std::size_t>(pattern.board)].price_usd_hour;
    }
    EXPECT_LE(solution.bound_usd_hour, least + kMoney) << n;
  }
}

TEST(HoldsAtMost, CountsWhatOneGpuHoldsUnderEachMode) {
  Fleet fleet;
  fleet.tenants = {{"default", Isolation::kNone}};
  fleet.gpus = {{"a100-80gb", std::nullopt, std::nullopt}};
  Workload workload;
  workload.name = "w";
  workload.tenant = "default";
  workload.replicas = 60;
  workload.memory = 500_MiB;
  workload.compute.sm_percent = 5;
  workload.compute.bandwidth_percent = 2;
  workload.load = Load{.requests_per_second = 0.6, .service_ms = 5};
  fleet.workloads = {workload};
  const auto holds = [&](const ModeSet& modes) {
    const auto problem = ProblemOf(fleet, modes);
    return HoldsAtMost(*problem, {{0, 1}});
  };
  EXPECT_EQ(holds({.exclusive = true,
                   .mig = false,
                   .time_slicing = false,
                   .mps = false,
                   .mps_servers = false}),
            1);
  EXPECT_EQ(holds({.exclusive = true,
                   .mig = true,
                   .time_slicing = false,
                   .mps = false,
                   .mps_servers = false}),
            7);
  EXPECT_EQ(holds({.exclusive = true,
                   .mig = false,
                   .time_slicing = false,
                   .mps = true,
                   .mps_servers = false}),
            48);
  // Memory is what time-slicing runs out of: a context without a cap is 0.63 GiB on this board.
  EXPECT_EQ(holds({.exclusive = true,
                   .mig = false,
                   .time_slicing = true,
                   .mps = false,
                   .mps_servers = false}),
            60);
}

}  // namespace
}  // namespace sublet
