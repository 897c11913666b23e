#include "base/interrupt.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

namespace sublet {
namespace {

bool Readable(int fd) {
  pollfd poll_fd{fd, POLLIN, 0};
  return ::poll(&poll_fd, 1, 0) == 1;
}

TEST(Interrupt, IsAValueAndADescriptorWithinAScope) {
  EXPECT_EQ(InterruptFd(), -1);
  {
    const InterruptScope scope;
    EXPECT_FALSE(Interrupted());
    EXPECT_FALSE(Readable(InterruptFd()));
    ::raise(SIGTERM);
    EXPECT_TRUE(Interrupted());
    EXPECT_EQ(InterruptSignal(), SIGTERM);
    EXPECT_TRUE(Readable(InterruptFd()));
    ::raise(SIGINT);  // At once: taken for the same.
    EXPECT_EQ(InterruptSignal(), SIGTERM);
  }
  EXPECT_FALSE(Interrupted());
  EXPECT_EQ(InterruptFd(), -1);
}

TEST(Interrupt, PutsBackWhatTheSignalsDid) {
  const auto handler_of = [](int signal) {
    struct sigaction action {};
    ::sigaction(signal, nullptr, &action);
    return action.sa_handler;
  };
  ::signal(SIGHUP, SIG_IGN);
  {
    const InterruptScope scope;
    EXPECT_EQ(handler_of(SIGHUP), SIG_IGN);  // As nohup wants it.
    EXPECT_NE(handler_of(SIGINT), SIG_DFL);
  }
  EXPECT_EQ(handler_of(SIGINT), SIG_DFL);
  EXPECT_EQ(handler_of(SIGHUP), SIG_IGN);
  ::signal(SIGHUP, SIG_DFL);
}

TEST(Interrupt, EndsTheProgramTheSecondTime) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const InterruptScope scope;
    ::raise(SIGINT);
    const Deadline later = Deadline::In(0.6);
    while (!later.Passed()) ::poll(nullptr, 0, later.PollMilliseconds());
    ::raise(SIGINT);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

}  // namespace
}  // namespace sublet
