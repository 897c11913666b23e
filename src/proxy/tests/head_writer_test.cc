#include "proxy/head_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "proxy/api_key_ring.h"
#include "proxy/openai_error.h"

namespace sublet::internal {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(ReplicaUrl, IsTakenApart) {
  const ReplicaUrl plain = ParseReplicaUrl("http://127.0.0.1:8001").value();
  EXPECT_FALSE(plain.tls);
  EXPECT_EQ(plain.host, "127.0.0.1");
  EXPECT_EQ(plain.port, 8001);
  EXPECT_EQ(plain.authority, "127.0.0.1:8001");
  EXPECT_EQ(plain.prefix, "");
  const ReplicaUrl named = ParseReplicaUrl("HTTPS://engine.svc/a/b/").value();
  EXPECT_TRUE(named.tls);
  EXPECT_EQ(named.port, 443);
  EXPECT_EQ(named.authority, "engine.svc");
  EXPECT_EQ(named.prefix, "/a/b");
  EXPECT_EQ(ParseReplicaUrl("http://[::1]:80/")->host, "::1");
  EXPECT_EQ(ParseReplicaUrl("http://[::1]:80/")->authority, "[::1]:80");
}

TEST(ReplicaUrl, RefusesWhatIsNone) {
  for (const char* bad :
       {"", "x", "127.0.0.1:80", "ftp://x", "http://", "http://u:p@x/", "http://x/?q",
        "http://x/#f", "http://x:0", "http://x:99999", "http://x/a/../b", "http://x y/"}) {
    EXPECT_FALSE(ParseReplicaUrl(bad)) << bad;
  }
}

std::string RequestHead(std::string_view fields, RequestHeadOptions options = {}) {
  static const ReplicaUrl url = ParseReplicaUrl("http://replica:8000/base").value();
  const std::string text =
      "POST /v1/x?q HTTP/1.1\r\nHost: router\r\n" + std::string(fields) + "\r\n";
  MessageReader<true> reader;
  EXPECT_TRUE(reader.ReadHead(text));
  options.url = &url;
  std::string out;
  WriteRequestHead(reader.head(), options, out);
  return out;
}

TEST(HeadWriter, MakesTheRequestAnew) {
  EXPECT_EQ(RequestHead("X-A: 1\r\nContent-Length: 9\r\nAuthorization: Bearer k\r\n",
                        {.body_bytes = 7, .request_id = "id"}),
            "POST /base/v1/x?q HTTP/1.1\r\nhost: replica:8000\r\nX-A: 1\r\n"
            "Authorization: Bearer k\r\ncontent-length: 7\r\nx-request-id: id\r\n\r\n");
}

TEST(HeadWriter, KeepsWhatBelongsToTheConnection) {
  const std::string out = RequestHead(
      "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
      "Trailer: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nExpect: 100-continue\r\n"
      "Proxy-Authorization: secret\r\nProxy-Connection: close\r\nX-Sublet-Session: s\r\n"
      "Transfer-Encoding: chunked\r\n");
  EXPECT_EQ(out, "POST /base/v1/x?q HTTP/1.1\r\nhost: replica:8000\r\ncontent-length: 0\r\n\r\n");
}

TEST(HeadWriter, PutsItsOwnKeyInPlaceOfTheClients) {
  const std::string out =
      RequestHead("Authorization: Bearer client\r\ntraceparent: 00-1\r\n",
                  {.pass_authorization = false, .bearer = "ours", .pass_trace = false});
  EXPECT_THAT(out, HasSubstr("authorization: Bearer ours\r\n"));
  EXPECT_THAT(out, Not(HasSubstr("client")));
  EXPECT_THAT(out, Not(HasSubstr("traceparent")));
}

TEST(DecisionJson, IsBoundedAndFitsAHeader) {
  Decision decision;
  decision.replica = "chat/\xff\n";
  decision.policy = "cost";
  decision.reason = std::string(10'000, 'r');
  for (int i = 0; i < 1000; ++i) {
    decision.candidates.push_back({.replica = "chat/" + std::to_string(i), .cost_ms = 1.23456789});
  }
  const std::string text = DecisionJson(decision);
  EXPECT_LE(text.size(), kDecisionBytesMax);
  for (const char c : text) EXPECT_TRUE(c >= 0x20 && c < 0x7f);
  const nlohmann::json json = nlohmann::json::parse(text);
  EXPECT_GT(json["candidates"].size(), 5u);
  EXPECT_EQ(json["candidates"][0]["cost_ms"], 1.234);
}

TEST(ApiKeyRing, LetsInWhatItKnows) {
  const ApiKeyRing ring({MakeApiKey("sk-a", "shop"), MakeApiKey("sk-b", "bank", true)});
  ASSERT_NE(ring.Find("Bearer sk-a"), nullptr);
  EXPECT_EQ(ring.Find("bearer sk-a")->tenant, "shop");
  EXPECT_TRUE(ring.Find("Bearer sk-b")->admin);
  for (const char* bad :
       {"", "Bearer", "Bearer ", "Bearer sk-c", "Bearer sk-a ", "Basic sk-a", "sk-a"}) {
    EXPECT_EQ(ring.Find(bad), nullptr) << bad;
  }
}

TEST(ApiKeyRing, TakesHashes) {
  const ApiKey key = MakeApiKey("abc", "t");
  EXPECT_EQ(
      MakeApiKeyFromHash("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015AD", "t")
          .value(),
      key);
  EXPECT_FALSE(MakeApiKeyFromHash("abc", "t"));
  EXPECT_FALSE(MakeApiKeyFromHash(std::string(64, 'g'), "t"));
}

TEST(OpenAiError, HasTheFormThatClientsKnow) {
  const nlohmann::json body = nlohmann::json::parse(OpenAiErrorBody({429, "queue_full", "a\xff"}));
  EXPECT_EQ(body["error"]["type"], "rate_limit_error");
  EXPECT_EQ(body["error"]["code"], "queue_full");
  EXPECT_TRUE(body["error"]["param"].is_null());
  const OpenAiError broken{502, "x", "gone"};
  EXPECT_EQ(OpenAiErrorEvents(RequestKind::kChat, broken, false),
            "data: {\"error\":{\"message\":\"gone\",\"type\":\"server_error\",\"param\":null,"
            "\"code\":\"x\"}}\n\ndata: [DONE]\n\n");
  EXPECT_THAT(OpenAiErrorEvents(RequestKind::kChat, broken, true), ::testing::StartsWith("\n\n"));
  EXPECT_THAT(OpenAiErrorEvents(RequestKind::kResponses, broken, false),
              ::testing::StartsWith("event: error\ndata: "));
}

}  // namespace
}  // namespace sublet::internal
