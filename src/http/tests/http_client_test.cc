#include "http/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/this_coro.hpp>
#include <csignal>
#include <functional>
#include <thread>
#include <vector>

#include "base/interrupt.h"
#include "http/tests/running_server.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// A server that says what a test wants said: to each connection, after it has heard a request's
// end, the next of `answers`; then it closes.
class Puppet {
 public:
  explicit Puppet(std::vector<std::string> answers)
      : listener_(ListenOnUnixSocket({.path = path()}).value()), answers_(std::move(answers)) {
    thread_ = std::thread([this] { Run(); });
  }
  ~Puppet() { thread_.join(); }

  std::string path() const { return folder_ / "s"; }
  HttpClient Client() { return HttpClient::ConnectUnix(path(), 5).value(); }
  const std::vector<std::string>& heard() const { return heard_; }
  // Until it has closed its first connection.
  void WaitUntilClosed() { closed_.wait(0); }

 private:
  void Run() {
    for (const std::string& answer : answers_) {
      pollfd waiting = {listener_.fd(), POLLIN, 0};
      if (::poll(&waiting, 1, 20000) != 1) return;
      FileDescriptor socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC));
      std::string request;
      char chunk[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        const ssize_t got = ::recv(socket.get(), chunk, sizeof chunk, 0);
        if (got <= 0) break;
        request.append(chunk, static_cast<std::size_t>(got));
      }
      heard_.push_back(request);
      ::send(socket.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
      socket.Close();
      ++closed_;
      closed_.notify_all();
    }
  }

  SocketFolder folder_;
  UnixListener listener_;
  std::vector<std::string> answers_;
  std::vector<std::string> heard_;
  std::atomic<int> closed_ = 0;
  std::thread thread_;
};

struct Heard {
  std::vector<std::string> lines;
  Status status;
};

Heard StreamOf(HttpClient client) {
  Heard heard;
  heard.status = client.Stream({.target = "/v1/events"}, [&](std::string_view line) {
    heard.lines.emplace_back(line);
    return true;
  });
  return heard;
}

TEST(HttpClient, EncodesWhatStandsInAPath) {
  EXPECT_EQ(EncodeComponent("chat/0 ä?&=%"), "chat%2F0%20%C3%A4%3F%26%3D%25");
  EXPECT_EQ(EncodeComponent("a-b_c.d~9"), "a-b_c.d~9");
}

TEST(HttpClient, BringsTheServersErrorBackWhole) {
  const Error sent{ErrorCode::kInfeasible, "no room: 80 GiB", "ask for less"};
  RunningServer server([&](HttpRequest, Responder& to) -> Task<void> {
    const bool refused = co_await to.Refuse(sent);
    EXPECT_TRUE(refused);
  });
  server.Start();
  auto client = HttpClient::ConnectUnix(server.path(), 5).value();
  const auto response = client.Send({.method = "POST", .target = "/v1/shares", .body = "{}"});
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code, sent.code);
  EXPECT_EQ(response.error().message, sent.message);
  EXPECT_EQ(response.error().hint, sent.hint);
  const Status streamed = client.Stream({.target = "/"}, [](std::string_view) { return true; });
  ASSERT_FALSE(streamed);
  EXPECT_EQ(streamed.error().message, sent.message);
}

TEST(HttpClient, CutsAStreamIntoLines) {
  Puppet puppet(
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
       "3\r\none\r\n6\r\n\ntwo\n\n\r\n5\r\nthree\r\n0\r\n\r\n"});
  const Heard heard = StreamOf(puppet.Client());
  EXPECT_TRUE(heard.status) << heard.status.error().message;
  EXPECT_THAT(heard.lines, ElementsAre("one", "two", "", "three"));
}

TEST(HttpClient, KnowsAnAnswerThatBrokeOff) {
  Puppet puppet({"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\none\ntwo\r\n",
                 "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "HTTP/1.1 200 O",
                 "SSH-2.0-OpenSSH_9.2\r\n"});
  const Heard heard = StreamOf(puppet.Client());
  EXPECT_EQ(heard.status.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(heard.status.error().message, HasSubstr("broke off its answer"));
  EXPECT_THAT(heard.lines, ElementsAre("one"));
  EXPECT_THAT(puppet.Client().Send({.target = "/"}).error().message,
              HasSubstr("broke off its answer"));
  EXPECT_THAT(puppet.Client().Send({.target = "/"}).error().message,
              HasSubstr("closed before it answered"));
  EXPECT_THAT(puppet.Client().Send({.target = "/"}).error().message, HasSubstr("isn't HTTP"));
}

TEST(HttpClient, ReadsAnAnswerThatEndsWithItsConnection) {
  Puppet puppet({"HTTP/1.0 200 OK\r\n\r\none\ntwo"});
  const Heard heard = StreamOf(puppet.Client());
  EXPECT_TRUE(heard.status);
  EXPECT_THAT(heard.lines, ElementsAre("one", "two"));
}

TEST(HttpClient, StopsAStreamWhereTheCallerHasEnough) {
  RunningServer server([&](HttpRequest, Responder& to) -> Task<void> {
    bool status = co_await to.Begin(200, kNdjsonType);
    while (status) status = co_await to.Write("line\n");
  });
  server.Start();
  auto client = HttpClient::ConnectUnix(server.path(), 5).value();
  int lines = 0;
  EXPECT_TRUE(client.Stream({.target = "/"}, [&](std::string_view) { return ++lines < 3; }));
  EXPECT_EQ(lines, 3);
}

TEST(HttpClient, ConnectsAgainWhereTheServerHadClosed) {
  Puppet puppet({"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
                 "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"});
  HttpClient client = puppet.Client();
  EXPECT_EQ(client.Send({.target = "/1"}).value().body, "a");
  puppet.WaitUntilClosed();
  EXPECT_EQ(client.Send({.target = "/2"}).value().body, "b");
}

TEST(HttpClient, DoesNothingTwice) {
  // The server has read the second request, and dies without an answer: who knows what it did.
  Puppet puppet({"", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"});
  HttpClient client = puppet.Client();
  const auto lost = client.Send({.method = "POST", .target = "/v1/shares"});
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(lost.error().message, HasSubstr("closed before it answered"));
  EXPECT_EQ(client.Send({.target = "/2"}).value().body, "b");
  EXPECT_THAT(puppet.heard(), SizeIs(2));
}

TEST(HttpClient, WaitsNoLongerThanItWasTold) {
  RunningServer server([](HttpRequest, Responder& to) -> Task<void> {
    while (!to.PeerGone()) {
      co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable);
    }
  });
  server.Start();
  auto client = HttpClient::ConnectUnix(server.path(), 5).value();
  const auto late = client.Send({.target = "/", .timeout_s = 0.05});
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(late.error().message, HasSubstr("in time"));
}

TEST(HttpClient, IsWokenByAnInterrupt) {
  const InterruptScope scope;
  RunningServer server([](HttpRequest request, Responder& to) -> Task<void> {
    if (request.path == "/end") {
      const bool sent = co_await to.Send(200, kTextType, "ended");
      EXPECT_TRUE(sent);
      co_return;
    }
    const bool begun = co_await to.Begin(200, kNdjsonType);
    const bool written = co_await to.Write("one\n");
    EXPECT_TRUE(begun && written);
    while (!to.PeerGone()) {
      co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable);
    }
  });
  server.Start();
  auto client = HttpClient::ConnectUnix(server.path(), 5).value();
  const Status streamed = client.Stream({.target = "/"}, [](std::string_view) {
    ::raise(SIGINT);
    return true;
  });
  ASSERT_FALSE(streamed);
  EXPECT_EQ(streamed.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(streamed.error().message, HasSubstr("interrupted"));
  // What must be said after it can be.
  const auto ended = client.Send({.target = "/end", .interruptible = false});
  ASSERT_TRUE(ended) << ended.error().message;
  EXPECT_EQ(ended->body, "ended");
}

TEST(HttpClient, SaysThatNobodyListensAtAPort) {
  // Bound and never listened at: so nobody else gets the port either.
  const FileDescriptor bound(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(bound.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::getsockname(bound.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const auto client = HttpClient::ConnectTcp("127.0.0.1", ntohs(address.sin_port), "token", 5);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(client.error().message, HasSubstr("Connection refused"));
}

}  // namespace
}  // namespace sublet
