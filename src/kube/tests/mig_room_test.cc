#include "kube/mig_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <bit>
#include <tuple>

#include "sample_node.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;

MigChoiceInput Offer(const Inventory& node, const std::vector<std::string>& uuids) {
  MigChoiceInput input{.inventory = node, .offers = {}, .idle = {}};
  for (const std::string& uuid : uuids) input.offers.push_back({uuid, false});
  return input;
}

std::vector<std::string> Devices(int gpu, int count) {
  std::vector<std::string> uuids;
  for (int i = 0; i < count; ++i) uuids.push_back(SampleMigUuid(gpu, i));
  return uuids;
}

TEST(MigRoomTest, CountsWhatFitsIntoTheFreeUnits) {
  const Gpu gpu = GpuOfBoard("a100-80gb");
  const auto room = [&](std::uint64_t free, const std::string& profile) {
    const std::vector<int> counts = MigRoom(gpu.profiles, free);
    for (std::size_t i = 0; i < gpu.profiles.size(); ++i) {
      if (gpu.profiles[i].name == profile) return counts[i];
    }
    return -1;
  };
  EXPECT_EQ(room(0xFF, "7g.80gb"), 1);
  EXPECT_EQ(room(0xFF, "3g.40gb"), 2);
  EXPECT_EQ(room(0xFF, "1g.10gb"), 7);
  EXPECT_EQ(room(0xF0, "3g.40gb"), 1);
  EXPECT_EQ(room(0xF0, "1g.10gb"), 3);
  EXPECT_EQ(room(0x7E, "3g.40gb"), 0);
}

// NVIDIA's plugin would hand out any of the seven.
TEST(MigRoomTest, TakesTheSliceThatLeavesALargeInstance) {
  Inventory node = SampleNode("a100-80gb", 1);
  Cut(node, 0, Smalls("1g.10gb", {0, 1, 2, 3, 4, 5, 6}));
  // 4g lies at 0, a 2g at 0, 2 or 4: without the last slice all of them can still be.
  EXPECT_THAT(ChooseMigDevices(Offer(node, Devices(0, 7)), 1), ElementsAre(6));
  EXPECT_THAT(ChooseMigDevices(Offer(node, Devices(0, 7)), 3), ElementsAre(4, 5, 6));
  MigChoiceInput required = Offer(node, Devices(0, 7));
  required.offers[0].required = true;
  // 0 is gone, so the other half stays whole.
  EXPECT_THAT(ChooseMigDevices(required, 2), ElementsAre(0, 1));
}

TEST(MigRoomTest, LeavesAnIdleGpuAlone) {
  Inventory node = SampleNode("a100-80gb", 2);
  Cut(node, 0, Smalls("1g.10gb", {0, 1, 2, 3, 4, 5, 6}));
  Cut(node, 1, Smalls("1g.10gb", {0, 1, 2, 3, 4, 5, 6}));
  std::vector<std::string> offers = Devices(0, 7);
  // Of GPU 1 somebody has the device at 6.
  const std::vector<std::string> second = Devices(1, 6);
  offers.insert(offers.end(), second.begin(), second.end());
  EXPECT_THAT(ChooseMigDevices(Offer(node, offers), 1), ElementsAre(7 + 4));
  EXPECT_THAT(ChooseMigDevices(Offer(node, offers), 6), ElementsAre(7, 8, 9, 10, 11, 12));
}

TEST(MigRoomTest, OtherInstancesCountAsUsedUnlessTheyAreIdle) {
  Inventory node = SampleNode("a100-80gb", 1);
  Cut(node, 0,
      {{.profile = "1g.10gb", .start = 0},
       {.profile = "3g.40gb", .start = 4},
       {.profile = "1g.10gb", .start = 2},
       {.profile = "1g.10gb", .start = 3}});
  // By place: 0 is the one at 0, 1 at 2, 2 at 3, 3 the large one. A 2g lies at 0, 2 or 4.
  const std::vector<std::string> smalls = Devices(0, 3);
  EXPECT_THAT(ChooseMigDevices(Offer(node, smalls), 1), ElementsAre(0));
}

TEST(MigRoomTest, AnInventoryOfAnotherTimeGivesTheFirst) {
  const Inventory node = SampleNode("a100-80gb", 1);
  MigChoiceInput input = Offer(node, Devices(0, 4));
  input.offers[2].required = true;
  EXPECT_THAT(ChooseMigDevices(input, 2), ElementsAre(0, 2));
}

// No choice of the same size leaves more, compared largest profile first.
RC_GTEST_PROP(MigRoomProperty, NoOtherChoiceLeavesMore, ()) {
  const std::string board = *rc::gen::element<std::string>("a100-80gb", "a30", "h100-80gb");
  const int gpus = *rc::gen::inRange(1, 3);
  Inventory node = SampleNode(board, gpus);
  std::vector<std::string> offers;
  for (int gpu = 0; gpu < gpus; ++gpu) {
    std::vector<MigSeat> seats;
    const ReportedProfile* smallest = nullptr;
    for (const ReportedProfile& profile : node.gpus[0].profiles) {
      const bool plain = profile.name.find('+') == std::string::npos;
      if (plain && (smallest == nullptr || profile.memory < smallest->memory)) smallest = &profile;
    }
    for (const Placement& placement : smallest->placements) {
      if (*rc::gen::inRange(0, 4) == 3) continue;  // rapidcheck begins with small numbers.
      seats.push_back({.profile = smallest->name, .start = placement.start});
    }
    Cut(node, gpu, seats);
    for (std::size_t i = 0; i < seats.size(); ++i) {
      if (*rc::gen::inRange(0, 3) != 2) offers.push_back(SampleMigUuid(gpu, static_cast<int>(i)));
    }
  }
  RC_PRE(!offers.empty());
  const int size = *rc::gen::inRange(1, static_cast<int>(offers.size()) + 1);
  const MigChoiceInput input = Offer(node, offers);
  // Profiles largest first, and the room of each on all GPUs together.
  std::vector<std::size_t> order(node.gpus[0].profiles.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) {
    const ReportedProfile& one = node.gpus[0].profiles[a];
    const ReportedProfile& other = node.gpus[0].profiles[b];
    return std::tuple(-one.memory.count, -one.compute_slices, one.id) <
           std::tuple(-other.memory.count, -other.compute_slices, other.id);
  });
  const auto value = [&](std::size_t taken) {
    std::vector<int> sums(order.size(), 0);
    for (const Gpu& gpu : node.gpus) {
      std::uint64_t free = ~std::uint64_t{0};
      bool offered = false;
      for (const GpuInstance& instance : gpu.instances) {
        const auto at = std::ranges::find(offers, instance.compute_instances[0].uuid);
        offered = offered || at != offers.end();
        if (at != offers.end() && (taken >> (at - offers.begin()) & 1) == 0) continue;
        free &= ~(((std::uint64_t{1} << instance.placement.size) - 1) << instance.placement.start);
      }
      if (!offered) continue;
      const std::vector<int> room = MigRoom(gpu.profiles, free);
      for (std::size_t i = 0; i < order.size(); ++i) sums[i] += room[order[i]];
    }
    return sums;
  };
  std::size_t chosen = 0;
  for (const std::size_t place : ChooseMigDevices(input, size)) chosen |= std::size_t{1} << place;
  RC_ASSERT(std::popcount(chosen) == size);
  const std::vector<int> best = value(chosen);
  for (std::size_t other = 0; other < std::size_t{1} << offers.size(); ++other) {
    if (std::popcount(other) == size) RC_ASSERT(value(other) <= best);
  }
}

}  // namespace
}  // namespace sublet
