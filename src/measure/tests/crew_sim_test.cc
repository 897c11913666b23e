// The crew on the simulated driver: figures in simulated time, MPS with its limits and faults.
//
// What the simulated card should show is what an H200 showed; here only the order of things is
// asked for, because the figures are the simulation's to test.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "measure/crew.h"
#include "mps/mps_daemon.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr const char* kLibraries = SUBLET_BINARY_DIR "/lib/sublet-sim/";

class CrewSimTest : public ::testing::Test {
 protected:
  CrewSimTest() {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    ::setenv("SUBLET_SIM", "h200", 1);
    ::setenv("SUBLET_SIM_STATE", (folder_ + "/state").c_str(), 1);
  }
  ~CrewSimTest() override {
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD) << "a child is left";
    std::filesystem::remove_all(folder_);
  }

  std::unique_ptr<MpsDaemon> StartMps() const {
    MpsOptions options;
    options.gpu_uuid = "0";
    options.program = std::string(kLibraries) + "nvidia-cuda-mps-control";
    options.parent_folder = folder_;
    auto mps = MpsDaemon::Start(options);
    EXPECT_TRUE(mps.has_value()) << mps.error().message;
    return mps ? std::move(*mps) : nullptr;
  }

  static std::unique_ptr<Crew> StartCrew(int count, const WorkerPlace& place) {
    CrewOptions options;
    options.cuda_library = std::string(kLibraries) + "libcuda.so.1";
    options.gpu_sm_count = 132;
    auto crew =
        Crew::Start(options, std::vector<WorkerPlace>(static_cast<std::size_t>(count), place));
    EXPECT_TRUE(crew.has_value()) << crew.error().message;
    return crew ? std::move(*crew) : nullptr;
  }

  static std::vector<int> All(const Crew& crew) {
    std::vector<int> all;
    for (int i = 0; i < crew.size(); ++i) all.push_back(i);
    return all;
  }

  // Units a second of each; 0 where one failed.
  static std::vector<double> Rates(Crew& crew, const char* workload, int streams = 1) {
    const std::vector<int> all = All(crew);
    const Status prepared = crew.PrepareAll(all, workload, streams);
    EXPECT_TRUE(prepared.has_value()) << prepared.error().message;
    std::vector<double> rates;
    for (const WorkerOutcome& outcome : crew.RunRound(all, {.warmup_ms = 10, .window_ms = 50})) {
      EXPECT_FALSE(outcome.error.has_value()) << outcome.error->message;
      rates.push_back(0);
      for (const StreamFigures& stream : outcome.streams) rates.back() += stream.rate_per_s;
    }
    return rates;
  }

  std::string folder_ = "/tmp/sublet-test-XXXXXX";
  const WorkerPlace alone_{.gpu_uuid = "0"};
};

TEST_F(CrewSimTest, GivesTheSameFiguresEveryTime) {
  const auto crew = StartCrew(3, alone_);
  ASSERT_NE(crew, nullptr);
  const std::vector<double> first = Rates(*crew, "small");
  for (int i = 0; i < 3; ++i) {
    const std::vector<double> again = Rates(*crew, "small");
    for (std::size_t k = 0; k < first.size(); ++k) EXPECT_NEAR(again[k] / first[k], 1, 1e-3);
  }
}

TEST_F(CrewSimTest, ShowsThatTwoProcessesSlowEachOtherWithoutMps) {
  const auto one = StartCrew(1, alone_);
  ASSERT_NE(one, nullptr);
  const double alone = Rates(*one, "small")[0];
  const double two_streams = Rates(*one, "small", 2)[0];
  EXPECT_GT(two_streams, 1.5 * alone);
  const auto two = StartCrew(2, alone_);
  ASSERT_NE(two, nullptr);
  for (const double rate : Rates(*two, "small")) EXPECT_LT(rate, alone / 2);
}

TEST_F(CrewSimTest, ShowsThatMpsLetsSmallOnesRunSideBySide) {
  const auto one = StartCrew(1, alone_);
  ASSERT_NE(one, nullptr);
  const double alone = Rates(*one, "small")[0];
  const auto mps = StartMps();
  ASSERT_NE(mps, nullptr);
  const auto four = StartCrew(4, {.gpu_uuid = "0", .mps_pipe_directory = mps->pipe_directory()});
  ASSERT_NE(four, nullptr);
  for (const double rate : Rates(*four, "small")) EXPECT_GT(rate, 0.9 * alone);
  const auto servers = mps->Servers();
  ASSERT_TRUE(servers.has_value());
  ASSERT_THAT(*servers, SizeIs(1));
  EXPECT_THAT(mps->Clients(servers->front()).value_or(std::vector<int>{}), SizeIs(4));
}

TEST_F(CrewSimTest, PutsTheLimitsOnItsClients) {
  const auto mps = StartMps();
  ASSERT_NE(mps, nullptr);
  const auto crew = StartCrew(1, {.gpu_uuid = "0",
                                  .mps_pipe_directory = mps->pipe_directory(),
                                  .sm_percent = 10,
                                  .memory_limit = 2_GiB});
  ASSERT_NE(crew, nullptr);
  EXPECT_LT(crew->info(0).sm_count, 20);
  const auto reply = crew->AllocateToTheWall(0);
  ASSERT_TRUE(reply.has_value());
  EXPECT_LE(reply->allocated, 2_GiB);
  EXPECT_GT(reply->allocated, 1_GiB);
  EXPECT_EQ(reply->refusal, "CUDA_ERROR_OUT_OF_MEMORY");
}

TEST_F(CrewSimTest, AFaultTakesTheNeighboursUnderMpsButNotThoseWithoutIt) {
  const RoundOptions round{.warmup_ms = 5, .window_ms = 400};
  {
    const auto crew = StartCrew(2, alone_);
    ASSERT_NE(crew, nullptr);
    ASSERT_TRUE(crew->PrepareAll({0, 1}, "small", 1).has_value());
    const auto outcomes = crew->RunRoundWithMisdeed({0, 1}, 0, Misdeed::kIllegalAccess, round);
    ASSERT_TRUE(outcomes[0].error.has_value());
    EXPECT_THAT(outcomes[0].error->message, HasSubstr("ILLEGAL_ADDRESS"));
    EXPECT_FALSE(outcomes[1].error.has_value());
  }
  const auto mps = StartMps();
  ASSERT_NE(mps, nullptr);
  const auto crew = StartCrew(2, {.gpu_uuid = "0", .mps_pipe_directory = mps->pipe_directory()});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0, 1}, "small", 1).has_value());
  const auto outcomes = crew->RunRoundWithMisdeed({0, 1}, 0, Misdeed::kIllegalAccess, round);
  EXPECT_TRUE(outcomes[0].error.has_value());
  EXPECT_TRUE(outcomes[1].error.has_value());
}

TEST_F(CrewSimTest, AClientThatIsKilledOrTerminatedLeavesItsNeighbour) {
  const RoundOptions round{.warmup_ms = 5, .window_ms = 100};
  const auto mps = StartMps();
  ASSERT_NE(mps, nullptr);
  const auto crew = StartCrew(3, {.gpu_uuid = "0", .mps_pipe_directory = mps->pipe_directory()});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0, 1, 2}, "small", 1).has_value());
  auto outcomes = crew->RunRoundWithSignal({0, 1, 2}, 0, SIGKILL, round);
  EXPECT_TRUE(outcomes[0].died);
  EXPECT_FALSE(outcomes[1].error.has_value());
  EXPECT_FALSE(outcomes[2].error.has_value());
  const int server = mps->Servers().value_or(std::vector<int>{0}).front();
  outcomes = crew->RunRoundWithAct(
      {1, 2}, 1, [&] { EXPECT_TRUE(mps->TerminateClient(server, crew->info(1).pid).has_value()); },
      round);
  EXPECT_TRUE(outcomes[0].error.has_value());
  EXPECT_FALSE(outcomes[1].error.has_value());
}

TEST_F(CrewSimTest, ASleeperHoldsUpNobody) {
  const auto crew = StartCrew(2, alone_);
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0, 1}, "small", 1).has_value());
  const auto outcomes = crew->RunRoundWithMisdeed({0, 1}, 0, Misdeed::kSleepForever,
                                                  {.warmup_ms = 5, .window_ms = 20});
  EXPECT_TRUE(outcomes[0].died);
  EXPECT_FALSE(outcomes[1].error.has_value());
}

TEST_F(CrewSimTest, RunsFortyOfThem) {
  const auto crew = StartCrew(40, alone_);
  ASSERT_NE(crew, nullptr);
  double sum = 0;
  for (const double rate : Rates(*crew, "transformer")) sum += rate;
  EXPECT_GT(sum, 1000);
  for (int i = 0; i < 40; ++i) EXPECT_GT(crew->info(i).first_unit_ms, crew->info(i).startup_ms);
}

}  // namespace
}  // namespace sublet
