#include "kube/api_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kube/api_json.h"
#include "kube/api_transport.h"
#include "kube/tests/scripted_api.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Lt;
using ::testing::SizeIs;

// Waits for nothing, and writes down how long it would have.
ApiPatience NoPatience(std::vector<double>* pauses = nullptr) {
  return {.who = "gpu-1", .wait = [pauses](double seconds) {
            if (pauses != nullptr) pauses->push_back(seconds);
            return true;
          }};
}

ApiAnswer Ok(std::string body) {
  return {.parts = {std::move(body)}};
}

ApiAnswer Refusal(int status, const std::string& message) {
  const nlohmann::json json{{"kind", "Status"}, {"code", status}, {"message", message}};
  return {.status = status, .parts = {json.dump()}};
}

ApiClient ClientOf(const ApiPlace& place, std::vector<double>* pauses = nullptr,
                   ApiLimits limits = {}) {
  return ApiClient(ApiTransport(place, limits), NoPatience(pauses));
}

TEST(ApiClient, GetsJsonInOneOrMoreParts) {
  ScriptedApi server([](const ApiCall&) {
    return ApiAnswer{.parts = {R"({"metadata":{"na)", R"(me":"gpu-1"}})"}};
  });
  const auto node = ClientOf(server.Place()).Send({.path = "/api/v1/nodes/gpu-1"});
  ASSERT_TRUE(node) << node.error().message;
  EXPECT_EQ(TextAt(*node, {"metadata", "name"}), "gpu-1");
  EXPECT_EQ(server.Calls()[0].target, "/api/v1/nodes/gpu-1");
}

TEST(ApiClient, ReadsTheTokenForEachRequest) {
  ScriptedApi server([](const ApiCall&) { return Ok("{}"); });
  ApiPlace place = server.Place();
  place.token_file = server.Write("token", "first\n");
  ApiClient client = ClientOf(place);
  ASSERT_TRUE(client.Send({.path = "/x"}));
  server.Write("token", "second");
  ASSERT_TRUE(client.Send({.path = "/x"}));
  EXPECT_EQ(server.Calls()[0].authorization, "Bearer first");
  EXPECT_EQ(server.Calls()[1].authorization, "Bearer second");
}

TEST(ApiClient, TriesAgainWithTheTokenThatWasRotatedMeanwhile) {
  ScriptedApi* self = nullptr;
  ScriptedApi server([&self](const ApiCall& call) {
    if (call.authorization == "Bearer new") return Ok("{}");
    self->Write("token", "new");
    return Refusal(401, "Unauthorized");
  });
  self = &server;
  ApiPlace place = server.Place();
  place.token_file = server.Write("token", "old");
  EXPECT_TRUE(ClientOf(place).Send({.path = "/x"}));
  EXPECT_THAT(server.Calls(), SizeIs(2));
}

TEST(ApiClient, SaysWhatTheServerSaidAndGivesUpOnWhatWontHeal) {
  ScriptedApi server([](const ApiCall&) { return Refusal(403, "nodes is forbidden"); });
  const auto answer = ClientOf(server.Place()).Send({.path = "/api/v1/nodes?limit=1"});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kPermission);
  EXPECT_EQ(answer.error().message, "GET /api/v1/nodes: HTTP status 403: nodes is forbidden");
  EXPECT_THAT(server.Calls(), SizeIs(1));
}

TEST(ApiClient, WaitsAsLongAsTheServerAsksAndLongerEachTime) {
  int calls = 0;
  ScriptedApi server([&calls](const ApiCall&) {
    if (++calls == 1) {
      ApiAnswer busy = Refusal(429, "slow down");
      busy.headers = "Retry-After: 7\r\n";
      return busy;
    }
    return calls < 4 ? Refusal(503, "starting") : Ok("{}");
  });
  std::vector<double> pauses;
  EXPECT_TRUE(ClientOf(server.Place(), &pauses).Send({.path = "/x"}));
  ASSERT_THAT(pauses, SizeIs(3));
  EXPECT_EQ(pauses[0], 7);
  EXPECT_THAT(pauses[1], Lt(pauses[2]));
}

TEST(ApiClient, GivesUpAfterAFewAttempts) {
  ScriptedApi server([](const ApiCall&) { return Refusal(500, "etcd is away"); });
  const auto answer = ClientOf(server.Place()).Send({.path = "/x"});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(answer.error().message, HasSubstr("etcd is away"));
  EXPECT_THAT(server.Calls(), SizeIs(4));
}

TEST(ApiClient, TriesAgainWhereTheConnectionIsCut) {
  int calls = 0;
  ScriptedApi server([&calls](const ApiCall&) {
    if (++calls == 1) return ApiAnswer{.parts = {"{\"a\":"}, .end = ApiAnswer::End::kCut};
    return Ok("{}");
  });
  EXPECT_TRUE(ClientOf(server.Place()).Send({.path = "/x"}));
  EXPECT_EQ(calls, 2);
}

TEST(ApiClient, ASlowServerIsGivenUp) {
  ScriptedApi server(
      [](const ApiCall&) { return ApiAnswer{.parts = {"{"}, .end = ApiAnswer::End::kHold}; });
  const auto answer = ClientOf(server.Place(), nullptr, {.answer_s = 0.05}).Send({.path = "/x"});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kUnavailable);
}

TEST(ApiClient, AnAnswerHasALimit) {
  ScriptedApi server([](const ApiCall&) { return Ok("\"" + std::string(5000, 'x') + "\""); });
  const auto answer = ClientOf(server.Place(), nullptr, {.bytes_max = 1000}).Send({.path = "/x"});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(answer.error().message, HasSubstr("more than 1000 bytes"));
}

TEST(ApiClient, NoServerIsUnavailable) {
  ApiPlace place;
  {
    const ScriptedApi server([](const ApiCall&) { return Ok("{}"); });
    place = server.Place();
  }
  const auto answer = ClientOf(place).Send({.path = "/x"});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kUnavailable);
}

TEST(ApiClient, TrustsTheGivenAuthorityAndNoOther) {
  ScriptedApi server([](const ApiCall&) { return Ok("{}"); }, ApiSecurity::kTls);
  EXPECT_TRUE(ClientOf(server.Place()).Send({.path = "/x"}));
  const ScriptedApi other([](const ApiCall&) { return Ok("{}"); }, ApiSecurity::kTls);
  ApiPlace place = server.Place();
  place.ca_file = other.Place().ca_file;
  const auto answer = ClientOf(place).Send({.path = "/x"});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(server.Calls(), SizeIs(1));
}

TEST(ApiClient, AppliesAndMergesUnderItsName) {
  ScriptedApi server([](const ApiCall&) { return Ok("{}"); });
  ApiClient client = ClientOf(server.Place());
  ASSERT_TRUE(client.Send(ApplyRequest("/api/v1/nodes/gpu-1", "sublet-labels", {{"a", 1}})));
  ASSERT_TRUE(client.Send(MergeRequest("/api/v1/nodes/gpu-1", "sublet agent", {{"b", nullptr}})));
  const std::vector<ApiCall> calls = server.Calls();
  EXPECT_EQ(calls[0].method, "PATCH");
  EXPECT_EQ(calls[0].target, "/api/v1/nodes/gpu-1?fieldManager=sublet-labels&force=true");
  EXPECT_EQ(calls[0].content_type, "application/apply-patch+yaml");
  EXPECT_EQ(calls[0].body, R"({"a":1})");
  EXPECT_EQ(calls[1].target, "/api/v1/nodes/gpu-1?fieldManager=sublet%20agent");
  EXPECT_EQ(calls[1].content_type, "application/merge-patch+json");
  EXPECT_EQ(calls[1].body, R"({"b":null})");
}

TEST(ApiPlace, IsFoundInAPod) {
  const ScriptedApi folder([](const ApiCall&) { return Ok("{}"); });
  const std::string token = folder.Write("token", "secret");
  folder.Write("namespace", "gpu-system\n");
  const std::string where = token.substr(0, token.rfind('/'));
  const auto environment = [](const char* name) -> std::optional<std::string> {
    return std::string(name) == "KUBERNETES_SERVICE_HOST" ? "fd00::1" : "443";
  };
  const auto place = InClusterApi(environment, where);
  ASSERT_TRUE(place);
  EXPECT_EQ(place->server, "https://[fd00::1]:443");
  EXPECT_EQ(place->token_file, token);
  EXPECT_EQ(place->name_space, "gpu-system");
  EXPECT_FALSE(InClusterApi([](const char*) { return std::nullopt; }, where));
}

TEST(ApiPlace, ATokenDoesntTravelInTheClear) {
  EXPECT_TRUE(CheckApiPlace({.server = "https://10.0.0.1:6443", .token_file = "/t"}));
  EXPECT_TRUE(CheckApiPlace({.server = "http://127.0.0.1:8001", .token_file = "/t"}));
  EXPECT_TRUE(CheckApiPlace({.server = "http://10.0.0.1:8001"}));
  EXPECT_FALSE(CheckApiPlace({.server = "http://10.0.0.1:8001", .token_file = "/t"}));
  EXPECT_FALSE(CheckApiPlace({.server = "ftp://10.0.0.1"}));
  EXPECT_FALSE(CheckApiPlace({.server = "https://"}));
  EXPECT_FALSE(CheckApiPlace({.server = "https://10.0.0.1/api"}));
}

TEST(ApiJson, HasLimits) {
  EXPECT_TRUE(ParseApiJson(R"({"a":"[[[[\"]"})", "x"));
  EXPECT_FALSE(ParseApiJson("{", "x"));
  EXPECT_FALSE(ParseApiJson(std::string(100'000, '['), "x"));
  const auto deep = ParseApiJson(std::string(65, '[') + std::string(65, ']'), "a node");
  ASSERT_FALSE(deep);
  EXPECT_EQ(deep.error().message, "a node: nested more than 64 levels");
}

}  // namespace
}  // namespace sublet
