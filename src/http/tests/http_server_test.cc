#include "http/http_server.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <future>
#include <set>
#include <thread>
#include <vector>

#include "http/http_client.h"
#include "http/tests/running_server.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr std::string_view kGet = "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n";

// Says back what it was asked.
Task<void> Echo(HttpRequest request, Responder& responder) {
  std::string text = fmt::format("{} {}\n", request.method, request.path);
  for (const auto& [name, value] : request.query) text += fmt::format("{}={}\n", name, value);
  text += request.body;
  const bool sent = co_await responder.Send(200, kTextType, text);
  EXPECT_TRUE(sent);
}

// A moment that coroutines on the loop wait for. It has nothing of the loop's when nobody waits, so
// that it may outlive it.
class Gate {
 public:
  // Throws where it is cancelled.
  Task<void> Wait() {
    const auto executor = co_await asio::this_coro::executor;
    asio::steady_timer timer(executor, asio::steady_timer::time_point::max());
    waiting_.insert(&timer);
    boost::system::error_code error;
    if (!open_) co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, error));
    waiting_.erase(&timer);
    if (!open_) throw boost::system::system_error(error);
  }
  // On the loop's thread.
  void Open() {
    open_ = true;
    for (asio::steady_timer* timer : waiting_) timer->cancel();
  }
  void OpenOn(asio::io_context& loop) {
    asio::post(loop, [this] { Open(); });
  }

 private:
  std::set<asio::steady_timer*> waiting_;
  bool open_ = false;
};

TEST(HttpServer, HandsTheRequestOver) {
  RunningServer server([](HttpRequest request, Responder& to) -> Task<void> {
    EXPECT_EQ(request.Header("x-tENANT"), "search");
    EXPECT_EQ(request.Header("absent"), "");
    EXPECT_TRUE(request.peer.local);
    EXPECT_EQ(request.peer.pid, ::getpid());
    EXPECT_EQ(request.peer.uid, ::geteuid());
    EXPECT_EQ(request.peer.gid, ::getegid());
    EXPECT_NE(request.peer.pidfd, nullptr);
    return Echo(std::move(request), to);
  });
  server.Start();
  RawClient client(server.path());
  client.Say(
      "PUT /v1/logs/chat%2F0?a=1&b=x%20y&a=2 HTTP/1.1\r\nX-Tenant: search\r\n"
      "Content-Length: 4\r\n\r\nbody");
  EXPECT_EQ(client.Hear("body"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 34\r\n"
            "\r\nPUT /v1/logs/chat/0\na=2\nb=x y\nbody");
}

TEST(HttpServer, AnswersPipelinedRequestsInOrder) {
  RunningServer server(Echo);
  server.Start();
  RawClient client(server.path());
  std::string requests;
  for (int i = 0; i < 50; ++i) requests += fmt::format("GET /{} HTTP/1.1\r\n\r\n", i);
  client.Say(requests);
  const std::string heard = client.Hear("GET /49\n");
  std::size_t at = 0;
  for (int i = 0; i < 50; ++i) {
    at = heard.find(fmt::format("GET /{}\n", i), at);
    ASSERT_NE(at, std::string::npos) << i;
  }
}

TEST(HttpServer, AnswersWhatCameBeforeGarbageAndThenCloses) {
  RunningServer server(Echo);
  server.Start();
  RawClient client(server.path());
  client.Say(std::string(kGet) + "\x16\x03\x01 this is no request\r\n\r\n" + std::string(kGet));
  EXPECT_THAT(client.Hear(), AllOf(StartsWith("HTTP/1.1 200 OK"), HasSubstr("HTTP/1.1 400"),
                                   HasSubstr("\"code\":\"invalid\""), EndsWith("<closed>")));
}

TEST(HttpServer, TakesAChunkedBody) {
  RunningServer server(Echo);
  server.Start();
  RawClient client(server.path());
  client.Say("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
  client.Say("4\r\ndefg\r\n0\r\n\r\n");
  EXPECT_THAT(client.Hear("abcdefg"), EndsWith("POST /x\nabcdefg"));
}

TEST(HttpServer, TellsAClientThatAsksToSendItsBody) {
  RunningServer server(Echo);
  server.Start();
  RawClient client(server.path());
  client.Say("POST /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.Hear("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Say("ok");
  EXPECT_THAT(client.Hear("ok"), EndsWith("POST /x\nok"));
}

TEST(HttpServer, RefusesABodyOverTheLimitBeforeItIsSent) {
  RunningServer server(Echo, {.body_bytes_max = 1000});
  server.Start();
  RawClient client(server.path());
  client.Say("POST /x HTTP/1.1\r\nContent-Length: 1001\r\n\r\n");
  EXPECT_THAT(client.Hear("}}"), StartsWith("HTTP/1.1 413 Payload Too Large"));
  RawClient chunked(server.path());
  chunked.Say("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n");
  chunked.Say(std::string(1000, 'x') + "\r\n1\r\nx\r\n");
  EXPECT_THAT(chunked.Hear("}}"), StartsWith("HTTP/1.1 413 Payload Too Large"));
}

TEST(HttpServer, LetsAClientThatSendsTooMuchReadWhy) {
  RunningServer server(Echo, {.body_bytes_max = 1000});
  server.Start();
  auto client = HttpClient::ConnectUnix(server.path(), 5);
  ASSERT_TRUE(client) << client.error().message;
  const auto response =
      client->Send({.method = "POST", .target = "/x", .body = std::string(5 << 20, 'x')});
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code, ErrorCode::kInvalid) << response.error().message;
}

TEST(HttpServer, RefusesAHeaderOverTheLimit) {
  RunningServer server(Echo, {.header_bytes_max = 4096});
  server.Start();
  RawClient client(server.path());
  const std::string line = "X-Y: " + std::string(1000, 'y') + "\r\n";
  client.Say("GET / HTTP/1.1\r\n" + line + line + line + "\r\n");
  EXPECT_THAT(client.Hear("GET /\n"), StartsWith("HTTP/1.1 200"));
  client.Say("GET / HTTP/1.1\r\n" + line + line + line + line + line);
  EXPECT_THAT(client.Hear("}}"), StartsWith("HTTP/1.1 431"));
}

TEST(HttpServer, EndsARequestThatDrips) {
  RunningServer server(Echo, {.request_s = 0.2});
  server.Start();
  RawClient header(server.path());
  RawClient body(server.path());
  // A byte now and then moves no limit: it counts from the first one.
  header.Say("G");
  header.Say("ET / HTTP/1.1\r\nX:");
  body.Say("POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_THAT(header.Hear(), AllOf(StartsWith("HTTP/1.1 408"), EndsWith("<closed>")));
  EXPECT_THAT(body.Hear(), AllOf(StartsWith("HTTP/1.1 408"), EndsWith("<closed>")));
}

TEST(HttpServer, ClosesAnIdleConnectionWithoutAWord) {
  RunningServer server(Echo, {.idle_s = 0.2});
  server.Start();
  RawClient client(server.path());
  client.Say(kGet);
  EXPECT_THAT(client.Hear(), AllOf(StartsWith("HTTP/1.1 200"), EndsWith("/v1/status\n<closed>")));
}

TEST(HttpServer, HasNoLimitForAHandlerThatWorks) {
  asio::io_context* loop = nullptr;
  RunningServer server(
      [&](HttpRequest request, Responder& to) -> Task<void> {
        asio::steady_timer timer(*loop, std::chrono::milliseconds(300));
        co_await timer.async_wait(asio::use_awaitable);
        co_await Echo(std::move(request), to);
      },
      {.idle_s = 0.1, .request_s = 0.1, .write_s = 0.1});
  loop = &server.loop();
  server.Start();
  RawClient client(server.path());
  client.Say(kGet);
  EXPECT_THAT(client.Hear("status\n"), StartsWith("HTTP/1.1 200"));
}

TEST(HttpServer, TurnsAwayOneConnectionTooMany) {
  RunningServer server(Echo, {.connections_max = 2});
  server.Start();
  RawClient one(server.path());
  RawClient two(server.path());
  one.Say(kGet);
  two.Say(kGet);
  EXPECT_THAT(one.Hear("status\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(two.Hear("status\n"), StartsWith("HTTP/1.1 200"));
  RawClient three(server.path());
  EXPECT_THAT(three.Hear(), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("at most: 2")));
  // Where one leaves there is room again, as soon as the server has seen it.
  one.Leave();
  std::string heard;
  for (const Deadline deadline = Deadline::In(kPatienceSeconds); !deadline.Passed();) {
    RawClient four(server.path());
    four.Say("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    heard = four.Hear();
    if (heard.starts_with("HTTP/1.1 200")) break;
  }
  EXPECT_THAT(heard, StartsWith("HTTP/1.1 200"));
}

TEST(HttpServer, ServesAHundredClientsAtOnce) {
  constexpr int kClients = 100;
  std::atomic<int> waiting = 0;
  Gate gate;
  RunningServer server([&](HttpRequest request, Responder& to) -> Task<void> {
    if (++waiting == kClients) gate.Open();  // Nobody is answered before all have asked.
    co_await gate.Wait();
    co_await Echo(std::move(request), to);
  });
  server.Start();
  std::vector<std::thread> clients;
  std::atomic<int> answered = 0;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      auto client = HttpClient::ConnectUnix(server.path(), kPatienceSeconds);
      if (!client) return;
      const auto response = client->Send({.target = fmt::format("/{}", i)});
      if (response && response->body == fmt::format("GET /{}\n", i)) ++answered;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(answered, kClients);
}

TEST(HttpServer, AnswersAnOldClientWithoutChunks) {
  RunningServer server([](HttpRequest, Responder& to) -> Task<void> {
    EXPECT_TRUE(co_await to.Begin(200, kNdjsonType));
    EXPECT_TRUE(co_await to.Write("a\n"));
    EXPECT_TRUE(co_await to.Write("b\n"));
    EXPECT_TRUE(co_await to.End());
  });
  server.Start();
  RawClient client(server.path());
  client.Say("GET / HTTP/1.0\r\n\r\n");
  EXPECT_THAT(client.Hear(), AllOf(HasSubstr("Connection: close"), Not(HasSubstr("chunked")),
                                   EndsWith("\r\n\r\na\nb\n<closed>")));
}

TEST(HttpServer, StreamsInChunksAndKeepsTheConnection) {
  RunningServer server([](HttpRequest request, Responder& to) -> Task<void> {
    EXPECT_TRUE(co_await to.Begin(200, kNdjsonType));
    EXPECT_TRUE(co_await to.Write(request.path));
    EXPECT_TRUE(co_await to.Write(""));  // Would end the answer if it were a chunk.
    EXPECT_TRUE(co_await to.Write("0123456789abcdef"));
    EXPECT_TRUE(co_await to.End());
  });
  server.Start();
  RawClient client(server.path());
  for (int i = 0; i < 2; ++i) {
    client.Say(kGet);
    EXPECT_EQ(client.Hear("0\r\n\r\n"),
              "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
              "Transfer-Encoding: chunked\r\n\r\na\r\n/v1/status\r\n10\r\n0123456789abcdef\r\n"
              "0\r\n\r\n");
  }
}

TEST(HttpServer, SendsNoBodyWhereOnlyTheHeadWasAsked) {
  RunningServer server(Echo);
  server.Start();
  RawClient client(server.path());
  client.Say("HEAD /x HTTP/1.1\r\n\r\nGET /y HTTP/1.1\r\n\r\n");
  EXPECT_THAT(client.Hear("GET /y\n"), Not(HasSubstr("HEAD /x")));
}

TEST(HttpServer, SlowsAHandlerDownForAClientThatDoesNotRead) {
  std::atomic<int> written = 0;
  std::promise<void> ended;
  RunningServer server(
      [&](HttpRequest, Responder& to) -> Task<void> {
        EXPECT_TRUE(co_await to.Begin(200, kTextType));
        bool status = true;
        while (status) {
          status = co_await to.Write(std::string(1 << 20, 'x'));
          ++written;
        }
        ended.set_value();
      },
      {.write_s = 0.3});
  server.Start();
  RawClient client(server.path());
  client.Say(kGet);
  ended.get_future().wait();
  EXPECT_LT(written, 8);  // A socket's buffer has 200 KiB; nothing else holds what isn't read.
}

TEST(HttpServer, CancelsAStreamWhoseClientLeft) {
  std::promise<bool> cancelled;
  Gate never;
  RunningServer server([&](HttpRequest, Responder& to) -> Task<void> {
    EXPECT_TRUE(co_await to.Begin(200, kNdjsonType));
    EXPECT_FALSE(to.PeerGone());
    EXPECT_TRUE(co_await to.Write("one\n"));
    try {
      co_await never.Wait();
    } catch (const boost::system::system_error&) {
      cancelled.set_value(to.PeerGone());
      throw;
    }
  });
  server.Start();
  RawClient client(server.path());
  client.Say(kGet);
  client.Hear("one\n");
  client.Leave();
  EXPECT_TRUE(cancelled.get_future().get());
}

TEST(HttpServer, LetsAHandlerFinishThatWantsTo) {
  std::promise<bool> noticed;
  Gate gate;
  RunningServer server([&](HttpRequest, Responder& to) -> Task<void> {
    EXPECT_TRUE(co_await to.Begin(200, kNdjsonType, WhenPeerGone::kGoOn));
    EXPECT_TRUE(co_await to.Write("one\n"));
    co_await gate.Wait();
    asio::steady_timer moment(co_await asio::this_coro::executor);
    while (!to.PeerGone()) {
      moment.expires_after(std::chrono::milliseconds(1));
      co_await moment.async_wait(asio::use_awaitable);
    }
    noticed.set_value(true);
  });
  server.Start();
  RawClient client(server.path());
  client.Say(kGet);
  client.Hear("one\n");
  client.Leave();
  gate.OpenOn(server.loop());
  EXPECT_TRUE(noticed.get_future().get());
}

TEST(HttpServer, DoesNotCancelWhatHasNotBegunToAnswer) {
  std::promise<bool> finished;
  RunningServer server([&](HttpRequest, Responder& to) -> Task<void> {
    asio::steady_timer moment(co_await asio::this_coro::executor);
    while (!to.PeerGone()) {
      moment.expires_after(std::chrono::milliseconds(1));
      co_await moment.async_wait(asio::use_awaitable);
    }
    moment.expires_after(std::chrono::milliseconds(1));
    co_await moment.async_wait(asio::use_awaitable);
    finished.set_value(true);
    EXPECT_FALSE(co_await to.Send(200, kJsonType, "{}"));
  });
  server.Start();
  RawClient client(server.path());
  client.Say("POST /v1/shares HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
  client.Leave();
  EXPECT_TRUE(finished.get_future().get());
}

TEST(HttpServer, AnswersAClientThatOnlyStoppedSending) {
  RunningServer server(Echo);
  server.Start();
  RawClient client(server.path());
  client.Say(kGet);
  client.ShutdownSending();
  EXPECT_THAT(client.Hear(), AllOf(StartsWith("HTTP/1.1 200"), EndsWith("status\n<closed>")));
}

TEST(HttpServer, OwnsUpToAHandlerThatThrowsOrSaysNothing) {
  RunningServer server([](HttpRequest request, Responder& to) -> Task<void> {
    if (request.path == "/throw") throw std::runtime_error("the shelf fell");
    if (request.path == "/half") {
      EXPECT_TRUE(co_await to.Begin(200, kTextType));
      EXPECT_TRUE(co_await to.Write("half"));
      throw std::runtime_error("the shelf fell");
    }
  });
  server.Start();
  RawClient throws(server.path());
  throws.Say("GET /throw HTTP/1.1\r\n\r\n");
  EXPECT_THAT(throws.Hear("}}"), AllOf(StartsWith("HTTP/1.1 500"), HasSubstr("the shelf fell")));
  RawClient silent(server.path());
  silent.Say("GET /silent HTTP/1.1\r\n\r\n");
  EXPECT_THAT(silent.Hear("}}"), AllOf(StartsWith("HTTP/1.1 500"), HasSubstr("not answered")));
  // Cut, without the last chunk: half an answer can't be taken for a whole one.
  RawClient half(server.path());
  half.Say("GET /half HTTP/1.1\r\n\r\n");
  EXPECT_THAT(half.Hear(), EndsWith("4\r\nhalf\r\n<closed>"));
}

TEST(HttpServer, RefusesWithTheErrorsStatus) {
  RunningServer server([](HttpRequest, Responder& to) -> Task<void> {
    // Longer than a string has inside, so that one that is freed twice is found out.
    co_await to.Refuse(ErrorCode::kNotFound, fmt::format("no such share: {}", "s9"),
                       "sublet ps lists those that there are");
  });
  server.Start();
  RawClient client(server.path());
  client.Say(kGet);
  EXPECT_THAT(
      client.Hear("}}"),
      AllOf(StartsWith("HTTP/1.1 404 Not Found"),
            HasSubstr("{\"error\":{\"code\":\"not-found\",\"message\":\"no such share: s9\","
                      "\"hint\":\"sublet ps lists those that there are\"}}")));
}

// ---- TCP ---------------------------------------------------------------------------------------

TcpListenerOptions WithToken() {
  return {.address = "127.0.0.1", .port = 0, .token = "0123456789abcdef"};
}

TEST(HttpServer, AsksForTheTokenOverTcp) {
  RunningServer server(Echo);
  const Result<int> port = server.server().AddTcpListener(WithToken());
  ASSERT_TRUE(port) << port.error().message;
  server.Start();
  const auto ask = [&](std::string_view header) {
    RawClient client(*port);
    // With a body that never comes: who has no token isn't waited for.
    client.Say(fmt::format("POST /x HTTP/1.1\r\nContent-Length: 2\r\n{}\r\n", header));
    if (header.find("0123456789abcdef\r") != std::string_view::npos) client.Say("ok");
    return client.Hear("\r\n\r\n");
  };
  const auto is_401 = AllOf(StartsWith("HTTP/1.1 401"), HasSubstr("WWW-Authenticate: Bearer"));
  EXPECT_THAT(ask(""), is_401);
  EXPECT_THAT(ask("Authorization: Bearer\r\n"), is_401);
  EXPECT_THAT(ask("Authorization: Bearer 0123456789abcdeX\r\n"), is_401);
  EXPECT_THAT(ask("Authorization: Bearer 0123456789abcde\r\n"), is_401);
  EXPECT_THAT(ask("Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n"), is_401);
  EXPECT_THAT(ask("Authorization: Basic 0123456789abcdef\r\nX: 0\r\n"), is_401);
  EXPECT_THAT(ask("authorization: bearer 0123456789abcdef\r\n"), StartsWith("HTTP/1.1 200"));
}

TEST(HttpServer, KnowsNobodyOverTcp) {
  RunningServer server([](HttpRequest request, Responder& to) -> Task<void> {
    EXPECT_FALSE(request.peer.local);
    EXPECT_EQ(request.peer.pid, -1);
    EXPECT_EQ(request.peer.pidfd, nullptr);
    return Echo(std::move(request), to);
  });
  const Result<int> port = server.server().AddTcpListener(WithToken());
  ASSERT_TRUE(port) << port.error().message;
  server.Start();
  auto client = HttpClient::ConnectTcp("localhost", *port, WithToken().token, 5);
  ASSERT_TRUE(client) << client.error().message;
  for (int i = 0; i < 3; ++i) {
    const auto response = client->Send({.target = "/v1/status"});
    ASSERT_TRUE(response) << response.error().message;
    EXPECT_EQ(response->body, "GET /v1/status\n");
  }
}

TEST(HttpServer, ListensOnThisMachineWithAGoodTokenOnly) {
  asio::io_context loop;
  const auto server = HttpServer::Open(loop, {}, Echo).value();
  TcpListenerOptions options = WithToken();
  options.token = "short";
  EXPECT_EQ(server->AddTcpListener(options).error().code, ErrorCode::kUsage);
  options = WithToken();
  options.address = "0.0.0.0";
  EXPECT_EQ(server->AddTcpListener(options).error().code, ErrorCode::kUsage);
  options.beyond_this_machine = true;
  EXPECT_TRUE(server->AddTcpListener(options));
  options = WithToken();
  options.address = "localhost";
  EXPECT_EQ(server->AddTcpListener(options).error().code, ErrorCode::kUsage);
  options = WithToken();
  options.port = server->AddTcpListener(options).value();
  EXPECT_EQ(server->AddTcpListener(options).error().code, ErrorCode::kConflict);
}

// ---- the end -----------------------------------------------------------------------------------

TEST(HttpServer, DrainsWhenItCloses) {
  Gate gate;
  std::promise<void> working;
  RunningServer server([&](HttpRequest request, Responder& to) -> Task<void> {
    if (request.path == "/slow") {
      working.set_value();
      co_await gate.Wait();
    }
    co_await Echo(std::move(request), to);
  });
  server.Start();
  RawClient idle(server.path());
  idle.Say(kGet);
  idle.Hear("status\n");
  RawClient busy(server.path());
  busy.Say("GET /slow HTTP/1.1\r\n\r\n");
  working.get_future().wait();
  std::future<void> closed = server.CloseInBackground(kPatienceSeconds);
  EXPECT_EQ(idle.Hear(), "<closed>");
  EXPECT_EQ(RawClient(server.path()).connect_error(), ENOENT);
  EXPECT_NE(closed.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  gate.OpenOn(server.loop());
  EXPECT_THAT(busy.Hear(), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("Connection: close"),
                                 EndsWith("/slow\n<closed>")));
  closed.get();
  EXPECT_TRUE(std::filesystem::is_empty(server.folder().path()));
}

TEST(HttpServer, CancelsWhatDoesNotEndInTime) {
  Gate never;
  std::promise<void> working;
  std::promise<void> cancelled;
  RunningServer server([&](HttpRequest, Responder&) -> Task<void> {
    working.set_value();
    try {
      co_await never.Wait();
    } catch (const boost::system::system_error&) {
      cancelled.set_value();
      throw;
    }
  });
  server.Start();
  RawClient client(server.path());
  client.Say(kGet);
  working.get_future().wait();
  server.CloseInBackground(0.01).get();
  cancelled.get_future().wait();
  EXPECT_EQ(client.Hear(), "<closed>");
}

TEST(HttpServer, WaitsForWorkOnAPoolThatCannotBeCancelled) {
  asio::thread_pool pool(1);
  std::promise<void> working;
  std::promise<void> go_on;
  std::atomic<bool> finished = false;
  RunningServer server([&](HttpRequest, Responder&) -> Task<void> {
    auto work = [&] {
      working.set_value();
      go_on.get_future().wait();
      finished = true;
      return Status();
    };
    const Status done = co_await OnPool(pool, work);
    EXPECT_TRUE(done);
  });
  server.Start();
  RawClient client(server.path());
  client.Say(kGet);
  working.get_future().wait();
  std::future<void> closed = server.CloseInBackground(0);
  EXPECT_EQ(client.Hear(), "<closed>");
  EXPECT_NE(closed.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  go_on.set_value();
  closed.get();
  EXPECT_TRUE(finished);
  pool.join();
}

TEST(HttpServer, RefusesALimitOfZero) {
  asio::io_context loop;
  EXPECT_EQ(HttpServer::Open(loop, {.connections_max = 0}, Echo).error().code, ErrorCode::kUsage);
  EXPECT_EQ(HttpServer::Open(loop, {.idle_s = 0}, Echo).error().code, ErrorCode::kUsage);
}

TEST(HttpServer, MayGoWithItsClientsStillThere) {
  asio::io_context loop;
  auto server = HttpServer::Open(loop, {}, Echo).value();
  const SocketFolder folder;
  ASSERT_TRUE(server->AddUnixListener({.path = folder / "s"}));
  RawClient client(folder / "s");
  client.Say("GET / HT");
  while (server->Connections() == 0) loop.run_one();
  server.reset();
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  loop.run();  // Returns: nothing is left to wait for.
}

}  // namespace
}  // namespace sublet
