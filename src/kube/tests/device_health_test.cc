#include "kube/device_health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "kube/tests/sample_node.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using What = HealthSighting::What;

constexpr std::int64_t kSecond = 1'000'000'000;

HealthPolicy PolicyOf(const std::string& disabled, const std::string& enabled) {
  std::vector<std::string> warnings;
  HealthPolicy policy = ParseHealthPolicy(disabled, enabled, warnings);
  EXPECT_THAT(warnings, IsEmpty());
  return policy;
}

class DeviceHealthTest : public ::testing::Test {
 protected:
  explicit DeviceHealthTest(HealthPolicy policy = {}) : health_(std::move(policy)) {
    node_ = SampleNode("a100-80gb", 2);
    Cut(node_, 1, Smalls("1g.10gb", {0, 1}));
    health_.SetNode(node_);
  }

  std::size_t Xid(const std::string& gpu, int xid, std::optional<int> instance = std::nullopt) {
    HealthSighting sighting{.what = What::kXid, .gpu_uuid = gpu, .xid = xid};
    sighting.gpu_instance = instance;
    return health_.On(sighting, now_ns_).size();
  }
  // Nothing is found for so long.
  void Quiet(double seconds) {
    for (double passed = 0; passed < seconds; passed += 5) {
      now_ns_ += 5 * kSecond;
      for (const Gpu& gpu : node_.gpus) {
        health_.On({.what = What::kPolled, .gpu_uuid = gpu.uuid}, now_ns_);
      }
    }
  }
  int InstanceOf(int device) const {
    return node_.gpus[1].instances[static_cast<std::size_t>(device)].id;
  }

  Inventory node_;
  DeviceHealth health_;
  std::int64_t now_ns_ = 1000 * kSecond;
};

TEST_F(DeviceHealthTest, AnEventMarksItsGpuAndNoOther) {
  EXPECT_EQ(Xid(SampleUuid(0), 38), 1u);
  EXPECT_THAT(health_.Unhealthy(), ElementsAre(SampleUuid(0)));
  EXPECT_THAT(health_.Why(SampleUuid(0)), HasSubstr("XID 38"));
  EXPECT_EQ(health_.Why(SampleUuid(1)), "");
  Quiet(120);
  EXPECT_THAT(health_.Unhealthy(), IsEmpty());
}

TEST_F(DeviceHealthTest, AGpuStandsForItsMigDevices) {
  Xid(SampleUuid(1), 38);
  EXPECT_THAT(health_.Unhealthy(), ElementsAre(SampleUuid(1)));
  EXPECT_THAT(health_.Why(SampleMigUuid(1, 0)), HasSubstr("XID 38"));
}

TEST_F(DeviceHealthTest, AnEventOfAnInstanceMarksItsDevicesAlone) {
  EXPECT_EQ(Xid(SampleUuid(1), 38, InstanceOf(1)), 1u);
  EXPECT_THAT(health_.Unhealthy(), ElementsAre(SampleMigUuid(1, 1)));
  EXPECT_EQ(health_.Why(SampleMigUuid(1, 0)), "");
  Quiet(120);
  EXPECT_THAT(health_.Unhealthy(), IsEmpty());
}

TEST_F(DeviceHealthTest, AnInstanceThatIsntThereIsTheGpus) {
  Xid(SampleUuid(1), 38, 12345);
  EXPECT_THAT(health_.Unhealthy(), ElementsAre(SampleUuid(1)));
}

TEST_F(DeviceHealthTest, WhatNamesNoGpuIsEverybodys) {
  Xid("", 38);
  EXPECT_THAT(health_.Unhealthy(), SizeIs(2));
}

TEST_F(DeviceHealthTest, AProgramsFaultMarksNothing) {
  EXPECT_EQ(Xid(SampleUuid(0), 31), 0u);
  EXPECT_EQ(Xid(SampleUuid(1), 13, InstanceOf(0)), 0u);
  EXPECT_THAT(health_.Unhealthy(), IsEmpty());
}

TEST_F(DeviceHealthTest, KeepsWhatItKnowsOfDevicesThatStay) {
  Xid(SampleUuid(0), 38);
  Xid(SampleUuid(1), 38, InstanceOf(1));
  node_.gpus[1].instances.clear();
  health_.SetNode(node_);
  EXPECT_THAT(health_.Unhealthy(), ElementsAre(SampleUuid(0))) << "the instance took it along";
}

TEST_F(DeviceHealthTest, WhatIsDisabledMarksNothingAndWhatIsEnabledDoes) {
  health_.SetPolicy(PolicyOf("38,79", "31"));
  EXPECT_EQ(Xid(SampleUuid(0), 38), 0u);
  EXPECT_EQ(Xid(SampleUuid(0), 31), 1u);
}

TEST_F(DeviceHealthTest, EnabledWinsOverDisabled) {
  health_.SetPolicy(PolicyOf("all", "79"));
  EXPECT_EQ(Xid(SampleUuid(0), 38), 0u);
  EXPECT_EQ(Xid(SampleUuid(0), 79), 1u);
}

TEST_F(DeviceHealthTest, WithEverythingDisabledALostGpuIsNoMatter) {
  health_.SetPolicy(PolicyOf("xids", ""));
  GpuFacts lost;
  lost.lost = true;
  EXPECT_THAT(
      health_.On({.what = What::kPolled, .gpu_uuid = SampleUuid(0), .facts = lost}, now_ns_),
      IsEmpty());
}

TEST(HealthPolicy, NamesWordsThatAreNone) {
  std::vector<std::string> warnings;
  const HealthPolicy policy = ParseHealthPolicy("13, 31,,nonsense", "ALL", warnings);
  EXPECT_THAT(policy.ignored, ElementsAre(13, 31));
  EXPECT_TRUE(policy.all_enabled);
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("nonsense")));
}

}  // namespace
}  // namespace sublet
