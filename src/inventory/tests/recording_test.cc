// What a real NVIDIA H200 said, as `sublet inspect --record` wrote it on one.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "base/files.h"
#include "inventory/tests/simulation.h"
#include "model/board.h"
#include "model/document.h"
#include "model/inventory.h"

namespace sublet {
namespace {

const std::string kRecording = SUBLET_SOURCE_DIR "/src/inventory/tests/data/h200.node.json";

class RecordingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access(kRecording.c_str(), F_OK) != 0) {
      GTEST_SKIP() << "no recording of a real H200: " << kRecording;
    }
    const Result<std::string> text = ReadFile(kRecording, kDocumentBytesMax);
    ASSERT_TRUE(text) << text.error().message;
    Result<Inventory> node = ParseInventory(*text, kRecording);
    ASSERT_TRUE(node) << node.error().message;
    node_ = std::move(*node);
    ASSERT_FALSE(node_.gpus.empty());
  }

  Inventory node_;
};

TEST_F(RecordingTest, IsOfARealDriver) {
  EXPECT_FALSE(node_.driver.simulated);
  EXPECT_GT(node_.driver.cuda_version, 0);
}

TEST_F(RecordingTest, IsKnownToTheCatalogue) {
  const Gpu& gpu = node_.gpus[0];
  EXPECT_EQ(gpu.board, "h200");
  const Board* board = BuiltInBoards().Match(gpu.pci_device_id >> 16, gpu.product);
  ASSERT_NE(board, nullptr);
  EXPECT_EQ(gpu.sm_count, board->sm_count);
  EXPECT_EQ(gpu.memory.mib(), board->memory.mib());
  EXPECT_EQ(gpu.compute_capability_major, board->compute_capability_major);
  EXPECT_EQ(gpu.compute_capability_minor, board->compute_capability_minor);
}

TEST_F(RecordingTest, HasTheCataloguesMigTable) {
  const Gpu& gpu = node_.gpus[0];
  const Board& board = **BuiltInBoards().Find("h200");
  ASSERT_EQ(gpu.profiles.size(), board.profiles.size());
  for (const MigProfile& profile : board.profiles) {
    SCOPED_TRACE(profile.name);
    const ReportedProfile* reported = gpu.FindProfile(profile.id);
    ASSERT_NE(reported, nullptr);
    EXPECT_EQ(reported->name, profile.name);
    EXPECT_EQ(reported->compute_slices, profile.compute_slices);
    EXPECT_EQ(reported->max_instances, profile.max_instances);
    EXPECT_EQ(reported->memory.mib(), profile.memory.mib());
    EXPECT_EQ(reported->sm_count, profile.sm_count);
    EXPECT_EQ(reported->engines, profile.engines);
    std::vector<Placement> placements;
    for (const int start : profile.starts) placements.push_back({start, profile.size});
    EXPECT_EQ(reported->placements, placements);
  }
}

// What the simulated driver makes of the recording is the H200 again, figure by figure.
TEST_F(RecordingTest, PlaysOnTheSimulatedDriverAsItWasRecorded) {
  const Simulation simulation(kRecording);
  const Result<Inventory> played = simulation.Take();
  ASSERT_TRUE(played) << played.error().message;
  const auto recorded_json = InventoryToJson(node_);
  const auto played_json = InventoryToJson(*played);
  EXPECT_EQ(played_json["gpus"].dump(1), recorded_json["gpus"].dump(1));
  EXPECT_EQ(played->driver.version, node_.driver.version);
  EXPECT_EQ(played->driver.cuda_version, node_.driver.cuda_version);
  EXPECT_TRUE(played->driver.simulated);
}

}  // namespace
}  // namespace sublet
