// Replicas that fail in every way that there is.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proxy/tests/running_proxy.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr std::string_view kOk = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
constexpr std::string_view kEvents =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

// Says `text` to its first request and closes.
FakeReplica::Script Once(std::string text) {
  return [text = std::move(text)](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say(text);
  };
}

std::string AskOnce(const RunningProxy& proxy, std::string_view headers = "") {
  TestClient client(proxy.port());
  client.Say(ChatText("Connection: close\r\n" + std::string(headers)));
  return client.Hear();
}

// ---- before the first byte: another one does it, and the client never knows
// ----------------------

class FailingReplica
    : public ::testing::TestWithParam<std::pair<const char*, FakeReplica::Script>> {};

TEST_P(FailingReplica, IsReplacedByAnother) {
  FakeReplica bad(GetParam().second);
  FakeReplica good(Always(std::string(kOk)));
  ProxyOptions options = TestOptions();
  options.limits.first_byte_s = 0.1;
  RunningProxy proxy({&bad, &good}, options);
  // Two requests: one of them at least goes to the bad one first.
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(AskOnce(proxy), AllOf(StartsWith("HTTP/1.1 200"), EndsWith("ok<closed>"),
                                      HasSubstr("x-sublet-replica: r1-\r\n")));
  }
  int tries = 0;
  for (const KeptRecord& record : proxy.WaitRecords(2)) {
    EXPECT_EQ(record.record.outcome, RequestOutcome::kServed);
    tries += record.record.tries;
  }
  EXPECT_GE(tries, 3);
  EXPECT_EQ(proxy.server().Counters().retries, tries - 2);
}

const std::pair<const char*, FakeReplica::Script> kFailures[] = {
    {"ClosesAtOnce", [](ReplicaPeer&) {}},
    {"ClosesAfterTheRequest", Once("")},
    {"Resets",
     [](ReplicaPeer& peer) {
       peer.ReadRequest();
       peer.Reset();
     }},
    {"HalfCloses",
     [](ReplicaPeer& peer) {
       peer.ReadRequest();
       peer.ShutdownSending();
       peer.WaitClosed();
     }},
    {"Hangs", [](ReplicaPeer& peer) { peer.WaitClosed(); }},
    {"BreaksOffItsHead", Once("HTTP/1.1 200 OK\r\ncontent-le")},
    {"SaysGarbage", Once("SSH-2.0-OpenSSH_9.2p1\r\n\r\n")},
    {"SaysGarbageWithoutEnd", Once(std::string(100'000, 'x'))},
    {"SaysBinary", Once(std::string("\0\1\2\3\n\n", 6))},
    {"EndsLinesWithLf", Once("HTTP/1.1 200 OK\ncontent-length: 2\n\nok")},
    {"GivesTwoLengths",
     Once("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok")},
    {"SwitchesProtocols", Once("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n")},
    {"OnlyHints", Once([] {
       std::string hints;
       for (int i = 0; i < 100; ++i) hints += "HTTP/1.1 103 Early Hints\r\n\r\n";
       return hints;
     }())},
    {"HasATooLongHead", Once("HTTP/1.1 200 OK\r\nx: " + std::string(100'000, 'x') + "\r\n\r\n")},
    {"SaysABadChunk", Once(std::string(kEvents) + "zz\r\n")},
    // Killed while it computes the prompt: the head is there, nothing else.
    {"DiesBehindItsHead", Once(std::string(kEvents))},
    {"DiesBehindItsCountedHead", Once("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")},
    {"HangsBehindItsHead",
     [](ReplicaPeer& peer) {
       peer.ReadRequest();
       peer.Say(kEvents);
       peer.WaitClosed();
     }},
    {"IsOverloaded", Once("HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno")},
    {"HasTooMany", Once("HTTP/1.1 429 Too Many\r\ncontent-length: 2\r\n\r\nno")},
    {"IsBroken", Once("HTTP/1.1 500 Error\r\ncontent-length: 2\r\n\r\nno")},
};

INSTANTIATE_TEST_SUITE_P(Each, FailingReplica, ::testing::ValuesIn(kFailures),
                         [](const auto& failure) { return std::string(failure.param.first); });

TEST(ProxyReplica, ThatIsNotThereIsReplacedByAnother) {
  int closed_port = 0;
  {
    FakeReplica gone([](ReplicaPeer&) {});
    closed_port = gone.port();
  }
  FakeReplica good(Always(std::string(kOk)));
  RunningProxy proxy({&good});
  proxy.AddReplica("http://127.0.0.1:" + std::to_string(closed_port));
  proxy.AddReplica("http://does-not-exist.invalid:80");
  for (int i = 0; i < 3; ++i) EXPECT_THAT(AskOnce(proxy), StartsWith("HTTP/1.1 200"));
}

TEST(ProxyReplica, AnswersThatAreTheClientsFaultAreFinal) {
  for (const int status : {400, 401, 404, 408, 409, 422}) {
    FakeReplica one(
        Always("HTTP/1.1 " + std::to_string(status) + " No\r\ncontent-length: 2\r\n\r\nno"));
    FakeReplica two(
        Always("HTTP/1.1 " + std::to_string(status) + " No\r\ncontent-length: 2\r\n\r\nno"));
    RunningProxy proxy({&one, &two});
    EXPECT_THAT(AskOnce(proxy), StartsWith("HTTP/1.1 " + std::to_string(status)));
    EXPECT_EQ(one.connections() + two.connections(), 1);
    EXPECT_EQ(proxy.server().Counters().retries, 0);
  }
}

TEST(ProxyReplica, OverloadIsTriedElsewhereOnce) {
  const std::string busy = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\nno";
  FakeReplica one(Always(busy));
  FakeReplica two(Always(busy));
  FakeReplica three(Always(busy));
  RunningProxy proxy({&one, &two, &three});
  EXPECT_THAT(AskOnce(proxy), AllOf(StartsWith("HTTP/1.1 503 Busy"), HasSubstr("retry-after: 7")));
  EXPECT_EQ(proxy.WaitRecords(1).front().record.tries, 2);
}

TEST(ProxyReplica, TheOnlyOnesErrorIsPassedOn) {
  FakeReplica one(Always("HTTP/1.1 500 Error\r\ncontent-length: 4\r\n\r\nmine"));
  RunningProxy proxy({&one});
  EXPECT_THAT(AskOnce(proxy), AllOf(StartsWith("HTTP/1.1 500"), EndsWith("mine<closed>")));
  EXPECT_EQ(proxy.WaitRecords(1).front().record.outcome, RequestOutcome::kFailed);
}

TEST(ProxyReplica, WhenAllFailTheClientIsToldOfTheLast) {
  FakeReplica one(Once(""));
  FakeReplica two(Once("garbage\r\n\r\n"));
  RunningProxy proxy({&one, &two});
  EXPECT_THAT(AskOnce(proxy), AllOf(StartsWith("HTTP/1.1 502 Bad Gateway"),
                                    HasSubstr("upstream_failed"), HasSubstr("server_error")));
  const KeptRecord record = proxy.WaitRecords(1).front();
  EXPECT_EQ(record.record.outcome, RequestOutcome::kFailed);
  EXPECT_EQ(record.record.tries, 2);
  EXPECT_THAT(record.error, HasSubstr("the request failed on r"));
}

TEST(ProxyReplica, TriesAndRetriesAreBounded) {
  std::vector<std::unique_ptr<FakeReplica>> replicas;
  std::vector<const FakeReplica*> all;
  for (int i = 0; i < 5; ++i) {
    replicas.push_back(std::make_unique<FakeReplica>([](ReplicaPeer&) {}));
    all.push_back(replicas.back().get());
  }
  ProxyOptions options = TestOptions();
  options.limits.tries_max = 3;
  RunningProxy proxy(all, options);
  EXPECT_THAT(AskOnce(proxy), StartsWith("HTTP/1.1 502"));
  EXPECT_EQ(proxy.WaitRecords(1)[0].record.tries, 3);
  // No budget, no retry.
  options.limits.retry_ratio = 0;
  options.limits.retry_burst = 0;
  ASSERT_TRUE(proxy.server().Reload(options));
  EXPECT_THAT(AskOnce(proxy), StartsWith("HTTP/1.1 502"));
  EXPECT_EQ(proxy.WaitRecords(2)[1].record.tries, 1);
  EXPECT_EQ(proxy.server().Counters().retries_unaffordable, 1);
}

TEST(ProxyReplica, ThatHangsEndsInAGatewayTimeout) {
  FakeReplica hangs([](ReplicaPeer& peer) { peer.WaitClosed(); });
  ProxyOptions options = TestOptions();
  options.limits.first_byte_s = 0.05;
  RunningProxy proxy({&hangs}, options);
  EXPECT_THAT(AskOnce(proxy), AllOf(StartsWith("HTTP/1.1 504"), HasSubstr("upstream_timeout")));
}

TEST(ProxyReplica, HasNoLongerThanTheClientGivesIt) {
  FakeReplica hangs([](ReplicaPeer& peer) { peer.WaitClosed(); });
  FakeReplica other([](ReplicaPeer& peer) { peer.WaitClosed(); });
  RunningProxy proxy({&hangs, &other});
  EXPECT_THAT(AskOnce(proxy, "x-request-timeout-ms: 50\r\n"), StartsWith("HTTP/1.1 504"));
  EXPECT_EQ(proxy.WaitRecords(1)[0].record.tries, 1);
}

TEST(ProxyReplica, WhatMayNotBeDoneTwiceIsNotTriedTwice) {
  FakeReplica dies(Once(""));
  FakeReplica too(Once(""));
  RunningProxy proxy({&dies, &too});
  const auto ask = [&](const std::string& request) {
    TestClient client(proxy.port());
    client.Say(request);
    return client.Hear();
  };
  const std::string close = "Connection: close\r\n";
  EXPECT_THAT(ask(PostText("/v1/load_lora_adapter", "{}", close)), StartsWith("HTTP/1.1 502"));
  EXPECT_THAT(ask("PUT /x HTTP/1.1\r\nHost: x\r\n" + close + "\r\n"), StartsWith("HTTP/1.1 502"));
  const std::vector<KeptRecord> records = proxy.WaitRecords(2);
  EXPECT_EQ(records[0].record.tries, 1);
  EXPECT_EQ(records[1].record.tries, 2);
}

TEST(ProxyReplica, ThatRefusedARequestHasNotBegunIt) {
  FakeReplica busy(Always("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"));
  FakeReplica good(Always(std::string(kOk)));
  RunningProxy proxy({&busy, &good});
  proxy.AddReplica("http://127.0.0.1:1");  // Nobody listens.
  for (int i = 0; i < 3; ++i) {
    TestClient client(proxy.port());
    client.Say(PostText("/v1/load_lora_adapter", "{}"));
    EXPECT_THAT(client.Hear("ok"), StartsWith("HTTP/1.1 200"));
  }
}

TEST(ProxyReplica, IsNotNamedWhereItIsNotToBeKnown) {
  FakeReplica dies(Once(""));
  ProxyOptions options = TestOptions();
  options.reveal_replica = false;
  RunningProxy proxy({&dies}, options);
  EXPECT_THAT(AskOnce(proxy), AllOf(StartsWith("HTTP/1.1 502"), Not(HasSubstr("r0-"))));
}

// ---- connections of the pool -------------------------------------------------------------------

TEST(ProxyReplica, AConnectionThatWasClosedMeanwhileCostsNoRetry) {
  std::atomic<int> served = 0;
  Moment closed;
  FakeReplica replica([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say(kOk);
    if (++served > 1) {
      peer.WaitClosed();
      return;
    }
    // Closes when the second request is on its way: what a keep-alive limit does.
    peer.ReadHead();
    peer.Reset();
  });
  ProxyOptions options = TestOptions();
  options.limits.retry_ratio = 0;
  options.limits.retry_burst = 0;
  RunningProxy proxy({&replica}, options);
  EXPECT_THAT(AskOnce(proxy), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(AskOnce(proxy), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(replica.connections(), 2);
  EXPECT_EQ(proxy.server().Counters().upstream_stale, 1);
  EXPECT_EQ(proxy.WaitRecords(2)[1].record.tries, 1);
}

TEST(ProxyReplica, AnIdleConnectionThatItClosesIsForgotten) {
  FakeReplica replica(Once(std::string(kOk)));
  RunningProxy proxy({&replica});
  for (int i = 0; i < 20; ++i) EXPECT_THAT(AskOnce(proxy), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(proxy.server().Counters().retries, 0);
}

TEST(ProxyReplica, ThatSaysMoreThanItsAnswerIsNotTrustedAgain) {
  FakeReplica replica(Always(std::string(kOk) + std::string(kOk)));
  RunningProxy proxy({&replica});
  for (int i = 0; i < 3; ++i) EXPECT_THAT(AskOnce(proxy), EndsWith("\r\n\r\nok<closed>"));
  EXPECT_EQ(replica.connections(), 3);
}

TEST(ProxyReplica, IdleConnectionsGoBeforeItClosesThem) {
  Moment closed;
  FakeReplica replica([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say(kOk);
    if (peer.WaitClosed()) closed.Come();
  });
  ProxyOptions options = TestOptions();
  options.limits.pool_idle_s = 0.05;
  RunningProxy proxy({&replica}, options);
  EXPECT_THAT(AskOnce(proxy), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(closed.Wait());
}

// ---- early answers -----------------------------------------------------------------------------

TEST(ProxyReplica, MayAnswerBeforeItHasReadTheBody) {
  FakeReplica replica([](ReplicaPeer& peer) {
    peer.ReadHead();
    peer.Say("HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\nlarge");
    peer.WaitClosed();
  });
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  std::thread sender([&] { client.Say(PostText("/x", std::string(30'000'000, 'x'))); });
  EXPECT_THAT(client.Hear("large"), StartsWith("HTTP/1.1 413 Too Large"));
  sender.join();
}

// ---- in the middle of an answer ----------------------------------------------------------------

TEST(ProxyReplica, AStreamThatBreaksEndsWithAnErrorEvent) {
  FakeReplica replica([](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say(std::string(kEvents) + "9\r\ndata: 1\n\n\r\n");
    peer.Reset();
  });
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  EXPECT_THAT(client.Hear("0\r\n\r\n"),
              AllOf(HasSubstr("data: 1\n\n"), HasSubstr("\r\ndata: {\"error\":{\"message\":\""),
                    HasSubstr("\n\ndata: [DONE]\n\n\r\n0\r\n\r\n")));
  EXPECT_EQ(proxy.WaitRecords(1)[0].record.outcome, RequestOutcome::kBroken);
  // The connection is in order.
  client.Say("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.Hear("\r\n\r\n"), StartsWith("HTTP/1.1 204"));
}

TEST(ProxyReplica, AnEventThatBreaksIsEndedBeforeTheError) {
  FakeReplica replica([](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say(std::string(kEvents) + "9\r\ndata: {\"a\r\n");
    peer.Reset();
  });
  RunningProxy proxy({&replica});
  EXPECT_THAT(AskOnce(proxy),
              AllOf(HasSubstr("data: {\"a\r\n"), HasSubstr("\n\ndata: {\"error\"")));
}

TEST(ProxyReplica, AStreamThatStallsIsEnded) {
  FakeReplica replica([](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say(std::string(kEvents) + "9\r\ndata: 1\n\n\r\n");
    peer.WaitClosed();
  });
  ProxyOptions options = TestOptions();
  options.limits.stall_s = 0.05;
  RunningProxy proxy({&replica}, options);
  EXPECT_THAT(AskOnce(proxy), AllOf(HasSubstr("said nothing for too long"), HasSubstr("[DONE]")));
}

TEST(ProxyReplica, OtherAnswersThatBreakAreCut) {
  const std::pair<std::string, std::string> halves[] = {
      {"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", ""},
      {"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", ""},
      {"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "zz\r\n"},
  };
  for (const auto& [begin, end] : halves) {
    Moment begun;
    FakeReplica replica([&](ReplicaPeer& peer) {
      peer.ReadRequest();
      peer.Say(begin);
      EXPECT_TRUE(begun.Wait());
      peer.Say(end);
    });
    RunningProxy proxy({&replica});
    TestClient client(proxy.port());
    client.Say(ChatText());
    EXPECT_THAT(client.Hear("half"), StartsWith("HTTP/1.1 200"));
    begun.Come();
    EXPECT_THAT(client.Hear(), AllOf(EndsWith("<closed>"), Not(HasSubstr("0\r\n\r\n"))));
    EXPECT_EQ(proxy.WaitRecords(1)[0].record.outcome, RequestOutcome::kBroken);
  }
}

TEST(ProxyReplica, ManyComeAndGoUnderLoad) {
  FakeReplica steady(Always(std::string(kOk)));
  RunningProxy proxy({&steady});
  std::atomic<bool> over = false;
  std::thread load([&] {
    TestClient client(proxy.port());
    while (!over) {
      client.Say(ChatText());
      EXPECT_THAT(client.Hear("ok"), StartsWith("HTTP/1.1 200"));
    }
  });
  // All of these refuse connections.
  for (int i = 0; i < 200; ++i) {
    proxy.AddReplica("http://127.0.0.1:1");
    EXPECT_TRUE(proxy.router().Remove("r" + std::to_string(i + 1) + "-"));
  }
  over = true;
  load.join();
}

}  // namespace
}  // namespace sublet
