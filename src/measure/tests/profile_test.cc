#include "measure/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SmPercents, AreSortedAndEndWithTheWhole) {
  EXPECT_THAT(*ParseSmPercents("50,10,10,25"), ElementsAre(10, 25, 50, 100));
  EXPECT_THAT(*ParseSmPercents("100"), ElementsAre(100));
}

TEST(SmPercents, RefuseWhatIsNone) {
  for (const char* text : {"", "0", "101", "10,", ",10", "ten", "10%", "10 ,20", "-5", "10.5"}) {
    const auto percents = ParseSmPercents(text);
    ASSERT_FALSE(percents) << text;
    EXPECT_EQ(percents.error().code, ErrorCode::kUsage);
  }
}

TEST(NameOfProgram, IsThatOfTheScriptWhereAnInterpreterRunsIt) {
  EXPECT_EQ(NameOfProgram({"python3", "examples/torch_encoder.py", "--batch", "4"}),
            "torch_encoder");
  EXPECT_EQ(NameOfProgram({"/usr/bin/python3.11", "-m", "vllm"}), "python3");
  EXPECT_EQ(NameOfProgram({"./my server"}), "my-server");
  EXPECT_EQ(NameOfProgram({"/opt/tool/run"}), "run");
}

class ProgramEnvironmentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=1G", 1);
    ::setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    ::setenv("LD_LIBRARY_PATH", "/own", 1);
  }
  void TearDown() override {
    for (const char* name :
         {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_MODULE_LOADING", "LD_LIBRARY_PATH"}) {
      ::unsetenv(name);
    }
  }
};

TEST_F(ProgramEnvironmentTest, DecidesWhereAProgramRunsAndKeepsTheRest) {
  ProgramOptions options;
  options.place.gpu_uuid = "GPU-1";
  options.place.mps_pipe_directory = "/tmp/mps";
  options.place.sm_percent = 25;
  options.guard_library = "/lib/guard.so";
  options.driver_folder = "/sim";
  options.copy = 3;
  const ChildEnvironment environment = ProgramEnvironment(options, "/proc/1/fd/2");
  EXPECT_EQ(environment.Get("CUDA_VISIBLE_DEVICES"), "GPU-1");
  EXPECT_EQ(environment.Get("CUDA_MPS_PIPE_DIRECTORY"), "/tmp/mps");
  EXPECT_EQ(environment.Get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), "25");
  EXPECT_EQ(environment.Get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"), std::nullopt);
  EXPECT_EQ(environment.Get("CUDA_MODULE_LOADING"), "EAGER");
  EXPECT_EQ(environment.Get("LD_LIBRARY_PATH"), "/sim:/own");
  EXPECT_THAT(*environment.Get("LD_PRELOAD"), ::testing::StartsWith("/lib/guard.so"));
  EXPECT_EQ(environment.Get("SUBLET_COPY"), "3");
}

TEST_F(ProgramEnvironmentTest, KeepsAProgramOffEveryMpsDaemonWhereItRunsWithoutMps) {
  const ChildEnvironment environment = ProgramEnvironment({}, "/proc/1/fd/2");
  EXPECT_THAT(*environment.Get("CUDA_MPS_PIPE_DIRECTORY"), HasSubstr("/nonexistent/"));
  EXPECT_EQ(environment.Get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), std::nullopt);
}

}  // namespace
}  // namespace sublet
