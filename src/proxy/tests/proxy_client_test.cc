// Clients that err, that attack, that are slow, and that leave.

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

class ProxyClient : public ::testing::Test {
 protected:
  std::string Ask(std::string_view text) {
    TestClient client(proxy_.port());
    client.Say(text);
    return client.Hear();
  }

  FakeReplica replica_{Always(std::string(kOk))};
  RunningProxy proxy_{{&replica_}};
};

TEST_F(ProxyClient, IsRefusedWithEveryKindOfSmuggling) {
  const std::string smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string attempts[] = {
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: "
      "chunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 0\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\n\r\nx\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
      "GET / HTTP/1.1\nHost: x\n\n",
      "GET / HTTP/1.1\r\nHost: x\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n",
      std::string("GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 34),
      "GET http://other/ HTTP/1.1\r\nHost: x\r\n\r\n",
      "GET /../etc HTTP/1.1\r\nHost: x\r\n\r\n",
      "GET / HTTP/1.1\r\n\r\n",
      "GET / HTTP/3.0\r\nHost: x\r\n\r\n",
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n",
  };
  for (const std::string& attempt : attempts) {
    const std::string heard = Ask(attempt + smuggled);
    EXPECT_THAT(
        heard, AllOf(StartsWith("HTTP/1.1 400 Bad Request\r\n"), HasSubstr("connection: close\r\n"),
                     HasSubstr("invalid_request_error"), EndsWith("<closed>")))
        << attempt;
    EXPECT_EQ(heard.find("\nHTTP/1.1 "), std::string::npos) << attempt;
  }
  EXPECT_EQ(replica_.connections(), 0);
  for (const KeptRecord& record : proxy_.WaitRecords(std::size(attempts))) {
    EXPECT_EQ(record.record.outcome, RequestOutcome::kMalformed);
    EXPECT_EQ(record.record.status, 400);
  }
}

TEST_F(ProxyClient, IsToldWhatIsTooLarge) {
  EXPECT_THAT(Ask("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(40'000, 'a') + "\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 431"), HasSubstr("headers_too_large")));
  std::string many = "GET / HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 200; ++i) many += "A: b\r\n";
  EXPECT_THAT(Ask(many + "\r\n"), StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(Ask("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 67108865\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 413"), HasSubstr("request_too_large")));
}

TEST_F(ProxyClient, IsToldWhatIsNotDoneHere) {
  EXPECT_THAT(Ask("CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(Ask("TRACE /x HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(
      Ask("GET /x HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
      AllOf(StartsWith("HTTP/1.1 501"), HasSubstr("upgrade_not_supported")));
  EXPECT_THAT(Ask("GET /x HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n"), StartsWith("HTTP/1.1 417"));
  EXPECT_THAT(Ask("GET /x HTTP/1.1\r\nHost: x\r\nConnection: close, upgrade, http2-settings\r\n"
                  "Upgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n"),
              StartsWith("HTTP/1.1 200"));
}

TEST_F(ProxyClient, SendsJsonThatIsNone) {
  TestClient client(proxy_.port());
  for (const std::string& body :
       {std::string("{"), std::string("{not json"), std::string("{\"model\":\"\xff\"}"),
        "{\"model\":\"m\",\"messages\":" + std::string(5000, '[') + std::string(5000, ']') + "}"}) {
    client.Say(PostText("/v1/chat/completions", body));
    EXPECT_THAT(client.Hear("}}\n"), AllOf(StartsWith("HTTP/1.1 400"), HasSubstr("invalid_json")))
        << body.substr(0, 40);
  }
  // Whatever else it is goes through, and the connection is none the worse.
  client.Say(PostText("/other", "{"));
  EXPECT_THAT(client.Hear("ok"), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(replica_.connections(), 1);
}

TEST_F(ProxyClient, AsksForAModelThatIsNotThere) {
  TestClient client(proxy_.port());
  client.Say(PostText("/v1/chat/completions", R"({"model":"other","messages":[]})"));
  EXPECT_THAT(client.Hear("}}"), AllOf(StartsWith("HTTP/1.1 404"), HasSubstr("model_not_found")));
  EXPECT_EQ(proxy_.WaitRecords(1).front().record.outcome, RequestOutcome::kNoModel);
}

TEST_F(ProxyClient, MayEndItsLastBodyWithAnEmptyLine) {
  TestClient client(proxy_.port());
  client.Say(ChatText() + "\r\n" + ChatText());
  EXPECT_THAT(client.Hear("okHTTP/1.1 200"), StartsWith("HTTP/1.1 200"));
}

TEST(ProxySlowClient, IsNotWaitedForForEver) {
  FakeReplica replica(Always(std::string(kOk)));
  ProxyOptions options = TestOptions();
  options.limits.header_s = 0.05;
  options.limits.body_s = 0.05;
  RunningProxy proxy({&replica}, options);
  TestClient head(proxy.port());
  head.Say("GET / HTTP/1.1\r\n");
  EXPECT_THAT(head.Hear(), AllOf(StartsWith("HTTP/1.1 408"), EndsWith("<closed>")));
  TestClient body(proxy.port());
  body.Say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_THAT(body.Hear(), AllOf(StartsWith("HTTP/1.1 408"), EndsWith("<closed>")));
  TestClient chunks(proxy.port());
  chunks.Say("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab");
  EXPECT_THAT(chunks.Hear(), StartsWith("HTTP/1.1 408"));
}

TEST(ProxySlowClient, GoesWhenItIsIdleForTooLong) {
  ProxyOptions options = TestOptions();
  options.limits.idle_s = 0.05;
  RunningProxy proxy({}, options);
  TestClient client(proxy.port());
  EXPECT_EQ(client.Hear(), "<closed>");
  TestClient second(proxy.port());
  second.Say("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(second.Hear(), AllOf(StartsWith("HTTP/1.1 204"), EndsWith("<closed>")));
}

TEST(ProxySlowClient, StopsTheReplicaWhileItDoesNotRead) {
  // More than all buffers in between hold.
  constexpr std::size_t kBytes = 64u << 20;
  std::atomic<std::size_t> sent = 0;
  FakeReplica replica([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say("HTTP/1.1 200 OK\r\ncontent-length: " + std::to_string(kBytes) + "\r\n\r\n");
    const std::string piece(1u << 20, 'x');
    while (sent < kBytes && peer.Say(piece)) sent += piece.size();
    peer.WaitClosed();
  });
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  EXPECT_THAT(client.Hear("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  // What follows is asked on another connection, and so passes through the same loop after it.
  TestClient other(proxy.port());
  for (int i = 0; i < 200; ++i) {
    other.Say("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    other.Hear("\r\n\r\n");
  }
  EXPECT_LT(sent.load(), kBytes);
  std::size_t heard = 0;
  while (heard < kBytes - 20'000) {
    char chunk[65536];
    const ssize_t got = ::recv(client.fd(), chunk, sizeof chunk, 0);
    ASSERT_GT(got, 0);
    heard += static_cast<std::size_t>(got);
  }
  EXPECT_EQ(proxy.WaitRecords(201).back().record.outcome, RequestOutcome::kServed);
}

TEST(ProxySlowClient, IsCutWhenItTakesNothingForTooLong) {
  FakeReplica replica([](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
    const std::string piece(1u << 20, 'x');
    while (peer.Say(piece)) {
    }
  });
  ProxyOptions options = TestOptions();
  options.limits.client_stall_s = 0.05;
  RunningProxy proxy({&replica}, options);
  TestClient client(proxy.port());
  client.Say(ChatText());
  EXPECT_EQ(proxy.WaitRecords(1).front().record.outcome, RequestOutcome::kClientGone);
}

// What is done for a client that leaves ends at once, wherever it is.

TEST(ProxyLeavingClient, CancelsWhatComputesItsFirstByte) {
  Moment asked;
  Moment cancelled;
  FakeReplica replica([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    asked.Come();
    if (peer.WaitClosed()) cancelled.Come();
  });
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  ASSERT_TRUE(asked.Wait());
  client.Leave();
  EXPECT_TRUE(cancelled.Wait());
  const KeptRecord record = proxy.WaitRecords(1).front();
  EXPECT_EQ(record.record.outcome, RequestOutcome::kClientGone);
  EXPECT_EQ(record.record.status, 0);
  EXPECT_EQ(record.replica, "r0-");
}

TEST(ProxyLeavingClient, CancelsAStream) {
  Moment cancelled;
  FakeReplica replica([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    peer.Say(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        "transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n");
    if (peer.WaitClosed()) cancelled.Come();
  });
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  client.Hear("data: 1\n\n");
  client.Leave();
  EXPECT_TRUE(cancelled.Wait());
  const KeptRecord record = proxy.WaitRecords(1).front();
  EXPECT_EQ(record.record.outcome, RequestOutcome::kClientGone);
  EXPECT_EQ(record.record.status, 200);
}

TEST(ProxyLeavingClient, CountsAsGoneWhenItShutsDownItsSendingHalf) {
  Moment asked;
  Moment cancelled;
  FakeReplica replica([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    asked.Come();
    if (peer.WaitClosed()) cancelled.Come();
  });
  RunningProxy proxy({&replica});
  TestClient client(proxy.port());
  client.Say(ChatText());
  ASSERT_TRUE(asked.Wait());
  client.ShutdownSending();
  EXPECT_TRUE(cancelled.Wait());
  EXPECT_EQ(client.Hear(), "<closed>");
}

TEST(ProxyLeavingClient, IsForgottenInTheMiddleOfItsBody) {
  RunningProxy proxy({});
  TestClient client(proxy.port());
  client.Say("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc");
  EXPECT_TRUE(proxy.WaitCounters([](const ProxyCounters& c) { return c.bodies_bytes > 0; }));
  client.Leave();
  EXPECT_TRUE(proxy.WaitCounters(
      [](const ProxyCounters& c) { return c.bodies_bytes == 0 && c.connections_open == 0; }));
}

TEST(ProxyManyClients, AreBoundedAndTold) {
  ProxyOptions options = TestOptions();
  options.limits.connections_max = 3;
  RunningProxy proxy({}, options);
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<TestClient>(proxy.port()));
    clients.back()->Say("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    clients.back()->Hear("\r\n\r\n");
  }
  TestClient more(proxy.port());
  EXPECT_THAT(more.Hear(), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("too_many_connections")));
  clients.pop_back();
  EXPECT_TRUE(proxy.WaitCounters([](const ProxyCounters& c) { return c.connections_open == 2; }));
  TestClient again(proxy.port());
  again.Say("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(again.Hear("\r\n\r\n"), StartsWith("HTTP/1.1 204"));
}

TEST(ProxyManyClients, ShareTheMemoryForBodies) {
  ProxyOptions options = TestOptions();
  options.limits.bodies_bytes_max = 1000;
  RunningProxy proxy({}, options);
  TestClient first(proxy.port());
  first.Say("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n");
  EXPECT_TRUE(proxy.WaitCounters([](const ProxyCounters& c) { return c.bodies_bytes == 900; }));
  TestClient second(proxy.port());
  second.Say("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n");
  EXPECT_THAT(second.Hear(), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("retry-after: 1\r\n")));
  EXPECT_TRUE(proxy.WaitCounters([](const ProxyCounters& c) { return c.bodies_bytes == 900; }));
}

}  // namespace
}  // namespace sublet
