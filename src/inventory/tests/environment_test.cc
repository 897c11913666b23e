#include "inventory/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A bare-metal host as root, with NVIDIA's programs and a driver that does everything.
Inventory GoodNode(int gpus = 1) {
  Inventory node;
  node.host.admin = true;
  node.host.shm_usable = true;
  node.host.mps_control = "/usr/bin/nvidia-cuda-mps-control";
  node.host.mps_pipe_directory = "/tmp/nvidia-mps";
  node.host.mps_pipe_usable = true;
  node.driver.version = "580.159.04";
  for (int i = 0; i < gpus; ++i) {
    Gpu gpu;
    gpu.index = i;
    gpu.board = "h100-80gb";
    gpu.product = "NVIDIA H100 80GB HBM3";
    gpu.compute_capability_major = 9;
    gpu.compute_mode = ComputeMode::kDefault;
    gpu.mig_capable = true;
    node.gpus.push_back(gpu);
  }
  return node;
}

ModeCheck CheckMode(const Inventory& node, SharingMode mode) {
  const std::vector<ModeCheck> checks = CheckModes(node, BuiltInBoards());
  return *std::ranges::find(checks, mode, &ModeCheck::mode);
}

TEST(Environment, EverythingRunsOnAGoodNode) {
  const std::vector<ModeCheck> checks = CheckModes(GoodNode(2), BuiltInBoards());
  ASSERT_EQ(checks.size(), 5u);
  for (const ModeCheck& check : checks) {
    EXPECT_THAT(check.gpus, ElementsAre(0, 1)) << SharingModeName(check.mode);
    EXPECT_THAT(check.reasons, IsEmpty());
  }
}

TEST(Environment, NothingRunsWithoutAGpu) {
  for (const ModeCheck& check : CheckModes(GoodNode(0), BuiltInBoards())) {
    EXPECT_FALSE(check.available());
    EXPECT_THAT(check.reasons, ElementsAre("there is no GPU"));
  }
}

TEST(Environment, Wsl2HasNeitherMpsNorMig) {
  Inventory node = GoodNode();
  node.host.wsl2 = true;
  EXPECT_THAT(CheckMode(node, SharingMode::kMps).reasons, Contains(HasSubstr("WSL2")));
  EXPECT_THAT(CheckMode(node, SharingMode::kMig).reasons, Contains(HasSubstr("WSL2")));
  EXPECT_TRUE(CheckMode(node, SharingMode::kTimeSlicing).available());
}

TEST(Environment, MpsNeedsItsProgramOrADaemonThatAnswers) {
  Inventory node = GoodNode();
  node.host.mps_control.clear();
  EXPECT_THAT(CheckMode(node, SharingMode::kMps).reasons, Contains(HasSubstr("not installed")));
  node.host.container = true;
  EXPECT_THAT(CheckMode(node, SharingMode::kMps).reasons, Contains(HasSubstr("this container")));
  node.mps_daemons = {{.pipe_directory = "/mps", .pid = 1, .answers = true, .servers = {}}};
  EXPECT_TRUE(CheckMode(node, SharingMode::kMps).available());
}

TEST(Environment, MpsNeedsItsPipeAndSharedMemory) {
  Inventory node = GoodNode();
  node.host.container = true;
  node.host.mps_pipe_usable = false;
  EXPECT_THAT(CheckMode(node, SharingMode::kMps).reasons, Contains(HasSubstr("/tmp/nvidia-mps")));
  node.host.mps_pipe_usable = true;
  node.host.shm_usable = false;
  EXPECT_THAT(CheckMode(node, SharingMode::kMps).reasons, Contains(HasSubstr("IPC namespace")));
}

TEST(Environment, MpsNeedsVolta) {
  Inventory node = GoodNode();
  node.gpus[0].compute_capability_major = 6;
  node.gpus[0].compute_capability_minor = 1;
  EXPECT_THAT(CheckMode(node, SharingMode::kMps).reasons, Contains(HasSubstr("6.1 is below 7.0")));
}

TEST(Environment, ComputeModesDecideWhoMayRun) {
  Inventory node = GoodNode();
  node.gpus[0].compute_mode = ComputeMode::kExclusiveProcess;
  EXPECT_THAT(CheckMode(node, SharingMode::kTimeSlicing).reasons,
              Contains(HasSubstr("exclusive-process, which admits one process")));
  EXPECT_TRUE(CheckMode(node, SharingMode::kMps).available());
  node.gpus[0].compute_mode = ComputeMode::kProhibited;
  EXPECT_FALSE(CheckMode(node, SharingMode::kExclusive).available());
  EXPECT_FALSE(CheckMode(node, SharingMode::kMps).available());
}

TEST(Environment, MigNeedsRootUnlessItIsCutAlready) {
  Inventory node = GoodNode();
  node.host.admin = false;
  EXPECT_THAT(CheckMode(node, SharingMode::kMig).reasons, Contains(HasSubstr("needs root")));
  node.host.container = true;
  EXPECT_THAT(CheckMode(node, SharingMode::kMig).reasons, Contains(HasSubstr("CAP_SYS_ADMIN")));
  node.gpus[0].mig_enabled = true;
  node.gpus[0].instances.resize(1);
  EXPECT_TRUE(CheckMode(node, SharingMode::kMig).available());
}

TEST(Environment, MigNeedsABoardThatHasIt) {
  Inventory node = GoodNode(2);
  node.gpus[1].board = "l4";
  node.gpus[1].product = "NVIDIA L4";
  node.gpus[1].mig_capable = false;
  const ModeCheck check = CheckMode(node, SharingMode::kMig);
  EXPECT_THAT(check.gpus, ElementsAre(0));
  EXPECT_THAT(check.reasons, ElementsAre("GPU 1: the board has no MIG (NVIDIA L4)"));
}

TEST(Environment, MigNeedsADriverThatIsNewEnough) {
  Inventory node = GoodNode();
  node.gpus[0].mig_capable = false;
  node.driver.version = "470.82.01";
  EXPECT_THAT(CheckMode(node, SharingMode::kMig).reasons,
              ElementsAre(HasSubstr("driver 470.82.01 is too old")));
  node.driver.version = "580.159.04";
  EXPECT_THAT(CheckMode(node, SharingMode::kMig).reasons,
              ElementsAre(HasSubstr("reports no MIG mode")));
}

TEST(Environment, MigModeWithoutInstancesRunsNothing) {
  Inventory node = GoodNode();
  node.gpus[0].mig_enabled = true;
  EXPECT_THAT(CheckMode(node, SharingMode::kExclusive).reasons,
              ElementsAre(HasSubstr("no instance exists")));
  EXPECT_TRUE(CheckMode(node, SharingMode::kMig).available());
}

TEST(Environment, OneReasonNamesAllItsGpus) {
  Inventory node = GoodNode(3);
  node.gpus[0].problem = node.gpus[2].problem = "gpu is lost";
  const ModeCheck check = CheckMode(node, SharingMode::kExclusive);
  EXPECT_THAT(check.gpus, ElementsAre(1));
  EXPECT_THAT(check.reasons, ElementsAre("GPUs 0, 2: gpu is lost"));
}

TEST(Environment, ASimulatedDriverStandsForAGoodHost) {
  Inventory node = GoodNode();
  node.host = {};
  EXPECT_FALSE(CheckMode(node, SharingMode::kMps).available());
  EXPECT_FALSE(CheckMode(node, SharingMode::kMig).available());
  node.driver.simulated = true;
  EXPECT_TRUE(CheckMode(node, SharingMode::kMps).available());
  EXPECT_TRUE(CheckMode(node, SharingMode::kMig).available());
}

TEST(Environment, ComparesDriverVersionsByNumber) {
  EXPECT_TRUE(DriverAtLeast("580.159.04", "525"));
  EXPECT_TRUE(DriverAtLeast("550.90.07", "550.90.07"));
  EXPECT_TRUE(DriverAtLeast("1000.1", "999.9"));
  EXPECT_FALSE(DriverAtLeast("550.90.06", "550.90.07"));
  EXPECT_FALSE(DriverAtLeast("550", "550.90"));
  EXPECT_FALSE(DriverAtLeast("", "450"));
  EXPECT_TRUE(DriverAtLeast("580", ""));
}

}  // namespace
}  // namespace sublet
