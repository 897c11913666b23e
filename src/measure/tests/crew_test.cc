// The crew with real processes: this program under the verb `measure-worker`, on a stand-in for the
// driver whose kernels take real time (slow_cuda.cc).

#include "measure/crew.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "base/file_descriptor.h"
#include "base/interrupt.h"
#include "measure/worker.h"
#include "measure/worker_channel.h"

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

CrewOptions OnSlowCuda() {
  CrewOptions options;
  options.cuda_library = SUBLET_SLOW_CUDA;
  options.reply_timeout_s = 20;
  return options;
}

std::vector<WorkerPlace> Places(const std::vector<std::string>& devices) {
  std::vector<WorkerPlace> places;
  for (const std::string& device : devices) places.push_back({.gpu_uuid = device});
  return places;
}

std::unique_ptr<Crew> StartCrew(const std::vector<std::string>& devices) {
  auto crew = Crew::Start(OnSlowCuda(), Places(devices));
  EXPECT_TRUE(crew.has_value()) << crew.error().message;
  return crew ? std::move(*crew) : nullptr;
}

std::ptrdiff_t OpenDescriptors() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

// Every crew of these tests must leave nothing behind, whatever happened to it.
class CrewTest : public ::testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD) << "a child is left";
    EXPECT_EQ(OpenDescriptors(), descriptors_);
  }

 private:
  const std::ptrdiff_t descriptors_ = OpenDescriptors();
};

TEST_F(CrewTest, MeasuresTheRateAndTheLatencyOfEachWorker) {
  const auto crew = StartCrew({"a", "b", "c"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0, 1, 2}, "small", 1).has_value());
  const auto outcomes = crew->RunRound({0, 1, 2}, {.warmup_ms = 10, .window_ms = 100});
  ASSERT_THAT(outcomes, SizeIs(3));
  for (const WorkerOutcome& outcome : outcomes) {
    ASSERT_FALSE(outcome.error.has_value()) << outcome.error->message;
    ASSERT_THAT(outcome.streams, SizeIs(1));
    const StreamFigures& figures = outcome.streams[0];
    // A kernel takes 0.2 ms and its wait a little more; a busy machine may take its time.
    EXPECT_GT(figures.latency_ms_p50, 0.19);
    EXPECT_LT(figures.latency_ms_p50, 5);
    EXPECT_GE(figures.latency_ms_max, figures.latency_ms_p99);
    EXPECT_GE(figures.latency_ms_p99, figures.latency_ms_p50);
    EXPECT_LE(figures.rate_per_s, 5'000);
    EXPECT_GT(figures.rate_per_s, 100);
    EXPECT_NEAR(static_cast<double>(figures.units), figures.rate_per_s * 0.1, 2);
  }
}

TEST_F(CrewTest, KeepsAllStreamsOfAWorkerBusy) {
  const auto crew = StartCrew({"a"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->Prepare(0, "small", 1).has_value());
  const double one = crew->RunRound({0}, {.window_ms = 100})[0].streams[0].rate_per_s;
  ASSERT_TRUE(crew->Prepare(0, "small", 4).has_value());
  const auto outcome = crew->RunRound({0}, {.window_ms = 100})[0];
  ASSERT_THAT(outcome.streams, SizeIs(4));
  double four = 0;
  for (const StreamFigures& figures : outcome.streams) four += figures.rate_per_s;
  EXPECT_GT(four, 2 * one);
}

TEST_F(CrewTest, RunsOnlyThoseWhoAreAsked) {
  const auto crew = StartCrew({"a", "b"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({1}, "small", 1).has_value());
  const auto outcomes = crew->RunRound({1}, {.window_ms = 20});
  ASSERT_THAT(outcomes, SizeIs(1));
  EXPECT_FALSE(outcomes[0].error.has_value());
}

TEST_F(CrewTest, TellsOfARoundWithoutAWorkloadAndDoesNotHoldUpTheOthers) {
  const auto crew = StartCrew({"a", "b"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0}, "small", 1).has_value());
  const auto outcomes = crew->RunRound({0, 1}, {.window_ms = 20});
  EXPECT_FALSE(outcomes[0].error.has_value());
  ASSERT_TRUE(outcomes[1].error.has_value());
  EXPECT_FALSE(outcomes[1].died);
  EXPECT_THAT(outcomes[1].error->message, HasSubstr("without a workload"));
}

TEST_F(CrewTest, KnowsItsWorkers) {
  const auto crew = StartCrew({"a"});
  ASSERT_NE(crew, nullptr);
  EXPECT_EQ(crew->size(), 1);
  EXPECT_EQ(crew->info(0).sm_count, 10);
  EXPECT_GT(crew->info(0).pid, 0);
  EXPECT_GT(crew->info(0).startup_ms, 0);
  const auto first = crew->Prepare(0, "small", 1);
  ASSERT_TRUE(first.has_value());
  EXPECT_GT(*first, crew->info(0).startup_ms + 0.19);
  EXPECT_EQ(*crew->Prepare(0, "big", 2), *first);  // Of its first unit ever.
  EXPECT_EQ(crew->info(0).first_unit_ms, *first);
}

TEST_F(CrewTest, RefusesAWorkloadThatIsNotThereAndGoesOn) {
  const auto crew = StartCrew({"a"});
  ASSERT_NE(crew, nullptr);
  const auto prepared = crew->Prepare(0, "knitting", 1);
  ASSERT_FALSE(prepared.has_value());
  EXPECT_EQ(prepared.error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(crew->failure(0).has_value());
  EXPECT_TRUE(crew->Prepare(0, "small", 1).has_value());
}

TEST_F(CrewTest, AllocatesToTheWallAndGivesAllBack) {
  const auto crew = StartCrew({"a"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->Prepare(0, "mem", 1).has_value());  // Takes 256 MiB of the 4 GiB.
  for (const Bytes expected : {4_GiB - 256_MiB, 4_GiB}) {
    const auto reply = crew->AllocateToTheWall(0);
    ASSERT_TRUE(reply.has_value());
    EXPECT_EQ(reply->allocated, expected);
    EXPECT_EQ(reply->refusal, "CUDA_ERROR_OUT_OF_MEMORY");
    ASSERT_TRUE(crew->Rest({0}).has_value());
  }
}

TEST_F(CrewTest, SaysWhichWorkerCouldNotStartAndWhy) {
  const auto none = Crew::Start(OnSlowCuda(), Places({"a", "none"}));
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(none.error().message, HasSubstr("starting worker 1: starting cuda"));
  const auto crash = Crew::Start(OnSlowCuda(), Places({"crash"}));
  ASSERT_FALSE(crash.has_value());
  EXPECT_THAT(crash.error().message, HasSubstr("was killed by signal 6 (Aborted): "));
  EXPECT_THAT(crash.error().message, HasSubstr("a riser is loose"));
}

TEST_F(CrewTest, KeepsThoseThatStartedWhereItIsTold) {
  CrewOptions options = OnSlowCuda();
  options.keep_going = true;
  options.starting_max = 2;
  const auto crew = Crew::Start(options, Places({"a", "none", "b"}));
  ASSERT_TRUE(crew.has_value());
  EXPECT_FALSE((*crew)->failure(0).has_value());
  EXPECT_TRUE((*crew)->failure(1).has_value());
  EXPECT_FALSE((*crew)->failure(2).has_value());
  EXPECT_TRUE((*crew)->PrepareAll({0, 2}, "small", 1).has_value());
  const auto outcomes = (*crew)->RunRound({0, 1, 2}, {.window_ms = 10});
  EXPECT_FALSE(outcomes[0].error.has_value());
  EXPECT_TRUE(outcomes[1].died);
  EXPECT_FALSE(outcomes[2].error.has_value());
}

TEST_F(CrewTest, GivesUpOnAWorkerThatHangsWhileStarting) {
  CrewOptions options = OnSlowCuda();
  options.start_timeout_s = 0.2;
  const auto crew = Crew::Start(options, Places({"hang"}));
  ASSERT_FALSE(crew.has_value());
  EXPECT_THAT(crew.error().message, HasSubstr("did not answer within 0.2 s"));
}

TEST_F(CrewTest, GivesUpOnAProgramThatIsNoWorker) {
  CrewOptions options = OnSlowCuda();
  options.program = "/bin/true";
  const auto silent = Crew::Start(options, Places({"a"}));
  ASSERT_FALSE(silent.has_value());
  EXPECT_THAT(silent.error().message, HasSubstr("exited with status 0"));
  options.program = "/nonexistent";
  const auto missing = Crew::Start(options, Places({"a"}));
  ASSERT_FALSE(missing.has_value());
  EXPECT_THAT(missing.error().message, HasSubstr("/nonexistent"));
}

TEST_F(CrewTest, GoesOnWithoutAWorkerThatDiesInARound) {
  const auto crew = StartCrew({"a", "dies", "b"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0, 1, 2}, "small", 1).has_value());
  const auto outcomes = crew->RunRound({0, 1, 2}, {.warmup_ms = 5, .window_ms = 60});
  EXPECT_FALSE(outcomes[0].error.has_value());
  EXPECT_FALSE(outcomes[2].error.has_value());
  EXPECT_TRUE(outcomes[1].died);
  ASSERT_TRUE(outcomes[1].error.has_value());
  EXPECT_THAT(outcomes[1].error->message, HasSubstr("was killed by signal 9"));
  // It stays dead; the next round runs without it.
  const auto next = crew->RunRound({0, 1, 2}, {.window_ms = 20});
  EXPECT_FALSE(next[0].error.has_value());
  EXPECT_TRUE(next[1].died);
  EXPECT_FALSE(crew->Prepare(1, "small", 1).has_value());
}

TEST_F(CrewTest, GoesOnWithoutAWorkerWhoseKernelFails) {
  const auto crew = StartCrew({"a", "fails"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0, 1}, "small", 1).has_value());
  const auto outcomes = crew->RunRound({0, 1}, {.warmup_ms = 5, .window_ms = 60});
  EXPECT_FALSE(outcomes[0].error.has_value());
  ASSERT_TRUE(outcomes[1].error.has_value());
  EXPECT_FALSE(outcomes[1].died);
  EXPECT_THAT(outcomes[1].error->message, HasSubstr("CUDA_ERROR_719"));
}

TEST_F(CrewTest, LetsOneMisbehaveWhileTheOthersGoOn) {
  const auto crew = StartCrew({"a", "b", "c"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0, 1, 2}, "small", 1).has_value());
  const RoundOptions round{.warmup_ms = 5, .window_ms = 40};
  auto outcomes = crew->RunRoundWithMisdeed({0, 1, 2}, 0, Misdeed::kIllegalAccess, round);
  ASSERT_TRUE(outcomes[0].error.has_value());
  EXPECT_THAT(outcomes[0].error->message, HasSubstr("CUDA_ERROR_700"));
  EXPECT_FALSE(outcomes[1].error.has_value());
  outcomes = crew->RunRoundWithSignal({1, 2}, 1, SIGKILL, round);
  EXPECT_TRUE(outcomes[0].died);
  EXPECT_FALSE(outcomes[1].error.has_value());
  outcomes = crew->RunRoundWithMisdeed({2}, 2, Misdeed::kSleepForever, round);
  EXPECT_TRUE(outcomes[0].died);
  EXPECT_THAT(outcomes[0].error->message, HasSubstr("went to sleep"));
}

TEST_F(CrewTest, KillsAWorkerThatStopsAnswering) {
  CrewOptions options = OnSlowCuda();
  options.reply_timeout_s = 0.3;
  const auto crew = Crew::Start(options, Places({"a", "b"}));
  ASSERT_TRUE(crew.has_value());
  ASSERT_TRUE((*crew)->PrepareAll({0, 1}, "small", 1).has_value());
  // Stopped, it neither works nor answers, and keeps the other running until it is given up.
  const auto outcomes =
      (*crew)->RunRoundWithSignal({0, 1}, 0, SIGSTOP, {.warmup_ms = 1, .window_ms = 20});
  EXPECT_TRUE(outcomes[0].died);
  EXPECT_THAT(outcomes[0].error->message, HasSubstr("did not answer within 0.321 s"));
}

TEST_F(CrewTest, ActsInTheMiddleOfTheWindow) {
  const auto crew = StartCrew({"a", "b"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0, 1}, "small", 1).has_value());
  int acts = 0;
  const auto outcomes =
      crew->RunRoundWithAct({0, 1}, 1, [&] { ++acts; }, {.warmup_ms = 5, .window_ms = 20});
  EXPECT_EQ(acts, 1);
  EXPECT_FALSE(outcomes[0].error.has_value());
  EXPECT_FALSE(outcomes[1].error.has_value());
}

TEST_F(CrewTest, StopsARoundWhenInterrupted) {
  const InterruptScope scope;
  const auto crew = StartCrew({"a", "b"});
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll({0, 1}, "small", 1).has_value());
  const std::int64_t began = MonotonicNanoseconds();
  const auto outcomes = crew->RunRoundWithAct({0, 1}, 0, [] { ::raise(SIGINT); },
                                              {.warmup_ms = 0, .window_ms = 60'000 / 500.0});
  ASSERT_THAT(outcomes, SizeIs(2));
  EXPECT_EQ(outcomes[0].error->message, "interrupted");
  EXPECT_EQ(outcomes[1].error->message, "interrupted");
  EXPECT_LT(MonotonicNanoseconds() - began, 10'000'000'000);
  EXPECT_EQ(crew->RunRound({0}, {})[0].error->message, "interrupted");
  EXPECT_EQ(Crew::Start(OnSlowCuda(), Places({"a"})).error().message,
            "starting worker 0: interrupted");
}

TEST_F(CrewTest, StartsFortyAndRunsThemTogether) {
  std::vector<int> all;
  std::vector<std::string> devices;
  for (int i = 0; i < 40; ++i) {
    all.push_back(i);
    devices.push_back("a");
  }
  const auto crew = StartCrew(devices);
  ASSERT_NE(crew, nullptr);
  ASSERT_TRUE(crew->PrepareAll(all, "small", 1).has_value());
  for (const WorkerOutcome& outcome : crew->RunRound(all, {.warmup_ms = 20, .window_ms = 50})) {
    ASSERT_FALSE(outcome.error.has_value()) << outcome.error->message;
  }
}

// The lab is a process forked here, so that it can be killed without ending the test.
TEST_F(CrewTest, EndsWithTheLab) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  FileDescriptor read(fds[0]);
  const pid_t lab = ::fork();
  ASSERT_GE(lab, 0);
  if (lab == 0) {
    const auto crew = StartCrew({"a"});
    const pid_t pid = crew == nullptr ? -1 : crew->info(0).pid;
    static_cast<void>(::write(fds[1], &pid, sizeof pid) == sizeof pid);
    ::pause();
    ::_exit(0);
  }
  ::close(fds[1]);
  pid_t worker = -1;
  ASSERT_EQ(::read(read.get(), &worker, sizeof worker), static_cast<ssize_t>(sizeof worker));
  ASSERT_GT(worker, 0);
  ::kill(lab, SIGKILL);
  ::waitpid(lab, nullptr, 0);
  const Deadline deadline = Deadline::In(10);
  // Nobody reaps it here, so a zombie is as gone as it gets.
  const auto alive = [&] {
    std::ifstream in("/proc/" + std::to_string(worker) + "/stat");
    std::string text;
    std::getline(in, text);
    const std::size_t end = text.rfind(')');
    return end != std::string::npos && text[end + 2] != 'Z';
  };
  while (alive() && !deadline.Passed()) std::this_thread::yield();
  EXPECT_FALSE(alive());
}

TEST(EnvironmentAt, KeepsAWorkerFromServersOfOthers) {
  ::setenv("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps", 1);
  ::setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
  ::setenv("CUDA_CACHE_PATH", "/tmp/cache", 1);
  const ChildEnvironment environment = EnvironmentAt({.gpu_uuid = "GPU-1"});
  EXPECT_EQ(environment.Get("CUDA_VISIBLE_DEVICES"), "GPU-1");
  EXPECT_FALSE(std::filesystem::exists(*environment.Get("CUDA_MPS_PIPE_DIRECTORY")));
  EXPECT_EQ(environment.Get("CUDA_LAUNCH_BLOCKING"), std::nullopt);
  EXPECT_EQ(environment.Get("CUDA_CACHE_PATH"), "/tmp/cache");
  EXPECT_EQ(environment.Get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), std::nullopt);
  EXPECT_EQ(environment.Get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"), std::nullopt);
  EXPECT_TRUE(environment.Get("PATH").has_value());
}

TEST(EnvironmentAt, SetsTheLimitsOfOneDevice) {
  const ChildEnvironment environment = EnvironmentAt({.gpu_uuid = "GPU-1",
                                                      .mps_pipe_directory = "/tmp/x",
                                                      .sm_percent = 10,
                                                      .memory_limit = 2_GiB});
  EXPECT_EQ(environment.Get("CUDA_MPS_PIPE_DIRECTORY"), "/tmp/x");
  EXPECT_EQ(environment.Get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), "10");
  EXPECT_EQ(environment.Get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"), "0=2048M");
}

}  // namespace
}  // namespace sublet

int main(int argc, char** argv) {
  if (argc == 2 && argv[1] == sublet::kWorkerVerb) {
    const sublet::Status served =
        sublet::ServeAsWorker(sublet::FileDescriptor(sublet::kWorkerChannelFd),
                              sublet::FileDescriptor(sublet::kWorkerLineFd));
    return served ? 0 : 1;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
