#include "base/service_notification.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace sublet {
namespace {

// What systemd listens with.
class NotifySocket {
 public:
  // A leading '@' means an abstract name.
  explicit NotifySocket(const std::string& name)
      : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    name.copy(address.sun_path, sizeof address.sun_path - 1);
    if (name.front() == '@') address.sun_path[0] = '\0';
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  }
  std::string Hear() {
    char datagram[4096];
    const ssize_t got = ::recv(socket_.get(), datagram, sizeof datagram, MSG_DONTWAIT);
    return got < 0 ? "nothing" : std::string(datagram, static_cast<std::size_t>(got));
  }

 private:
  FileDescriptor socket_;
};

class ServiceNotification : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(folder_.data()), nullptr); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_ = "/tmp/sublet-notify-XXXXXX";
};

TEST_F(ServiceNotification, ReachesASocketThatIsAFile) {
  NotifySocket systemd(folder_ + "/notify");
  ::setenv("NOTIFY_SOCKET", (folder_ + "/notify").c_str(), 1);
  const ServiceManager manager = ServiceManager::FromEnvironment();
  EXPECT_TRUE(manager.present());
  EXPECT_EQ(std::getenv("NOTIFY_SOCKET"), nullptr);
  EXPECT_TRUE(manager.Notify("READY=1\nSTATUS=3 shares"));
  EXPECT_EQ(systemd.Hear(), "READY=1\nSTATUS=3 shares");
  EXPECT_TRUE(manager.Notify("STOPPING=1"));
  EXPECT_EQ(systemd.Hear(), "STOPPING=1");
}

TEST_F(ServiceNotification, ReachesAnAbstractSocket) {
  const std::string name = "@" + folder_;
  NotifySocket systemd(name);
  ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
  EXPECT_TRUE(ServiceManager::FromEnvironment().Notify("WATCHDOG=1"));
  EXPECT_EQ(systemd.Hear(), "WATCHDOG=1");
}

TEST_F(ServiceNotification, DoesNothingWithoutAManager) {
  const ServiceManager manager = ServiceManager::FromEnvironment();
  EXPECT_FALSE(manager.present());
  EXPECT_TRUE(manager.Notify("READY=1"));
  EXPECT_FALSE(manager.WatchdogPeriod());
  ::setenv("NOTIFY_SOCKET", "vsock:2:1234", 1);
  EXPECT_FALSE(ServiceManager::FromEnvironment().present());
}

TEST_F(ServiceNotification, NeverBlocksAndSaysWhatFailed) {
  ::setenv("NOTIFY_SOCKET", (folder_ + "/gone").c_str(), 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().Notify("READY=1").error().code, ErrorCode::kNotFound);
  NotifySocket deaf(folder_ + "/deaf");
  ::setenv("NOTIFY_SOCKET", (folder_ + "/deaf").c_str(), 1);
  const ServiceManager manager = ServiceManager::FromEnvironment();
  Status status;
  for (int i = 0; status && i < 100000; ++i) status = manager.Notify("WATCHDOG=1");
  EXPECT_FALSE(status);  // Its queue is full, and we are still here.
  ::setenv("NOTIFY_SOCKET", ("/" + std::string(200, 'x')).c_str(), 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().Notify("READY=1").error().code, ErrorCode::kInvalid);
}

TEST_F(ServiceNotification, TellsHowOftenToSaySo) {
  ::setenv("WATCHDOG_USEC", "30000000", 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().WatchdogPeriod(), 15.0);
  ::setenv("WATCHDOG_USEC", "30000000", 1);
  ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().WatchdogPeriod(), 15.0);
  ::setenv("WATCHDOG_USEC", "30000000", 1);
  ::setenv("WATCHDOG_PID", "1", 1);
  EXPECT_FALSE(ServiceManager::FromEnvironment().WatchdogPeriod());
  ::setenv("WATCHDOG_USEC", "often", 1);
  EXPECT_FALSE(ServiceManager::FromEnvironment().WatchdogPeriod());
  EXPECT_EQ(std::getenv("WATCHDOG_PID"), nullptr);
}

int InChild(const std::function<bool()>& holds) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(holds() ? 0 : 1);
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// In a child, where nobody minds what the descriptors from 3 on were.
TEST_F(ServiceNotification, TakesTheSocketsThatWereOpenedForIt) {
  const auto takes = [] {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return false;
    const int first = ::fcntl(pair[0], F_DUPFD, 100);
    const int second = ::fcntl(pair[1], F_DUPFD, 100);
    if (::dup2(first, 3) != 3 || ::dup2(second, 4) != 4) return false;
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", "2", 1);
    ::setenv("LISTEN_FDNAMES", "sublet.socket:metrics", 1);
    ServiceManager manager = ServiceManager::FromEnvironment();
    std::vector<InheritedSocket> sockets = manager.TakeSockets();
    return sockets.size() == 2 && sockets[0].name == "sublet.socket" && sockets[0].fd.get() == 3 &&
           sockets[1].name == "metrics" && sockets[1].fd.get() == 4 &&
           ::fcntl(3, F_GETFD) == FD_CLOEXEC && std::getenv("LISTEN_FDS") == nullptr &&
           manager.TakeSockets().empty();
  };
  EXPECT_EQ(InChild(takes), 0);
}

TEST_F(ServiceNotification, LeavesTheSocketsOfAnotherProcess) {
  const auto leaves = [] {
    ::setenv("LISTEN_PID", std::to_string(::getppid()).c_str(), 1);
    ::setenv("LISTEN_FDS", "1", 1);
    if (!ServiceManager::FromEnvironment().TakeSockets().empty()) return false;
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", "2000000000", 1);
    return ServiceManager::FromEnvironment().TakeSockets().empty();
  };
  EXPECT_EQ(InChild(leaves), 0);
}

}  // namespace
}  // namespace sublet
