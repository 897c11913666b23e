#include "http/unix_socket.h"

#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/interrupt.h"
#include "http/http_client.h"
#include "http/tests/running_server.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

namespace fs = std::filesystem;

constexpr uid_t kNobody = 65534;
constexpr gid_t kGroup = 54321;  // Of no user; only processes that take it on are in it.

Task<void> Hello(HttpRequest, Responder& to) {
  const bool sent = co_await to.Send(200, kTextType, "hello");
  EXPECT_TRUE(sent);
}

// Runs `work` in a child and returns its exit status.
int InChild(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work());
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// The child becomes another user before it works.
int AsNobody(const std::vector<gid_t>& groups, const std::function<int()>& work) {
  return InChild([&] {
    if (::setgroups(groups.size(), groups.data()) != 0 || ::setgid(kNobody) != 0 ||
        ::setuid(kNobody) != 0) {
      return 99;
    }
    return work();
  });
}

int ConnectStatus(const std::string& path) {
  const auto client = HttpClient::ConnectUnix(path, 5);
  return client ? 0 : ExitStatus(client.error().code);
}

void LeaveSocketFile(const std::string& path) {
  // A listener that is closed without being unlinked, as by SIGKILL.
  const FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(socket.get(), 1), 0);
}

TEST(UnixSocket, HasTheModeAndTheGroupThatWereAsked) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root gives files to a group that it isn't in";
  const SocketFolder folder;
  const auto listener = ListenOnUnixSocket({.path = folder / "s", .mode = 0660, .group = kGroup});
  ASSERT_TRUE(listener) << listener.error().message;
  struct stat status {};
  ASSERT_EQ(::lstat((folder / "s").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777u, 0660u);
  EXPECT_EQ(status.st_gid, kGroup);
}

TEST(UnixSocket, GoesWithItsListener) {
  const SocketFolder folder;
  {
    const auto listener = ListenOnUnixSocket({.path = folder / "s"});
    ASSERT_TRUE(listener) << listener.error().message;
    EXPECT_TRUE(fs::exists(folder / "s"));
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(UnixSocket, ReplacesTheFileOfAServerThatWasKilled) {
  const SocketFolder folder;
  LeaveSocketFile(folder / "s");
  EXPECT_EQ(ConnectToUnixSocket(folder / "s", Deadline::In(5)).error().code,
            ErrorCode::kUnavailable);
  const auto listener = ListenOnUnixSocket({.path = folder / "s"});
  ASSERT_TRUE(listener) << listener.error().message;
  EXPECT_TRUE(ConnectToUnixSocket(folder / "s", Deadline::In(5)));
}

TEST(UnixSocket, LeavesALiveServerAlone) {
  const SocketFolder folder;
  const auto first = ListenOnUnixSocket({.path = folder / "s"});
  ASSERT_TRUE(first) << first.error().message;
  const auto second = ListenOnUnixSocket({.path = folder / "s"});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kConflict);
  EXPECT_THAT(second.error().message, HasSubstr(folder / "s"));
  // Also one that has no lock, because it is no server of ours.
  fs::remove(folder / "s.lock");
  EXPECT_EQ(ListenOnUnixSocket({.path = folder / "s"}).error().code, ErrorCode::kConflict);
  EXPECT_TRUE(ConnectToUnixSocket(folder / "s", Deadline::In(5)));
}

TEST(UnixSocket, LetsOneOfManyWinThatStartAtOnce) {
  const SocketFolder folder;
  LeaveSocketFile(folder / "s");
  std::atomic<int> winners = 0;
  std::vector<std::thread> starters;
  std::mutex mutex;
  std::vector<UnixListener> listeners;
  for (int i = 0; i < 16; ++i) {
    starters.emplace_back([&] {
      auto listener = ListenOnUnixSocket({.path = folder / "s"});
      if (!listener) return;
      ++winners;
      const std::lock_guard lock(mutex);
      listeners.push_back(std::move(*listener));
    });
  }
  for (std::thread& starter : starters) starter.join();
  EXPECT_EQ(winners, 1);
  EXPECT_TRUE(ConnectToUnixSocket(folder / "s", Deadline::In(5)));
}

TEST(UnixSocket, KeepsWhatIsNoSocket) {
  const SocketFolder folder;
  std::ofstream(folder / "s") << "precious";
  EXPECT_EQ(ListenOnUnixSocket({.path = folder / "s"}).error().code, ErrorCode::kConflict);
  EXPECT_TRUE(fs::is_regular_file(folder / "s"));
  fs::create_symlink(folder / "s", folder / "link");
  EXPECT_EQ(ListenOnUnixSocket({.path = folder / "link"}).error().code, ErrorCode::kConflict);
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
}

TEST(UnixSocket, HasAPathThatTheKernelTakes) {
  const SocketFolder folder;
  const std::string longest = folder / std::string(107 - folder.path().size() - 1, 'x');
  EXPECT_EQ(longest.size(), 107u);
  // Its lock's name may be longer than a socket's.
  const auto fits = ListenOnUnixSocket({.path = longest});
  EXPECT_TRUE(fits) << fits.error().message;
  EXPECT_EQ(ListenOnUnixSocket({.path = longest + "x"}).error().code, ErrorCode::kUsage);
  EXPECT_EQ(ListenOnUnixSocket({.path = "relative"}).error().code, ErrorCode::kUsage);
  EXPECT_EQ(HttpClient::ConnectUnix(longest + "x", 1).error().code, ErrorCode::kUsage);
  EXPECT_EQ(ListenOnUnixSocket({.path = folder / "absent/s"}).error().code, ErrorCode::kNotFound);
}

TEST(UnixSocket, IsNotMadeWhereAnotherCouldReplaceIt) {
  const SocketFolder folder;
  fs::create_directory(folder / "open");
  ASSERT_EQ(::chmod((folder / "open").c_str(), 0777), 0);
  EXPECT_EQ(ListenOnUnixSocket({.path = folder / "open/s"}).error().code, ErrorCode::kPermission);
  // As /tmp: anyone may add a file, nobody may move ours.
  ASSERT_EQ(::chmod((folder / "open").c_str(), 01777), 0);
  EXPECT_TRUE(ListenOnUnixSocket({.path = folder / "open/s"}));
  if (::geteuid() != 0) GTEST_SKIP() << "only root gives files to another user";
  fs::create_directory(folder / "other");
  ASSERT_EQ(::chown((folder / "other").c_str(), kNobody, kNobody), 0);
  EXPECT_EQ(ListenOnUnixSocket({.path = folder / "other/s"}).error().code, ErrorCode::kPermission);
  // A link of another user's, though to a folder of ours.
  fs::create_directory(folder / "mine");
  fs::create_symlink(folder / "mine", folder / "link");
  EXPECT_TRUE(ListenOnUnixSocket({.path = folder / "link/s"}));
  ASSERT_EQ(::lchown((folder / "link").c_str(), kNobody, kNobody), 0);
  EXPECT_EQ(ListenOnUnixSocket({.path = folder / "link/s"}).error().code, ErrorCode::kPermission);
  // His socket, put there before ours.
  LeaveSocketFile(folder / "open/t");
  ASSERT_EQ(::lchown((folder / "open/t").c_str(), kNobody, kNobody), 0);
  EXPECT_EQ(ListenOnUnixSocket({.path = folder / "open/t"}).error().code, ErrorCode::kPermission);
}

// ---- who may connect ---------------------------------------------------------------------------

TEST(UnixSocket, IsClosedToAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes another user";
  RunningServer server(Hello);
  ASSERT_EQ(::chmod(server.folder().path().c_str(), 0755), 0);
  server.Start();
  EXPECT_EQ(InChild([&] { return ConnectStatus(server.path()); }), 0);
  EXPECT_EQ(AsNobody({}, [&] { return ConnectStatus(server.path()); }),
            ExitStatus(ErrorCode::kPermission));
}

// The file lets everybody in, and the credentials are looked at all the same.
TEST(UnixSocket, ChecksTheCredentialsWhereTheFileWasOpenedUp) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes another user";
  RunningServer server(Hello);
  ASSERT_EQ(::chmod(server.folder().path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(server.path().c_str(), 0666), 0);
  server.Start();
  const auto ask = [&] {
    RawClient client(server.path());
    client.Say("GET / HTTP/1.1\r\n\r\n");
    return client.Hear("\r\n\r\n").starts_with("HTTP/1.1 403") ? 1 : 0;
  };
  EXPECT_EQ(InChild(ask), 0);
  EXPECT_EQ(AsNobody({}, ask), 1);
}

TEST(UnixSocket, IsOpenToItsGroup) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes another user";
  RunningServer server(Hello);
  ASSERT_EQ(::chmod(server.folder().path().c_str(), 0755), 0);
  const std::string path = server.folder() / "group";
  ASSERT_TRUE(server.server().AddUnixListener({.path = path, .mode = 0660, .group = kGroup}));
  server.Start();
  const auto ask = [&] {
    auto client = HttpClient::ConnectUnix(path, 5);
    if (!client) return ExitStatus(client.error().code);
    const auto response = client->Send({.target = "/"});
    return response && response->body == "hello" ? 0 : 100;
  };
  EXPECT_EQ(AsNobody({}, ask), ExitStatus(ErrorCode::kPermission));
  EXPECT_EQ(AsNobody({kGroup}, ask), 0);
  // More groups than a first guess has room for.
  std::vector<gid_t> many;
  for (gid_t i = 0; i < 200; ++i) many.push_back(60000 + i);
  EXPECT_EQ(AsNobody(many, ask), ExitStatus(ErrorCode::kPermission));
  many.push_back(kGroup);
  EXPECT_EQ(AsNobody(many, ask), 0);
}

TEST(UnixSocket, SaysWhichGroupMayConnect) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes another user";
  const SocketFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  const auto listener = ListenOnUnixSocket({.path = folder / "s", .mode = 0660, .group = 0});
  ASSERT_TRUE(listener);
  const int named = AsNobody({}, [&] {
    const auto client = HttpClient::ConnectUnix(folder / "s", 5);
    return client ? 1 : client.error().hint == "its group may connect: root" ? 0 : 2;
  });
  EXPECT_EQ(named, 0);
}

TEST(UnixSocket, IsNotTrustedWhereItIsAnotherUsers) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes another user";
  const SocketFolder folder;
  const auto listener = ListenOnUnixSocket({.path = folder / "s", .mode = 0666});
  ASSERT_TRUE(listener);
  ASSERT_EQ(::lchown((folder / "s").c_str(), kNobody, kNobody), 0);
  const auto client = HttpClient::ConnectUnix(folder / "s", 5);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, ErrorCode::kPermission);
  EXPECT_THAT(client.error().message, HasSubstr("a socket of another user"));
}

// The file is root's, but who listens behind it is another: the file's owner proves nothing.
TEST(UnixSocket, IsNotTrustedWhereAnotherListens) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root becomes another user";
  const SocketFolder folder;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::chown(folder.path().c_str(), kNobody, kNobody), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) ::_exit(99);
    const auto listener = ListenOnUnixSocket({.path = folder / "s", .mode = 0666});
    static_cast<void>(::write(ready[1], listener ? "y" : "n", 1));
    ::pause();
  }
  char answer = 0;
  ASSERT_EQ(::read(ready[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  ASSERT_EQ(::lchown((folder / "s").c_str(), 0, 0), 0);
  const auto client = HttpClient::ConnectUnix(folder / "s", 5);
  EXPECT_FALSE(client);
  if (!client) {
    EXPECT_EQ(client.error().code, ErrorCode::kPermission) << client.error().message;
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(UnixSocket, TellsApartWhyNobodyAnswers) {
  const SocketFolder folder;
  const auto absent = ConnectToUnixSocket(folder / "s", Deadline::In(5));
  EXPECT_EQ(absent.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(absent.error().message, "there is no socket " + (folder / "s"));
  LeaveSocketFile(folder / "s");
  const auto stale = ConnectToUnixSocket(folder / "s", Deadline::In(5));
  EXPECT_EQ(stale.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(stale.error().message, "nobody listens at " + (folder / "s"));
}

TEST(UnixSocket, GivesUpOnAServerThatAcceptsNobody) {
  const SocketFolder folder;
  const auto listener = ListenOnUnixSocket({.path = folder / "s"});
  ASSERT_TRUE(listener);
  std::vector<FileDescriptor> waiting;
  while (true) {
    auto socket = ConnectToUnixSocket(folder / "s", Deadline::In(0.05));
    if (!socket) {
      EXPECT_EQ(socket.error().code, ErrorCode::kUnavailable);
      EXPECT_THAT(socket.error().message, HasSubstr("doesn't accept"));
      break;
    }
    waiting.push_back(std::move(*socket));
    ASSERT_LT(waiting.size(), 1000u);
  }
  const InterruptScope scope;
  ::raise(SIGINT);
  EXPECT_THAT(ConnectToUnixSocket(folder / "s", Deadline::Never()).error().message,
              HasSubstr("interrupted"));
}

// ---- sockets of others, and who is there -------------------------------------------------------

TEST(UnixSocket, CanBeAdoptedAndThenStays) {
  RunningServer server(Hello);
  const std::string path = server.folder() / "inherited";
  FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(socket.get(), 16), 0);
  const Status adopted = server.server().AdoptUnixListener(std::move(socket));
  ASSERT_TRUE(adopted) << adopted.error().message;
  server.Start();
  auto client = HttpClient::ConnectUnix(path, 5);
  ASSERT_TRUE(client) << client.error().message;
  EXPECT_EQ(client->Send({.target = "/"}).value().body, "hello");
  server.Stop(0);
  EXPECT_TRUE(fs::exists(path));
}

TEST(UnixSocket, AdoptsNothingElse) {
  FileDescriptor unbound(::socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_EQ(AdoptUnixSocket(std::move(unbound)).error().code, ErrorCode::kInvalid);
  FileDescriptor tcp(::socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(::listen(tcp.get(), 1), 0);
  EXPECT_EQ(AdoptUnixSocket(std::move(tcp)).error().code, ErrorCode::kInvalid);
}

TEST(UnixSocket, HoldsTheProcessAtTheOtherEnd) {
  const SocketFolder folder;
  const auto listener = ListenOnUnixSocket({.path = folder / "s"});
  ASSERT_TRUE(listener);
  int hold[2];
  ASSERT_EQ(::pipe(hold), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(hold[1]);
    const auto socket = ConnectToUnixSocket(folder / "s", Deadline::In(5));
    char byte;
    ::_exit(socket && ::read(hold[0], &byte, 1) == 0 ? 0 : 1);
  }
  ::close(hold[0]);
  pollfd waiting = {listener->fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&waiting, 1, 20000), 1);
  const FileDescriptor accepted(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC));
  const Peer peer = PeerOf(accepted.get());
  EXPECT_EQ(peer.pid, child);
  ASSERT_NE(peer.pidfd, nullptr);
  pollfd ended = {peer.pidfd->get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, 0), 0);
  ::close(hold[1]);
  EXPECT_EQ(::poll(&ended, 1, 20000), 1);
  ::waitpid(child, nullptr, 0);
}

TEST(UnixSocket, HoldsNobodyWhereTheProcessHasEnded) {
  const SocketFolder folder;
  const auto listener = ListenOnUnixSocket({.path = folder / "s"});
  ASSERT_TRUE(listener);
  EXPECT_EQ(InChild([&] { return ConnectToUnixSocket(folder / "s", Deadline::In(5)) ? 0 : 1; }), 0);
  const FileDescriptor accepted(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted.valid());
  const Peer peer = PeerOf(accepted.get());
  EXPECT_TRUE(peer.local);
  // Newer kernels give a descriptor of the process that was; then it shows the end.
  if (peer.pidfd != nullptr) {
    pollfd ended = {peer.pidfd->get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 0), 1);
  }
}

}  // namespace
}  // namespace sublet
