// What a well-behaved client and a well-behaved replica see of the proxy.

#include "proxy/proxy_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "proxy/tests/running_proxy.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr std::string_view kOk =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

TEST(ProxyServer, PassesARequestOnAndItsAnswerBack) {
  FakeReplica replica(EchoRequest());
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText("X-Request-Id: id-1\r\nX-A: b\r\n"));
  const std::string heard = client.Hear(kChatBody);
  EXPECT_THAT(heard, AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("x-request-id: id-1\r\n"),
                           HasSubstr("x-sublet-replica: r0-\r\n"),
                           HasSubstr("POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:"),
                           HasSubstr("X-A: b\r\n"), EndsWith(kChatBody)));
  const KeptRecord record = proxy.WaitRecords(1).front();
  EXPECT_EQ(record.record.outcome, RequestOutcome::kServed);
  EXPECT_EQ(record.record.status, 200);
  EXPECT_EQ(record.model, "m");
  EXPECT_EQ(record.replica, "r0-");
  EXPECT_EQ(record.request_id, "id-1");
  EXPECT_EQ(record.record.tries, 1);
  EXPECT_EQ(record.record.bytes_in, static_cast<std::int64_t>(kChatBody.size()));
  EXPECT_GT(record.record.bytes_out, record.record.bytes_in);
  EXPECT_GE(record.record.total_ns, record.record.first_byte_ns.value());
}

TEST(ProxyServer, KeepsConnectionsOnBothSides) {
  FakeReplica replica(Always(std::string(kOk)));
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  for (int i = 0; i < 20; ++i) {
    client.Say(ChatText());
    EXPECT_THAT(client.Hear("{}"), StartsWith("HTTP/1.1 200"));
  }
  EXPECT_EQ(replica.connections(), 1);
  EXPECT_EQ(proxy.server().Counters().upstream_reused, 19);
  EXPECT_EQ(proxy.server().Counters().connections_accepted, 1);
}

TEST(ProxyServer, AnswersPipelinedRequestsInOrder) {
  FakeReplica replica(EchoRequest());
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  std::string all;
  for (int i = 0; i < 30; ++i) {
    all += "GET /" + std::to_string(i) + " HTTP/1.1\r\nHost: x\r\n\r\n";
  }
  client.Say(all);
  const std::string heard = client.Hear("GET /29 HTTP/1.1\r\n");
  std::size_t at = 0;
  for (int i = 0; i < 30; ++i) {
    at = heard.find("GET /" + std::to_string(i) + " ", at);
    ASSERT_NE(at, std::string::npos) << i;
  }
}

TEST(ProxyServer, PassesAnyMethodAndPath) {
  FakeReplica replica(EchoRequest());
  RunningProxy proxy({&replica});
  for (const char* line : {"GET /a?b=c&d", "DELETE /v1/files/x", "PATCH /x%20y",
                           "OPTIONS /v1/models", "PURGE /", "PUT /tokenize"}) {
    TestClient client(proxy.port());
    client.Say(std::string(line) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_THAT(client.Hear(), AllOf(StartsWith("HTTP/1.1 200"),
                                     HasSubstr("\r\n\r\n" + std::string(line) + " HTTP/1.1\r\n")));
  }
  EXPECT_EQ(replica.connections(), 1);
}

TEST(ProxyServer, AnswersHeadWithoutABody) {
  FakeReplica replica(Always("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"));  // None follows.
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  for (int i = 0; i < 2; ++i) {
    client.Say("HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_THAT(client.Hear("\r\n\r\n"),
                AllOf(HasSubstr("content-length: 1000\r\n"), EndsWith("\r\n\r\n")));
  }
  EXPECT_EQ(replica.connections(), 1);
}

TEST(ProxyServer, AnswersOptionsForTheServerItself) {
  RunningProxy proxy({});
  TestClient client(proxy.port());
  client.Say("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.Hear("\r\n\r\n"), StartsWith("HTTP/1.1 204 No Content\r\n"));
}

TEST(ProxyServer, PutsTheReplicasPathInFront) {
  FakeReplica replica(EchoRequest());
  RunningProxy proxy({});
  proxy.AddReplica(replica.url() + "/deep/base/");
  TestClient client(proxy.port());
  client.Say("GET /v1/x?y HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.Hear("HTTP/1.1\r\nhost"), HasSubstr("GET /deep/base/v1/x?y HTTP/1.1\r\n"));
}

TEST(ProxyServer, ResolvesAReplicasName) {
  FakeReplica replica(Always(std::string(kOk)));
  RunningProxy proxy({});
  proxy.AddReplica("http://localhost:" + std::to_string(replica.port()));
  TestClient client(proxy.port());
  client.Say(ChatText());
  EXPECT_THAT(client.Hear("{}"), StartsWith("HTTP/1.1 200"));
}

TEST(ProxyServer, TellsAClientThatAsksToSendItsBody) {
  FakeReplica replica(EchoRequest());
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.Hear("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Say("ok");
  EXPECT_THAT(client.Hear("\r\n\r\nok"), Not(HasSubstr("xpect")));
}

TEST(ProxyServer, TurnsAChunkedBodyIntoACountedOne) {
  FakeReplica replica(EchoRequest());
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say("POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
  client.Say("4\r\ndefg\r\n0\r\nX-Trailer: 1\r\n\r\n");
  EXPECT_THAT(client.Hear("abcdefg"),
              AllOf(HasSubstr("content-length: 7\r\n"), Not(HasSubstr("Transfer-Encoding")),
                    Not(HasSubstr("Trailer"))));
  client.Say(ChatText());
  EXPECT_THAT(client.Hear(kChatBody), StartsWith("HTTP/1.1 200"));
}

TEST(ProxyServer, PassesALargeBodyBothWays) {
  FakeReplica replica(EchoRequest());
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  const std::string body(5'000'000, 'b');
  std::thread sender([&] { client.Say(PostText("/x", body) + ChatText()); });
  const std::string heard = client.Hear(kChatBody);
  sender.join();
  EXPECT_THAT(heard, HasSubstr("\r\n\r\n" + body + "HTTP/1.1 200"));
  EXPECT_EQ(proxy.WaitRecords(2)[0].record.bytes_in, 5'000'000);
  EXPECT_TRUE(proxy.WaitCounters([](const ProxyCounters& c) { return c.bodies_bytes == 0; }));
}

TEST(ProxyServer, PassesOnEachPieceOfAStreamWhenItComes) {
  Moment first_seen;
  FakeReplica replica([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        "transfer-encoding: chunked\r\n\r\n");
    peer.Say("c\r\ndata: {\"a\"}\n\r\n");
    EXPECT_TRUE(first_seen.Wait());
    peer.Say("1\r\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    peer.WaitClosed();
  });
  {
    RunningProxy proxy({&replica});
    TestClient client(proxy.port());
    client.Say(ChatText());
    EXPECT_THAT(
        client.Hear("data: {\"a\"}\n\r\n"),
        AllOf(HasSubstr("transfer-encoding: chunked\r\n"), EndsWith("c\r\ndata: {\"a\"}\n\r\n")));
    first_seen.Come();
    EXPECT_THAT(client.Hear("0\r\n\r\n"), HasSubstr("data: [DONE]\n\n"));
    const KeptRecord record = proxy.WaitRecords(1).front();
    EXPECT_TRUE(record.record.stream);
    EXPECT_EQ(record.record.events, 1);
    EXPECT_FALSE(record.record.first_token_ns.has_value());
  }
}

TEST(ProxyServer, ReportsTokensAndTheUsage) {
  FakeReplica replica(
      Always("HTTP/1.1 200 OK\r\ncontent-length: 87\r\n\r\n"
             R"({"x":1,"usage":{"prompt_tokens":11,)"
             R"("completion_tokens":4,"prompt_tokens_details":null}})"));
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  client.Hear("null}}");
  const KeptRecord record = proxy.WaitRecords(1).front();
  EXPECT_EQ(record.record.prompt_tokens, 11u);
  EXPECT_EQ(record.record.output_tokens, 4u);
  EXPECT_EQ(record.record.cached_tokens, std::nullopt);
  EXPECT_FALSE(record.record.first_token_ns.has_value());
}

TEST(ProxyServer, SeesTheFirstTokenOfAStream) {
  FakeReplica replica([](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say(
        "HTTP/1.0 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n"
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"
        "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n"
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1,"
        "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n");
  });
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  client.Hear("[DONE]");
  const KeptRecord record = proxy.WaitRecords(1).front();
  EXPECT_TRUE(record.record.stream);
  EXPECT_EQ(record.record.events, 3);
  EXPECT_GE(record.record.first_token_ns.value(), record.record.first_byte_ns.value());
  EXPECT_EQ(record.record.cached_tokens, 4u);
}

TEST(ProxyServer, ReadsAnswersThatEndWithTheirConnection) {
  FakeReplica replica([](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say("HTTP/1.0 200 OK\r\n\r\nuntil the end");
  });
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  for (int i = 0; i < 2; ++i) {
    client.Say(ChatText());
    EXPECT_THAT(client.Hear("0\r\n\r\n"),
                AllOf(HasSubstr("transfer-encoding: chunked"), HasSubstr("until the end")));
  }
  EXPECT_EQ(replica.connections(), 2);
}

TEST(ProxyServer, AnswersAnOldClientInItsWay) {
  FakeReplica replica(Always(
      "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n"));
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say("GET /x HTTP/1.0\r\n\r\n");
  EXPECT_THAT(client.Hear(), AllOf(Not(HasSubstr("chunked")), HasSubstr("connection: close\r\n"),
                                   EndsWith("\r\n\r\nok<closed>")));
}

TEST(ProxyServer, ClosesWhereTheClientAsksForIt) {
  FakeReplica replica(Always(std::string(kOk)));
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText("Connection: close\r\n"));
  EXPECT_THAT(client.Hear(), AllOf(HasSubstr("connection: close\r\n"), EndsWith("{}<closed>")));
  EXPECT_TRUE(proxy.WaitCounters([](const ProxyCounters& c) { return c.connections_open == 0; }));
}

TEST(ProxyServer, DropsInterimAnswersAndPassesErrorsOn) {
  FakeReplica replica(
      Always("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
             "HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: 3\r\nx-mine: 1\r\n\r\nbad"));
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  EXPECT_THAT(client.Hear("bad"), AllOf(StartsWith("HTTP/1.1 422 Unprocessable Entity\r\n"),
                                        HasSubstr("x-mine: 1\r\n"), Not(HasSubstr("link"))));
  const KeptRecord record = proxy.WaitRecords(1).front();
  EXPECT_EQ(record.record.outcome, RequestOutcome::kClientError);
  EXPECT_EQ(record.record.tries, 1);
}

TEST(ProxyServer, ExplainsItsDecisionWhereAsked) {
  FakeReplica replica(Always(std::string(kOk)));
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText("x-sublet-explain: 1\r\n"));
  const std::string heard = client.Hear("{}");
  const std::size_t at = heard.find("x-sublet-decision: ");
  ASSERT_NE(at, std::string::npos);
  const nlohmann::json decision =
      nlohmann::json::parse(heard.substr(at + 19, heard.find("\r\n", at) - at - 19));
  EXPECT_EQ(decision["replica"], "r0-");
}

TEST(ProxyServer, KeepsWhatItKnowsToItselfWhereToldTo) {
  FakeReplica replica(EchoRequest());
  ProxyOptions options = TestOptions();
  options.reveal_replica = false;
  options.trust_trace_headers = false;
  RunningProxy proxy({&replica}, options);
  TestClient client(proxy.port());
  client.Say(ChatText("x-sublet-explain: 1\r\nx-request-id: mine\r\ntraceparent: 00-a\r\n"));
  EXPECT_THAT(client.Hear(kChatBody), AllOf(Not(HasSubstr("x-sublet-")), Not(HasSubstr("mine")),
                                            Not(HasSubstr("traceparent"))));
}

TEST(ProxyServer, PassesTheTraceOn) {
  FakeReplica replica(EchoRequest());
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText("traceparent: 00-0af7-b7ad-01\r\nx-session-id: s1\r\n"));
  EXPECT_THAT(client.Hear(kChatBody), HasSubstr("traceparent: 00-0af7-b7ad-01\r\n"));
  const KeptRecord record = proxy.WaitRecords(1).front();
  EXPECT_EQ(record.traceparent, "00-0af7-b7ad-01");
  EXPECT_EQ(record.session, "s1");
  EXPECT_EQ(record.request_id.size(), 32u);
}

TEST(ProxyServer, AsksForAKeyAndKeepsIt) {
  FakeReplica replica(EchoRequest());
  ProxyOptions options = TestOptions();
  options.api_keys = {MakeApiKey("sk-client", "shop"), MakeApiKey("sk-admin", "ops", true)};
  options.upstream_api_key = "engine-key";
  ProxyHooks hooks;
  hooks.access = [](std::string_view, std::string_view path) {
    if (path == "/health") return PathAccess::kOpen;
    if (path == "/workers") return PathAccess::kAdmin;
    return PathAccess::kReplicas;
  };
  hooks.control = [](ControlRequest request) -> Task<ControlAnswer> {
    ControlAnswer answer;
    answer.body = request.path + " " + request.tenant;
    co_return answer;
  };
  RunningProxy proxy({&replica}, options, hooks);
  const auto ask = [&](std::string_view request) {
    TestClient client(proxy.port());
    client.Say(std::string(request));
    return client.Hear();
  };
  const auto get = [&](std::string_view path, std::string_view key) {
    const std::string authorization =
        key.empty() ? "" : "Authorization: Bearer " + std::string(key) + "\r\n";
    return ask("GET " + std::string(path) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" +
               authorization + "\r\n");
  };
  EXPECT_THAT(get("/x", ""),
              AllOf(StartsWith("HTTP/1.1 401"), HasSubstr("www-authenticate: Bearer"),
                    HasSubstr("authentication_error")));
  EXPECT_THAT(get("/x", "sk-other"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(get("/x", "sk-client"),
              AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("authorization: Bearer engine-key\r\n"),
                    Not(HasSubstr("sk-client"))));
  EXPECT_THAT(get("/health", ""), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("/health ")));
  EXPECT_THAT(get("/workers", ""), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(get("/workers", "sk-client"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(get("/workers", "sk-admin"), HasSubstr("/workers ops"));
  EXPECT_THAT(ask("OPTIONS /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
              StartsWith("HTTP/1.1 200"));
  // The body of who has no key isn't waited for.
  EXPECT_THAT(ask("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"),
              StartsWith("HTTP/1.1 401"));
  EXPECT_EQ(proxy.WaitRecords(3)[2].tenant, "shop");
}

TEST(ProxyServer, AnswersWhatIsItsOwn) {
  ProxyHooks hooks;
  hooks.access = [](std::string_view, std::string_view path) {
    return path.starts_with("/own") ? PathAccess::kClient : PathAccess::kReplicas;
  };
  hooks.control = [](ControlRequest request) -> Task<ControlAnswer> {
    if (request.path == "/own/broken") throw std::runtime_error("broken");
    ControlAnswer answer;
    answer.status = 201;
    answer.content_type = "text/plain";
    answer.body = request.method + " " + request.path + "?" + request.query + " " + request.body;
    answer.headers = {{"x-own", "1"}};
    co_return answer;
  };
  ProxyOptions options = TestOptions();
  options.limits.control_body_bytes_max = 100;
  RunningProxy proxy({}, options, hooks);
  TestClient client(proxy.port());
  client.Say(PostText("/own/x?q=1", "body"));
  EXPECT_THAT(client.Hear("body"),
              AllOf(StartsWith("HTTP/1.1 201 Created\r\n"), HasSubstr("x-own: 1\r\n"),
                    EndsWith("\r\n\r\nPOST /own/x?q=1 body")));
  client.Say("HEAD /own HTTP/1.1\r\nHost: x\r\n\r\nGET /own/broken HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.Hear("}}\n"), HasSubstr("\r\n\r\nHTTP/1.1 500"));
  client.Say(PostText("/own/x", std::string(101, 'x')));
  EXPECT_THAT(client.Hear(), StartsWith("HTTP/1.1 413"));
}

TEST(ProxyServer, DrainsWhatRuns) {
  Moment asked;
  Moment drain;
  FakeReplica replica([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    asked.Come();
    EXPECT_TRUE(drain.Wait());
    peer.Say(kOk);
    peer.WaitClosed();
  });
  RunningProxy proxy({&replica});
  TestClient idle(proxy.port());
  TestClient busy(proxy.port());
  idle.Say("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
  idle.Hear("\r\n\r\n");
  busy.Say(ChatText());
  ASSERT_TRUE(asked.Wait());
  bool drained = false;
  std::thread draining([&] { drained = proxy.server().Drain(kPatienceSeconds); });
  EXPECT_EQ(idle.Hear(), "<closed>");
  drain.Come();
  EXPECT_THAT(busy.Hear(), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("connection: close"),
                                 EndsWith("{}<closed>")));
  draining.join();
  EXPECT_TRUE(drained);
  EXPECT_NE(TestClient(proxy.port()).connect_error(), 0);
}

TEST(ProxyServer, CutsWhatDoesNotEndInTime) {
  Moment asked;
  FakeReplica replica([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    asked.Come();
    EXPECT_TRUE(peer.WaitClosed());
  });
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  ASSERT_TRUE(asked.Wait());
  EXPECT_FALSE(proxy.server().Drain(0));
  EXPECT_EQ(client.Hear(), "<closed>");
  EXPECT_EQ(proxy.WaitRecords(1).front().record.outcome, RequestOutcome::kDrained);
}

TEST(ProxyServer, ReloadsItsKeysAndLimits) {
  FakeReplica replica(Always(std::string(kOk)));
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  EXPECT_THAT(client.Hear("{}"), StartsWith("HTTP/1.1 200"));
  ProxyOptions options = TestOptions();
  options.limits.tries_max = 0;
  EXPECT_FALSE(proxy.server().Reload(options));
  options = TestOptions();
  options.api_keys = {MakeApiKey("sk", "t")};
  ASSERT_TRUE(proxy.server().Reload(options));
  client.Say(ChatText());
  EXPECT_THAT(client.Hear("}}"), StartsWith("HTTP/1.1 401"));
}

TEST(ProxyServer, ServesOnSeveralThreads) {
  FakeReplica replica(Always(std::string(kOk)));
  ProxyOptions options = TestOptions();
  options.threads = 3;
  RunningProxy proxy({&replica}, options);
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      TestClient client(proxy.port());
      for (int i = 0; i < 50; ++i) {
        client.Say(ChatText());
        EXPECT_THAT(client.Hear("{}"), StartsWith("HTTP/1.1 200"));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(proxy.WaitRecords(300).size(), 300u);
  EXPECT_EQ(proxy.server().Counters().requests, 300);
}

TEST(ProxyServer, RefusesOptionsThatMakeNoSense) {
  FleetCache caches;
  const auto router = Router::Make({.policy = "round-robin"}, caches).value();
  ProxyHooks hooks;
  hooks.router = router.get();
  const auto opens = [&](auto change) {
    ProxyOptions options;
    change(options);
    return ProxyServer::Open(options, hooks).has_value();
  };
  EXPECT_TRUE(opens([](ProxyOptions&) {}));
  EXPECT_FALSE(opens([](ProxyOptions& o) { o.threads = 0; }));
  EXPECT_FALSE(opens([](ProxyOptions& o) { o.limits.idle_s = 0; }));
  EXPECT_FALSE(opens([](ProxyOptions& o) { o.limits.header_bytes_max = 10; }));
  EXPECT_FALSE(opens([](ProxyOptions& o) { o.tls.private_key = "x"; }));
  EXPECT_FALSE(opens([](ProxyOptions& o) { o.upstream_ca_file = "/does/not/exist"; }));
  const auto server = ProxyServer::Open({}, hooks).value();
  EXPECT_FALSE(server->Listen("localhost", 0));
  const int port = server->Listen("127.0.0.1", 0).value();
  EXPECT_EQ(server->Listen("127.0.0.1", port).error().code, ErrorCode::kConflict);
}

}  // namespace
}  // namespace sublet
