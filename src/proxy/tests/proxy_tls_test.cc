// TLS on both sides: one proxy is the client of another.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proxy/tests/running_proxy.h"
#include "proxy/tests/test_certificate.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// client, plain → front, TLS → back, plain → replica
class ProxyTls : public ::testing::Test {
 protected:
  ProxyOptions BackOptions() const {
    ProxyOptions options = TestOptions();
    options.tls = certificate_.files();
    return options;
  }
  ProxyOptions FrontOptions() const {
    ProxyOptions options = TestOptions();
    options.upstream_ca_file = certificate_.files().certificate_chain;
    return options;
  }

  TestCertificate certificate_;
  FakeReplica replica_{EchoRequest()};
  RunningProxy back_{{&replica_}, BackOptions()};
};

TEST_F(ProxyTls, PassesRequestsAndKeepsConnections) {
  for (const char* host : {"localhost", "127.0.0.1"}) {
    RunningProxy front({}, FrontOptions());
    front.AddReplica("https://" + std::string(host) + ":" + std::to_string(back_.port()));
    TestClient client(front.port());
    for (int i = 0; i < 10; ++i) {
      client.Say(ChatText());
      EXPECT_THAT(client.Hear(kChatBody), StartsWith("HTTP/1.1 200"));
    }
    EXPECT_EQ(front.server().Counters().upstream_connects, 1) << host;
    EXPECT_EQ(front.server().Counters().upstream_reused, 9) << host;
  }
}

TEST_F(ProxyTls, PassesLargeBodiesBothWays) {
  RunningProxy front({}, FrontOptions());
  front.AddReplica("https://localhost:" + std::to_string(back_.port()));
  TestClient client(front.port());
  const std::string body(3'000'000, 'b');
  std::thread sender([&] { client.Say(PostText("/x", body + "the end")); });
  EXPECT_THAT(client.Hear("the end"), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr(body)));
  sender.join();
}

TEST_F(ProxyTls, BelievesNoStranger) {
  ProxyOptions options = TestOptions();  // The system's authorities.
  RunningProxy front({}, options);
  front.AddReplica("https://localhost:" + std::to_string(back_.port()));
  TestClient client(front.port());
  client.Say(ChatText());
  EXPECT_THAT(client.Hear("}}\n"),
              AllOf(StartsWith("HTTP/1.1 502"), HasSubstr("certificate verify failed")));
  options.upstream_tls_verify = false;
  ASSERT_TRUE(front.server().Reload(options));
  client.Say(ChatText());
  EXPECT_THAT(client.Hear(kChatBody), StartsWith("HTTP/1.1 200"));
}

TEST_F(ProxyTls, IsNoWorseForAClientThatSpeaksPlainly) {
  TestClient client(back_.port());
  client.Say(ChatText());
  EXPECT_THAT(client.Hear(), EndsWith("<closed>"));
  TestClient silent(back_.port());
  silent.Say("\x16\x03\x01");
  silent.Leave();
  EXPECT_TRUE(back_.WaitCounters([](const ProxyCounters& c) { return c.connections_open == 0; }));
}

TEST_F(ProxyTls, ReloadsItsCertificate) {
  const TestCertificate other;
  RunningProxy front({}, FrontOptions());
  front.AddReplica("https://localhost:" + std::to_string(back_.port()));
  const auto ask = [&] {
    TestClient client(front.port());
    client.Say(ChatText("Connection: close\r\n"));
    return client.Hear().substr(0, 12);
  };
  EXPECT_EQ(ask(), "HTTP/1.1 200");
  ProxyOptions options = BackOptions();
  options.tls.private_key = other.files().private_key;  // Not this certificate's.
  EXPECT_EQ(back_.server().Reload(options).error().code, ErrorCode::kInvalid);
  options.tls.private_key = "/does/not/exist";
  EXPECT_EQ(back_.server().Reload(options).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(ask(), "HTTP/1.1 200");
  options.tls = other.files();
  ASSERT_TRUE(back_.server().Reload(options));
  // The connection of the pool goes on as it was; new ones see the new certificate.
  EXPECT_EQ(ask(), "HTTP/1.1 200");
  RunningProxy stranger({}, FrontOptions());
  stranger.AddReplica("https://localhost:" + std::to_string(back_.port()));
  TestClient client(stranger.port());
  client.Say(ChatText());
  EXPECT_THAT(client.Hear("}}\n"), StartsWith("HTTP/1.1 502"));
}

TEST_F(ProxyTls, CancelsWhatIsDoneForAClientThatLeaves) {
  Moment asked;
  Moment cancelled;
  FakeReplica slow([&](ReplicaPeer& peer) {
    peer.ReadRequest();
    asked.Come();
    if (peer.WaitClosed()) cancelled.Come();
  });
  RunningProxy back({&slow}, BackOptions());
  RunningProxy front({}, FrontOptions());
  front.AddReplica("https://localhost:" + std::to_string(back.port()));
  TestClient client(front.port());
  client.Say(ChatText());
  ASSERT_TRUE(asked.Wait());
  client.Leave();
  EXPECT_TRUE(cancelled.Wait());
}

}  // namespace
}  // namespace sublet
