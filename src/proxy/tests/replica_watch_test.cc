#include "proxy/replica_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "proxy/tests/scripted_server.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

TEST(ModelsIn, AreTheIdsOfTheList) {
  EXPECT_THAT(*ModelsIn(R"({"object":"list","data":[{"id":"b"},{"id":"a"},{"id":"b"},{"x":1},7,
                            {"id":"with space"},{"id":""}]})"),
              ElementsAre("a", "b"));
  EXPECT_THAT(*ModelsIn(R"({"data":[]})"), IsEmpty());
  for (const char* body : {"", "[]", "{}", R"({"data":{}})", "<html>"}) {
    EXPECT_FALSE(ModelsIn(body)) << body;
  }
}

// Runs a loop until `enough` is true, or five seconds.
class ReplicaWatchTest : public ::testing::Test {
 protected:
  ReplicaWatchTest() {
    settings_.health.interval_s = 0.01;
    settings_.health.timeout_s = 1;
    settings_.scrape.interval_s = 0.01;
    settings_.models_interval_s = 0.01;
    reports_.health = [this](ReplicaSlot slot, ReplicaHealth health, std::string why) {
      healths_.emplace_back(slot, health, std::move(why));
      Look();
    };
    reports_.metrics = [this](ReplicaSlot, std::string_view text) {
      metrics_.emplace_back(text);
      Look();
    };
    reports_.models = [this](ReplicaSlot, std::vector<std::string> models) {
      models_.push_back(std::move(models));
      Look();
    };
  }

  void RunUntil(std::function<bool()> enough) {
    enough_ = std::move(enough);
    asio::steady_timer limit(loop_, 5s);
    limit.async_wait([this](const boost::system::error_code& error) {
      if (!error) loop_.stop();
    });
    loop_.restart();
    loop_.run();
    EXPECT_TRUE(enough_());
  }
  void Look() {
    if (enough_ && enough_()) loop_.stop();
  }
  static ReplicaSpec SpecOf(const ScriptedServer& server) {
    ReplicaSpec spec;
    spec.name = "chat/0";
    spec.url = server.url();
    return spec;
  }

  asio::io_context loop_;
  WatchSettings settings_;
  ReplicaReports reports_;
  std::vector<std::tuple<ReplicaSlot, ReplicaHealth, std::string>> healths_;
  std::vector<std::string> metrics_;
  std::vector<std::vector<std::string>> models_;
  std::function<bool()> enough_;
};

TEST_F(ReplicaWatchTest, ReportsHealthMetricsAndModels) {
  ScriptedServer server([](const ScriptedRequest& request, ScriptedPeer& peer) {
    if (request.Target() == "/health") return peer.Say(Answer(200, ""));
    if (request.Target() == "/metrics") return peer.Say(Answer(200, "vllm:x 1\n", "text/plain"));
    return peer.Say(Answer(200, R"({"data":[{"id":"llama"}]})"));
  });
  settings_.bearer = "sk-upstream";
  ReplicaWatch watch(loop_, settings_, 1, reports_);
  watch.Add(7, SpecOf(server));
  RunUntil([this] { return metrics_.size() >= 2 && !models_.empty(); });
  ASSERT_EQ(healths_.size(), 1u);  // Only news.
  EXPECT_EQ(healths_[0], std::tuple(ReplicaSlot{7}, ReplicaHealth::kHealthy, ""));
  EXPECT_EQ(metrics_[0], "vllm:x 1\n");
  ASSERT_EQ(models_.size(), 1u);
  EXPECT_THAT(models_[0], ElementsAre("llama"));
  EXPECT_THAT(server.requests()[0].head, HasSubstr("Authorization: Bearer sk-upstream"));
  EXPECT_EQ(server.requests().back().connection, 0);  // One connection, kept.
}

TEST_F(ReplicaWatchTest, TakesSeveralFailuresToBeUnwellAndOneSuccessToBeWell) {
  std::atomic<int> asked = 0;
  ScriptedServer server([&](const ScriptedRequest& request, ScriptedPeer& peer) {
    if (request.Target() != "/health") return peer.Say(Answer(404, ""));
    const int now = asked++;
    return peer.Say(Answer(now >= 1 && now <= 5 ? 503 : 200, ""));
  });
  ReplicaWatch watch(loop_, settings_, 1, reports_);
  watch.Add(0, SpecOf(server));
  RunUntil([this] { return healths_.size() == 3; });
  EXPECT_EQ(std::get<1>(healths_[0]), ReplicaHealth::kHealthy);
  EXPECT_EQ(std::get<1>(healths_[1]), ReplicaHealth::kUnhealthy);
  EXPECT_EQ(std::get<2>(healths_[1]), "/health answers 503");
  EXPECT_EQ(std::get<1>(healths_[2]), ReplicaHealth::kHealthy);
  EXPECT_GE(asked, 7);
}

TEST_F(ReplicaWatchTest, KnowsOneThatWasNeverThereAtOnce) {
  ReplicaSpec spec;
  {
    ScriptedServer server([](const ScriptedRequest&, ScriptedPeer&) { return false; });
    spec = SpecOf(server);
  }
  settings_.health.failures = 100;
  ReplicaWatch watch(loop_, settings_, 1, reports_);
  watch.Add(0, spec);
  RunUntil([this] { return healths_.size() == 1; });
  EXPECT_EQ(std::get<1>(healths_[0]), ReplicaHealth::kUnhealthy);
  EXPECT_THAT(std::get<2>(healths_[0]), HasSubstr(spec.url));
}

TEST_F(ReplicaWatchTest, TakesAnEngineWithoutAHealthPathForWell) {
  ScriptedServer server([](const ScriptedRequest&, ScriptedPeer& peer) {
    return peer.Say(Answer(404, "no such page"));
  });
  ReplicaWatch watch(loop_, settings_, 1, reports_);
  watch.Add(0, SpecOf(server));
  RunUntil([this] { return !healths_.empty() && !models_.empty(); });
  EXPECT_EQ(std::get<1>(healths_[0]), ReplicaHealth::kHealthy);
  EXPECT_THAT(models_[0], IsEmpty());  // It has no list.
  EXPECT_THAT(metrics_, IsEmpty());
}

TEST_F(ReplicaWatchTest, DoesNotAskForModelsThatWereTold) {
  ScriptedServer server([](const ScriptedRequest& request, ScriptedPeer& peer) {
    EXPECT_NE(request.Target(), "/v1/models");
    return peer.Say(Answer(200, "x 1\n"));
  });
  ReplicaSpec spec = SpecOf(server);
  spec.models = {"llama"};
  ReplicaWatch watch(loop_, settings_, 1, reports_);
  watch.Add(0, spec);
  RunUntil([this] { return metrics_.size() >= 3; });
  EXPECT_THAT(models_, IsEmpty());
}

TEST_F(ReplicaWatchTest, ReportsNothingOfOneThatWasRemoved) {
  ScriptedServer server([](const ScriptedRequest&, ScriptedPeer& peer) {
    peer.Stay();
    return false;
  });
  ScriptedServer other(
      [](const ScriptedRequest&, ScriptedPeer& peer) { return peer.Say(Answer(200, "{}")); });
  settings_.health.timeout_s = 0.05;
  ReplicaWatch watch(loop_, settings_, 1, reports_);
  watch.Add(0, SpecOf(server));
  loop_.poll();
  watch.Remove(0);
  watch.Add(1, SpecOf(other));
  RunUntil([this] { return metrics_.size() >= 10; });
  for (const auto& report : healths_) EXPECT_EQ(std::get<0>(report), 1u);
}

TEST_F(ReplicaWatchTest, FollowsNewSettings) {
  ScriptedServer server([](const ScriptedRequest& request, ScriptedPeer& peer) {
    return peer.Say(Answer(request.Target() == "/alive" ? 200 : 500, "y 1\n"));
  });
  ReplicaWatch watch(loop_, settings_, 1, reports_);
  watch.Add(0, SpecOf(server));
  RunUntil([this] { return healths_.size() == 1; });
  EXPECT_EQ(std::get<1>(healths_[0]), ReplicaHealth::kUnhealthy);
  settings_.health.path = "/alive";
  watch.Change(settings_);
  RunUntil([this] { return healths_.size() == 2; });
  EXPECT_EQ(std::get<1>(healths_[1]), ReplicaHealth::kHealthy);
}

TEST_F(ReplicaWatchTest, AsksManyInTurn) {
  std::atomic<int> at_once = 0;
  std::atomic<int> most = 0;
  ScriptedServer server([&](const ScriptedRequest&, ScriptedPeer& peer) {
    const int now = ++at_once;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    const bool said = peer.Say(Answer(200, "{}"));
    --at_once;
    return said;
  });
  settings_.health.interval_s = 3600;
  settings_.scrape.interval_s = 0;
  ReplicaWatch watch(loop_, settings_, 1, reports_);
  ReplicaSpec spec = SpecOf(server);
  spec.models = {"m"};
  for (ReplicaSlot slot = 0; slot < 300; ++slot) watch.Add(slot, spec);
  RunUntil([this] { return healths_.size() == 300; });
  EXPECT_LE(most, ReplicaWatch::kAtOnce);
  EXPECT_EQ(watch.questions(), 300);
  EXPECT_EQ(watch.failures(), 0);
}

}  // namespace
}  // namespace sublet
