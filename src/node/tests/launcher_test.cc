#include "node/launcher.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "base/clock.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr uid_t kNobody = 65534;
constexpr uid_t kOther = 1;

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

bool EndsWithin(const ProcessHandle& process, double seconds) {
  pollfd ended{process.fd(), POLLIN, 0};
  return ::poll(&ended, 1, Deadline::In(seconds).PollMilliseconds()) == 1;
}

// A state directory with logs, and processes that are marked with it.
class LauncherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = (std::filesystem::temp_directory_path() / "launcher-XXXXXX").string();
    ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
    // Others may enter, so that it is the files that keep them out.
    ASSERT_EQ(::chmod(folder_.c_str(), 0711), 0);
  }
  void TearDown() override {
    for (const auto& [process, share] : ProcessesOfShares(folder_)) {
      ::kill(process.pid, SIGKILL);
      ::waitpid(process.pid, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }

  LaunchSpec Script(const std::string& script) {
    LaunchSpec spec;
    spec.argv = {"/bin/sh", "-c", script};
    spec.environment = {{std::string(kShareVariable), "s1"},
                        {std::string(kStateVariable), folder_}};
    spec.log_path = folder_ + "/s1.log";
    return spec;
  }
  // What it printed, once it has ended.
  std::string Output(const LaunchSpec& spec) {
    const auto process = Launch(spec);
    if (!process) return process.error().message;
    EXPECT_TRUE(EndsWithin(*process, 10));
    EXPECT_TRUE(ReapIfEnded(process->identity().pid).has_value());
    return ReadText(spec.log_path);
  }
  // Launches it and waits until it has printed its first line.
  ProcessHandle LaunchUntilItPrints(const LaunchSpec& spec) {
    ProcessHandle process = Launch(spec).value();
    const Deadline deadline = Deadline::In(10);
    while (ReadText(spec.log_path).find('\n') == std::string::npos && !deadline.Passed()) {
      ::poll(nullptr, 0, 1);
    }
    EXPECT_THAT(ReadText(spec.log_path), HasSubstr("\n"));
    return process;
  }
  ProcessEnding Ending(const ProcessIdentity& identity, double patience_s) {
    ProcessEnding ending;
    ending.identity = identity;
    ending.share = "s1";
    ending.state = folder_;
    ending.patience_s = patience_s;
    return ending;
  }

  std::string folder_;
};

TEST_F(LauncherTest, PrintsBothStreamsToALogOfItsOwnAndReadsNothing) {
  LaunchSpec spec = Script("cat; echo out; echo err >&2; pwd");
  spec.directory = "/usr";
  EXPECT_EQ(Output(spec), "out\nerr\n/usr\n");
  EXPECT_EQ(Output(Script("echo again")), "out\nerr\n/usr\nagain\n");
  struct stat status {};
  ASSERT_EQ(::stat(spec.log_path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(LauncherTest, LeadsASessionAndHasNoDeathSignal) {
  const std::string output = Output(Script("echo $$; cut -d' ' -f6 /proc/$$/stat"));
  const std::size_t line = output.find('\n');
  EXPECT_EQ(output.substr(0, line), output.substr(line + 1, line));
}

TEST_F(LauncherTest, OutlivesWhoLaunchedIt) {
  // Waits for its launcher's end before it prints.
  LaunchSpec spec = Script("while kill -0 $LAUNCHER; do sleep 0.01; done; echo alone");
  const pid_t launcher = ::fork();
  ASSERT_GE(launcher, 0);
  if (launcher == 0) {
    spec.environment.emplace_back("LAUNCHER", std::to_string(::getpid()));
    ::_exit(Launch(spec) ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(launcher, &status, 0), launcher);
  ASSERT_EQ(status, 0);
  const Deadline deadline = Deadline::In(10);
  while (!ReadText(spec.log_path).ends_with("alone\n") && !deadline.Passed()) {
    ::poll(nullptr, 0, 1);
  }
  EXPECT_THAT(ReadText(spec.log_path), HasSubstr("alone\n"));
}

TEST_F(LauncherTest, HasACleanEnvironment) {
  ::setenv("CUDA_VISIBLE_DEVICES", "all", 1);
  ::setenv("SUBLET_SOCKET", "/x", 1);
  ::setenv("SUBLET_SIM_STATE", "/sim", 1);
  ::setenv("NOTIFY_SOCKET", "/notify", 1);
  ::setenv("LAUNCHER_TEST_A", "a", 1);
  ::setenv("LAUNCHER_TEST_B", "b", 1);
  const ChildEnvironment environment = LaunchEnvironment(
      {{"LAUNCHER_TEST_A", std::nullopt}, {"CUDA_MPS_PIPE_DIRECTORY", "/pipe"}}, std::nullopt);
  EXPECT_EQ(environment.Get("CUDA_VISIBLE_DEVICES"), std::nullopt);
  EXPECT_EQ(environment.Get("SUBLET_SOCKET"), std::nullopt);
  EXPECT_EQ(environment.Get("SUBLET_SIM_STATE"), "/sim");
  EXPECT_EQ(environment.Get("NOTIFY_SOCKET"), std::nullopt);
  EXPECT_EQ(environment.Get("LAUNCHER_TEST_A"), std::nullopt);
  EXPECT_EQ(environment.Get("LAUNCHER_TEST_B"), "b");
  EXPECT_EQ(environment.Get("CUDA_MPS_PIPE_DIRECTORY"), "/pipe");
}

TEST_F(LauncherTest, FailsWithoutLeavingAnybody) {
  LaunchSpec spec = Script("");
  spec.argv = {"no-such-program-anywhere"};
  EXPECT_EQ(Launch(spec).error().code, ErrorCode::kNotFound);
  spec.argv = {"/"};
  EXPECT_EQ(Launch(spec).error().code, ErrorCode::kPermission);
  spec = Script("exit 0");
  spec.directory = "/nonexistent";
  EXPECT_EQ(Launch(spec).error().code, ErrorCode::kNotFound);
  spec = Script("exit 0");
  spec.log_path = folder_ + "/nonexistent/s1.log";
  EXPECT_EQ(Launch(spec).error().code, ErrorCode::kNotFound);
  EXPECT_THAT(ProcessesOfShares(folder_), IsEmpty());
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(LauncherTest, FollowsNoLinkInItsLogsPlace) {
  const std::string target = folder_ + "/target";
  std::ofstream(target) << "precious\n";
  std::filesystem::create_symlink(target, folder_ + "/s1.log");
  EXPECT_FALSE(Launch(Script("echo overwritten")).has_value());
  EXPECT_EQ(ReadText(target), "precious\n");
}

TEST_F(LauncherTest, OfOneUserIsKeptFromAnother) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root starts processes of other users";
  LaunchSpec spec = Script("id -u; echo $HOME $LOGNAME; cat " + folder_ + "/s1.log");
  spec.directory = "/";
  spec.user = UserIds{kNobody, kNobody};
  const std::string output = Output(spec);
  EXPECT_THAT(output, ::testing::StartsWith("65534\n"));
  EXPECT_THAT(output, HasSubstr(HomeFolder(kNobody) + " " + UserName(kNobody) + "\n"));
  EXPECT_THAT(output, HasSubstr("input file is output file"));  // So it may read it itself.
  LaunchSpec other = Script("cat " + spec.log_path);
  other.log_path = folder_ + "/s2.log";
  other.directory = "/";
  other.user = UserIds{kOther, kOther};
  EXPECT_THAT(Output(other), HasSubstr("Permission denied"));
  // Nor may it end the other's processes.
  LaunchSpec waits = Script("echo; exec sleep 60");
  waits.log_path = folder_ + "/s3.log";
  waits.user = spec.user;
  waits.directory = "/";
  const ProcessHandle victim = LaunchUntilItPrints(waits);
  LaunchSpec attack = Script("kill -9 " + std::to_string(victim.identity().pid));
  attack.log_path = folder_ + "/s4.log";
  attack.user = other.user;
  attack.directory = "/";
  EXPECT_THAT(Output(attack), HasSubstr("not permitted"));
  EXPECT_FALSE(victim.Ended());
}

TEST_F(LauncherTest, EndProcessAsksFirst) {
  const LaunchSpec spec =
      Script("trap 'echo asked; exit 7' TERM; echo; while :; do sleep 0.01; done");
  const ProcessHandle process = LaunchUntilItPrints(spec);
  const Status ended = EndProcess(Ending(process.identity(), 10));
  EXPECT_TRUE(ended.has_value()) << ended.error().message;
  EXPECT_EQ(ReapIfEnded(process.identity().pid).value_or(ChildEnd{}).status, 7);
  EXPECT_THAT(ReadText(spec.log_path), HasSubstr("asked"));
}

TEST_F(LauncherTest, EndProcessKillsWhoDoesNotListen) {
  const ProcessHandle process =
      LaunchUntilItPrints(Script("trap '' TERM; echo; while :; do sleep 1; done"));
  EXPECT_TRUE(EndProcess(Ending(process.identity(), 0.05)).has_value());
  EXPECT_EQ(ReapIfEnded(process.identity().pid).value_or(ChildEnd{}).signal, SIGKILL);
}

TEST_F(LauncherTest, EndProcessReachesWhoIsStopped) {
  const ProcessHandle process = LaunchUntilItPrints(Script("echo; kill -STOP $$"));
  EXPECT_TRUE(EndProcess(Ending(process.identity(), 10)).has_value());
  EXPECT_EQ(ReapIfEnded(process.identity().pid).value_or(ChildEnd{}).signal, SIGTERM);
}

TEST_F(LauncherTest, EndProcessFindsWhoMadeItselfADaemon) {
  const ProcessHandle process =
      Launch(Script("setsid sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1; done' &"))
          .value();
  ASSERT_TRUE(EndsWithin(process, 10));
  ASSERT_TRUE(ReapIfEnded(process.identity().pid).has_value());
  const Deadline deadline = Deadline::In(10);
  while (ReadText(folder_ + "/s1.log").find('\n') == std::string::npos && !deadline.Passed()) {
    ::poll(nullptr, 0, 1);
  }
  const int daemon = std::stoi(ReadText(folder_ + "/s1.log"));
  const auto watched = ProcessHandle::Open(ProcessIdentity::Of(daemon).value());
  ASSERT_TRUE(watched.has_value());
  EXPECT_THAT(ProcessesOfShares(folder_), Not(IsEmpty()));
  EXPECT_TRUE(EndProcess(Ending(process.identity(), 0.05)).has_value());
  EXPECT_TRUE(watched->Ended());
  EXPECT_THAT(ProcessesOfShares(folder_), IsEmpty());
}

TEST_F(LauncherTest, EndProcessTakesTheUnmarkedOfItsSession) {
  const ProcessHandle process = LaunchUntilItPrints(
      Script("env -i sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait"));
  const int unmarked = std::stoi(ReadText(folder_ + "/s1.log"));
  const auto watched = ProcessHandle::Open(ProcessIdentity::Of(unmarked).value());
  ASSERT_TRUE(watched.has_value());
  ProcessEnding ending = Ending(process.identity(), 0.2);
  ending.launched = false;
  EXPECT_TRUE(EndProcess(ending).has_value());
  EXPECT_FALSE(watched->Ended());  // It could have been a shell's other job.
  ending.launched = true;
  EXPECT_TRUE(EndProcess(ending).has_value());
  EXPECT_TRUE(watched->Ended());
  EXPECT_TRUE(ReapIfEnded(process.identity().pid).has_value());
}

// As of one that was launched by a daemon's former life: nobody keeps it as a zombie. Its number is
// free as soon as it has ended, and then nobody can tell its session any more.
TEST_F(LauncherTest, EndProcessForgetsNobodyWhenTheFirstIsGone) {
  ::signal(SIGCHLD, SIG_IGN);
  const ProcessHandle process = LaunchUntilItPrints(
      Script("env -i sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1; done' & wait"));
  const int pid = std::stoi(ReadText(folder_ + "/s1.log"));
  const auto unmarked = ProcessHandle::Open(ProcessIdentity::Of(pid).value());
  const Status ended = EndProcess(Ending(process.identity(), 0.2));
  ::signal(SIGCHLD, SIG_DFL);
  EXPECT_TRUE(ended.has_value());
  ASSERT_TRUE(unmarked.has_value());
  EXPECT_TRUE(process.Ended());
  EXPECT_TRUE(unmarked->Ended());
}

TEST_F(LauncherTest, EndProcessLeavesOthersAlone) {
  LaunchSpec other_share = Script("echo; exec sleep 60");
  other_share.environment[0].second = "s11";
  const ProcessHandle first = LaunchUntilItPrints(other_share);
  LaunchSpec other_state = Script("echo; exec sleep 60");
  other_state.environment[1].second = folder_ + "/other";
  other_state.log_path = folder_ + "/s2.log";
  const ProcessHandle second = LaunchUntilItPrints(other_state);
  // The number of the second, but as it would be of one that had it before.
  ProcessIdentity before = second.identity();
  before.start_ticks -= 1;
  EXPECT_TRUE(EndProcess(Ending(before, 0)).has_value());
  EXPECT_FALSE(first.Ended());
  EXPECT_FALSE(second.Ended());
  for (const ProcessHandle* process : {&first, &second}) {
    EXPECT_TRUE(process->Signal(SIGKILL).has_value());
    ASSERT_TRUE(EndsWithin(*process, 10));
    EXPECT_TRUE(ReapIfEnded(process->identity().pid).has_value());
  }
}

TEST_F(LauncherTest, EndProcessReturnsAtOnceWhereNobodyIs) {
  EXPECT_TRUE(EndProcess(Ending({}, 60)).has_value());
}

TEST_F(LauncherTest, EndProcessNamesThoseThatItMayNotEnd) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root starts processes of other users";
  LaunchSpec spec = Script("echo; exec sleep 60");
  spec.user = UserIds{kNobody, kNobody};
  spec.directory = "/";
  const ProcessHandle process = LaunchUntilItPrints(spec);
  const pid_t other = ::fork();
  ASSERT_GE(other, 0);
  if (other == 0) {
    if (::setresuid(kOther, kOther, kOther) != 0) ::_exit(2);
    ProcessEnding ending = Ending(process.identity(), 0);
    ending.after_kill_s = 0.05;
    const Status ended = EndProcess(ending);
    const std::string pid = std::to_string(process.identity().pid);
    ::_exit(!ended && ended.error().code == ErrorCode::kPermission &&
                    ended.error().message.ends_with(pid)
                ? 0
                : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(other, &status, 0), other);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(process.Ended());
}

}  // namespace
}  // namespace sublet
