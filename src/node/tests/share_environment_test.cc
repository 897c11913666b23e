#include "node/share_environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace sublet {
namespace {

using ::testing::HasSubstr;

// By name; nullopt: to be unset.
using Variables = std::map<std::string, std::optional<std::string>>;

Variables Of(const Share& share, const std::string& pipe_directory, std::string libraries = "") {
  NodeSettings settings;
  settings.state = "/var/lib/sublet";
  settings.run = "/run/sublet";
  settings.libraries = std::move(libraries);
  Variables variables;
  for (const auto& [name, value] : EnvironmentOf(settings, share, pipe_directory)) {
    EXPECT_TRUE(variables.emplace(name, value).second) << name << " twice";
  }
  return variables;
}

Share MpsShare() {
  Share share;
  share.id = "s17";
  share.tenant = "search";
  share.mode = SharingMode::kMps;
  share.gpu_uuid = "GPU-1";
  share.domain = "run-gpu0-search";
  share.memory = 10_GiB + 144_MiB;
  share.memory_limit = 10_GiB;
  share.sm_percent = 20;
  return share;
}

TEST(ShareEnvironment, MeetsItsServerAndItsLimits) {
  const Variables variables = Of(MpsShare(), "/run/sublet/mps/run-gpu0-search");
  EXPECT_EQ(variables.at("CUDA_VISIBLE_DEVICES"), "GPU-1");
  EXPECT_EQ(variables.at("NVIDIA_VISIBLE_DEVICES"), "GPU-1");
  EXPECT_EQ(variables.at("CUDA_MPS_PIPE_DIRECTORY"), "/run/sublet/mps/run-gpu0-search");
  EXPECT_EQ(variables.at("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), "20");
  EXPECT_EQ(variables.at("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"), "0=10384M")
      << "MPS counts the context, and one entry alone is obeyed";
  EXPECT_EQ(variables.at("SUBLET_SHARE"), "s17");
  EXPECT_EQ(variables.at("SUBLET_TENANT"), "search");
  EXPECT_EQ(variables.at("SUBLET_STATE"), "/var/lib/sublet");
}

// What the caller has in his environment could lift the limits, or lead to another's server.
TEST(ShareEnvironment, LeavesNothingOfMpsToTheCaller) {
  Share share = MpsShare();
  share.memory_limit.reset();
  share.sm_percent.reset();
  const Variables unlimited = Of(share, "/run/sublet/mps/run-gpu0-search");
  share.mode = SharingMode::kExclusive;
  share.domain.clear();
  const Variables alone = Of(share, "");
  for (const Variables& variables : {unlimited, alone}) {
    for (const char* name :
         {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
          "CUDA_MPS_LOG_DIRECTORY", "CUDA_MPS_CLIENT_PRIORITY",
          "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING"}) {
      ASSERT_TRUE(variables.contains(name)) << name;
      EXPECT_FALSE(variables.at(name)) << name;
    }
  }
  ASSERT_TRUE(alone.at("CUDA_MPS_PIPE_DIRECTORY")) << "unset, it would be the default folder";
  EXPECT_THAT(*alone.at("CUDA_MPS_PIPE_DIRECTORY"), HasSubstr("/run/sublet/"));
}

TEST(ShareEnvironment, NamesTheMigDevice) {
  Share share = MpsShare();
  share.mode = SharingMode::kMig;
  share.domain.clear();
  share.mig_uuid = "MIG-1";
  EXPECT_EQ(Of(share, "").at("CUDA_VISIBLE_DEVICES"), "MIG-1");
}

TEST(ShareEnvironment, SetsEveryVariableThatAWorkloadMayNot) {
  for (const auto& [name, value] : Of(MpsShare(), "/p")) {
    EXPECT_TRUE(IsShareVariable(name)) << name;
  }
}

TEST(ShareEnvironment, LeadsToASimulatedDriverWhereThereIsOne) {
  EXPECT_FALSE(Of(MpsShare(), "/p").contains("LD_LIBRARY_PATH"));
  const Variables simulated = Of(MpsShare(), "/p", "/opt/sim");
  ASSERT_TRUE(simulated.at("LD_LIBRARY_PATH"));
  EXPECT_TRUE(simulated.at("LD_LIBRARY_PATH")->starts_with("/opt/sim"));
}

}  // namespace
}  // namespace sublet
