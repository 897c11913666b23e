#include "proxy/route_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "base/files.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

AccessRecord Record(std::string_view model, std::string_view replica) {
  AccessRecord record;
  record.status = 200;
  record.model = model;
  record.replica = replica;
  record.tenant = "shop";
  record.total_ns = 1'100'000'000;
  record.first_token_ns = 100'000'000;
  record.decide_ns = 7'000;
  record.prompt_tokens = 900;
  record.cached_tokens = 500;
  record.output_tokens = 101;
  record.prompt_tokens_expected = 910;
  record.cached_tokens_expected = 512;
  return record;
}

RouteView View() {
  RouteView view;
  view.version = "1.2";
  view.policy = "cost";
  view.sources.push_back({"config", true, "", 2});
  view.sources.push_back({"kubernetes", false, "no answer", 0});
  ReplicaStatus replica;
  replica.spec.name = "chat/0";
  replica.health = ReplicaHealth::kHealthy;
  replica.breaker = "open";
  replica.cache.knowledge = CacheKnowledge::kStale;
  replica.cache.events_applied = 77;
  replica.cache.blocks_capacity = 1600;
  EngineLoad load;
  load.waiting = 3;
  load.running = 2;
  load.kv_used = 0.5;
  replica.scraped = load;
  replica.scraped_age_s = 1.5;
  view.replicas.push_back(replica);
  KvSourceStatus source;
  source.ranks = 2;
  source.connected = 1;
  view.kv_sources.emplace("chat/0", source);
  return view;
}

TEST(RouteMetrics, CountsRequestsByWhatBecameOfThem) {
  RouteMetrics metrics;
  metrics.Count(Record("llama", "chat/0"));
  metrics.Count(Record("llama", "chat/0"));
  AccessRecord refused = Record("llama", "");
  refused.status = 429;
  refused.outcome = RequestOutcome::kRejected;
  metrics.Count(refused);
  const std::string text = RouteMetricsText(metrics, View());
  EXPECT_THAT(text, HasSubstr("sublet_route_requests_total{model=\"llama\",replica=\"chat/0\","
                              "status=\"200\",outcome=\"served\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("sublet_route_requests_total{model=\"other\",replica=\"\","
                              "status=\"429\",outcome=\"rejected\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("sublet_route_tenant_requests_total{tenant=\"shop\","
                              "outcome=\"served\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("sublet_route_prompt_tokens_total{model=\"llama\"} 1800\n"));
  EXPECT_THAT(text, HasSubstr("sublet_route_cached_tokens_total{model=\"llama\"} 1000\n"));
  EXPECT_THAT(text, HasSubstr("sublet_route_cached_tokens_expected_total{model=\"llama\"} 1024\n"));
}

TEST(RouteMetrics, MeasuresTokensAndDecisions) {
  RouteMetrics metrics;
  metrics.Count(Record("llama", "chat/0"));
  const std::string text = RouteMetricsText(metrics, View());
  // 0.1 s to the first token; 1 s for a hundred more.
  const std::string ttft = "sublet_route_time_to_first_token_seconds_bucket{model=\"llama\",le=";
  EXPECT_THAT(text, HasSubstr(ttft + "\"0.08\"} 0\n"));
  EXPECT_THAT(text, HasSubstr(ttft + "\"0.1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr(ttft + "\"+Inf\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("sublet_route_time_per_output_token_seconds_sum{model=\"llama\"} "
                              "0.01\n"));
  EXPECT_THAT(text, HasSubstr("sublet_route_decision_seconds_count 1\n"));
  EXPECT_THAT(text, HasSubstr("sublet_route_queue_seconds_count 0\n"));
}

TEST(RouteMetrics, HasNoEndlessLabels) {
  RouteMetrics metrics;
  for (int i = 0; i < 20'000; ++i) {
    const std::string name = "m" + std::to_string(i);
    AccessRecord record = Record(name, name);
    record.tenant = name;
    metrics.Count(record);
    metrics.Count(Record(name, ""));  // A client's text: no label at all.
  }
  const std::string text = RouteMetricsText(metrics, View());
  EXPECT_LT(text.size(), std::size_t{4} << 20);
  EXPECT_THAT(text, HasSubstr("sublet_route_tenant_requests_total{tenant=\"other\""));
  EXPECT_THAT(text, HasSubstr("sublet_route_output_tokens_total{model=\"other\"}"));
}

TEST(RouteMetrics, KeepsTheSumOfReplicasThatAreGone) {
  RouteMetrics metrics;
  metrics.Count(Record("llama", "chat/0"));
  metrics.Count(Record("llama", "chat/1"));
  metrics.Forget("chat/0");
  metrics.Forget("chat/1");
  const std::string text = RouteMetricsText(metrics, View());
  EXPECT_THAT(text, HasSubstr("replica=\"gone\",status=\"200\",outcome=\"served\"} 2\n"));
  EXPECT_THAT(text, Not(HasSubstr("requests_total{model=\"llama\",replica=\"chat")));
}

TEST(RouteMetrics, ShowsEachReplica) {
  RouteMetrics metrics;
  const std::string text = RouteMetricsText(metrics, View());
  for (const char* line :
       {"sublet_route_replica_healthy{replica=\"chat/0\"} 1\n",
        "sublet_route_replica_breaker_state{replica=\"chat/0\"} 1\n",
        "sublet_route_replica_cache_knowledge{replica=\"chat/0\",state=\"STALE\"} 1\n",
        "sublet_route_replica_cache_knowledge{replica=\"chat/0\",state=\"EXACT\"} 0\n",
        "sublet_route_kv_events_total{replica=\"chat/0\"} 77\n",
        "sublet_route_kv_source_connected_ratio{replica=\"chat/0\"} 0.5\n",
        "sublet_route_engine_kv_used_ratio{replica=\"chat/0\"} 0.5\n",
        "sublet_route_source_up{source=\"kubernetes\"} 0\n", "sublet_route_replicas 1\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  RouteView many = View();
  many.replicas.assign(kReplicaSeriesMax + 7, many.replicas[0]);
  EXPECT_THAT(RouteMetricsText(metrics, many), HasSubstr("sublet_route_replicas_omitted 7\n"));
}

TEST(RouteMetrics, CountFromManyThreads) {
  RouteMetrics metrics;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 2000; ++k) metrics.Count(Record("llama", "chat/0"));
    });
  }
  for (int k = 0; k < 20; ++k) RouteMetricsText(metrics, View());
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(RouteMetricsText(metrics, View()), HasSubstr("outcome=\"served\"} 8000\n"));
}

// Names on the page, without what a histogram adds to its own.
std::set<std::string> NamesIn(const std::string& text) {
  std::set<std::string> names;
  for (std::size_t at = text.find("# TYPE "); at != std::string::npos;
       at = text.find("# TYPE ", at + 1)) {
    names.insert(text.substr(at + 7, text.find(' ', at + 7) - at - 7));
  }
  return names;
}

TEST(RouteMetrics, AreAllInTheManual) {
  RouteMetrics metrics;
  AccessRecord record = Record("llama", "chat/0");
  record.queued = true;
  metrics.Count(record);
  const auto manual =
      ReadFile(SUBLET_SOURCE_DIR "/docs/operating/route-metrics.md", std::size_t{1} << 20);
  ASSERT_TRUE(manual);
  const std::set<std::string> names = NamesIn(RouteMetricsText(metrics, View()));
  EXPECT_GT(names.size(), 50u);
  for (const std::string& name : names) {
    EXPECT_THAT(*manual, HasSubstr("`" + name + "`")) << name;
  }
}

// A panel that asks for what nobody exports shows "no data", and nobody knows why.
TEST(RouteMetrics, AreAllThatTheDashboardAsksFor) {
  RouteMetrics metrics;
  metrics.Count(Record("llama", "chat/0"));
  const std::set<std::string> names = NamesIn(RouteMetricsText(metrics, View()));
  const auto dashboard =
      ReadFile(SUBLET_SOURCE_DIR "/deploy/grafana/sublet-route.json", std::size_t{4} << 20);
  ASSERT_TRUE(dashboard) << dashboard.error().message;
  std::set<std::string> asked;
  for (std::size_t at = dashboard->find("sublet_route_"); at != std::string::npos;
       at = dashboard->find("sublet_route_", at + 1)) {
    const std::size_t end = dashboard->find_first_not_of("abcdefghijklmnopqrstuvwxyz_", at);
    std::string name = dashboard->substr(at, end - at);
    for (const std::string_view suffix : {"_bucket", "_sum", "_count"}) {
      const std::string base = name.substr(0, name.size() - std::min(name.size(), suffix.size()));
      if (name.ends_with(suffix) && names.contains(base)) name = base;
    }
    asked.insert(name);
  }
  EXPECT_GT(asked.size(), 20u);
  for (const std::string& name : asked) EXPECT_TRUE(names.contains(name)) << name;
}

}  // namespace
}  // namespace sublet
