#include "proxy/route_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/files.h"
#include "proxy/fetch.h"
#include "proxy/tests/scripted_server.h"
#include "route/policy.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

constexpr const char* kChat = R"({"model":"llama","messages":[{"role":"user","content":"hi"}]})";
constexpr const char* kAnswer =
    R"({"object":"chat.completion","model":"llama","choices":[],"usage":{"prompt_tokens":9,)"
    R"("completion_tokens":2,"total_tokens":11}})";

// Answers as an engine does.
bool Engine(const ScriptedRequest& request, ScriptedPeer& peer) {
  if (request.Target() == "/v1/models")
    return peer.Say(Answer(200, R"({"data":[{"id":"llama"}]})"));
  if (request.Target() == "/v1/chat/completions") return peer.Say(Answer(200, kAnswer));
  return peer.Say(Answer(request.Target() == "/health" ? 200 : 404, ""));
}

TEST(RouteSettings, NameThePoliciesThatThereAre) {
  std::vector<std::string> words(RoutePolicyWords().begin(), RoutePolicyWords().end());
  std::vector<std::string> names = PolicyNames();
  std::sort(words.begin(), words.end());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(words, names);
}

TEST(RouteSettings, SayWhatWaitsForARestart) {
  RouteConfig before;
  RouteConfig now = before;
  now.policy = "session";
  now.limits.connections_max = 7;
  EXPECT_THAT(WhatNeedsRestart(before, now), IsEmpty());
  now.listen.port = 1;
  now.threads = 3;
  now.cache_bytes_max = 8 << 20;
  EXPECT_THAT(WhatNeedsRestart(before, now), ElementsAre("listen", "threads", "cache"));
}

// A service on this test's thread of its own, and a client.
class RouteServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "route_service.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    if (thread_.joinable()) {
      service_->Stop();
      thread_.join();
    }
    std::filesystem::remove_all(folder_);
  }

  std::string File() const { return folder_ + "/route.yaml"; }
  void Write(const std::string& text) const {
    ASSERT_TRUE(WriteFileAtomically(File(), "version: sublet.route/v1\n" + text));
  }
  RouteServiceHooks Hooks() const {
    RouteServiceHooks hooks;
    hooks.load = [path = File()]() -> Result<RouteConfig> {
      ASSIGN_OR_RETURN(const std::string text, ReadFile(path, 1 << 20));
      ASSIGN_OR_RETURN(RouteConfig config, ParseRouteConfig(text, path));
      config.listen.port = 0;
      config.threads = 2;
      config.health.interval_s = 0.02;
      return config;
    };
    hooks.files = {File()};
    hooks.signals = false;
    return hooks;
  }
  void Start(const std::string& text) {
    Write(text);
    auto service = RouteService::Open(Hooks());
    ASSERT_TRUE(service) << service.error().message;
    service_ = std::move(*service);
    const Status started = service_->Start();
    ASSERT_TRUE(started) << started.error().message;
    thread_ = std::thread([this] { service_->Run(); });
  }

  FetchResponse Ask(const std::string& method, const std::string& target,
                    const std::string& body = "") const {
    asio::io_context loop;
    const HttpUrl url{.tls = false, .host = "127.0.0.1", .port = service_->port(), .path = {}};
    FetchConnection connection(loop, FetchTarget::At(url));
    FetchResponse response;
    const auto ask = [](FetchConnection& to, FetchRequest what, FetchResponse& out) -> Task<void> {
      const Result<FetchResponse> answer = co_await to.Send(what);
      EXPECT_TRUE(answer) << answer.error().message;
      if (answer) out = *answer;
    };
    FetchRequest request{.method = method, .target = target, .body = body};
    asio::co_spawn(loop, ask(connection, std::move(request), response), EndsTheProgram);
    loop.run();
    return response;
  }
  bool Eventually(const std::function<bool()>& what) const {
    const auto end = std::chrono::steady_clock::now() + 20s;
    while (std::chrono::steady_clock::now() < end) {
      if (what()) return true;
      std::this_thread::yield();
    }
    return false;
  }

  std::string folder_;
  std::unique_ptr<RouteService> service_;
  std::thread thread_;
};

TEST_F(RouteServiceTest, ServesReplicasOfItsFileAndFollowsIt) {
  ScriptedServer one(Engine);
  ScriptedServer two(Engine);
  Start("replicas: [{name: one, url: '" + one.url() + "'}]\n");
  EXPECT_TRUE(Eventually([&] { return Ask("GET", "/ready").status == 200; }));
  const FetchResponse answer = Ask("POST", "/v1/chat/completions", kChat);
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, kAnswer);
  EXPECT_TRUE(
      Eventually([&] { return Ask("GET", "/v1/models").body.find("llama") != std::string::npos; }));
  Write("replicas: [{name: two, url: '" + two.url() + "'}]\n");
  EXPECT_TRUE(Eventually([&] {
    const std::string urls = Ask("GET", "/list_workers").body;
    return urls.find(two.url()) != std::string::npos && urls.find(one.url()) == std::string::npos;
  }));
  EXPECT_TRUE(Eventually([&] { return Ask("POST", "/v1/chat/completions", kChat).status == 200; }));
}

TEST_F(RouteServiceTest, KeepsWhatWorksWhereTheFileDoesNot) {
  ScriptedServer one(Engine);
  Start("replicas: [{name: one, url: '" + one.url() + "'}]\n");
  EXPECT_TRUE(Eventually([&] { return Ask("GET", "/ready").status == 200; }));
  Write("replicas: [{nme: one}]\n");
  EXPECT_TRUE(Eventually([&] {
    return Ask("GET", "/workers").body.find("did you mean") != std::string::npos ||
           Ask("GET", "/workers").body.find("unknown key") != std::string::npos;
  }));
  EXPECT_THAT(Ask("GET", "/metrics").body, HasSubstr("sublet_route_config_ok 0\n"));
  EXPECT_EQ(Ask("POST", "/v1/chat/completions", kChat).status, 200);
}

TEST_F(RouteServiceTest, TakesWorkersInAndOutUnderLoad) {
  ScriptedServer one(Engine);
  ScriptedServer two(Engine);
  Start("replicas: [{name: one, url: '" + one.url() + "', models: [llama]}]\n");
  EXPECT_TRUE(Eventually([&] { return Ask("GET", "/ready").status == 200; }));
  std::atomic<bool> done = false;
  std::atomic<int> served = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back([&] {
      while (!done) {
        const int status = Ask("POST", "/v1/chat/completions", kChat).status;
        EXPECT_EQ(status, 200);
        served += status == 200 ? 1 : 0;
      }
    });
  }
  const std::string worker = R"({"name":"two","models":["llama"],"url":")" + two.url() + "\"}";
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(Ask("POST", "/workers", worker).status, 201);
    EXPECT_EQ(Ask("GET", "/workers").status, 200);
    EXPECT_EQ(Ask("GET", "/metrics").status, 200);
    EXPECT_EQ(Ask("DELETE", "/workers/two").status, 200);
  }
  done = true;
  for (std::thread& client : clients) client.join();
  EXPECT_GT(served, 0);
}

TEST_F(RouteServiceTest, RefusesSimulatedReplicasWithoutEngines) {
  Write("replicas: [{name: demo/0, simulate: {}}]\n");
  const auto service = RouteService::Open(Hooks());
  ASSERT_FALSE(service);
  EXPECT_EQ(service.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(service.error().message, HasSubstr("demo/0"));
}

}  // namespace
}  // namespace sublet
