#include "node/device_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ReportedProfile ProfileOf(const std::string& name, int id, int slices, Bytes memory, int sms,
                          std::vector<Placement> placements) {
  ReportedProfile profile;
  profile.name = name;
  profile.id = id;
  profile.compute_slices = slices;
  profile.max_instances = static_cast<int>(placements.size());
  profile.memory = memory;
  profile.sm_count = sms;
  profile.placements = std::move(placements);
  return profile;
}

// A part of the table of an A100-80GB.
Gpu A100(bool mig) {
  Gpu gpu;
  gpu.uuid = "GPU-1";
  gpu.memory = 81920_MiB;
  gpu.memory_reserved = 500_MiB;
  gpu.sm_count = 108;
  gpu.mig_capable = true;
  gpu.mig_enabled = mig;
  gpu.profiles = {ProfileOf("1g.10gb", 19, 1, 9728_MiB, 14,
                            {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}, {6, 1}}),
                  ProfileOf("2g.20gb", 14, 2, 19968_MiB, 28, {{0, 2}, {2, 2}, {4, 2}}),
                  ProfileOf("3g.40gb", 9, 3, 40192_MiB, 42, {{0, 4}, {4, 4}}),
                  ProfileOf("7g.80gb", 0, 7, 80000_MiB, 98, {{0, 8}})};
  return gpu;
}

GpuInstance InstanceOf(int id, int profile_id, Placement placement, std::vector<int> slices = {7}) {
  GpuInstance instance;
  instance.id = id;
  instance.profile_id = profile_id;
  instance.placement = placement;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    ComputeInstance compute;
    compute.id = static_cast<int>(i);
    compute.placement.size = slices[i];
    compute.uuid = "MIG-" + std::to_string(id) + "-" + std::to_string(i);
    instance.compute_instances.push_back(compute);
  }
  return instance;
}

Inventory NodeOf(const Gpu& gpu) {
  Inventory node;
  node.host.admin = true;
  node.gpus = {gpu};
  for (const auto& [word, mode] : SharingModeWords()) {
    ModeCheck check;
    check.mode = mode;
    check.gpus = {0};
    node.modes.push_back(check);
  }
  return node;
}

GpuProcess ProcessOf(int pid, std::optional<Bytes> memory, std::optional<int> instance = {}) {
  GpuProcess process;
  process.pid = pid;
  process.memory = memory;
  process.gpu_instance = instance;
  return process;
}

ForeignProcess ForeignOf(int pid, std::optional<Bytes> memory) {
  ForeignProcess process;
  process.pid = pid;
  process.memory = memory;
  return process;
}

std::vector<int> StartsOf(const Device& gpu, const std::string& profile) {
  std::vector<int> starts;
  for (const MigOffer& offer : gpu.offers) {
    if (offer.profile != profile) continue;
    for (const MigSeat& seat : offer.seats) starts.push_back(seat.start);
  }
  return starts;
}

TEST(DeviceList, HasAWholeGpuWithoutItsReserve) {
  const std::vector<Device> devices =
      DevicesOf(NodeOf(A100(false)), {{"GPU-1", {ForeignOf(7, 1_GiB)}}}, {{"GPU-1", "XID 79"}});
  ASSERT_EQ(devices.size(), 1u);
  EXPECT_EQ(devices[0].uuid(), "GPU-1");
  EXPECT_EQ(devices[0].memory, 81420_MiB);
  EXPECT_EQ(devices[0].sm_count, 108);
  EXPECT_THAT(devices[0].modes,
              ElementsAre(SharingMode::kExclusive, SharingMode::kTimeSlicing, SharingMode::kMps));
  EXPECT_EQ(devices[0].obstacle, "XID 79");
  EXPECT_EQ(devices[0].foreign.size(), 1u);
  EXPECT_FALSE(devices[0].mig_mode);
}

TEST(DeviceList, HasTheDriversProblemAsAnObstacle) {
  Gpu gpu = A100(false);
  gpu.problem = "gpu is lost";
  EXPECT_EQ(DevicesOf(NodeOf(gpu), {}, {}).at(0).obstacle, "gpu is lost");
}

TEST(DeviceList, TakesUnknownMemoryForAllThatNobodyElseHolds) {
  Gpu gpu = A100(false);
  gpu.memory_used = 10_GiB;
  gpu.processes = {ProcessOf(7, std::nullopt), ProcessOf(8, std::nullopt), ProcessOf(9, 4_GiB)};
  const std::vector<Device> devices = DevicesOf(
      NodeOf(gpu), {{"GPU-1", {ForeignOf(7, std::nullopt), ForeignOf(8, std::nullopt)}}}, {});
  EXPECT_EQ(devices[0].foreign[0].memory, 6_GiB);
  EXPECT_EQ(devices[0].foreign[1].memory, 0_GiB);
}

TEST(DeviceList, FindsAnUnstatedReserveInWhatIsUsed) {
  Gpu gpu = A100(false);
  gpu.memory_reserved.reset();
  gpu.memory_used = 5_GiB;
  gpu.processes = {ProcessOf(9, 4_GiB)};
  EXPECT_EQ(DevicesOf(NodeOf(gpu), {}, {}).at(0).memory, 81920_MiB - 1_GiB);
}

TEST(DeviceList, HasEachMigDeviceOfAGpuInMigMode) {
  Gpu gpu = A100(true);
  gpu.instances = {InstanceOf(1, 9, {0, 4}, {3}), InstanceOf(2, 14, {4, 2}, {1, 1})};
  gpu.processes = {ProcessOf(7, 1_GiB, 1), ProcessOf(8, 1_GiB)};
  const std::vector<Device> devices =
      DevicesOf(NodeOf(gpu), {{"GPU-1", {ForeignOf(7, 1_GiB), ForeignOf(8, 1_GiB)}}}, {});
  ASSERT_EQ(devices.size(), 4u);
  EXPECT_TRUE(devices[0].mig_mode);
  EXPECT_THAT(devices[0].modes, ElementsAre(SharingMode::kMig));
  EXPECT_EQ(devices[1].uuid(), "MIG-1-0");
  EXPECT_EQ(devices[1].profile, "3g.40gb");
  EXPECT_EQ(devices[1].memory, 40192_MiB);
  EXPECT_EQ(devices[1].sm_count, 42);
  EXPECT_EQ(devices[1].gpu_sm_count, 108);
  EXPECT_TRUE(devices[1].modes.contains(SharingMode::kMig));
  EXPECT_EQ(devices[1].foreign.size(), 2u) << "one is there, of the other nothing is told";
  EXPECT_EQ(devices[2].foreign.size(), 1u);
  EXPECT_EQ(devices[2].memory, 9984_MiB) << "the two share their instance's memory";
  EXPECT_EQ(devices[3].memory, 9984_MiB);
  EXPECT_EQ(devices[3].sm_count, 14);
}

TEST(DeviceList, OffersInstancesWhereTheyDestroyNothing) {
  Gpu gpu = A100(true);
  const Device empty = DevicesOf(NodeOf(gpu), {}, {}).at(0);
  EXPECT_THAT(StartsOf(empty, "3g.40gb"), ElementsAre(4, 0)) << "4 leaves room for more others";
  EXPECT_EQ(StartsOf(empty, "1g.10gb").size(), 7u);
  EXPECT_EQ(StartsOf(empty, "1g.10gb").front(), 6) << "no 2g.20gb can be there";
  gpu.instances = {InstanceOf(1, 9, {0, 4})};
  const Device half = DevicesOf(NodeOf(gpu), {}, {}).at(0);
  EXPECT_THAT(StartsOf(half, "3g.40gb"), ElementsAre(4));
  EXPECT_THAT(StartsOf(half, "2g.20gb"), ElementsAre(4));
  EXPECT_THAT(StartsOf(half, "7g.80gb"), IsEmpty());
  EXPECT_THAT(StartsOf(half, "1g.10gb"), ElementsAre(6, 4, 5));
  gpu.instances.push_back(InstanceOf(2, 9, {4, 4}));
  EXPECT_THAT(StartsOf(DevicesOf(NodeOf(gpu), {}, {}).at(0), "1g.10gb"), IsEmpty());
}

TEST(DeviceList, OffersNothingWhereThePlacesAreNotTold) {
  Gpu gpu = A100(true);
  gpu.instances = {InstanceOf(1, 19, {0, 0})};
  EXPECT_THAT(StartsOf(DevicesOf(NodeOf(gpu), {}, {}).at(0), "1g.10gb"), IsEmpty());
}

TEST(DeviceList, MakesNoInstancesWithoutTheRight) {
  Inventory node = NodeOf(A100(true));
  node.host.admin = false;
  EXPECT_THAT(DevicesOf(node, {}, {}).at(0).modes, IsEmpty());
  node.driver.simulated = true;
  EXPECT_THAT(DevicesOf(node, {}, {}).at(0).modes, ElementsAre(SharingMode::kMig));
}

}  // namespace
}  // namespace sublet
