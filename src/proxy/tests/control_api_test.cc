#include "proxy/control_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <nlohmann/json.hpp>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ControlApiTest : public ::testing::Test {
 protected:
  ControlApiTest() : router_(*Router::Make({}, caches_)), fleet_(*router_, {}, 10) {
    ControlDeps deps;
    deps.loop = &loop_;
    deps.router = router_.get();
    deps.fleet = &fleet_;
    deps.metrics = &metrics_;
    deps.view = [this] {
      RouteView view;
      view.policy = "cost";
      view.replicas = router_->Replicas(0);
      return view;
    };
    deps.facts = [this] { return std::make_shared<const ControlFacts>(facts_); };
    api_ = std::make_unique<ControlApi>(deps);
    ReplicaSpec spec;
    spec.name = "chat/0";
    spec.url = "http://10.0.0.1:8000";
    spec.models = {"llama"};
    fleet_.Tell(kFromConfig, {spec}, 0);
  }

  ControlAnswer Ask(const std::string& method, const std::string& target,
                    const std::string& body = "", const std::string& client = "127.0.0.1") {
    ControlRequest request;
    request.method = method;
    request.path = target.substr(0, target.find('?'));
    if (request.path.size() < target.size()) request.query = target.substr(request.path.size() + 1);
    request.body = body;
    request.client = client;
    ControlAnswer answer;
    const auto ask = [](ControlApi& api, ControlRequest what, ControlAnswer& out) -> Task<void> {
      out = co_await api.Answer(std::move(what));
    };
    asio::co_spawn(loop_, ask(*api_, std::move(request), answer), EndsTheProgram);
    loop_.restart();
    loop_.run();
    return answer;
  }
  nlohmann::json Json(const std::string& method, const std::string& target,
                      const std::string& body = "") {
    return nlohmann::json::parse(Ask(method, target, body).body);
  }

  asio::io_context loop_;
  FleetCache caches_;
  std::unique_ptr<Router> router_;
  ReplicaFleet fleet_;
  RouteMetrics metrics_;
  ControlFacts facts_;
  std::unique_ptr<ControlApi> api_;
};

TEST(ControlAccess, SaysWhoMayAskForWhat) {
  using enum PathAccess;
  EXPECT_EQ(ControlApi::Access("GET", "/health"), kOpen);
  EXPECT_EQ(ControlApi::Access("GET", "/ready"), kOpen);
  EXPECT_EQ(ControlApi::Access("GET", "/metrics"), kOpen);
  EXPECT_EQ(ControlApi::Access("GET", "/v1/models"), kClient);
  EXPECT_EQ(ControlApi::Access("GET", "/workers"), kClient);
  EXPECT_EQ(ControlApi::Access("GET", "/workers/a/b"), kClient);
  EXPECT_EQ(ControlApi::Access("GET", "/list_workers"), kClient);
  EXPECT_EQ(ControlApi::Access("POST", "/workers"), kAdmin);
  EXPECT_EQ(ControlApi::Access("DELETE", "/workers/a"), kAdmin);
  EXPECT_EQ(ControlApi::Access("POST", "/add_worker"), kAdmin);
  EXPECT_EQ(ControlApi::Access("GET", "/remove_worker"), kAdmin);
  EXPECT_EQ(ControlApi::Access("POST", "/v1/chat/completions"), kReplicas);
  EXPECT_EQ(ControlApi::Access("GET", "/workersx"), kReplicas);
  EXPECT_EQ(ControlApi::Access("GET", "/"), kReplicas);
}

TEST_F(ControlApiTest, IsReadyWithOneReplicaThatIsWell) {
  EXPECT_EQ(Ask("GET", "/health").status, 200);
  const ControlAnswer not_yet = Ask("GET", "/ready");
  EXPECT_EQ(not_yet.status, 503);
  EXPECT_THAT(not_yet.body, HasSubstr("1 not asked yet"));
  router_->OnHealth(*router_->SlotOf("chat/0"), ReplicaHealth::kUnhealthy, "refused", 0);
  EXPECT_THAT(Ask("GET", "/ready").body, HasSubstr("1 unhealthy"));
  router_->OnHealth(*router_->SlotOf("chat/0"), ReplicaHealth::kHealthy, "", 0);
  EXPECT_EQ(Ask("GET", "/ready").status, 200);
  fleet_.Tell(kFromConfig, {}, 0);
  EXPECT_THAT(Ask("GET", "/ready").body, HasSubstr("draining"));
  fleet_.Tick(0);
  EXPECT_THAT(Ask("GET", "/ready").body, HasSubstr("there are no replicas"));
}

TEST_F(ControlApiTest, ListsModelsAndAliasesOfThose) {
  facts_.aliases = {{"gpt-4o", "llama"}, {"none", "absent"}, {"llama", "llama"}};
  facts_.started_s = 17;
  const auto models = Json("GET", "/v1/models");
  EXPECT_EQ(models["object"], "list");
  ASSERT_EQ(models["data"].size(), 2u);
  EXPECT_EQ(models["data"][0]["id"], "llama");
  EXPECT_EQ(models["data"][0]["created"], 17);
  EXPECT_EQ(models["data"][1]["id"], "gpt-4o");
  EXPECT_EQ(models["data"][1]["root"], "llama");
}

TEST_F(ControlApiTest, TellsEverythingOfEachReplica) {
  facts_.simulated = {"chat/0"};
  facts_.config_error = "route.yaml:3:1: unknown key";
  const auto workers = Json("GET", "/workers");
  EXPECT_EQ(workers["policy"], "cost");
  EXPECT_THAT(workers["config"]["why"], StartsWith("route.yaml"));
  ASSERT_EQ(workers["workers"].size(), 1u);
  const auto& worker = workers["workers"][0];
  EXPECT_EQ(worker["name"], "chat/0");
  EXPECT_EQ(worker["simulated"], true);
  EXPECT_EQ(worker["cache"]["knowledge"], "APPROX");
  EXPECT_EQ(worker["load"]["in_flight"], 0);
  EXPECT_EQ(Json("GET", "/workers/chat/0"), worker);
  EXPECT_EQ(Json("GET", "/workers/chat%2F0"), worker);
  EXPECT_EQ(Ask("GET", "/workers/none").status, 404);
}

TEST_F(ControlApiTest, AddsAndRemovesWorkers) {
  const ControlAnswer added =
      Ask("POST", "/workers", R"({"url":"http://10.0.0.2:8000/","name":"x","models":["llama"]})");
  EXPECT_EQ(added.status, 201) << added.body;
  EXPECT_EQ(Json("GET", "/workers/x")["source"], "api");
  EXPECT_EQ(Ask("POST", "/workers", R"({"url":"http://10.0.0.2:8000"})").status, 409);
  EXPECT_EQ(Ask("DELETE", "/workers/x").status, 200);
  EXPECT_EQ(Ask("DELETE", "/workers/x").status, 404);
  EXPECT_EQ(Ask("DELETE", "/workers/chat/0").status, 409);
}

TEST_F(ControlApiTest, RefusesWhatIsNoWorker) {
  for (const char* body : {"", "{}", "[1]", R"({"url":"ftp://a"})", R"({"url":"http://a","nme":1})",
                           R"({"url":"http://a","source":"config"})"}) {
    const ControlAnswer answer = Ask("POST", "/workers", body);
    EXPECT_EQ(answer.status, 400) << body;
    EXPECT_THAT(answer.body, HasSubstr("body:")) << body;
  }
  EXPECT_EQ(Ask("POST", "/workers", R"({"name":"s","simulate":{}})").status, 501);
  EXPECT_EQ(Ask("PUT", "/workers", "{}").status, 405);
  EXPECT_EQ(Ask("POST", "/health").status, 405);
}

TEST_F(ControlApiTest, SpeaksAsSglangsRouterDoes) {
  EXPECT_EQ(Ask("POST", "/add_worker?url=http://10.0.0.3:8000").status, 201);
  EXPECT_EQ(Ask("POST", "/add_worker?a=1&url=http%3A%2F%2F10.0.0.4%3A8000").status, 201);
  EXPECT_THAT(Json("GET", "/list_workers")["urls"],
              ElementsAre("http://10.0.0.3:8000", "http://10.0.0.4:8000", "http://10.0.0.1:8000"));
  EXPECT_EQ(Ask("POST", "/remove_worker?url=http://10.0.0.3:8000").status, 200);
  EXPECT_EQ(Json("GET", "/list_workers")["urls"].size(), 2u);
  EXPECT_EQ(Ask("POST", "/add_worker").status, 400);
  EXPECT_EQ(Ask("GET", "/add_worker?url=http://10.0.0.5").status, 405);
}

TEST_F(ControlApiTest, LetsOnlyThisMachineChangeWorkersWithoutKeys) {
  const std::string body = R"({"url":"http://10.0.0.2:8000"})";
  for (const char* client : {"10.0.0.9", "::ffff:10.0.0.9", "fe80::1", "", "garbage"}) {
    EXPECT_EQ(Ask("POST", "/workers", body, client).status, 403) << client;
    EXPECT_EQ(Ask("POST", "/remove_worker?url=http://10.0.0.1:8000", "", client).status, 403);
    EXPECT_EQ(Ask("GET", "/workers", "", client).status, 200);
  }
  EXPECT_EQ(Ask("POST", "/workers", body, "::ffff:127.0.0.1").status, 201);
  EXPECT_EQ(Ask("DELETE", "/workers/10.0.0.2:8000", "", "::1").status, 200);
  // With keys, the data plane has asked for an administrator's before it called.
  facts_.keys = true;
  EXPECT_EQ(Ask("POST", "/workers", body, "10.0.0.9").status, 201);
}

TEST_F(ControlApiTest, ShowsMetrics) {
  const ControlAnswer answer = Ask("GET", "/metrics");
  EXPECT_THAT(answer.content_type, StartsWith("text/plain; version=0.0.4"));
  EXPECT_THAT(answer.body, HasSubstr("sublet_route_replicas 1\n"));
}

}  // namespace
}  // namespace sublet
