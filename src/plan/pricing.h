// plan/pricing.h
//
// The best way to fill one GPU when each workload's replica has a worth.
//
// A Pattern is everything that one GPU does: whole or cut into MIG instances, and for each
// partition the sharing mode and the variants in it. The solver (plan/solver.h) puts patterns
// together; this is its oracle: given what one more replica of each workload is worth, which
// pattern of a board is worth the most, and what is proven to be the limit.
//
//   Pricer pricer(problem);
//   Priced best = pricer.Best(board, worth, demand);
//   best.pattern.has_value(), best.value, best.value_max
//
// A partition is filled in one of these ways, each a small knapsack (plan/knapsack.h) over the
// variants that may be together:
//   exclusive      one replica
//   time-slicing   any; each takes the whole partition while it runs
//   mps            one server: either no two ever wait for each other (the shares add up to at most
//                  1), or the load stays below what the most sensitive of them bears
//   mps, servers   one server a tenant, time-sliced against each other
// and either all replicas are of one tenant, or all of them allow the mode beside strangers.
//
// Thread safety: a Pricer is not safe to share; it keeps scratch memory.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "model/plan.h"
#include "plan/knapsack.h"
#include "plan/problem.h"

namespace sublet {

struct PartitionChoice {
  int offer = 0;  // Index into the board's offers.
  SharingMode mode = SharingMode::kExclusive;
  bool servers = false;                                  // kMps with a server for each tenant.
  std::vector<std::pair<const Variant*, int>> contents;  // Ascending workload; counts >= 1.
};

struct Pattern {
  int board = 0;
  std::vector<PartitionChoice> partitions;
  std::vector<std::pair<int, int>> counts;  // Workload -> replicas, ascending, counts >= 1.

  // Recomputes `counts` from the partitions.
  void Tally();
};

// What decides whether a set of variants can share a partition, worked out from the set itself.
struct Occupancy {
  double share = 0;  // Sum.
  double load = 0;
  int slots = kSlotsMax;
  Bytes memory;
  int replicas = 0;
};
Occupancy OccupancyOf(const PartitionChoice& partition);

// Does nobody ever wait for another's SMs? So it is where the shares of one MPS server add up to 1
// or less.
bool SideBySide(const PartitionChoice& partition, const Occupancy& occupancy);

// How the neighbours slow `variant` in this partition: not at all where it is alone or
// SideBySide().
Slowdown SlowdownIn(const PartitionChoice& partition, const Occupancy& occupancy,
                    const Variant& variant);

// Does the workload's required isolation allow strangers in a partition of this mode?
bool ToleratesStrangers(Isolation isolation, SharingMode mode, bool servers);

// A partition holds a dozen replicas as a rule; so many nodes find its best contents nearly always.
inline constexpr int kPricingNodes = 1000;

// And so many knapsacks' worth of them for one offer: fleets of many different workloads have
// thousands of load limits to try, of which the first few hold the best filling.
inline constexpr int kPricingSearches = 60;
inline constexpr int kBoundNodes = 100;  // What a relaxation costs, in nodes of a search.

struct Priced {
  std::optional<Pattern> pattern;
  double value = 0;      // Of `pattern`, each workload's replicas counted up to its demand.
  double value_max = 0;  // No pattern of the board is worth more.
};

class Pricer {
 public:
  // REQUIRES: the problem outlives the Pricer.
  explicit Pricer(const Problem& problem);

  // `worth` and `demand` by workload; a workload without demand is left out. Patterns of at most
  // `worth_more_than` are not looked for.
  Priced Best(int board, const std::vector<double>& worth, const std::vector<int>& demand,
              double worth_more_than = 0);

  // Nodes for each knapsack: few find good patterns fast, many prove that there is no better one.
  void SetEffort(int nodes_max) { nodes_max_ = nodes_max; }
  // Nodes of all calls so far, bounds counted in.
  std::int64_t effort_spent() const { return effort_spent_; }

 private:
  // A family of knapsacks: the same members under a sum of shares of at most 1, or under one of
  // several load limits, each of which excludes the members that bear less.
  struct Task {
    SharingMode mode = SharingMode::kExclusive;
    bool servers = false;
    int slots = 0;               // Of the largest member, where the load is limited; else 0.
    std::vector<double> limits;  // Ascending; {1} for the shares.
    std::vector<const Variant*> members;
    Multipliers hint{};  // From the last time: most families are dismissed by it alone.
  };
  struct Filled {
    PartitionChoice choice;
    double value = 0;
    double value_max = 0;
  };

  std::vector<Task> TasksOf(const Offer& offer) const;
  static void AddLoadTasks(const std::vector<const Variant*>& members, SharingMode mode,
                           bool servers, std::vector<Task>& out);
  std::vector<std::vector<const Variant*>> Scopes(const std::vector<Variant>& variants,
                                                  SharingMode mode, bool servers) const;
  Filled Fill(int board, int offer, const std::vector<double>& worth,
              const std::vector<int>& demand, double worth_more_than);
  // Tries the limits [first, last] of a family: as one, with the members of the lowest and the room
  // of the highest, and only where that is worth more than the best so far, half by half.
  void FillRange(const Offer& offer, Task& task, std::size_t first, std::size_t last,
                 Multipliers hint, Filled& best);
  void ItemsFor(const Offer& offer, const Task& task, double lowest, double highest);
  // No filling of this offer is worth more; quick, by the relaxation alone.
  double WorthAtMost(int board, int offer, const std::vector<double>& worth,
                     const std::vector<int>& demand);
  // Every way of cutting a board, with what is proven about it.
  struct Cuts {
    struct Cut {
      const std::vector<int>* instances = nullptr;  // By profile.
      double value_max = 0;
      bool tried = false;
    };
    explicit Cuts(const std::vector<std::vector<int>>& multisets);
    // Lowers each cut's limit to `rent` plus the sum of its instances', where that is less.
    void Limit(const std::vector<Filled>& filled, double rent);
    Cut* BestUntried();  // nullptr when all were.
    double ValueMax() const;

    std::vector<Cut> all;
  };

  // Raises value and value_max of `best` to those of the best cut.
  void CutByMig(int board, const std::vector<double>& worth, const std::vector<int>& demand,
                Priced& best);
  // By profile, each instance with the whole demand to itself.
  std::vector<Filled> FillInstances(int board, const std::vector<double>& worth,
                                    const std::vector<int>& demand);
  // Fills the instances of a cut one after the other; `filled` as long as the demand lasts.
  Priced Arrange(int board, const std::vector<int>& cut, const std::vector<Filled>& filled,
                 const std::vector<double>& worth, const std::vector<int>& demand,
                 bool largest_first);
  void ShareDemand(int board, const std::vector<double>& worth, const std::vector<int>& demand,
                   Cuts& cuts, Priced& best);
  static void Keep(Priced arranged, Priced& best);

  const Problem& problem_;
  std::vector<std::vector<std::vector<Task>>> tasks_;  // By board, by offer.
  int nodes_max_ = kPricingNodes;
  std::int64_t effort_spent_ = 0;
  std::int64_t effort_until_ = 0;  // Where the call in progress stops splitting and searching.
  // Of the call in progress.
  const std::vector<double>* worth_ = nullptr;
  const std::vector<int>* demand_ = nullptr;
  std::vector<KnapsackItem> items_;
  std::vector<const Variant*> variants_;  // By item.
};

}  // namespace sublet
