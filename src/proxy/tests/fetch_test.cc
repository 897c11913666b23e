#include "proxy/fetch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "proxy/tests/scripted_server.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

FetchTarget TargetOf(const ScriptedServer& server, const std::string& path = "") {
  Result<HttpUrl> url = ParseHttpUrl(server.url() + path);
  return FetchTarget::At(*url);
}

Result<FetchResponse> Sent(asio::io_context& loop, FetchConnection& connection,
                           const FetchRequest& request) {
  Result<FetchResponse> response = Fail(ErrorCode::kInternal, "never ended");
  const auto keep = [](FetchConnection& to, const FetchRequest& what,
                       Result<FetchResponse>& out) -> Task<void> { out = co_await to.Send(what); };
  asio::co_spawn(loop, keep(connection, request, response), EndsTheProgram);
  loop.restart();
  loop.run();
  return response;
}

Result<FetchResponse> Streamed(asio::io_context& loop, FetchConnection& connection,
                               const FetchRequest& request, std::vector<std::string>& lines,
                               std::size_t lines_max = 100) {
  Result<FetchResponse> response = Fail(ErrorCode::kInternal, "never ended");
  const auto keep = [](FetchConnection& to, const FetchRequest& what,
                       std::vector<std::string>& into, std::size_t most,
                       Result<FetchResponse>& out) -> Task<void> {
    std::function<bool(std::string_view)> on_line = [&into, most](std::string_view line) {
      into.emplace_back(line);
      return into.size() < most;
    };
    out = co_await to.Stream(what, std::move(on_line));
  };
  asio::co_spawn(loop, keep(connection, request, lines, lines_max, response), EndsTheProgram);
  loop.restart();
  loop.run();
  return response;
}

TEST(Fetch, BringsAnAnswerAndKeepsTheConnection) {
  ScriptedServer server([](const ScriptedRequest& request, ScriptedPeer& peer) {
    return peer.Say(Answer(request.Target() == "/llm/a?b=1" ? 200 : 404, request.head));
  });
  asio::io_context loop;
  FetchConnection connection(loop, TargetOf(server, "/llm"));
  FetchRequest request{.target = "/a?b=1"};
  request.headers.emplace_back("Authorization", "Bearer x");
  for (int i = 0; i < 3; ++i) {
    const Result<FetchResponse> response = Sent(loop, connection, request);
    ASSERT_TRUE(response) << response.error().message;
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->content_type, "application/json");
    EXPECT_THAT(response->body, HasSubstr("Authorization: Bearer x"));
    EXPECT_THAT(response->body, HasSubstr("Host: 127.0.0.1:" + std::to_string(server.port())));
  }
  ASSERT_THAT(server.requests(), SizeIs(3));
  EXPECT_EQ(server.requests().back().connection, 0);
}

TEST(Fetch, PostsABody) {
  ScriptedServer server([](const ScriptedRequest& request, ScriptedPeer& peer) {
    return peer.Say(Answer(200, request.body));
  });
  asio::io_context loop;
  FetchConnection connection(loop, TargetOf(server));
  const auto response =
      Sent(loop, connection, {.method = "POST", .target = "/", .body = "{\"a\":1}"});
  ASSERT_TRUE(response) << response.error().message;
  EXPECT_EQ(response->body, "{\"a\":1}");
}

TEST(Fetch, TriesOnceMoreWhereAKeptConnectionWasClosed) {
  ScriptedServer server([](const ScriptedRequest&, ScriptedPeer& peer) {
    peer.Say(Answer(200, "ok"));
    return false;
  });
  asio::io_context loop;
  FetchConnection connection(loop, TargetOf(server));
  EXPECT_TRUE(Sent(loop, connection, {.target = "/"}));
  const auto second = Sent(loop, connection, {.target = "/"});
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ(server.requests().back().connection, 1);
}

TEST(Fetch, FailsWithoutAnswer) {
  ScriptedServer closes([](const ScriptedRequest&, ScriptedPeer&) { return false; });
  ScriptedServer garbage([](const ScriptedRequest&, ScriptedPeer& peer) {
    peer.Say("SSH-2.0-OpenSSH\r\n\r\n");
    return false;
  });
  ScriptedServer silent([](const ScriptedRequest&, ScriptedPeer& peer) {
    peer.Stay();
    return false;
  });
  ScriptedServer large([](const ScriptedRequest&, ScriptedPeer& peer) {
    return peer.Say(Answer(200, std::string(5000, 'x')));
  });
  asio::io_context loop;
  const auto error_of = [&loop](const ScriptedServer& server) {
    FetchConnection connection(loop, TargetOf(server));
    const FetchRequest request{.target = "/", .timeout_s = 0.2, .bytes_max = 1000};
    const Result<FetchResponse> response = Sent(loop, connection, request);
    EXPECT_FALSE(response);
    return response ? Error{} : response.error();
  };
  EXPECT_EQ(error_of(closes).code, ErrorCode::kUnavailable);
  EXPECT_EQ(error_of(garbage).code, ErrorCode::kInvalid);
  EXPECT_THAT(error_of(silent).message, HasSubstr("no answer in time"));
  EXPECT_THAT(error_of(large).message, HasSubstr("too large"));
}

TEST(Fetch, FailsWhereNobodyListens) {
  int port = 0;
  {
    port = ScriptedServer([](const ScriptedRequest&, ScriptedPeer&) { return false; }).port();
  }
  asio::io_context loop;
  FetchConnection connection(loop,
                             FetchTarget::At({.host = "127.0.0.1", .port = port, .path = {}}));
  const auto response = Sent(loop, connection, {.target = "/"});
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(response.error().message, HasSubstr(std::to_string(port)));
}

TEST(Fetch, StreamsLinesAcrossChunks) {
  ScriptedServer server([](const ScriptedRequest&, ScriptedPeer& peer) {
    peer.Say(ChunkedHead() + Chunk("one\ntw") + Chunk("o\n\nthr"));
    return peer.Say(Chunk("ee\n") + Chunk(""));
  });
  asio::io_context loop;
  FetchConnection connection(loop, TargetOf(server));
  std::vector<std::string> lines;
  const auto response = Streamed(loop, connection, {.target = "/"}, lines);
  ASSERT_TRUE(response) << response.error().message;
  EXPECT_THAT(lines, ElementsAre("one", "two", "", "three"));
}

TEST(Fetch, EndsAStreamWhereItIsToldTo) {
  ScriptedServer server([](const ScriptedRequest&, ScriptedPeer& peer) {
    peer.Say(ChunkedHead() + Chunk("one\ntwo\n"));
    peer.Stay();
    return false;
  });
  asio::io_context loop;
  FetchConnection connection(loop, TargetOf(server));
  std::vector<std::string> lines;
  EXPECT_TRUE(Streamed(loop, connection, {.target = "/"}, lines, 2));
  EXPECT_THAT(lines, ElementsAre("one", "two"));
}

TEST(Fetch, ToldOfAStreamThatBreaks) {
  ScriptedServer server([](const ScriptedRequest&, ScriptedPeer& peer) {
    peer.Say(ChunkedHead() + Chunk("one\nhal"));
    return false;
  });
  asio::io_context loop;
  FetchConnection connection(loop, TargetOf(server));
  std::vector<std::string> lines;
  const auto response = Streamed(loop, connection, {.target = "/"}, lines);
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(lines, ElementsAre("one"));
}

TEST(Fetch, GivesTheBodyOfAStreamThatWasRefused) {
  ScriptedServer server([](const ScriptedRequest&, ScriptedPeer& peer) {
    return peer.Say(Answer(410, "{\"reason\":\"Gone\"}\nmore"));
  });
  asio::io_context loop;
  FetchConnection connection(loop, TargetOf(server));
  std::vector<std::string> lines;
  const auto response = Streamed(loop, connection, {.target = "/"}, lines);
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 410);
  EXPECT_THAT(response->body, HasSubstr("Gone"));
  EXPECT_THAT(lines, SizeIs(0));
}

}  // namespace
}  // namespace sublet
