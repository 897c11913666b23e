#include "sim_node.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace sublet::sim {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(SimNode, CountsAndMixesBoards) {
  const auto node = LoadSimNode("h100-80gb:2,l4:1", "");
  ASSERT_TRUE(node) << node.error().message;
  ASSERT_THAT(node->gpus, SizeIs(3));
  EXPECT_EQ(node->gpus[1].facts.board, "h100-80gb");
  EXPECT_EQ(node->gpus[2].facts.board, "l4");
  EXPECT_EQ(node->gpus[2].facts.index, 2);
  EXPECT_EQ(node->key, "h100-80gb_2_l4_1");
}

TEST(SimNode, GivesEachGpuAnIdentityOfItsOwnThatStays) {
  const auto first = LoadSimNode("l4:64", "");
  const auto second = LoadSimNode("l4:64", "");
  ASSERT_TRUE(first && second);
  std::set<std::string> uuids;
  std::set<std::string> addresses;
  for (std::size_t i = 0; i < 64; ++i) {
    uuids.insert(first->gpus[i].facts.uuid);
    addresses.insert(first->gpus[i].facts.pci_bus_id);
    EXPECT_EQ(first->gpus[i].facts.uuid, second->gpus[i].facts.uuid);
  }
  EXPECT_THAT(uuids, SizeIs(64));
  EXPECT_THAT(addresses, SizeIs(64));
}

TEST(SimNode, PlaysTheDriverThatIsAskedFor) {
  const auto node = LoadSimNode("h100-80gb:1", "535.104.05");
  ASSERT_TRUE(node);
  EXPECT_EQ(node->driver_version, "535.104.05");
  EXPECT_EQ(node->cuda_version, 12020);
  EXPECT_TRUE(node->gpus[0].facts.mig_capable);
  EXPECT_FALSE(LoadSimNode("h100-80gb:1", "510.1")->gpus[0].facts.mig_capable);
}

TEST(SimNode, RefusesWhatItCannotPlay) {
  const auto message = [](const char* preset) {
    const auto node = LoadSimNode(preset, "");
    return node ? std::string("no error") : node.error().message;
  };
  EXPECT_THAT(message("h100-80gb:x"), HasSubstr("not a number of GPUs: 'x'"));
  EXPECT_THAT(message("h100-80gb:0"), HasSubstr("not a number of GPUs"));
  EXPECT_THAT(message("h100-80gb:-1"), HasSubstr("not a number of GPUs"));
  EXPECT_THAT(message("h100-80gb:65"), HasSubstr("more than 64 GPUs"));
  EXPECT_THAT(message("voodoo2:1"), HasSubstr("voodoo2"));
  EXPECT_THAT(message("/nowhere/node.json"), HasSubstr("/nowhere/node.json"));
  EXPECT_THAT(message(","), HasSubstr(""));
}

}  // namespace
}  // namespace sublet::sim
