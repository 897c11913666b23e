#include "base/process_handle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <optional>
#include <string>

#include "base/child_process.h"

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

// Unlike every other's, for tests that run at the same time.
std::string Unique(const std::string& name) {
  return name + std::to_string(::getpid()) + "-" + std::to_string(MonotonicNanoseconds());
}

ChildProcess Sleeper(const std::string& mark = "") {
  ChildOptions options{.argv = {"/bin/sleep", "60"}};
  options.environment.Set("SUBLET_TEST_MARK", mark);
  return ChildProcess::Start(options).value();
}

TEST(ProcessIdentity, IsTheSameAsLongAsTheProcessLives) {
  const auto first = ProcessIdentity::Of(::getpid());
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->pid, ::getpid());
  EXPECT_GT(first->start_ticks, 0u);
  EXPECT_EQ(ProcessIdentity::Of(::getpid()).value(), *first);
}

TEST(ProcessIdentity, IsNobodysWithoutAProcess) {
  // Larger than the kernel's largest number.
  for (const int pid : {0, -1, 2'000'000'000}) {
    const auto identity = ProcessIdentity::Of(pid);
    ASSERT_FALSE(identity.has_value()) << pid;
    EXPECT_EQ(identity.error().code, ErrorCode::kNotFound);
  }
}

TEST(ProcessIdentity, IsReadBehindANameMadeToMislead) {
  const ProcessIdentity before = ProcessIdentity::Of(::getpid()).value();
  char name[16] = {};
  ::prctl(PR_GET_NAME, name);
  ::prctl(PR_SET_NAME, "a) Z 1 (2 3");
  const auto misled = ProcessIdentity::Of(::getpid());
  ::prctl(PR_SET_NAME, name);
  ASSERT_TRUE(misled.has_value());
  EXPECT_EQ(*misled, before);
}

TEST(ProcessHandle, OpensWhoLives) {
  ChildProcess child = Sleeper();
  const auto handle = ProcessHandle::Open(ProcessIdentity::Of(child.pid()).value());
  ASSERT_TRUE(handle.has_value());
  EXPECT_FALSE(handle->Ended());
  EXPECT_EQ(handle->identity().pid, child.pid());
}

TEST(ProcessHandle, TakesNobodyElseWithTheSameNumber) {
  ChildProcess child = Sleeper();
  ProcessIdentity other = ProcessIdentity::Of(child.pid()).value();
  for (const int later : {-1, 2}) {
    other.start_ticks += static_cast<std::uint64_t>(later);
    const auto handle = ProcessHandle::Open(other);
    ASSERT_FALSE(handle.has_value());
    EXPECT_EQ(handle.error().code, ErrorCode::kNotFound);
  }
}

TEST(ProcessHandle, DoesNotOpenWhoHasEnded) {
  auto child = ChildProcess::Start({.argv = {"/bin/true"}});
  ASSERT_TRUE(child.has_value());
  const ProcessIdentity identity = ProcessIdentity::Of(child->pid()).value();
  pollfd ended{child->pidfd(), POLLIN, 0};
  ASSERT_EQ(::poll(&ended, 1, 10'000), 1);
  // A zombie has its number and its start still.
  EXPECT_EQ(ProcessIdentity::Of(child->pid()).value(), identity);
  EXPECT_EQ(ProcessHandle::Open(identity).error().code, ErrorCode::kNotFound);
  child->Wait(Deadline::Never());
  EXPECT_EQ(ProcessHandle::Open(identity).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(ProcessHandle::Open({}).error().code, ErrorCode::kNotFound);
}

TEST(ProcessHandle, SignalsAndSeesTheEnd) {
  ChildProcess child = Sleeper();
  const auto handle = ProcessHandle::Open(ProcessIdentity::Of(child.pid()).value());
  ASSERT_TRUE(handle.has_value());
  EXPECT_TRUE(handle->Signal(SIGTERM).has_value());
  pollfd ended{handle->fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&ended, 1, 10'000), 1);
  EXPECT_TRUE(handle->Ended());
  EXPECT_EQ(child.Wait(Deadline::Never()).value().signal, SIGTERM);
  EXPECT_EQ(handle->Signal(SIGTERM).error().code, ErrorCode::kNotFound);
}

TEST(ProcessesWithEnvironment, FindsTheMarkedAndNobodyElse) {
  const std::string mark = Unique("a");
  ChildProcess one = Sleeper(mark);
  ChildProcess two = Sleeper(mark);
  ChildProcess other = Sleeper(mark + "b");
  std::vector<ProcessIdentity> expected = {ProcessIdentity::Of(one.pid()).value(),
                                           ProcessIdentity::Of(two.pid()).value()};
  std::ranges::sort(expected);
  EXPECT_EQ(ProcessesWithEnvironment("SUBLET_TEST_MARK", mark), expected);
  EXPECT_THAT(ProcessesWithEnvironment("SUBLET_TEST_MAR", mark), IsEmpty());
  EXPECT_THAT(ProcessesWithEnvironment("UBLET_TEST_MARK", mark), IsEmpty());
  one.Signal(SIGKILL);
  pollfd ended{one.pidfd(), POLLIN, 0};
  ASSERT_EQ(::poll(&ended, 1, 10'000), 1);
  EXPECT_THAT(ProcessesWithEnvironment("SUBLET_TEST_MARK", mark),
              ElementsAre(ProcessIdentity::Of(two.pid()).value()));
}

TEST(ProcessesWithEnvironment, GivesEachItsValueInOnePass) {
  const std::string mark = Unique("v");
  ChildProcess one = Sleeper(mark + "=1");
  ChildProcess two = Sleeper("");
  const auto values = ProcessesWithEnvironment("SUBLET_TEST_MARK");
  EXPECT_THAT(values, Contains(Pair(ProcessIdentity::Of(one.pid()).value(), mark + "=1")));
  EXPECT_THAT(values, Contains(Pair(ProcessIdentity::Of(two.pid()).value(), "")));
}

TEST(ProcessesWithEnvironment, AsksForASecondMark) {
  const std::string mark = Unique("w");
  ChildProcess one = Sleeper(mark);
  ChildOptions options{.argv = {"/bin/sleep", "60"}};
  options.environment.Set("SUBLET_TEST_MARK", mark).Set("SUBLET_TEST_OTHER", "x");
  ChildProcess two = ChildProcess::Start(options).value();
  EXPECT_THAT(ProcessesWithEnvironment("SUBLET_TEST_MARK", "SUBLET_TEST_OTHER", "x"),
              ElementsAre(Pair(ProcessIdentity::Of(two.pid()).value(), mark)));
  EXPECT_THAT(ProcessesWithEnvironment("SUBLET_TEST_MARK", "SUBLET_TEST_OTHER", ""), IsEmpty());
}

TEST(ProcessesWithEnvironment, ReadsALargeEnvironmentToItsEnd) {
  ChildOptions options{.argv = {"/bin/sleep", "60"}, .environment = ChildEnvironment::Empty()};
  const std::string mark = Unique("z");
  for (int i = 0; i < 40; ++i) {
    options.environment.Set("A" + std::to_string(i), std::string(20'000, 'x'));
  }
  options.environment.Set("ZZZ_MARK", mark);
  const ChildProcess child = ChildProcess::Start(options).value();
  EXPECT_THAT(ProcessesWithEnvironment("ZZZ_MARK", mark),
              ElementsAre(ProcessIdentity::Of(child.pid()).value()));
}

TEST(EnvironmentVariable, IsReadOfThisProcessAndNotOfItsSuccessor) {
  const ChildProcess child = Sleeper("x y");
  ProcessIdentity identity = ProcessIdentity::Of(child.pid()).value();
  EXPECT_EQ(EnvironmentVariable(identity, "SUBLET_TEST_MARK"), "x y");
  EXPECT_EQ(EnvironmentVariable(identity, "SUBLET_TEST_NONE"), std::nullopt);
  identity.start_ticks += 1;
  EXPECT_EQ(EnvironmentVariable(identity, "SUBLET_TEST_MARK"), std::nullopt);
}

TEST(UserOfProcess, IsWhoStartedItAsLongAsItLives) {
  ChildProcess child = Sleeper();
  const ProcessIdentity identity = ProcessIdentity::Of(child.pid()).value();
  EXPECT_EQ(UserOfProcess(identity), ::getuid());
  EXPECT_EQ(UserOfProcess({identity.pid, identity.start_ticks + 1}), std::nullopt);
  child.Stop({.after_term_s = 0});
  EXPECT_EQ(UserOfProcess(identity), std::nullopt);
}

// As a set-uid program, whose environment is its caller's.
TEST(UserOfProcess, IsNobodyWhereItHasSeveral) {
  if (::getuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const bool changed = ::setresuid(20001, 0, 0) == 0;
    if (::write(fds[1], &changed, 1) == 1) ::pause();
    ::_exit(0);
  }
  bool changed = false;
  ASSERT_EQ(::read(fds[0], &changed, 1), 1);
  EXPECT_TRUE(changed);
  EXPECT_EQ(UserOfProcess(ProcessIdentity::Of(child).value()), std::nullopt);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(fds[0]);
  ::close(fds[1]);
}

TEST(ProcessesOfSession, AreThoseThatHaveNotLeftItOrEnded) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  ChildOptions options{.argv = {"/bin/sh", "-c", "sleep 60 & setsid sh -c 'echo; sleep 60' & wait"},
                       .descriptors = {{fds[1], STDOUT_FILENO}}};
  options.new_session = true;
  const std::string mark = Unique("s");
  options.environment.Set("SUBLET_TEST_MARK", mark);
  ChildProcess leader = ChildProcess::Start(options).value();
  const FileDescriptor read(fds[0]);
  ::close(fds[1]);
  char line = 0;
  ASSERT_EQ(::read(read.get(), &line, 1), 1);
  const auto members = ProcessesOfSession(leader.pid());
  EXPECT_EQ(members.size(), 2u);
  EXPECT_THAT(members, Contains(ProcessIdentity::Of(leader.pid()).value()));
  leader.Stop({.after_term_s = 0});
  // The others of its group were killed with it, and only the leader's end was waited for.
  const Deadline deadline = Deadline::In(10);
  while (!ProcessesOfSession(leader.pid()).empty() && !deadline.Passed()) ::poll(nullptr, 0, 1);
  EXPECT_THAT(ProcessesOfSession(leader.pid()), IsEmpty());
  for (const ProcessIdentity& left : ProcessesWithEnvironment("SUBLET_TEST_MARK", mark)) {
    ::kill(left.pid, SIGKILL);
  }
}

}  // namespace
}  // namespace sublet
