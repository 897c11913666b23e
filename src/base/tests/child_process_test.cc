#include "base/child_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

CommandOutcome Shell(const std::string& script, const std::string& input = "") {
  const auto outcome = RunCommand({.argv = {"/bin/sh", "-c", script}}, input, {});
  EXPECT_TRUE(outcome.has_value()) << outcome.error().message;
  return outcome.value_or(CommandOutcome{});
}

bool IsAlive(pid_t pid) {
  // A zombie counts as gone: it only waits for its parent.
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(in, text);
  const std::size_t end = text.rfind(')');
  return end != std::string::npos && text.size() > end + 2 && text[end + 2] != 'Z';
}

bool DiesWithin(pid_t pid, double seconds) {
  const Deadline deadline = Deadline::In(seconds);
  while (IsAlive(pid) && !deadline.Passed()) ::poll(nullptr, 0, 1);
  return !IsAlive(pid);
}

TEST(RunCommand, FeedsAndCollectsBothStreamsAndTheStatus) {
  const CommandOutcome outcome = Shell("cat; echo bad >&2; exit 3", "some input");
  EXPECT_EQ(outcome.out, "some input");
  EXPECT_EQ(outcome.err, "bad\n");
  EXPECT_EQ(outcome.end.status, 3);
  EXPECT_EQ(DescribeEnd(outcome.end), "exited with status 3");
}

TEST(RunCommand, TellsASignalFromAStatus) {
  const CommandOutcome outcome = Shell("kill -9 $$");
  EXPECT_EQ(outcome.end.signal, SIGKILL);
  EXPECT_FALSE(outcome.end.Succeeded());
  EXPECT_THAT(DescribeEnd(outcome.end), HasSubstr("signal 9"));
}

TEST(RunCommand, CarriesMoreThanAPipeHolds) {
  const std::string much(1'000'000, 'x');
  EXPECT_EQ(Shell("cat", much).out, much);
}

TEST(RunCommand, DropsWhatIsBeyondTheLimitAndLetsTheProgramEnd) {
  const auto outcome = RunCommand({.argv = {"/bin/sh", "-c", "head -c 500000 /dev/zero; exit 4"}},
                                  "", {.output_bytes_max = 1000});
  ASSERT_TRUE(outcome.has_value());
  EXPECT_EQ(outcome->out.size(), 1000u);
  EXPECT_EQ(outcome->end.status, 4);
}

TEST(RunCommand, SurvivesAProgramThatReadsNothing) {
  EXPECT_EQ(Shell("exec <&-; exit 5", std::string(1'000'000, 'x')).end.status, 5);
}

TEST(RunCommand, KillsAProgramThatTakesTooLong) {
  const std::int64_t before = MonotonicNanoseconds();
  const auto outcome = RunCommand({.argv = {"/bin/sleep", "60"}}, "", {.timeout_s = 0.05});
  ASSERT_FALSE(outcome.has_value());
  EXPECT_EQ(outcome.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(outcome.error().message, HasSubstr("did not end within 0.05 s"));
  EXPECT_LT(MonotonicNanoseconds() - before, 10'000'000'000);
}

TEST(RunCommand, DoesNotWaitForAGrandchildThatKeepsThePipes) {
  const CommandOutcome outcome = Shell("sleep 60 & echo started $!");
  ASSERT_THAT(outcome.out, HasSubstr("started "));
  ::kill(std::stoi(outcome.out.substr(8)), SIGKILL);
}

TEST(ChildProcess, HasExactlyTheEnvironmentThatItIsGiven) {
  ChildOptions options{.argv = {"/usr/bin/env"}, .environment = ChildEnvironment::Empty()};
  options.environment.Set("B", "2").Set("A", "1").Set("CUDA_X", "x").UnsetPrefix("CUDA_");
  const auto outcome = RunCommand(options, "", {});
  ASSERT_TRUE(outcome.has_value());
  EXPECT_EQ(outcome->out, "A=1\nB=2\n");
}

TEST(ChildProcess, InheritsTheEnvironmentWhereNothingIsSaid) {
  ::setenv("SUBLET_TEST_INHERITED", "yes", 1);
  EXPECT_EQ(Shell("echo $SUBLET_TEST_INHERITED").out, "yes\n");
  ChildOptions options{.argv = {"/bin/sh", "-c", "echo ${SUBLET_TEST_INHERITED-none}"}};
  options.environment.Unset("SUBLET_TEST_INHERITED");
  EXPECT_EQ(RunCommand(options, "", {})->out, "none\n");
}

TEST(ChildProcess, HasNoDescriptorButThoseItIsGiven) {
  const FileDescriptor leaked(::open("/dev/null", O_RDONLY));  // Without close-on-exec.
  const FileDescriptor given(::memfd_create("given", MFD_CLOEXEC));
  ASSERT_EQ(::write(given.get(), "hello", 5), 5);
  ::lseek(given.get(), 0, SEEK_SET);
  ChildOptions options{.argv = {"/bin/sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; cat <&7"},

                       .descriptors = {{given.get(), 7}}};
  const auto outcome = RunCommand(options, "", {});
  ASSERT_TRUE(outcome.has_value());
  EXPECT_EQ(outcome->out, "0 1 2 3 7 hello");  // 3 is what ls reads the folder with.
}

TEST(ChildProcess, CanSwapDescriptors) {
  const FileDescriptor a(::memfd_create("a", MFD_CLOEXEC));
  const FileDescriptor b(::memfd_create("b", MFD_CLOEXEC));
  ASSERT_EQ(::write(a.get(), "a", 1), 1);
  ASSERT_EQ(::write(b.get(), "b", 1), 1);
  ::lseek(a.get(), 0, SEEK_SET);
  ::lseek(b.get(), 0, SEEK_SET);
  const std::string script =
      "cat <&" + std::to_string(b.get()) + "; cat <&" + std::to_string(a.get());
  ChildOptions options{.argv = {"/bin/bash", "-c", script},

                       .descriptors = {{a.get(), b.get()}, {b.get(), a.get()}}};
  EXPECT_EQ(RunCommand(options, "", {})->out, "ab");
}

TEST(ChildProcess, StartsWithSignalsAsInAFreshProgram) {
  sigset_t all;
  ::sigfillset(&all);
  sigset_t before;
  ::pthread_sigmask(SIG_BLOCK, &all, &before);
  ::signal(SIGHUP, SIG_IGN);
  const CommandOutcome outcome = Shell("grep -E 'Sig(Blk|Ign)' /proc/self/status");
  ::signal(SIGHUP, SIG_DFL);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(outcome.out, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST(ChildProcess, LeavesTheCallersPipeSignalAsItWas) {
  static_cast<void>(Shell("exit 0", std::string(1'000'000, 'x')));
  sigset_t pending;
  sigset_t blocked;
  ::sigpending(&pending);
  ::pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  EXPECT_EQ(::sigismember(&pending, SIGPIPE), 0);
  EXPECT_EQ(::sigismember(&blocked, SIGPIPE), 0);
}

TEST(ChildProcess, SaysWhyItCannotStartUnderAnyNumbersOfDescriptors) {
  std::string folder = (std::filesystem::temp_directory_path() / "child-XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  // Is found, so that it is the kernel which refuses, in the child: there is no such interpreter.
  const std::string program = folder + "/program";
  std::ofstream(program) << "#!/nonexistent/interpreter\n";
  std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  const FileDescriptor given(::memfd_create("given", MFD_CLOEXEC));
  ChildOptions options{.argv = {program}};
  // What Start() opens itself has numbers among these.
  for (int theirs = 3; theirs <= 12; ++theirs) options.descriptors.push_back({given.get(), theirs});
  const auto child = ChildProcess::Start(options);
  EXPECT_EQ(::lseek(given.get(), 0, SEEK_END), 0);  // Nothing was written to what the child has.
  std::filesystem::remove_all(folder);
  ASSERT_FALSE(child.has_value());
  EXPECT_EQ(child.error().code, ErrorCode::kNotFound);
}

TEST(ChildProcess, SaysWhyItCannotStart) {
  const auto missing = ChildProcess::Start({.argv = {"/nonexistent/program"}});
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(missing.error().message, HasSubstr("/nonexistent/program"));
  const auto unnamed = ChildProcess::Start({.argv = {"no-such-program-anywhere"}});
  ASSERT_FALSE(unnamed.has_value());
  EXPECT_EQ(unnamed.error().code, ErrorCode::kNotFound);
  const auto folder = ChildProcess::Start({.argv = {"/"}});
  ASSERT_FALSE(folder.has_value());
  EXPECT_EQ(folder.error().code, ErrorCode::kPermission);
}

TEST(ChildProcess, LeavesNoZombieWhereItCannotStart) {
  static_cast<void>(ChildProcess::Start({.argv = {"/"}}));
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(ChildProcess, WaitsOnlyUntilTheDeadline) {
  auto child = ChildProcess::Start({.argv = {"/bin/sleep", "60"}});
  ASSERT_TRUE(child.has_value());
  EXPECT_FALSE(child->Wait(Deadline::In(0.01)).has_value());
  const auto end = child->Stop({});
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->signal, SIGTERM);
  EXPECT_EQ(child->Wait(Deadline::Never())->signal, SIGTERM);
}

TEST(ChildProcess, KillsWhatDoesNotListen) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const FileDescriptor read(fds[0]);
  FileDescriptor write(fds[1]);
  auto child = ChildProcess::Start(
      {.argv = {"/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"},

       .descriptors = {{write.get(), STDOUT_FILENO}}});
  ASSERT_TRUE(child.has_value());
  char text[6];
  ASSERT_EQ(::read(read.get(), text, sizeof text), 6);
  const auto end = child->Stop({.after_term_s = 0.05});
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->signal, SIGKILL);
}

TEST(ChildProcess, TakesItsProcessGroupWithIt) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const FileDescriptor read(fds[0]);
  FileDescriptor write(fds[1]);
  pid_t grandchild = 0;
  {
    auto child = ChildProcess::Start({.argv = {"/bin/sh", "-c", "sleep 60 & echo $!; wait"},

                                      .descriptors = {{write.get(), STDOUT_FILENO}}});
    ASSERT_TRUE(child.has_value());
    char text[32] = {};
    ASSERT_GT(::read(read.get(), text, sizeof text - 1), 0);
    grandchild = std::atoi(text);
    ASSERT_TRUE(IsAlive(grandchild));
  }
  EXPECT_TRUE(DiesWithin(grandchild, 10));
}

// The parent is a process forked here, so that it can be killed without ending the test.
TEST(ChildProcess, DiesWithItsParent) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const FileDescriptor read(fds[0]);
  const pid_t parent = ::fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    auto child = ChildProcess::Start({.argv = {"/bin/sleep", "60"}});
    const pid_t pid = child ? child->pid() : -1;
    static_cast<void>(::write(fds[1], &pid, sizeof pid) == sizeof pid);
    ::pause();
    ::_exit(0);
  }
  ::close(fds[1]);
  pid_t child = -1;
  ASSERT_EQ(::read(read.get(), &child, sizeof child), static_cast<ssize_t>(sizeof child));
  ASSERT_TRUE(IsAlive(child));
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  EXPECT_TRUE(DiesWithin(child, 10));
}

TEST(ChildProcess, DiesWithTheThreadThatStartedIt) {
  std::optional<ChildProcess> child;
  std::thread starter([&] {
    auto started = ChildProcess::Start({.argv = {"/bin/sleep", "60"}});
    if (started) child.emplace(std::move(*started));
  });
  starter.join();
  ASSERT_TRUE(child.has_value());
  const auto end = child->Wait(Deadline::In(10));
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->signal, SIGKILL);
}

TEST(ChildProcess, BeginsInTheFolderThatItIsGiven) {
  ChildOptions options{.argv = {"/bin/pwd"}};
  options.directory = "/usr";
  EXPECT_EQ(RunCommand(options, "", {})->out, "/usr\n");
  options.argv = {"bin/env", "pwd"};  // Relative, so it begins there too.
  EXPECT_EQ(RunCommand(options, "", {})->out, "/usr\n");
  options.directory = "/nonexistent";
  const auto missing = ChildProcess::Start(options);
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(missing.error().message, HasSubstr("in /nonexistent"));
}

TEST(ChildProcess, IsLookedUpInTheEnvironmentThatItGets) {
  std::string folder = (std::filesystem::temp_directory_path() / "child-XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string program = folder + "/only-there";
  std::ofstream(program) << "#!/bin/sh\necho found\n";
  std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  ChildOptions options{.argv = {"only-there"}};
  EXPECT_EQ(ChildProcess::Start(options).error().code, ErrorCode::kNotFound);
  options.environment.Set("PATH", "/bin:" + folder);
  EXPECT_EQ(RunCommand(options, "", {})->out, "found\n");
  std::filesystem::remove_all(folder);
}

TEST(ChildProcess, LeadsASessionWhereItIsToldTo) {
  ChildOptions options{.argv = {"/bin/sh", "-c", "cut -d' ' -f6 /proc/$$/stat; echo $$"}};
  options.new_session = true;
  const std::string own = RunCommand(options, "", {})->out;
  EXPECT_EQ(std::stoi(own), std::stoi(own.substr(own.find('\n'))));
  options.new_session = false;
  const std::string ours = RunCommand(options, "", {})->out;
  EXPECT_EQ(std::stoi(ours), ::getsid(0));
}

TEST(ChildProcess, RunsAsAnotherUserForGood) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root starts processes of other users";
  ChildOptions options{.argv = {"/bin/cat", "/proc/self/status"}};
  options.user = UserIds{65534, 65534};
  const auto outcome = RunCommand(options, "", {});
  ASSERT_TRUE(outcome.has_value());
  // Real, effective, saved and for files: there is no way back.
  EXPECT_THAT(outcome->out, HasSubstr("Uid:\t65534\t65534\t65534\t65534\n"));
  EXPECT_THAT(outcome->out, HasSubstr("Gid:\t65534\t65534\t65534\t65534\n"));
  EXPECT_THAT(outcome->out, HasSubstr("CapEff:\t0000000000000000\n"));
}

// In a process of its own, because it changes the groups of who starts.
TEST(ChildProcess, TakesNoneOfItsParentsGroupsAlong) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root starts processes of other users";
  const pid_t pid = ::fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    const gid_t secret = 4711;
    if (::setgroups(1, &secret) != 0) ::_exit(2);
    ChildOptions options{.argv = {"/usr/bin/id", "-G"}};
    options.user = UserIds{65534, 65534};
    const auto outcome = RunCommand(options, "", {});
    ::_exit(outcome && outcome->out == "65534\n" ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(ChildProcess, DiesWithItsParentAsAnotherUserToo) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root starts processes of other users";
  std::optional<ChildProcess> child;
  std::thread starter([&] {
    ChildOptions options{.argv = {"/bin/sleep", "60"}};
    options.user = UserIds{65534, 65534};
    auto started = ChildProcess::Start(options);
    if (started) child.emplace(std::move(*started));
  });
  starter.join();
  ASSERT_TRUE(child.has_value());
  EXPECT_EQ(child->Wait(Deadline::In(10)).value_or(ChildEnd{}).signal, SIGKILL);
}

// In a process of its own, because there is no way back to root.
TEST(ChildProcess, RefusesToBecomeAnotherUserWithoutTheRight) {
  const pid_t pid = ::fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    ChildOptions options{.argv = {"/bin/true"}};
    options.user = UserIds{1, 1};
    const auto refused = ChildProcess::Start(options);
    const bool said = !refused && refused.error().code == ErrorCode::kPermission &&
                      refused.error().message.find("as user 1:") != std::string::npos;
    // As itself it may, though it may not touch its groups.
    options.user = UserIds{::geteuid(), ::getegid()};
    ::_exit(said && ChildProcess::Start(options) ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(ChildProcess, LivesOnWhenReleasedAndIsReapedOnceItHasEnded) {
  std::optional<ProcessHandle> process;
  {
    auto child = ChildProcess::Start({.argv = {"/bin/sleep", "60"}});
    ASSERT_TRUE(child.has_value());
    process = std::move(*child).Release();
  }
  EXPECT_FALSE(process->Ended());
  EXPECT_EQ(process->identity(), ProcessIdentity::Of(process->identity().pid).value());
  EXPECT_FALSE(ReapIfEnded(process->identity().pid).has_value());
  ASSERT_TRUE(process->Signal(SIGUSR1).has_value());
  pollfd ended{process->fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&ended, 1, 10'000), 1);
  const auto end = ReapIfEnded(process->identity().pid);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->signal, SIGUSR1);
  EXPECT_FALSE(ReapIfEnded(process->identity().pid).has_value());  // Not ours any more.
}

TEST(ChildProcess, OutlivesItsParentWithoutADeathSignal) {
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const FileDescriptor read(fds[0]);
  const pid_t parent = ::fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    ChildOptions options{.argv = {"/bin/sleep", "60"}};
    options.parent_death_signal = 0;
    options.new_session = true;
    auto child = ChildProcess::Start(options);
    ProcessIdentity identity;
    if (child) identity = std::move(*child).Release().identity();
    static_cast<void>(::write(fds[1], &identity, sizeof identity) == sizeof identity);
    ::kill(::getpid(), SIGKILL);
  }
  ::close(fds[1]);
  ProcessIdentity identity;
  ASSERT_EQ(::read(read.get(), &identity, sizeof identity), static_cast<ssize_t>(sizeof identity));
  ::waitpid(parent, nullptr, 0);
  const auto process = ProcessHandle::Open(identity);
  ASSERT_TRUE(process.has_value());
  EXPECT_TRUE(process->Signal(SIGKILL).has_value());
  EXPECT_TRUE(DiesWithin(identity.pid, 10));
}

TEST(FindProgram, TakesTheFirstFolderThatHasIt) {
  EXPECT_EQ(FindProgram("sh", "/nonexistent:/bin:/usr/bin"), "/bin/sh");
  EXPECT_EQ(FindProgram("./a", "/bin"), "./a");
  EXPECT_EQ(FindProgram("", "/bin"), std::nullopt);
  EXPECT_EQ(FindProgram("no-such-program", "/bin"), std::nullopt);
  EXPECT_EQ(FindProgram("etc", "/"), std::nullopt);  // A folder.
}

}  // namespace
}  // namespace sublet
