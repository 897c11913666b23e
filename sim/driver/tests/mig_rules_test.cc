#include "mig_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace sublet::sim {
namespace {

using ::testing::ElementsAre;

SimGpu Board(const std::string& name) {
  Result<SimNode> node = LoadSimNode(name + ":1", "999");
  EXPECT_TRUE(node) << node.error().message;
  return node->gpus.at(0);
}

const ReportedProfile& Profile(const SimGpu& gpu, const std::string& name) {
  return *std::ranges::find(gpu.facts.profiles, name, &ReportedProfile::name);
}

// One GPU that is cut bit by bit.
struct Cutting {
  explicit Cutting(const std::string& board) : gpu(Board(board)) {}

  nvml::Return Make(const std::string& profile, std::optional<int> start = std::nullopt) {
    return CreateInstance(gpu, state, Profile(gpu, profile), start, id);
  }
  // "7@0 8@1": the ids and starts in the order of creation.
  std::string Instances() const {
    std::string text;
    for (const GpuInstance& one : state.instances) {
      if (!text.empty()) text += ' ';
      text += std::to_string(one.id) + "@" + std::to_string(one.placement.start);
    }
    return text;
  }

  SimGpu gpu;
  GpuState state;
  int id = -1;
};

TEST(MigRules, NumbersEighthsByTheirPlace) {
  Cutting a100("a100-80gb");
  for (const int start : {3, 0, 6}) ASSERT_EQ(a100.Make("1g.10gb", start), nvml::kSuccess);
  EXPECT_EQ(a100.Instances(), "10@3 7@0 13@6");
}

TEST(MigRules, NumbersHalvesAndQuartersFromTheLowestThatIsFree) {
  Cutting h100("h100-80gb");
  ASSERT_EQ(h100.Make("3g.40gb", 4), nvml::kSuccess);
  ASSERT_EQ(h100.Make("2g.20gb", 2), nvml::kSuccess);
  ASSERT_EQ(h100.Make("2g.20gb", 0), nvml::kSuccess);
  EXPECT_EQ(h100.Instances(), "1@4 3@2 4@0");
}

TEST(MigRules, NumbersTheWholeGpuZero) {
  Cutting h200("h200");
  ASSERT_EQ(h200.Make("7g.141gb"), nvml::kSuccess);
  EXPECT_EQ(h200.id, 0);
}

TEST(MigRules, NumbersQuartersOfAnA30FromThree) {
  Cutting a30("a30");
  for (int start = 0; start < 4; ++start) ASSERT_EQ(a30.Make("1g.6gb", start), nvml::kSuccess);
  EXPECT_EQ(a30.Instances(), "3@0 4@1 5@2 6@3");
}

TEST(MigRules, WorksWithTwelveMemoryUnits) {
  Cutting rtx("rtx-pro-6000");
  ASSERT_EQ(rtx.Make("2g.48gb", 6), nvml::kSuccess);
  ASSERT_EQ(rtx.Make("1g.24gb", 3), nvml::kSuccess);
  EXPECT_EQ(rtx.Make("1g.24gb", 6), nvml::kInsufficientResources);
  EXPECT_EQ(rtx.Instances(), "1@6 4@3");
}

TEST(MigRules, PicksTheHighestFreePlace) {
  Cutting a100("a100-80gb");
  ASSERT_EQ(a100.Make("1g.10gb"), nvml::kSuccess);
  ASSERT_EQ(a100.Make("2g.20gb"), nvml::kSuccess);
  ASSERT_EQ(a100.Make("4g.40gb"), nvml::kSuccess);
  EXPECT_EQ(a100.Instances(), "13@6 3@4 1@0");
}

// The same four profiles fit or not, by the order in which they are asked for.
TEST(MigRules, OrderMattersWithoutPlacements) {
  Cutting bad("a100-80gb");
  ASSERT_EQ(bad.Make("1g.10gb"), nvml::kSuccess);
  ASSERT_EQ(bad.Make("1g.10gb"), nvml::kSuccess);
  ASSERT_EQ(bad.Make("2g.20gb"), nvml::kSuccess);
  EXPECT_EQ(bad.Make("3g.40gb"), nvml::kInsufficientResources);
  Cutting good("a100-80gb");
  ASSERT_EQ(good.Make("3g.40gb"), nvml::kSuccess);
  ASSERT_EQ(good.Make("2g.20gb"), nvml::kSuccess);
  ASSERT_EQ(good.Make("1g.10gb"), nvml::kSuccess);
  EXPECT_EQ(good.Make("1g.10gb"), nvml::kSuccess);
}

TEST(MigRules, RefusesOverlapsAndUnknownStarts) {
  Cutting h100("h100-80gb");
  ASSERT_EQ(h100.Make("3g.40gb", 0), nvml::kSuccess);
  EXPECT_EQ(h100.Make("1g.10gb", 3), nvml::kInsufficientResources);
  EXPECT_EQ(h100.Make("1g.10gb", 4), nvml::kSuccess);
  EXPECT_EQ(h100.Make("2g.20gb", 1), nvml::kInvalidArgument);
  EXPECT_EQ(h100.Make("2g.20gb", 6), nvml::kInvalidArgument);
}

TEST(MigRules, LeavesThreeOrFourEighthsBesideAHalf) {
  Cutting low("h100-80gb");
  ASSERT_EQ(low.Make("3g.40gb", 0), nvml::kSuccess);
  EXPECT_EQ(RemainingInstances(low.gpu, low.state, Profile(low.gpu, "1g.10gb")), 3);
  Cutting high("h100-80gb");
  ASSERT_EQ(high.Make("3g.40gb", 4), nvml::kSuccess);
  EXPECT_EQ(RemainingInstances(high.gpu, high.state, Profile(high.gpu, "1g.10gb")), 4);
}

TEST(MigRules, GivesTheOneOfaOnce) {
  Cutting h100("h100-80gb");
  ASSERT_EQ(h100.Make("1g.10gb+me", 0), nvml::kSuccess);
  EXPECT_EQ(h100.Make("1g.10gb+me", 1), nvml::kInsufficientResources);
  EXPECT_EQ(h100.Make("1g.10gb", 1), nvml::kSuccess);
}

TEST(MigRules, AllMediaEnginesLeaveNoneForOthers) {
  Cutting rtx("rtx-pro-6000");
  ASSERT_EQ(rtx.Make("1g.24gb+me.all", 0), nvml::kSuccess);
  EXPECT_EQ(rtx.Make("1g.24gb", 3), nvml::kInsufficientResources);
  EXPECT_EQ(rtx.Make("1g.24gb-me", 3), nvml::kSuccess);
}

TEST(MigRules, OffersComputeProfilesThatFitTheInstance) {
  const auto slices = [](int parent) {
    std::vector<int> found;
    for (int profile = 0; profile < 9; ++profile) {
      if (const auto size = SlicesOfComputeProfile(profile, parent)) found.push_back(*size);
    }
    return found;
  };
  EXPECT_THAT(slices(1), ElementsAre(1));
  EXPECT_THAT(slices(3), ElementsAre(1, 2, 3));
  EXPECT_THAT(slices(4), ElementsAre(1, 2, 4));
  EXPECT_THAT(slices(7), ElementsAre(1, 2, 3, 4, 7));
}

TEST(MigRules, CutsAnInstanceIntoComputeInstances) {
  GpuInstance parent;
  int id = -1;
  EXPECT_EQ(CreateComputeInstance(parent, 3, 1, std::nullopt, id), nvml::kSuccess);
  EXPECT_EQ(id, 0);
  EXPECT_EQ(RemainingComputeInstances(parent, 3, 0), 1);
  EXPECT_EQ(CreateComputeInstance(parent, 3, 1, std::nullopt, id), nvml::kInsufficientResources);
  EXPECT_EQ(CreateComputeInstance(parent, 3, 0, Placement{2, 1}, id), nvml::kSuccess);
  EXPECT_EQ(id, 1);
  EXPECT_EQ(CreateComputeInstance(parent, 3, 0, Placement{3, 1}, id), nvml::kInvalidArgument);
  EXPECT_EQ(CreateComputeInstance(parent, 3, 4, std::nullopt, id), nvml::kNotSupported);
}

}  // namespace
}  // namespace sublet::sim
