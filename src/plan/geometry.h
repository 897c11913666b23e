// plan/geometry.h
//
// Which sets of MIG instances a GPU can be cut into, where each lies, and how to get from one cut
// to another without touching what is in use. Exact, for every board.
//
// A geometry is a set of instances, each a profile at a start. It is legal when
//
//   (1) every instance begins where its profile may begin,
//   (2) no two instances cover the same memory unit,
//   (3) no profile occurs more often than its max_instances,
//   (4) the engines of all instances add up to no more than the board's (one optical-flow engine:
//       one +me; +me.all takes every decoder, so only -me fits beside it),
//   (5) the compute slices add up to no more than the board's.
//
// (5) follows from (2) on all boards known today; it is checked all the same.
//
//   ASSIGN_OR_RETURN(const GeometryTable table, GeometryTable::Build(*board));
//   ASSIGN_OR_RETURN(const ProfileCounts wanted, table.CountsOf({"3g.40gb", "1g.10gb"}));
//   if (const Geometry* where = table.Place(wanted)) ...   // 1g.10gb at 0, 3g.40gb at 4
//   else fmt::print("{}\n", table.WhyNot(wanted));
//
// A profile is its index into Board::profiles; a multiset of profiles is a ProfileCounts, one count
// for each of them. Build() enumerates all legal geometries once (2,319 on a seven-slice board, in
// 0.8 ms); a later question is a lookup or a walk along the geometries of one multiset and takes
// less than a microsecond (plan/bench/geometry_bench.cc).
//
// Thread safety: constant after Build(); share one table between threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "model/board.h"

namespace sublet {

// Bounds on what Build() enumerates. Placements are bits of a 64-bit set; the board with the most
// has
// 30. A million geometries take half a second; the board with the most has 2,319.
inline constexpr int kGeometryPlacementsMax = 64;
inline constexpr std::size_t kGeometriesMax = 1'000'000;

// How many instances of each of Board::profiles; has that length.
using ProfileCounts = std::vector<int>;

// "2x 1g.10gb + 3g.40gb", in the board's order; "nothing" for the empty multiset.
std::string DescribeCounts(const Board& board, const ProfileCounts& counts);

struct PlacedInstance {
  int profile = 0;  // Index into Board::profiles.
  int start = 0;    // First memory unit.

  friend bool operator==(const PlacedInstance&, const PlacedInstance&) = default;
};

// Ascending start.
using Geometry = std::vector<PlacedInstance>;

struct CurrentInstance {
  PlacedInstance where;
  bool in_use = false;  // Something runs in it: it must stay as it is.
};

// The steps from one geometry to another: first all of `destroy`, then all of `create`.
struct Transition {
  std::vector<int> destroy;  // Indices into the current instances, ascending.
  Geometry create;
  Geometry result;  // What is there in the end.
};

class GeometryTable {
 public:
  // Fails with kUnsupported where the board has no MIG or exceeds the bounds above.
  static Result<GeometryTable> Build(const Board& board);

  const Board& board() const { return board_; }

  // Resolves names on this board. Fails with kNotFound and lists the board's profiles.
  Result<ProfileCounts> CountsOf(const std::vector<std::string>& names) const;

  // The canonical geometry of a multiset, or nullptr where there is none. Canonical is the one that
  // leaves the most room (the sum of Room() is largest: a lone 3g lies at 4, where 4 x 1g fit
  // beside it, not at 0, where 3 do); among those the lexicographically smallest sequence of
  // (start, profile). A hash lookup; the pointer lives as long as the table. REQUIRES: one count
  // for each profile, none negative.
  const Geometry* Place(const ProfileCounts& counts) const;

  // Why Place() gives nullptr: "4x 1g.10gb + 2x 2g.20gb need 8 compute slices, a100-80gb has 7".
  // Names the smallest part of the multiset that can't exist. Empty where it can.
  std::string WhyNot(const ProfileCounts& counts) const;

  // Every placeable multiset, the empty one first, in lexicographic order.
  const std::vector<ProfileCounts>& Multisets() const { return multisets_; }

  // Those to which no instance can be added, in lexicographic order. Whatever can be placed is part
  // of one of them.
  const std::vector<ProfileCounts>& MaximalMultisets() const { return maximal_; }

  // Number of legal geometries, the empty one included.
  std::size_t GeometryCount() const { return sets_.size(); }

  // For each profile alone: how many more instances of it fit beside `fixed`, which stay where they
  // are. All zero where nothing fits. REQUIRES: IsLegal(fixed).
  ProfileCounts Room(const Geometry& fixed) const;

  // Where `more` can lie beside `fixed`, which stay where they are; nullopt where they can't. By
  // the same preference as Place(). REQUIRES: IsLegal(fixed).
  std::optional<Geometry> PlaceBeside(const Geometry& fixed, const ProfileCounts& more) const;

  // Whether these instances can exist together.
  bool IsLegal(const Geometry& geometry) const;

  // The fewest destroys and creates after which exactly `target` exists. Instances in use are not
  // touched; others may stay, if the target has a place for them. Of the shortest transitions, the
  // one whose result Place() would prefer. Destroying first makes room for every create, in any
  // order.
  //
  // Fails with kInfeasible: the target can't exist at all, it has no place for an instance in use,
  // or instances in use lie where the target can't do without; the message names some that block
  // it together, none of which could be left out. Fails with kConflict where `current` is no legal
  // set of placements.
  Result<Transition> Reach(const std::vector<CurrentInstance>& current,
                           const ProfileCounts& target) const;

  std::string Describe(const ProfileCounts& counts) const { return DescribeCounts(board_, counts); }

 private:
  // A set of placements, as bits: the i-th lowest bit is placements_[i].
  using PlacementSet = std::uint64_t;

  struct PossiblePlacement {
    PlacedInstance where;
    std::uint64_t units = 0;  // Memory units covered, as bits.
  };

  // What a set of instances uses up.
  struct Usage {
    std::uint64_t units = 0;
    int compute_slices = 0;
    EngineCounts engines;
  };

  // The geometries of one multiset: sets_[begin, end), best first.
  struct Range {
    std::size_t begin = 0;
    std::size_t end = 0;
    Geometry canonical;
  };

  struct CountsHash {
    std::size_t operator()(const ProfileCounts& counts) const;
  };

  // Building, in this order.
  void ListPlacements();
  bool Enumerate();
  void GroupByMultiset(std::vector<ProfileCounts> counts_of_set);
  void FindMaximal();

  bool MayAdd(const Usage& usage, const ProfileCounts& counts, int profile) const;
  void Add(int profile, std::uint64_t units, Usage& usage) const;
  Usage UsageOf(PlacementSet set) const;
  ProfileCounts CountsOfSet(PlacementSet set) const;
  Geometry GeometryOf(PlacementSet set) const;
  ProfileCounts RoomBeside(PlacementSet set) const;
  const Range* Find(const ProfileCounts& counts) const;
  // nullopt where `where` is no placement of this board.
  std::optional<PlacementSet> BitOf(const PlacedInstance& where) const;
  // The set of `geometry`; nullopt where it isn't legal.
  std::optional<PlacementSet> SetOf(const Geometry& geometry) const;
  // Fails with kConflict where they overlap or lie where this board has no placement.
  Result<PlacementSet> SetOfCurrent(const std::vector<CurrentInstance>& current) const;
  std::string Shortage(const ProfileCounts& counts) const;
  std::string DescribeBlockers(PlacementSet in_use, const Range& target) const;

  Board board_;
  std::vector<PossiblePlacement> placements_;  // By (start, profile).
  std::vector<PlacementSet> sets_;
  std::unordered_map<ProfileCounts, Range, CountsHash> ranges_;
  std::vector<ProfileCounts> multisets_;
  std::vector<ProfileCounts> maximal_;
};

}  // namespace sublet
