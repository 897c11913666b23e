#include "kube/share_fill.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Count = ShareRule::Count;

PhysicalDevice Device80() {
  PhysicalDevice physical;
  physical.device.uuid = physical.device.gpu_uuid = "GPU-0";
  physical.device.index = "0";
  physical.device.memory = 80_GiB;
  physical.usable = 79_GiB;
  physical.mps_clients_max = 48;
  return physical;
}

ShareRule Rule(const std::string& name, ShareSize size, Count how, int count = 1) {
  ShareRule rule;
  rule.resource = "nvidia.com/" + name;
  rule.size = size;
  rule.count_how = how;
  rule.count = count;
  return rule;
}

TEST(ShareFillTest, NumbersComeFirstThenWhatFillsInTheFilesOrder) {
  const ShareRule a = Rule("a", {10_GiB, 10}, Count::kFill);
  const ShareRule b = Rule("b", {40_GiB, 40}, Count::kFixed);
  const ShareRule c = Rule("c", {2_GiB, 5}, Count::kFill);
  const auto fill = FillDevice(Device80(), {&a, &b, &c}, nullptr);
  ASSERT_TRUE(fill.has_value());
  EXPECT_THAT(fill->counts, ElementsAre(3, 1, 4));  // 39 GiB left: 3 x 10, then 9 GiB: 4 x 2.
  EXPECT_THAT(fill->warnings, IsEmpty());
}

TEST(ShareFillTest, SmsBoundWhatFillsAndWarnOfNumbers) {
  const ShareRule a = Rule("a", {1_GiB, 30}, Count::kFill);
  EXPECT_THAT(FillDevice(Device80(), {&a}, nullptr)->counts, ElementsAre(3));
  const ShareRule b = Rule("b", {1_GiB, 30}, Count::kFixed, 4);
  const auto fill = FillDevice(Device80(), {&b}, nullptr);
  EXPECT_THAT(fill->counts, ElementsAre(4));
  EXPECT_THAT(fill->warnings, ElementsAre(HasSubstr("add up to 120 %")));
  EXPECT_THAT(FillDevice(Device80(), {&b, &a}, nullptr)->counts, ElementsAre(4, 0));
}

TEST(ShareFillTest, NeverFillsBeyondTheServersClients) {
  const ShareRule a = Rule("a", {1_MiB, {}}, Count::kFill);
  EXPECT_THAT(FillDevice(Device80(), {&a}, nullptr)->counts, ElementsAre(48));
  const ShareRule b = Rule("b", {1_MiB, {}}, Count::kFixed, 49);
  EXPECT_EQ(FillDevice(Device80(), {&b}, nullptr).error().code, ErrorCode::kUnsupported);
}

TEST(ShareFillTest, MemoryIsNeverGivenOutTwice) {
  const ShareRule a = Rule("a", {30_GiB, {}}, Count::kFixed, 2);
  const ShareRule b = Rule("b", {20_GiB, {}}, Count::kFixed);
  const auto fill = FillDevice(Device80(), {&a, &b}, nullptr);
  ASSERT_FALSE(fill.has_value());
  EXPECT_EQ(fill.error().code, ErrorCode::kInfeasible);
  EXPECT_EQ(fill.error().message,
            "GPU 0: shares of 80.0 GiB don't fit into 79.0 GiB: 2x nvidia.com/a of 30.0 GiB + 1x "
            "nvidia.com/b of 20.0 GiB");
}

TEST(ShareFillTest, AShareLargerThanTheDeviceIsRefusedEvenWhereItFills) {
  const ShareRule a = Rule("a", {Bytes{(std::int64_t{1} << 60) - 1}, {}}, Count::kFixed, 40);
  EXPECT_THAT(FillDevice(Device80(), {&a}, nullptr).error().message,
              HasSubstr("a share of nvidia.com/a doesn't fit"));
  const ShareRule b = Rule("b", {80_GiB, {}}, Count::kFill);
  EXPECT_EQ(FillDevice(Device80(), {&b}, nullptr).error().code, ErrorCode::kInfeasible);
  // Nothing to divide: a MIG device of whose profile the driver tells nothing.
  PhysicalDevice unknown = Device80();
  unknown.usable = {};
  const ShareRule c = Rule("c", {}, Count::kFixed, 4);
  EXPECT_EQ(FillDevice(unknown, {&c}, nullptr).error().code, ErrorCode::kInfeasible);
}

TEST(ShareFillTest, WithoutASizeAShareIsAnEqualPart) {
  const ShareRule a = Rule("a", {}, Count::kFixed, 3);
  const auto fill = FillDevice(Device80(), {&a}, nullptr);
  ASSERT_TRUE(fill.has_value());
  EXPECT_THAT(fill->sizes, ElementsAre(ShareSize{Bytes::FromMib(79 * 1024 / 3), 33}));
}

TEST(ShareFillTest, OldBoardsLimitNoClient) {
  PhysicalDevice old = Device80();
  old.mps_limits = false;
  const ShareRule a = Rule("a", {1_GiB, {}}, Count::kFixed);
  EXPECT_THAT(FillDevice(old, {&a}, nullptr).error().message, HasSubstr("capability 7.0"));
}

Plan PlanWith(std::vector<PlannedReplica> replicas) {
  Plan plan;
  plan.gpus.emplace_back();
  plan.gpus[0].uuid = "GPU-0";
  plan.gpus[0].partitions.emplace_back();
  plan.gpus[0].partitions[0].mode = SharingMode::kMps;
  plan.gpus[0].partitions[0].replicas = std::move(replicas);
  return plan;
}

PlannedReplica Replica(const std::string& id, Bytes memory, std::optional<int> sm_percent) {
  PlannedReplica replica;
  replica.id = id;
  replica.memory = memory;
  replica.sm_percent = sm_percent;
  return replica;
}

TEST(ShareFillTest, APlansReplicasGetTheSmallestShareThatHoldsThem) {
  const ShareRule big = Rule("big", {40_GiB, {}}, Count::kPlan);
  const ShareRule small = Rule("small", {10_GiB, 20}, Count::kPlan);
  const Plan plan = PlanWith({Replica("a/0", 8_GiB, 20), Replica("a/1", 10_GiB, 15),
                              Replica("b/0", 8_GiB, {}), Replica("c/0", 11_GiB, 10)});
  const auto fill = FillDevice(Device80(), {&big, &small}, &plan);
  ASSERT_FALSE(fill.has_value());  // 2 x 40 + 2 x 10 GiB.
  EXPECT_EQ(fill.error().code, ErrorCode::kInfeasible);
  const ShareRule middle = Rule("middle", {25_GiB, {}}, Count::kPlan);
  EXPECT_THAT(FillDevice(Device80(), {&middle, &small}, &plan)->counts, ElementsAre(2, 2));
  const Plan large = PlanWith({Replica("d/0", 50_GiB, {})});
  EXPECT_THAT(FillDevice(Device80(), {&middle, &small}, &large).error().message,
              HasSubstr("no share is large enough for the plan's replica d/0: 50.0 GiB, 100 %"));
  Plan unbound = large;
  unbound.gpus[0].uuid = "";
  EXPECT_EQ(FillDevice(Device80(), {&middle}, &unbound).error().code, ErrorCode::kConflict);
  Plan elsewhere = large;
  elsewhere.gpus[0].uuid = "GPU-1";
  EXPECT_THAT(FillDevice(Device80(), {&middle}, &elsewhere)->counts, ElementsAre(0));
}

}  // namespace
}  // namespace sublet
