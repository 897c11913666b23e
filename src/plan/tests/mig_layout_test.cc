#include "plan/mig_layout.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "model/tests/board_gpu.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

MigConfigEntry Asking(std::map<std::string, int> devices) {
  MigConfigEntry entry;
  entry.mig_enabled = true;
  entry.mig_devices = std::move(devices);
  return entry;
}

Gpu CutInto(const std::string& board, std::vector<MigSeat> seats) {
  Gpu gpu = GpuOfBoard(board);
  const auto target =
      ResolveTarget(gpu, {.gpu_uuid = gpu.uuid, .mig = true, .instances = std::move(seats)});
  EXPECT_TRUE(target) << target.error().message;
  SetInstances(target->instances, gpu);
  return gpu;
}

// "3g.40gb at 4: stays: it is there already"
std::vector<std::string> Told(const Result<MigLayout>& layout) {
  EXPECT_TRUE(layout) << layout.error().message;
  std::vector<std::string> told;
  if (!layout) return told;
  EXPECT_EQ(layout->reasons.size(), layout->target.instances.size());
  for (std::size_t i = 0; i < layout->reasons.size(); ++i) {
    told.push_back(DescribeSeat(layout->target.instances[i]) + ": " + layout->reasons[i]);
  }
  return told;
}

Error ErrorOf(const Gpu& gpu, const MigConfigEntry& entry, const MigUse& use = {}) {
  const auto layout = LayOut(BuiltInBoards(), gpu, entry, use);
  EXPECT_FALSE(layout);
  return layout ? Error{} : layout.error();
}

MigUse InUse(int id) {
  return {.instances = {{id, {"process 9 (python3)"}}}, .whole = {}};
}

TEST(MigLayout, KeepsWhatIsThereAndPutsTheRestBeside) {
  // Place() alone would have the 3g at 4.
  const Gpu gpu = CutInto("a100-80gb",
                          {{.profile = "3g.40gb", .start = 0}, {.profile = "1g.10gb", .start = 6}});
  EXPECT_THAT(
      Told(LayOut(BuiltInBoards(), gpu, Asking({{"3g.40gb", 1}, {"1g.10gb", 2}}), InUse(1))),
      ElementsAre("3g.40gb at 0: stays: used by process 9 (python3)",
                  "1g.10gb at 4: new: fits beside what stays",
                  "1g.10gb at 6: stays: it is there already"));
}

TEST(MigLayout, StartsWhereMostRoomIsLeft) {
  EXPECT_THAT(Told(LayOut(BuiltInBoards(), GpuOfBoard("a100-80gb"), Asking({{"3g.40gb", 1}}), {})),
              ElementsAre("3g.40gb at 4: new: leaves the most room to others"));
}

TEST(MigLayout, MovesWhatIsFreeOutOfTheWayOfWhatIsInUse) {
  const Gpu gpu = CutInto("a100-80gb",
                          {{.profile = "1g.10gb", .start = 1}, {.profile = "1g.10gb", .start = 5}});
  EXPECT_THAT(
      Told(LayOut(BuiltInBoards(), gpu, Asking({{"3g.40gb", 1}, {"1g.10gb", 2}}), InUse(1))),
      ElementsAre("1g.10gb at 0: new: fits beside what stays",
                  "1g.10gb at 1: stays: used by process 9 (python3)",
                  "3g.40gb at 4: new: fits beside what stays"));
}

TEST(MigLayout, SaysWhoStandsInTheWay) {
  const Gpu gpu = CutInto("a100-80gb", {{.profile = "1g.10gb", .start = 1}});
  const Error error = ErrorOf(gpu, Asking({{"7g.80gb", 1}}), InUse(1));
  EXPECT_EQ(error.code, ErrorCode::kConflict);
  EXPECT_THAT(error.message, HasSubstr("1g.10gb at 1 by process 9 (python3)"));
}

TEST(MigLayout, SaysWhyASetCanNotExist) {
  const Error error = ErrorOf(GpuOfBoard("a100-80gb"), Asking({{"1g.10gb", 4}, {"2g.20gb", 2}}));
  EXPECT_EQ(error.code, ErrorCode::kInfeasible);
  EXPECT_THAT(error.message, HasSubstr("compute slices"));
}

TEST(MigLayout, ResolvesANameOnTheGpuItself) {
  // The same name is another profile on the smaller board.
  const auto id = [](const std::string& board) {
    return LayOut(BuiltInBoards(), GpuOfBoard(board), Asking({{"1g.10gb", 1}}), {})
        ->target.instances.at(0)
        .profile_id;
  };
  EXPECT_EQ(id("a100-40gb"), 15);
  EXPECT_EQ(id("a100-80gb"), 19);
  const Error error = ErrorOf(GpuOfBoard("h200"), Asking({{"1g.10gb", 1}}));
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_THAT(error.hint, HasSubstr("1g.18gb"));
}

TEST(MigLayout, GoesByTheCatalogueWhereTheDriverTellsNoNamesOrPlaces) {
  Gpu gpu = GpuOfBoard("a100-80gb");
  for (ReportedProfile& profile : gpu.profiles) {
    profile.name.clear();
    profile.placements.clear();
  }
  EXPECT_THAT(Told(LayOut(BuiltInBoards(), gpu, Asking({{"3g.40gb", 2}}), {})), SizeIs(2));
  gpu.board = "";
  EXPECT_EQ(ErrorOf(gpu, Asking({{"3g.40gb", 2}})).code, ErrorCode::kUnsupported);
}

TEST(MigLayout, RefusesMigWhereThereIsNone) {
  EXPECT_EQ(ErrorOf(GpuOfBoard("l4"), Asking({})).code, ErrorCode::kUnsupported);
  EXPECT_TRUE(LayOut(BuiltInBoards(), GpuOfBoard("l4"), MigConfigEntry{}, {}));
}

TEST(MigLayout, ComputeInstancesShareGpuInstances) {
  const Gpu gpu = GpuOfBoard("a100-80gb");
  const auto layout = LayOut(BuiltInBoards(), gpu,
                             Asking({{"1c.3g.40gb", 2}, {"2c.3g.40gb", 1}, {"3c.3g.40gb", 1}}), {});
  EXPECT_THAT(ErrorOf(gpu, Asking({{"1c.3g.40gb", 7}})).code, ErrorCode::kInfeasible);
  ASSERT_FALSE(layout) << "3g: one with 2+1 slices, one with 1, one whole";
  EXPECT_THAT(
      Told(LayOut(BuiltInBoards(), gpu, Asking({{"1c.3g.40gb", 4}, {"2c.3g.40gb", 1}}), {})),
      ElementsAre(HasSubstr("3g.40gb at 0 (compute slices 2+1)"),
                  HasSubstr("3g.40gb at 4 (compute slices 1+1+1)")));
}

TEST(MigLayout, AnInstanceCutOtherwiseInsideIsMadeAnewUnlessItIsInUse) {
  const Gpu gpu =
      CutInto("a100-80gb", {{.profile = "3g.40gb", .start = 0, .compute_slices = {{2, 1}}}});
  EXPECT_THAT(Told(LayOut(BuiltInBoards(), gpu, Asking({{"3g.40gb", 1}}), {})),
              ElementsAre(HasSubstr("3g.40gb at 4: new")));
  const Error error = ErrorOf(gpu, Asking({{"3g.40gb", 1}}), InUse(1));
  EXPECT_EQ(error.code, ErrorCode::kConflict);
  EXPECT_THAT(error.message, HasSubstr("other compute instances"));
}

// ---- a whole node ----

Inventory TwoBoards() {
  Inventory node;
  node.gpus = {GpuOfBoard("a100-80gb"), GpuOfBoard("a30")};
  node.gpus[1].index = 1;
  return node;
}

MigConfigLabel LabelFrom(const std::string& entries) {
  const auto config = ParseMigConfig("version: v1\nmig-configs:\n  it:\n" + entries, "test");
  EXPECT_TRUE(config) << config.error().message;
  return config->labels.at(0);
}

TEST(MigLayoutOfANode, EachGpuGetsTheLastEntryThatIsMeantForIt) {
  const MigConfigLabel label = LabelFrom(
      "    - {devices: all, mig-enabled: false}\n"
      "    - {device-filter: '0x20B210DE', devices: all, mig-enabled: true, mig-devices: {}}\n"
      "    - {devices: [7], mig-enabled: true, mig-devices: {}}\n");
  const auto layout = LayOutNode(BuiltInBoards(), TwoBoards(), label, {}, {});
  ASSERT_TRUE(layout) << layout.error().message;
  ASSERT_THAT(layout->gpus, SizeIs(2));
  EXPECT_TRUE(layout->gpus[0].target.mig);
  EXPECT_EQ(layout->gpus[0].entry, 1);
  EXPECT_FALSE(layout->gpus[1].target.mig);
}

TEST(MigLayoutOfANode, LeavesAloneWhatNoEntryIsMeantFor) {
  const MigConfigLabel label = LabelFrom("    - {devices: [1], mig-enabled: false}\n");
  const auto layout = LayOutNode(BuiltInBoards(), TwoBoards(), label, {}, {});
  ASSERT_TRUE(layout);
  EXPECT_THAT(layout->not_matched, ElementsAre(0));
  EXPECT_THAT(*LabelDifferences(BuiltInBoards(), TwoBoards(), label, {}),
              ElementsAre("GPU 0: no entry is meant for it"));
}

TEST(MigLayoutOfANode, SaysWhichGpuCanNotHaveIt) {
  const auto layout = LayOutNode(
      BuiltInBoards(), TwoBoards(),
      LabelFrom("    - {devices: all, mig-enabled: true, mig-devices: {3g.40gb: 1}}\n"), {}, {});
  ASSERT_FALSE(layout);
  EXPECT_THAT(layout.error().message, HasSubstr("it: GPU 1: mig profile not offered by a30"));
}

TEST(MigLayoutOfANode, ModeAloneLeavesInstancesWhereTheModeStays) {
  Inventory node = TwoBoards();
  node.gpus[0] = CutInto("a100-80gb", {{.profile = "7g.80gb", .start = 0}});
  const MigConfigLabel label =
      LabelFrom("    - {devices: all, mig-enabled: true, mig-devices: {1g.10gb: 7}}\n");
  const auto layout = LayOutNode(BuiltInBoards(), node, label, {}, {.mode_only = true});
  ASSERT_TRUE(layout) << layout.error().message;
  EXPECT_THAT(layout->gpus[0].target.instances, SizeIs(1));
  EXPECT_TRUE(layout->gpus[1].target.mig);
  EXPECT_THAT(layout->gpus[1].target.instances, IsEmpty());
  EXPECT_THAT(*LabelDifferences(BuiltInBoards(), node, label, {.mode_only = true}),
              ElementsAre("GPU 1: MIG mode is off, not on"));
}

TEST(MigLayoutOfANode, CountsWhatIsMissingAndWhatIsTooMuch) {
  Inventory node;
  node.gpus = {CutInto("a100-80gb", {{.profile = "1g.10gb", .start = 0},
                                     {.profile = "3g.40gb", .start = 4, .compute_slices = {{}}}})};
  const MigConfigLabel label = LabelFrom(
      "    - {devices: all, mig-enabled: true, mig-devices: {1g.10gb: 2, 3c.3g.40gb: 1}}\n");
  EXPECT_THAT(
      *LabelDifferences(BuiltInBoards(), node, label, {}),
      ElementsAre("GPU 0: 1 of 1g.10gb, not 2", "GPU 0: GPU instance 2 has no compute instance"));
}

TEST(MigLayoutOfANode, ExportsWhatAsksForWhatIsThere) {
  Inventory node = TwoBoards();
  node.gpus[0] =
      CutInto("a100-80gb", {{.profile = "3g.40gb", .start = 0},
                            {.profile = "3g.40gb", .start = 4, .compute_slices = {{2, 1}}}});
  const auto label = LabelOfNode(BuiltInBoards(), node, "current");
  ASSERT_TRUE(label) << label.error().message;
  EXPECT_EQ(MigConfigToYaml({{*label}}),
            "version: v1\nmig-configs:\n  current:\n"
            "    - device-filter: \"0x20B210DE\"\n      devices: [0]\n      mig-enabled: true\n"
            "      mig-devices:\n        \"1c.3g.40gb\": 1\n        \"2c.3g.40gb\": 1\n"
            "        \"3g.40gb\": 1\n"
            "    - device-filter: \"0x20B710DE\"\n      devices: [1]\n      mig-enabled: false\n");
  EXPECT_THAT(*LabelDifferences(BuiltInBoards(), node, *label, {}), IsEmpty());
  const auto layout = LayOutNode(BuiltInBoards(), node, *label, {}, {});
  ASSERT_TRUE(layout) << layout.error().message;
  EXPECT_EQ(layout->Targets()[0], *CurrentTarget(node.gpus[0]));
}

TEST(MigLayoutOfANode, ExportsAlikeGpusAsOneEntry) {
  Inventory node;
  node.gpus = {GpuOfBoard("a30"), GpuOfBoard("a30")};
  node.gpus[1].index = 1;
  EXPECT_EQ(MigConfigToYaml({{*LabelOfNode(BuiltInBoards(), node, "current")}}),
            "version: v1\nmig-configs:\n  current:\n"
            "    - devices: all\n      mig-enabled: false\n");
}

// ---- against every possibility ----

// Every set of placements that the table's own limits allow, found without GeometryTable.
void AddGeometries(const Board& board, std::size_t next, std::vector<MigSeat>& seats,
                   std::vector<std::vector<MigSeat>>& all) {
  std::vector<std::pair<const MigProfile*, int>> places;
  for (const MigProfile& profile : board.profiles) {
    for (const int start : profile.starts) places.emplace_back(&profile, start);
  }
  all.push_back(seats);
  for (std::size_t i = next; i < places.size(); ++i) {
    const auto& [profile, start] = places[i];
    int same = 1;
    EngineCounts sum = profile->engines;
    bool legal = true;
    for (const MigSeat& seat : seats) {
      const MigProfile& other = *board.FindProfile(seat.profile_id);
      legal = legal && (seat.start + seat.size <= start || start + profile->size <= seat.start);
      if (other.id == profile->id) ++same;
      sum.copy += other.engines.copy;
      sum.decoder += other.engines.decoder;
      sum.jpeg += other.engines.jpeg;
      sum.ofa += other.engines.ofa;
    }
    legal = legal && same <= profile->max_instances && sum.copy <= board.engines.copy &&
            sum.decoder <= board.engines.decoder && sum.jpeg <= board.engines.jpeg &&
            sum.ofa <= board.engines.ofa;
    if (!legal) continue;
    seats.push_back({.profile = profile->name,
                     .profile_id = profile->id,
                     .start = start,
                     .size = profile->size});
    AddGeometries(board, i + 1, seats, all);
    seats.pop_back();
  }
}

std::map<std::string, int> Counted(const std::vector<MigSeat>& seats) {
  std::map<std::string, int> counts;
  for (const MigSeat& seat : seats) ++counts[seat.profile];
  return counts;
}

bool Has(const std::vector<MigSeat>& seats, const MigSeat& seat) {
  return std::ranges::find(seats, seat) != seats.end();
}

// The most of `current` that any geometry of these counts keeps with all in use; -1 where none
// does.
int MostKept(const std::vector<std::vector<MigSeat>>& geometries,
             const std::map<std::string, int>& wanted, const std::vector<MigSeat>& current,
             const std::set<int>& used_starts) {
  int most = -1;
  for (const std::vector<MigSeat>& geometry : geometries) {
    if (Counted(geometry) != wanted) continue;
    int kept = 0;
    bool keeps_used = true;
    for (const MigSeat& seat : current) {
      if (Has(geometry, seat)) {
        ++kept;
      } else if (used_starts.contains(seat.start)) {
        keeps_used = false;
      }
    }
    if (keeps_used) most = std::max(most, kept);
  }
  return most;
}

class LayoutProperty : public ::testing::TestWithParam<const char*> {};

TEST_P(LayoutProperty, KeepsAsMuchAsAnyPlacementCould) {
  const Board& board = **BuiltInBoards().Find(GetParam());
  std::vector<std::vector<MigSeat>> geometries;
  std::vector<MigSeat> none;
  AddGeometries(board, 0, none, geometries);
  ASSERT_GT(geometries.size(), 20U);
  const bool held = rc::check([&] {
    const auto any = [&] {
      return geometries[*rc::gen::inRange<std::size_t>(0, geometries.size())];
    };
    const std::vector<MigSeat> current = any();
    const std::map<std::string, int> wanted = Counted(any());
    Gpu gpu = GpuOfBoard(board);
    SetInstances(current, gpu);
    MigUse use;
    std::set<int> used_starts;
    for (const GpuInstance& instance : gpu.instances) {
      if (*rc::gen::inRange(0, 3) != 0) continue;
      use.instances[instance.id] = {"somebody"};
      used_starts.insert(instance.placement.start);
    }
    const int most = MostKept(geometries, wanted, current, used_starts);
    const auto layout = LayOut(BuiltInBoards(), gpu, Asking(wanted), use);
    RC_ASSERT(layout.has_value() == (most >= 0));
    if (!layout) return RC_ASSERT(layout.error().code == ErrorCode::kConflict);
    const std::vector<MigSeat>& seats = layout->target.instances;
    RC_ASSERT(Counted(seats) == wanted);
    int kept = 0;
    for (const MigSeat& seat : current) {
      kept += Has(seats, seat) ? 1 : 0;
      if (used_starts.contains(seat.start)) RC_ASSERT(Has(seats, seat));
    }
    RC_ASSERT(kept == most);
    RC_ASSERT(ResolveTarget(gpu, layout->target).has_value());
  });
  EXPECT_TRUE(held);
}

INSTANTIATE_TEST_SUITE_P(Boards, LayoutProperty,
                         ::testing::Values("a30", "a100-80gb", "rtx-pro-6000"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace sublet
