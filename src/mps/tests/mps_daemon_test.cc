// The daemon on a stand-in for the control program that shows the real one's faults
// (fake_mps_control.sh).

#include "mps/mps_daemon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/clock.h"
#include "base/interrupt.h"
#include "mps/folder_users.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MpsDaemonTest : public ::testing::Test {
 protected:
  MpsDaemonTest() { EXPECT_NE(::mkdtemp(parent_.data()), nullptr); }
  ~MpsDaemonTest() override {
    // Whatever happened, nothing may be left.
    EXPECT_TRUE(fs::is_empty(parent_));
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD) << "a child is left";
    fs::remove_all(parent_);
  }

  MpsOptions Options(const char* fault) const {
    ::setenv("FAKE_MPS", fault, 1);
    MpsOptions options;
    options.gpu_uuid = "GPU-1";
    options.program = SUBLET_SOURCE_DIR "/src/mps/tests/fake_mps_control.sh";
    options.parent_folder = parent_;
    return options;
  }

  std::unique_ptr<MpsDaemon> StartDaemon(const char* fault = "") const {
    auto started = MpsDaemon::Start(Options(fault));
    EXPECT_TRUE(started.has_value()) << started.error().message;
    return started ? std::move(*started) : nullptr;
  }

  std::string parent_ = "/tmp/sublet-test-XXXXXX";
};

TEST_F(MpsDaemonTest, AnswersOnceItIsStartedAndIsGoneOnceStopped) {
  const auto mps = StartDaemon();
  ASSERT_NE(mps, nullptr);
  const std::string folder = mps->pipe_directory();
  EXPECT_TRUE(folder.starts_with(parent_));
  EXPECT_THAT(FolderUsers(folder), ElementsAre(mps->pid()));
  EXPECT_EQ(mps->Ask("get_default_active_thread_percentage").value_or("?"), "100.0");
  EXPECT_TRUE(mps->Stop().has_value());
  EXPECT_FALSE(fs::exists(folder));
  EXPECT_THAT(FolderUsers(folder), IsEmpty());
  EXPECT_TRUE(mps->Stop().has_value());
  EXPECT_FALSE(mps->Ask("get_server_list").has_value());
}

TEST_F(MpsDaemonTest, TellsServersAndClients) {
  const auto mps = StartDaemon();
  ASSERT_NE(mps, nullptr);
  EXPECT_THAT(mps->Servers().value_or(std::vector<int>{-1}), IsEmpty());
  const auto missing = mps->Clients(7);
  ASSERT_FALSE(missing.has_value());
  EXPECT_THAT(missing.error().message, HasSubstr("get_client_list 7: Server not found"));
  EXPECT_EQ(mps->StartServer().value_or(0), 4242);
  EXPECT_THAT(mps->Servers().value_or(std::vector<int>{}), ElementsAre(4242));
  EXPECT_THAT(mps->Clients(4242).value_or(std::vector<int>{}), ElementsAre(11, 12));
}

TEST_F(MpsDaemonTest, ReadsLimitsBack) {
  const auto mps = StartDaemon();
  ASSERT_NE(mps, nullptr);
  EXPECT_TRUE(mps->SetDefaultPinnedLimit(600_MiB).has_value());
  EXPECT_EQ(mps->Ask("get_default_device_pinned_mem_limit 0").value_or(""), "600M");
  EXPECT_TRUE(mps->SetDefaultPinnedLimit(2500_MiB).has_value());
  EXPECT_TRUE(mps->SetDefaultActiveThreadPercentage(25).has_value());
}

TEST_F(MpsDaemonTest, NoticesALimitThatDidNotTake) {
  const auto mps = StartDaemon("deaf");
  ASSERT_NE(mps, nullptr);
  const auto memory = mps->SetDefaultPinnedLimit(600_MiB);
  ASSERT_FALSE(memory.has_value());
  EXPECT_EQ(memory.error().code, ErrorCode::kConflict);
  EXPECT_THAT(memory.error().message, HasSubstr("No default pinned memory limit"));
  const auto threads = mps->SetDefaultActiveThreadPercentage(25);
  ASSERT_FALSE(threads.has_value());
  EXPECT_THAT(threads.error().message, HasSubstr("set to 25 and reads: 100.0"));
}

TEST_F(MpsDaemonTest, RefusesACommandThatTheDaemonDoesNotKnow) {
  const auto mps = StartDaemon();
  ASSERT_NE(mps, nullptr);
  const auto answer = mps->Ask("lspart");
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code, ErrorCode::kUnsupported);
}

TEST_F(MpsDaemonTest, AsksAgainWhileTheDaemonIsBusy) {
  const auto mps = StartDaemon("busy");
  ASSERT_NE(mps, nullptr);
  EXPECT_EQ(mps->Ask("get_default_active_thread_percentage").value_or("?"), "100.0");
}

TEST_F(MpsDaemonTest, WaitsForADaemonThatComesUpLate) {
  EXPECT_NE(StartDaemon("late"), nullptr);
}

TEST_F(MpsDaemonTest, SaysWhatTheLogSaysOfADaemonThatEnds) {
  const auto started = MpsDaemon::Start(Options("refuse"));
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(started.error().message,
              HasSubstr("exited with status 1: Failed to open the device"));
}

TEST_F(MpsDaemonTest, GivesUpOnADaemonThatNeverAnswers) {
  MpsOptions options = Options("mute");
  options.start_timeout_s = 0.3;
  options.answer_timeout_s = 0.1;
  const auto started = MpsDaemon::Start(options);
  ASSERT_FALSE(started.has_value());
  EXPECT_THAT(started.error().message, HasSubstr("does not answer within 0.3 s"));
}

TEST_F(MpsDaemonTest, SaysWhereTheProgramWouldComeFrom) {
  MpsOptions options = Options("");
  options.program = "/nonexistent/nvidia-cuda-mps-control";
  const auto started = MpsDaemon::Start(options);
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(started.error().message, HasSubstr("starting mps"));
  EXPECT_THAT(started.error().hint, HasSubstr("NVIDIA driver"));
}

TEST_F(MpsDaemonTest, RefusesAFolderTooDeepForASocket) {
  MpsOptions options = Options("");
  options.parent_folder = parent_ + "/" + std::string(80, 'x');
  fs::create_directory(options.parent_folder);
  const auto started = MpsDaemon::Start(options);
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().code, ErrorCode::kUsage);
  fs::remove(options.parent_folder);
}

TEST_F(MpsDaemonTest, KillsADaemonThatDoesNotQuit) {
  const auto mps = StartDaemon("stubborn");
  ASSERT_NE(mps, nullptr);
  EXPECT_TRUE(mps->Stop().has_value());
}

TEST_F(MpsDaemonTest, EndsAServerThatOutlivesTheDaemon) {
  const auto mps = StartDaemon("orphans");
  ASSERT_NE(mps, nullptr);
  ASSERT_TRUE(mps->StartServer().has_value());
  const std::string folder = mps->pipe_directory();
  EXPECT_TRUE(mps->Stop().has_value());
  EXPECT_THAT(FolderUsers(folder), IsEmpty());
}

TEST_F(MpsDaemonTest, NeitherSeesNorEndsAnother) {
  const auto one = StartDaemon();
  const auto two = StartDaemon();
  ASSERT_TRUE(one != nullptr && two != nullptr);
  EXPECT_NE(one->pipe_directory(), two->pipe_directory());
  EXPECT_TRUE(one->Stop().has_value());
  EXPECT_TRUE(two->Ask("get_server_list").has_value());
}

TEST_F(MpsDaemonTest, StopsStartingWhenInterrupted) {
  const InterruptScope scope;
  ::raise(SIGINT);
  MpsOptions options = Options("mute");
  options.answer_timeout_s = 0.05;
  const auto started = MpsDaemon::Start(options);
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().message, "interrupted");
}

// The owner is a process forked here, so that it can be killed without ending the test.
TEST_F(MpsDaemonTest, DiesWithItsOwnerAndTheNextOneTidiesUp) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const pid_t owner = ::fork();
  ASSERT_GE(owner, 0);
  if (owner == 0) {
    const auto mps = StartDaemon();
    char path[128] = {};
    mps->pipe_directory().copy(path, sizeof path - 1);
    static_cast<void>(::write(fds[1], path, sizeof path) == sizeof path);
    ::pause();
    ::_exit(0);
  }
  char path[128] = {};
  ASSERT_EQ(::read(fds[0], path, sizeof path), static_cast<ssize_t>(sizeof path));
  ::close(fds[0]);
  ::close(fds[1]);
  ::kill(owner, SIGKILL);
  ::waitpid(owner, nullptr, 0);
  const Deadline deadline = Deadline::In(10);
  while (!FolderUsers(path).empty() && !deadline.Passed()) ::poll(nullptr, 0, 1);
  EXPECT_THAT(FolderUsers(path), IsEmpty());
  EXPECT_TRUE(fs::exists(path));
  const auto next = StartDaemon();
  EXPECT_FALSE(fs::exists(path));
}

TEST(FindMpsControl, TakesWhatTheEnvironmentNames) {
  ChildEnvironment environment = ChildEnvironment::Empty();
  EXPECT_EQ(FindMpsControl(environment, "/opt/bin"), "nvidia-cuda-mps-control");
  environment.Set("SUBLET_SIM", "h200");
  EXPECT_EQ(FindMpsControl(environment, "/opt/bin"),
            "/opt/bin/../lib/sublet-sim/nvidia-cuda-mps-control");
  environment.Set("SUBLET_MPS_CONTROL", "/x/mps");
  EXPECT_EQ(FindMpsControl(environment, "/opt/bin"), "/x/mps");
}

}  // namespace
}  // namespace sublet
