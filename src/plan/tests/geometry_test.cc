// The oracle here shares no code with the table: it lays instances down one after the other, tries
// every start of each, and keeps books in plain arrays.
#include "plan/geometry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <numeric>
#include <set>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Board& BoardNamed(std::string_view name) {
  return **BuiltInBoards().Find(name);
}

const GeometryTable& TableOf(const std::string& name) {
  static std::map<std::string, GeometryTable> tables;
  const auto found = tables.find(name);
  if (found != tables.end()) return found->second;
  auto built = GeometryTable::Build(BoardNamed(name));
  EXPECT_TRUE(built.has_value()) << name;
  return tables.emplace(name, std::move(*built)).first->second;
}

std::vector<std::string> MigBoards() {
  std::vector<std::string> names;
  for (const Board& board : BuiltInBoards().boards) {
    if (board.HasMig()) names.push_back(board.name);
  }
  return names;
}

// The seven-slice table as it is without media extensions.
GeometryTable SevenSlicesWithoutMe() {
  Board board = BoardNamed("h200");
  std::erase_if(board.profiles, [](const MigProfile& p) { return p.name == "1g.18gb+me"; });
  return std::move(*GeometryTable::Build(board));
}

ProfileCounts Counts(const GeometryTable& table, const std::vector<std::string>& names) {
  const auto counts = table.CountsOf(names);
  EXPECT_TRUE(counts.has_value());
  return *counts;
}

// --- The oracle ---------------------------------------------------------------------------------

struct Books {
  explicit Books(const Board& b)
      : board(b), owned(static_cast<std::size_t>(b.memory_units), false), left(b.engines) {}

  bool Take(const PlacedInstance& instance) {
    const MigProfile& p = board.profiles.at(static_cast<std::size_t>(instance.profile));
    if (std::find(p.starts.begin(), p.starts.end(), instance.start) == p.starts.end()) return false;
    for (int u = instance.start; u < instance.start + p.size; ++u) {
      if (owned.at(static_cast<std::size_t>(u))) return false;
    }
    for (int u = instance.start; u < instance.start + p.size; ++u) {
      owned[static_cast<std::size_t>(u)] = true;
    }
    left.copy -= p.engines.copy;
    left.decoder -= p.engines.decoder;
    left.encoder -= p.engines.encoder;
    left.jpeg -= p.engines.jpeg;
    left.ofa -= p.engines.ofa;
    slices += p.compute_slices;
    return ++count[instance.profile] <= p.max_instances && left.copy >= 0 && left.decoder >= 0 &&
           left.encoder >= 0 && left.jpeg >= 0 && left.ofa >= 0 && slices <= board.compute_slices;
  }

  const Board& board;
  std::vector<bool> owned;
  EngineCounts left;
  int slices = 0;
  std::map<int, int> count;
};

bool LegalByOracle(const Board& board, const Geometry& geometry) {
  Books books(board);
  return std::all_of(geometry.begin(), geometry.end(),
                     [&](const PlacedInstance& instance) { return books.Take(instance); });
}

bool PlaceableByOracle(const Board& board, const std::vector<int>& profiles, std::size_t next,
                       const Books& books) {
  if (next == profiles.size()) return true;
  for (const int start : board.profiles[static_cast<std::size_t>(profiles[next])].starts) {
    Books further = books;
    if (further.Take({profiles[next], start}) &&
        PlaceableByOracle(board, profiles, next + 1, further)) {
      return true;
    }
  }
  return false;
}

bool PlaceableByOracle(const Board& board, const ProfileCounts& counts) {
  std::vector<int> profiles;
  for (std::size_t p = 0; p < counts.size(); ++p) {
    for (int i = 0; i < counts[p]; ++i) profiles.push_back(static_cast<int>(p));
  }
  return PlaceableByOracle(board, profiles, 0, Books(board));
}

ProfileCounts CountsOfGeometry(const Board& board, const Geometry& geometry) {
  ProfileCounts counts(board.profiles.size(), 0);
  for (const PlacedInstance& instance : geometry)
    ++counts[static_cast<std::size_t>(instance.profile)];
  return counts;
}

// Every multiset with up to one instance more of each profile than its limit, as long as the memory
// units suffice; those beyond are impossible by arithmetic.
std::vector<ProfileCounts> AllMultisetsWithinMemory(const Board& board) {
  std::vector<ProfileCounts> all;
  ProfileCounts counts(board.profiles.size(), 0);
  const auto walk = [&](auto&& self, std::size_t p, int units) -> void {
    if (p == counts.size()) {
      all.push_back(counts);
      return;
    }
    const MigProfile& profile = board.profiles[p];
    for (int n = 0; n <= profile.max_instances + 1; ++n) {
      if (units + n * profile.size > board.memory_units) break;
      counts[p] = n;
      self(self, p + 1, units + n * profile.size);
    }
    counts[p] = 0;
  };
  walk(walk, 0, 0);
  return all;
}

// --- Known answers ------------------------------------------------------------------------------

TEST(GeometryTableTest, HasTheKnownNumbersOfTheSevenSliceTable) {
  const GeometryTable table = SevenSlicesWithoutMe();
  EXPECT_EQ(table.GeometryCount(), 723u);
  EXPECT_EQ(table.Multisets().size(), 78u);
  EXPECT_EQ(table.Multisets().front(), ProfileCounts(6, 0));
}

TEST(GeometryTableTest, RefusesFour1gBesideTwo2g) {
  const GeometryTable& table = TableOf("a100-80gb");
  const ProfileCounts counts =
      Counts(table, {"1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "2g.20gb", "2g.20gb"});
  EXPECT_EQ(table.Place(counts), nullptr);
  EXPECT_EQ(table.WhyNot(counts), "4x 1g.10gb + 2x 2g.20gb need 8 compute slices, a100-80gb has 7");
}

TEST(GeometryTableTest, LeavesFour1gBesideA3gAtTheBackAndThreeBesideOneAtTheFront) {
  const GeometryTable& table = TableOf("h200");
  const auto index = [&](std::string_view name) {
    return static_cast<int>(table.board().FindProfile(name) - table.board().profiles.data());
  };
  const auto small = static_cast<std::size_t>(index("1g.18gb"));
  EXPECT_EQ(table.Room({{index("3g.71gb"), 4}})[small], 4);
  EXPECT_EQ(table.Room({{index("3g.71gb"), 0}})[small], 3);
  EXPECT_THAT(*table.Place(Counts(table, {"3g.71gb"})),
              ElementsAre(PlacedInstance{index("3g.71gb"), 4}));
}

TEST(GeometryTableTest, PlacesTheExampleOfTheManual) {
  const GeometryTable& table = TableOf("a100-80gb");
  const Geometry* where = table.Place(Counts(table, {"3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"}));
  ASSERT_NE(where, nullptr);
  std::vector<std::string> places;
  for (const PlacedInstance& instance : *where) {
    places.push_back(table.board().profiles[static_cast<std::size_t>(instance.profile)].name + "@" +
                     std::to_string(instance.start));
  }
  EXPECT_THAT(places, ElementsAre("1g.10gb@0", "1g.10gb@1", "2g.20gb@2", "3g.40gb@4"));
}

TEST(GeometryTableTest, SharesOutMediaEngines) {
  const GeometryTable& table = TableOf("rtx-pro-6000");
  const auto fits = [&](const std::vector<std::string>& names) {
    return table.Place(Counts(table, names)) != nullptr;
  };
  EXPECT_TRUE(fits({"1g.24gb", "1g.24gb+gfx", "1g.24gb-me", "1g.24gb+me"}));
  EXPECT_TRUE(fits({"1g.24gb+me.all", "1g.24gb-me", "2g.48gb-me"}));
  EXPECT_FALSE(fits({"1g.24gb+me.all", "1g.24gb"}));
  EXPECT_FALSE(fits({"1g.24gb+me.all", "1g.24gb+me"}));
  EXPECT_FALSE(fits({"1g.24gb+me.all", "2g.48gb+me.all"}));
  EXPECT_EQ(table.WhyNot(Counts(table, {"1g.24gb+me.all", "1g.24gb"})),
            "1g.24gb + 1g.24gb+me.all need 5 video decoders, rtx-pro-6000 has 4");
  EXPECT_EQ(TableOf("a30").WhyNot(Counts(TableOf("a30"), {"1g.6gb+me", "2g.12gb+me"})),
            "1g.6gb+me + 2g.12gb+me need 2 JPEG engines, a30 has 1");
}

TEST(GeometryTableTest, LetsOneComputeAndOneGraphicsInstanceShareAThor) {
  const GeometryTable& table = TableOf("jetson-thor");
  const auto fits = [&](const std::vector<std::string>& names) {
    return table.Place(Counts(table, names)) != nullptr;
  };
  EXPECT_TRUE(fits({"2g.0gb", "1g.0gb+gfx"}));
  EXPECT_TRUE(fits({"1g.0gb+me", "2g.0gb+gfx"}));
  EXPECT_FALSE(fits({"1g.0gb", "1g.0gb+me"}));
  EXPECT_FALSE(fits({"2g.0gb", "2g.0gb+gfx"}));
  EXPECT_FALSE(fits({"3g.0gb", "1g.0gb+gfx"}));
}

TEST(GeometryTableTest, NamesTheLimitThatAMultisetBreaks) {
  const GeometryTable& table = TableOf("a100-80gb");
  EXPECT_EQ(table.WhyNot(Counts(table, {"4g.40gb", "4g.40gb"})),
            "at most 1 of 4g.40gb can exist on a100-80gb, 2 are asked for");
  EXPECT_EQ(table.WhyNot(Counts(table, {"3g.40gb", "3g.40gb", "1g.10gb"})),
            "1g.10gb + 2x 3g.40gb need 9 memory units, a100-80gb has 8");
  EXPECT_EQ(table.WhyNot(Counts(table, {"3g.40gb"})), "");
}

TEST(GeometryTableTest, NamesThePartThatOverlapsWhereEverySumHolds) {
  Board board = BoardNamed("a30");
  board.memory_units = board.compute_slices = board.engines.copy = 8;
  board.profiles = {board.profiles[0], board.profiles[2]};
  board.profiles[1].starts = {1};  // One 2g in the middle; a second has no place.
  const auto table = GeometryTable::Build(board);
  ASSERT_TRUE(table.has_value());
  EXPECT_EQ(table->WhyNot({1, 2}),
            "2x 2g.12gb overlap wherever they are put on a30: 2g.12gb covers 2 units from 1");
}

TEST(GeometryTableTest, ListsTheBoardsProfilesForAnUnknownName) {
  const auto counts = TableOf("a30").CountsOf({"1g.6gb", "9g.99gb"});
  ASSERT_FALSE(counts.has_value());
  EXPECT_EQ(counts.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(counts.error().message, "mig profile not offered by a30: '9g.99gb'");
  EXPECT_THAT(counts.error().hint, HasSubstr("2g.12gb+me"));
}

TEST(GeometryTableTest, RefusesABoardWithoutMigAndOneThatIsTooLargeToEnumerate) {
  const auto none = GeometryTable::Build(BoardNamed("l4"));
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().code, ErrorCode::kUnsupported);

  Board board = BoardNamed("a30");
  board.memory_units = 40;
  board.compute_slices = 40;
  board.engines.copy = 40;
  board.profiles = {board.profiles[0]};
  board.profiles[0].max_instances = 40;
  board.profiles[0].starts.resize(40);
  std::iota(board.profiles[0].starts.begin(), board.profiles[0].starts.end(), 0);
  const auto large = GeometryTable::Build(board);
  ASSERT_FALSE(large.has_value());
  EXPECT_THAT(large.error().message, HasSubstr("more than 1000000 MIG geometries"));
}

// --- Every board against the oracle -------------------------------------------------------------

class EveryBoardTest : public ::testing::TestWithParam<std::string> {
 protected:
  const GeometryTable& table() const { return TableOf(GetParam()); }
  const Board& board() const { return table().board(); }
};

TEST_P(EveryBoardTest, AgreesWithTheOracleOnEveryMultiset) {
  std::size_t placeable = 0;
  for (const ProfileCounts& counts : AllMultisetsWithinMemory(board())) {
    const Geometry* where = table().Place(counts);
    ASSERT_EQ(where != nullptr, PlaceableByOracle(board(), counts)) << table().Describe(counts);
    ASSERT_EQ(where == nullptr, !table().WhyNot(counts).empty()) << table().Describe(counts);
    if (where == nullptr) continue;
    ++placeable;
    EXPECT_TRUE(LegalByOracle(board(), *where)) << table().Describe(counts);
    EXPECT_EQ(CountsOfGeometry(board(), *where), counts) << table().Describe(counts);
  }
  EXPECT_EQ(placeable, table().Multisets().size());
}

TEST_P(EveryBoardTest, HasMaximalMultisetsThatTakeNothingMoreAndCoverEverything) {
  for (const ProfileCounts& maximal : table().MaximalMultisets()) {
    for (std::size_t p = 0; p < maximal.size(); ++p) {
      ProfileCounts more = maximal;
      ++more[p];
      EXPECT_FALSE(PlaceableByOracle(board(), more)) << table().Describe(more);
    }
  }
  for (const ProfileCounts& counts : table().Multisets()) {
    const auto covers = [&](const ProfileCounts& maximal) {
      for (std::size_t p = 0; p < counts.size(); ++p) {
        if (counts[p] > maximal[p]) return false;
      }
      return true;
    };
    EXPECT_TRUE(
        std::any_of(table().MaximalMultisets().begin(), table().MaximalMultisets().end(), covers))
        << table().Describe(counts);
  }
}

TEST_P(EveryBoardTest, PlacesEachMultisetWhereItLeavesTheMostRoom) {
  const auto total = [](const ProfileCounts& counts) {
    return std::accumulate(counts.begin(), counts.end(), 0);
  };
  // All geometries, by laying instances down in ascending order of start.
  std::map<ProfileCounts, int> best_room;
  std::size_t count = 0;
  const auto walk = [&](auto&& self, Geometry& geometry, int from) -> void {
    ++count;
    int& best = best_room.try_emplace(CountsOfGeometry(board(), geometry), -1).first->second;
    best = std::max(best, total(table().Room(geometry)));
    for (int start = from; start < board().memory_units; ++start) {
      for (std::size_t p = 0; p < board().profiles.size(); ++p) {
        geometry.push_back({static_cast<int>(p), start});
        if (LegalByOracle(board(), geometry)) self(self, geometry, start + 1);
        geometry.pop_back();
      }
    }
  };
  Geometry empty;
  walk(walk, empty, 0);
  EXPECT_EQ(count, table().GeometryCount());
  for (const auto& [counts, room] : best_room) {
    EXPECT_EQ(total(table().Room(*table().Place(counts))), room) << table().Describe(counts);
  }
}

INSTANTIATE_TEST_SUITE_P(Catalogue, EveryBoardTest, ::testing::ValuesIn(MigBoards()),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// --- Properties ---------------------------------------------------------------------------------

struct Case {
  std::vector<CurrentInstance> current;
  ProfileCounts target;
};

// Some legal geometry with some of it in use, and any placeable multiset as the target.
Case AnyCase(const GeometryTable& table) {
  Case test;
  const Board& board = table.board();
  Geometry geometry;
  for (int tries = *rc::gen::inRange(0, 24); tries > 0; --tries) {
    const int p = *rc::gen::inRange(0, static_cast<int>(board.profiles.size()));
    geometry.push_back(
        {p, *rc::gen::elementOf(board.profiles[static_cast<std::size_t>(p)].starts)});
    if (!LegalByOracle(board, geometry)) geometry.pop_back();
  }
  for (const PlacedInstance& instance : geometry) {
    test.current.push_back({instance, *rc::gen::inRange(0, 3) == 0});
  }
  test.target = *rc::gen::elementOf(table.Multisets());
  return test;
}

using Instances = std::set<std::pair<int, int>>;  // (profile, start)

// The fewest single steps, each a destroy or a create that leaves a legal geometry, that lead to
// the target without destroying what is in use; -1 where there is no way.
int FewestSteps(const Board& board, const Case& test) {
  Instances begin;
  Instances pinned;
  for (const CurrentInstance& instance : test.current) {
    begin.insert({instance.where.profile, instance.where.start});
    if (instance.in_use) pinned.insert({instance.where.profile, instance.where.start});
  }
  const auto geometry_of = [](const Instances& instances) {
    Geometry geometry;
    for (const auto& [profile, start] : instances) geometry.push_back({profile, start});
    return geometry;
  };
  std::map<Instances, int> steps = {{begin, 0}};
  std::deque<Instances> queue = {begin};
  while (!queue.empty()) {
    const Instances here = queue.front();
    queue.pop_front();
    const int next_steps = steps[here] + 1;
    if (CountsOfGeometry(board, geometry_of(here)) == test.target) return next_steps - 1;
    const auto visit = [&](const Instances& there) {
      if (steps.try_emplace(there, next_steps).second) queue.push_back(there);
    };
    for (const auto& instance : here) {
      if (pinned.contains(instance)) continue;
      Instances there = here;
      there.erase(instance);
      visit(there);
    }
    for (std::size_t p = 0; p < board.profiles.size(); ++p) {
      for (const int start : board.profiles[p].starts) {
        Instances there = here;
        if (!there.insert({static_cast<int>(p), start}).second) continue;
        if (LegalByOracle(board, geometry_of(there))) visit(there);
      }
    }
  }
  return -1;
}

void ExpectSoundTransition(const GeometryTable& table, const Case& test,
                           const Transition& transition) {
  Instances now;
  for (const CurrentInstance& instance : test.current) {
    now.insert({instance.where.profile, instance.where.start});
  }
  for (const int i : transition.destroy) {
    const CurrentInstance& gone = test.current.at(static_cast<std::size_t>(i));
    RC_ASSERT(!gone.in_use);
    now.erase({gone.where.profile, gone.where.start});
  }
  for (const PlacedInstance& made : transition.create) {
    RC_ASSERT(now.insert({made.profile, made.start}).second);
    Geometry geometry;
    for (const auto& [profile, start] : now) geometry.push_back({profile, start});
    RC_ASSERT(LegalByOracle(table.board(), geometry));
  }
  Instances result;
  for (const PlacedInstance& instance : transition.result) {
    result.insert({instance.profile, instance.start});
  }
  RC_ASSERT(now == result);
  RC_ASSERT(CountsOfGeometry(table.board(), transition.result) == test.target);
}

TEST_P(EveryBoardTest, ReachesTheTargetAndNeverTouchesWhatIsInUse) {
  EXPECT_TRUE(rc::check([&] {
    const Case test = AnyCase(table());
    const auto transition = table().Reach(test.current, test.target);
    if (transition) {
      ExpectSoundTransition(table(), test, *transition);
    } else {
      RC_ASSERT(transition.error().code == ErrorCode::kInfeasible);
      RC_ASSERT(!transition.error().message.empty());
    }
  }));
}

TEST_P(EveryBoardTest, PlacesMoreBesideWhatStaysExactlyWhereTheOracleCan) {
  EXPECT_TRUE(rc::check([&] {
    Case test = AnyCase(table());
    Geometry fixed;
    Books books(board());
    for (const CurrentInstance& instance : test.current) {
      if (!instance.in_use) continue;
      fixed.push_back(instance.where);
      RC_ASSERT(books.Take(instance.where));
    }
    std::vector<int> profiles;
    for (std::size_t p = 0; p < test.target.size(); ++p) {
      for (int i = 0; i < test.target[p]; ++i) profiles.push_back(static_cast<int>(p));
    }
    const auto more = table().PlaceBeside(fixed, test.target);
    RC_ASSERT(more.has_value() == PlaceableByOracle(board(), profiles, 0, books));
    if (!more) return;
    RC_ASSERT(CountsOfGeometry(board(), *more) == test.target);
    Geometry both = fixed;
    both.insert(both.end(), more->begin(), more->end());
    RC_ASSERT(LegalByOracle(board(), both));
  }));
}

class ShortestWayTest : public ::testing::TestWithParam<std::string> {};

TEST_P(ShortestWayTest, TakesAsFewStepsAsASearchOverAllGeometries) {
  const GeometryTable table = GetParam() == "seven" ? SevenSlicesWithoutMe() : TableOf(GetParam());
  EXPECT_TRUE(rc::check([&] {
    const Case test = AnyCase(table);
    const auto transition = table.Reach(test.current, test.target);
    const int fewest = FewestSteps(table.board(), test);
    RC_ASSERT(transition.has_value() == (fewest >= 0));
    if (transition) {
      RC_ASSERT(static_cast<int>(transition->destroy.size() + transition->create.size()) == fewest);
    }
  }));
}

INSTANTIATE_TEST_SUITE_P(SmallBoards, ShortestWayTest,
                         ::testing::Values("seven", "a30", "rtx-pro-5000-48gb", "jetson-thor"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// --- Transitions with known answers -------------------------------------------------------------

class ReachTest : public ::testing::Test {
 protected:
  int Index(std::string_view name) const {
    return static_cast<int>(table_.board().FindProfile(name) - table_.board().profiles.data());
  }
  CurrentInstance At(std::string_view name, int start, bool in_use) const {
    return {{Index(name), start}, in_use};
  }

  const GeometryTable& table_ = TableOf("a100-80gb");
};

TEST_F(ReachTest, DoesNothingWhereTheTargetIsThereAlready) {
  const auto transition = table_.Reach({At("1g.10gb", 5, true), At("3g.40gb", 0, false)},
                                       Counts(table_, {"3g.40gb", "1g.10gb"}));
  ASSERT_TRUE(transition.has_value());
  EXPECT_TRUE(transition->destroy.empty());
  EXPECT_TRUE(transition->create.empty());
}

TEST_F(ReachTest, MovesTheFreeInstanceOutOfTheWayOfTheOneInUse) {
  // The 3g must go where the free 1g lies, because the other half holds the one in use.
  const auto transition = table_.Reach({At("1g.10gb", 1, true), At("1g.10gb", 5, false)},
                                       Counts(table_, {"3g.40gb", "1g.10gb", "1g.10gb"}));
  ASSERT_TRUE(transition.has_value());
  EXPECT_THAT(transition->destroy, ElementsAre(1));
  EXPECT_THAT(transition->create, ElementsAre(PlacedInstance{Index("1g.10gb"), 0},
                                              PlacedInstance{Index("3g.40gb"), 4}));
}

TEST_F(ReachTest, NamesOnlyTheInstancesInUseThatBlock) {
  const auto transition =
      table_.Reach({At("1g.10gb", 0, true), At("1g.10gb", 1, true), At("1g.10gb", 5, true)},
                   Counts(table_, {"3g.40gb", "1g.10gb", "1g.10gb", "1g.10gb"}));
  ASSERT_FALSE(transition.has_value());
  EXPECT_EQ(transition.error().code, ErrorCode::kInfeasible);
  EXPECT_THAT(transition.error().message, HasSubstr("in use: 1g.10gb at 1 and 1g.10gb at 5"));
}

TEST_F(ReachTest, SaysThatTheTargetHasNoPlaceForAnInstanceInUse) {
  const auto transition =
      table_.Reach({At("2g.20gb", 0, true)}, Counts(table_, {"3g.40gb", "1g.10gb"}));
  ASSERT_FALSE(transition.has_value());
  EXPECT_EQ(transition.error().message, "1 of 2g.20gb are in use, the target has 0");
}

TEST_F(ReachTest, SaysThatTheTargetCanNotExist) {
  const auto transition = table_.Reach({}, Counts(table_, {"7g.80gb", "1g.10gb"}));
  ASSERT_FALSE(transition.has_value());
  EXPECT_EQ(transition.error().code, ErrorCode::kInfeasible);
  EXPECT_EQ(transition.error().message, "1g.10gb + 7g.80gb need 8 compute slices, a100-80gb has 7");
}

TEST_F(ReachTest, RefusesACurrentStateThatCanNotBe) {
  for (const auto& current : {std::vector{At("3g.40gb", 1, false)},
                              std::vector{At("3g.40gb", 0, false), At("1g.10gb", 3, false)}}) {
    const auto transition = table_.Reach(current, Counts(table_, {"1g.10gb"}));
    ASSERT_FALSE(transition.has_value());
    EXPECT_EQ(transition.error().code, ErrorCode::kConflict);
  }
}

}  // namespace
}  // namespace sublet
