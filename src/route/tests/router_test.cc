#include "route/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "kvcache/fleet_cache.h"
#include "route/policy.h"

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kSecond = 1'000'000'000;

ReplicaSpec Spec(const std::string& name, const std::string& model = "m") {
  ReplicaSpec spec;
  spec.name = name;
  spec.url = "http://" + name;
  if (!model.empty()) spec.models = {model};
  return spec;
}

// `blocks` blocks of text that begin with `common` blocks of the group.
RequestPrefix Prompt(std::uint64_t own, std::size_t blocks = 20, std::size_t common = 0) {
  RequestPrefix prefix;
  prefix.known = true;
  prefix.model = "m";
  prefix.stream = true;
  for (std::size_t b = 1; b <= blocks; ++b) {
    prefix.text.push_back(b <= common ? b : own * 1'000'003 + b);
  }
  prefix.text_bytes = blocks * kTextBlockBytes;
  return prefix;
}

class RouterTest : public ::testing::Test {
 protected:
  RouterTest() { Use("cost"); }
  void Use(const std::string& policy, RouterOptions options = {}) {
    options.policy = policy;
    router_ = Router::Make(options, caches_).value();
  }
  ReplicaSlot Add(const ReplicaSpec& spec, std::int64_t now_ns = 0) {
    return router_->Add(spec, now_ns).value();
  }
  Result<Lease> Try(const RequestPrefix& prefix, RouteQuery query = {}, std::int64_t now_ns = 0) {
    query.prefix = &prefix;
    return router_->Choose(query, now_ns);
  }
  Lease Choose(const RequestPrefix& prefix, std::int64_t now_ns = 0) {
    return std::move(Try(prefix, {}, now_ns)).value();
  }
  Error Refusal(const RequestPrefix& prefix, const RouteQuery& query = {},
                std::int64_t now_ns = 0) {
    return Try(prefix, query, now_ns).error();
  }
  ReplicaStatus StatusOf(const std::string& name, std::int64_t now_ns = 0) {
    for (ReplicaStatus& status : router_->Replicas(now_ns)) {
      if (status.spec.name == name) return status;
    }
    ADD_FAILURE() << "no replica " << name;
    return {};
  }
  void Serve(Lease lease, std::int64_t now_ns, Outcome outcome = Outcome::kServed) {
    lease.Finish({.outcome = outcome}, now_ns);
  }

  FleetCache caches_;
  std::unique_ptr<Router> router_;
};

// ---- who may have a request --------------------------------------------------------------------

TEST_F(RouterTest, AnUnknownPolicyIsRefused) {
  EXPECT_EQ(Router::Make({.policy = "best"}, caches_).error().code, ErrorCode::kUsage);
  EXPECT_EQ(router_->SetPolicy("best").error().code, ErrorCode::kUsage);
  EXPECT_TRUE(router_->SetPolicy("round-robin"));
  EXPECT_EQ(router_->policy(), "round-robin");
}

TEST_F(RouterTest, StartsWithoutReplicas) {
  const Error error = Refusal(Prompt(1));
  EXPECT_EQ(error.code, ErrorCode::kUnavailable);
  EXPECT_THAT(error.message, HasSubstr("there is no replica yet"));
}

TEST_F(RouterTest, AReplicaThatWasJustAddedIsTried) {
  Add(Spec("a"));
  EXPECT_EQ(StatusOf("a").health, ReplicaHealth::kUnknown);
  EXPECT_EQ(Choose(Prompt(1)).decision().replica, "a");
}

TEST_F(RouterTest, DeadReplicasAreUnavailableAndItSaysWhy) {
  const ReplicaSlot a = Add(Spec("a"));
  const ReplicaSlot b = Add(Spec("b"));
  router_->OnHealth(a, ReplicaHealth::kUnhealthy, "connection refused", 0);
  router_->OnHealth(b, ReplicaHealth::kUnhealthy, "connection refused", 0);
  const Error error = Refusal(Prompt(1));
  EXPECT_EQ(error.code, ErrorCode::kUnavailable);
  EXPECT_EQ(error.message, "the replicas for m are not there: 2 down");
  EXPECT_EQ(error.hint, "b: connection refused");
  router_->OnHealth(b, ReplicaHealth::kHealthy, "", kSecond);
  EXPECT_EQ(Choose(Prompt(1)).decision().replica, "b");
}

TEST_F(RouterTest, AModelGoesToThoseWhoServeIt) {
  Add(Spec("a", "x"));
  Add(Spec("b", "m"));
  for (std::uint64_t i = 0; i < 20; ++i) EXPECT_EQ(Choose(Prompt(i)).decision().replica, "b");
  RequestPrefix unknown = Prompt(1);
  unknown.model = "gpt-5";
  const Error error = Refusal(unknown);
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_THAT(error.hint, HasSubstr("served are: m, x"));
  EXPECT_THAT(router_->Models(), ElementsAre("m", "x"));
}

TEST_F(RouterTest, AReplicaThatHasNotSaidWhatItServesIsAskedWhereNobodyElseServesIt) {
  Add(Spec("listed", "m"));
  const ReplicaSlot silent = Add(Spec("silent", ""));
  EXPECT_EQ(Choose(Prompt(1)).decision().replica, "listed");
  RequestPrefix other = Prompt(2);
  other.model = "other";
  EXPECT_EQ(Choose(other).decision().replica, "silent");
  router_->OnModels(silent, {"other", "m"});
  EXPECT_THAT(router_->Models(), ElementsAre("m", "other"));
  other.model = "third";
  EXPECT_EQ(Refusal(other).code, ErrorCode::kNotFound);
}

TEST_F(RouterTest, ARequestThatNamesNoModelGoesAnywhere) {
  Add(Spec("a", "x"));
  RequestPrefix prefix;
  EXPECT_EQ(Choose(prefix).decision().replica, "a");
}

TEST_F(RouterTest, ATenantsReplicaTakesOnlyHisRequests) {
  ReplicaSpec spec = Spec("shop");
  spec.tenant = "shop";
  Add(spec);
  EXPECT_EQ(Refusal(Prompt(1), {.tenant = "bank"}).code, ErrorCode::kNotFound);
  EXPECT_TRUE(Try(Prompt(1), {.tenant = "shop"}));
  Add(Spec("shared"));
  for (std::uint64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(Try(Prompt(i), {.tenant = "bank"}).value().decision().replica, "shared");
  }
}

TEST_F(RouterTest, WhatWasTriedIsNotChosenAgain) {
  const ReplicaSlot a = Add(Spec("a"));
  const ReplicaSlot b = Add(Spec("b"));
  for (std::uint64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(Try(Prompt(i), {.tried = {a}}).value().decision().replica, "b");
  }
  const Error error = Refusal(Prompt(1), {.tried = {a, b}});
  EXPECT_EQ(error.code, ErrorCode::kUnavailable);
  EXPECT_THAT(error.message, HasSubstr("2 tried already"));
}

TEST_F(RouterTest, APinnedRequestGoesThereOrNowhere) {
  Add(Spec("a"));
  const ReplicaSlot b = Add(Spec("b"));
  Add(Spec("c", "x"));
  for (std::uint64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(Try(Prompt(i), {.pinned = "b"}).value().decision().replica, "b");
  }
  router_->OnHealth(b, ReplicaHealth::kUnhealthy, "gone", 0);
  EXPECT_EQ(Refusal(Prompt(1), {.pinned = "b"}).code, ErrorCode::kUnavailable);
  EXPECT_EQ(Refusal(Prompt(1), {.pinned = "z"}).code, ErrorCode::kNotFound);
  EXPECT_EQ(Refusal(Prompt(1), {.pinned = "c"}).code, ErrorCode::kNotFound);
}

TEST_F(RouterTest, ADrainingReplicaTakesNothingNewAndKeepsWhatItHas) {
  Add(Spec("a"));
  Lease lease = Choose(Prompt(1));
  ASSERT_TRUE(router_->Drain("a"));
  EXPECT_EQ(Refusal(Prompt(2)).code, ErrorCode::kUnavailable);
  EXPECT_EQ(StatusOf("a").in_flight, 1);
  Serve(std::move(lease), kSecond);
  EXPECT_EQ(StatusOf("a").in_flight, 0);
  EXPECT_EQ(StatusOf("a").served, 1);
  EXPECT_EQ(router_->Drain("z").error().code, ErrorCode::kNotFound);
}

TEST_F(RouterTest, FullReplicasAreAConflict) {
  ReplicaSpec spec = Spec("a");
  spec.in_flight_max = 2;
  Add(spec);
  Lease first = Choose(Prompt(1));
  const Lease second = Choose(Prompt(2));
  const Error error = Refusal(Prompt(3));
  EXPECT_EQ(error.code, ErrorCode::kConflict);
  EXPECT_EQ(error.message, "the replicas for m can take no more: 1 full");
  Serve(std::move(first), kSecond);
  EXPECT_TRUE(Try(Prompt(3)));
}

TEST_F(RouterTest, AReplicaThatSaysItIsFullIsSparedForAMoment) {
  Add(Spec("a"));
  for (int i = 0; i < 50; ++i) {
    const std::int64_t now_ns = i * kSecond;
    Serve(Choose(Prompt(1), now_ns), now_ns, Outcome::kOverloaded);
    EXPECT_EQ(Refusal(Prompt(2), {}, now_ns + 400 * kMs).code, ErrorCode::kConflict);
    EXPECT_EQ(StatusOf("a", now_ns).breaker, "closed");
  }
}

// ---- health ------------------------------------------------------------------------------------

TEST_F(RouterTest, AStormOfClientErrorsOpensNoBreaker) {
  Add(Spec("a"));
  for (int i = 0; i < 10'000; ++i) Serve(Choose(Prompt(1), i), i, Outcome::kClientError);
  EXPECT_EQ(StatusOf("a").breaker, "closed");
  EXPECT_TRUE(Try(Prompt(1)));
}

TEST_F(RouterTest, AFailingReplicaIsLeftAndProbedByOneRequest) {
  Add(Spec("a"));
  for (int i = 0; i < 5; ++i) Serve(Choose(Prompt(1)), 0, Outcome::kFailed);
  EXPECT_EQ(StatusOf("a").breaker, "open");
  EXPECT_EQ(Refusal(Prompt(1)).code, ErrorCode::kUnavailable);
  Lease probe = Choose(Prompt(1), kSecond);
  EXPECT_EQ(Refusal(Prompt(1), {}, kSecond).code, ErrorCode::kUnavailable);
  Serve(std::move(probe), kSecond);
  EXPECT_TRUE(Try(Prompt(1), {}, kSecond));
  EXPECT_EQ(StatusOf("a", kSecond).failed, 5);
}

TEST_F(RouterTest, AReplicaThatJoinsLaterStartsSlowly) {
  Add(Spec("a"), 0);
  Add(Spec("b"), 10 * kSecond);
  EXPECT_EQ(StatusOf("b", 10 * kSecond).slow_start, 1);  // The router itself has just begun.
  Add(Spec("c"), 100 * kSecond);
  EXPECT_NEAR(StatusOf("c", 100 * kSecond).slow_start, 0.1, 1e-9);
  EXPECT_NEAR(StatusOf("c", 115 * kSecond).slow_start, 0.5, 1e-9);
}

// ---- books -------------------------------------------------------------------------------------

TEST_F(RouterTest, LoadIsCountedFromTheChoiceToTheEnd) {
  Add(Spec("a"));
  Lease lease = Choose(Prompt(1, 20));
  EXPECT_EQ(StatusOf("a").prefill_tokens_queued, 20 * 64);
  lease.OnFirstToken(kSecond);
  EXPECT_EQ(StatusOf("a", kSecond).prefill_tokens_queued, 0);
  EXPECT_EQ(StatusOf("a", kSecond).decoding, 1);
  lease.Finish({.prompt_tokens = 1300, .cached_tokens = 100}, 2 * kSecond);
  lease.Finish({.outcome = Outcome::kFailed}, 2 * kSecond);  // Too late.
  const ReplicaStatus status = StatusOf("a", 2 * kSecond);
  EXPECT_EQ(status.decoding, 0);
  EXPECT_EQ(status.in_flight, 0);
  EXPECT_EQ(status.served, 1);
  EXPECT_EQ(status.failed, 0);
  EXPECT_EQ(status.prompt_tokens, 1300);
  EXPECT_EQ(status.cached_tokens, 100);
}

TEST_F(RouterTest, ALeaseThatIsDroppedIsCancelled) {
  Add(Spec("a"));
  { const Lease lease = Choose(Prompt(1)); }
  const ReplicaStatus status = StatusOf("a");
  EXPECT_EQ(status.in_flight, 0);
  EXPECT_EQ(status.served + status.failed, 0);
  EXPECT_EQ(status.chosen, 1);
}

TEST_F(RouterTest, LeasesOutliveTheirReplica) {
  Add(Spec("a"));
  Lease lease = Choose(Prompt(1));
  ASSERT_TRUE(router_->Remove("a"));
  EXPECT_EQ(lease.url(), "http://a");
  lease.OnFirstToken(1);
  lease.OnTokens(100, 2);
  Add(Spec("a"));
  Serve(std::move(lease), 3);
  EXPECT_EQ(StatusOf("a").served, 0);
  EXPECT_EQ(router_->Remove("z").error().code, ErrorCode::kNotFound);
}

TEST_F(RouterTest, LeasesOutliveTheRouter) {
  Add(Spec("a"));
  Lease lease = Choose(Prompt(1));
  router_.reset();
  lease.OnFirstToken(1);
  lease.Finish({}, 2);
}

TEST_F(RouterTest, NamesAreUnique) {
  Add(Spec("a"));
  EXPECT_EQ(router_->Add(Spec("a"), 0).error().code, ErrorCode::kConflict);
  EXPECT_EQ(router_->Update(Spec("z"), 0).error().code, ErrorCode::kNotFound);
  ReplicaSpec bad = Spec("b");
  bad.share.sm_percent = 120;
  EXPECT_EQ(router_->Add(bad, 0).error().code, ErrorCode::kInvalid);
}

TEST_F(RouterTest, AnotherUrlIsAnotherEngine) {
  Add(Spec("a"));
  for (int i = 0; i < 5; ++i) Serve(Choose(Prompt(1)), 0, Outcome::kFailed);
  ReplicaSpec moved = Spec("a");
  moved.url = "http://elsewhere";
  ASSERT_TRUE(router_->Update(moved, kMs));
  const Lease lease = Choose(Prompt(1));
  EXPECT_EQ(lease.url(), "http://elsewhere");
  EXPECT_EQ(lease.decision().cached_tokens, 0u);
}

TEST_F(RouterTest, WhatOthersSendThereFillsItToo) {
  ReplicaSpec spec = Spec("a");
  spec.in_flight_max = 4;
  const ReplicaSlot a = Add(spec);
  router_->OnScrape(a, {.waiting = 1, .running = 3}, 0);
  router_->OnScrape(a, {.waiting = 1, .running = 3}, kSecond);
  EXPECT_EQ(Refusal(Prompt(1), {}, kSecond).code, ErrorCode::kConflict);
}

TEST_F(RouterTest, CapacityIsLearntFromAScrape) {
  const ReplicaSlot a = Add(Spec("a"));
  router_->OnScrape(a, {.block_tokens = 32, .blocks = 999}, 0);
  EXPECT_EQ(StatusOf("a").cache.block_tokens, 32);
  EXPECT_EQ(StatusOf("a").cache.blocks_capacity, 999);
}

// ---- decisions ---------------------------------------------------------------------------------

TEST_F(RouterTest, SiblingsOfABurstMeet) {
  for (const char* name : {"a", "b", "c", "d"}) Add(Spec(name));
  std::vector<Lease> leases;
  for (std::uint64_t i = 0; i < 4; ++i) leases.push_back(Choose(Prompt(i, 40, 38)));
  for (const Lease& lease : leases) {
    EXPECT_EQ(lease.decision().replica, leases[0].decision().replica);
  }
  EXPECT_EQ(leases[3].decision().cached_tokens, 38u * 64);
}

TEST_F(RouterTest, WhatWasChosenIsNotedOnceAndBeforeAnybodyAsks) {
  Add(Spec("a"));
  const auto noted = [&] { return StatusOf("a").cache.blocks_predicted; };
  Lease sent = Choose(Prompt(1, 20));
  EXPECT_EQ(noted(), 0) << "the request waits for no note";
  sent.OnSent();
  EXPECT_EQ(noted(), 20);
  sent.OnSent();
  const Lease next = Choose(Prompt(2, 30));
  EXPECT_EQ(noted(), 20);
  EXPECT_EQ(Choose(Prompt(2, 30)).decision().cached_tokens, 30u * 64);
  EXPECT_EQ(noted(), 50) << "the last was dropped, and one before it has the same";
  // Answered without having said that it was sent; failed.
  Serve(Choose(Prompt(3, 5)), kMs);
  EXPECT_EQ(noted(), 55);
  Serve(Choose(Prompt(4, 7)), kMs, Outcome::kFailed);
  EXPECT_EQ(noted(), 55);
}

TEST_F(RouterTest, WhatWasChosenIsNotNotedForWhoComesAfterIt) {
  const ReplicaSlot slot = Add(Spec("a"));
  const Lease lease = Choose(Prompt(1, 20));
  Lease elsewhere = Choose(Prompt(2, 20));
  ASSERT_TRUE(router_->Remove("a"));
  while (Add(Spec("b")) != slot) ASSERT_TRUE(router_->Remove("b"));
  elsewhere.OnSent();
  EXPECT_EQ(Choose(Prompt(1, 20)).decision().cached_tokens, 0u);
}

TEST_F(RouterTest, OneCommonBlockBringsNobodyTogether) {
  for (const char* name : {"a", "b", "c", "d", "e", "f", "g", "h"}) Add(Spec(name));
  std::vector<Lease> leases;
  std::map<std::string, int> counts;
  for (std::uint64_t i = 0; i < 400; ++i) {
    leases.push_back(Choose(Prompt(i, 100, 2)));
    ++counts[leases.back().decision().replica];
  }
  for (const auto& [name, count] : counts) EXPECT_NEAR(count, 50, 15) << name;
  EXPECT_EQ(counts.size(), 8u);
}

TEST_F(RouterTest, AConversationStaysWhereItIs) {
  for (const char* name : {"a", "b", "c", "d"}) Add(Spec(name));
  std::string home;
  for (std::size_t turn = 1; turn <= 10; ++turn) {
    Lease lease = Choose(Prompt(7, turn * 8));
    EXPECT_TRUE(turn == 1 || lease.decision().replica == home) << turn;
    home = lease.decision().replica;
    lease.OnFirstToken(0);
    Serve(std::move(lease), 0);
  }
}

TEST_F(RouterTest, WorkOnOneReplicaRaisesTheCostOfItsCoTenant) {
  for (const char* name : {"a", "b", "c"}) {
    ReplicaSpec spec = Spec(name);
    spec.share.gpu = std::string(name) == "c" ? "GPU-2" : "GPU-1";
    spec.share.prefill_tokens_per_second = 8000;
    Add(spec);
  }
  std::uint64_t own = 1000;
  const auto costs = [&] {
    std::map<std::string, double> cost_ms;
    const RequestPrefix prefix = Prompt(++own);
    const Lease lease = Try(prefix, {.explain = true}).value();
    for (const CandidateCost& c : lease.decision().candidates) cost_ms[c.replica] = c.cost_ms;
    return cost_ms;
  };
  const auto idle = costs();
  EXPECT_NEAR(idle.at("b"), idle.at("c"), 1e-6);
  const RequestPrefix large = Prompt(1, 400);
  const Lease work = Try(large, {.pinned = "a"}).value();
  const auto busy = costs();
  EXPECT_GT(busy.at("b"), idle.at("b") + 100);
  EXPECT_NEAR(busy.at("c"), idle.at("c"), 5);
  for (std::uint64_t i = 2; i < 10; ++i) EXPECT_EQ(Choose(Prompt(i)).decision().replica, "c");
}

TEST_F(RouterTest, CapsThatFitOneGpuDontCountAgainstEachOther) {
  for (const char* name : {"a", "b"}) {
    ReplicaSpec spec = Spec(name);
    spec.share.gpu = "GPU-1";
    spec.share.sm_percent = 50;
    Add(spec);
  }
  const RequestPrefix large = Prompt(1, 400);
  const Lease work = Try(large, {.pinned = "a"}).value();
  const RequestPrefix prefix = Prompt(2);
  const Lease lease = Try(prefix, {.explain = true}).value();
  for (const CandidateCost& c : lease.decision().candidates) EXPECT_EQ(c.cotenant_ms, 0);
}

TEST_F(RouterTest, SaysWhy) {
  Add(Spec("chat/0"));
  Add(Spec("chat/1"));
  Serve(Choose(Prompt(1, 64)), 0);
  const Lease lease = Try(Prompt(1, 80), {.explain = true}).value();
  EXPECT_THAT(lease.decision().reason, HasSubstr("holds 4096 of 5120 tokens; the least cost, "));
  EXPECT_THAT(lease.decision().reason, HasSubstr("; next best chat/"));
  ASSERT_EQ(lease.decision().candidates.size(), 2u);
  EXPECT_LT(lease.decision().candidates[0].cost_ms, lease.decision().candidates[1].cost_ms);
  EXPECT_EQ(lease.decision().candidates[0].replica, lease.decision().replica);
}

TEST_F(RouterTest, ModelsAreCountedByThemselvesInRoundRobin) {
  Use("round-robin");
  Add(Spec("m0", "m"));
  Add(Spec("m1", "m"));
  Add(Spec("x0", "x"));
  std::map<std::string, int> counts;
  for (std::uint64_t i = 0; i < 20; ++i) {
    RequestPrefix prefix = Prompt(i);
    ++counts[Choose(prefix).decision().replica];
    prefix.model = "x";
    ++counts[Choose(prefix).decision().replica];
  }
  EXPECT_EQ(counts["m0"], 10);
  EXPECT_EQ(counts["m1"], 10);
}

TEST_F(RouterTest, RatesAreLearntFromWhatIsServed) {
  Add(Spec("a"));
  std::int64_t now_ns = 0;
  for (std::uint64_t i = 0; i < 200; ++i) {
    Lease lease = Choose(Prompt(i, 10 + i % 50), now_ns);
    const double seconds = 0.01 + lease.decision().uncached_tokens / 3000.0;
    now_ns += static_cast<std::int64_t>(seconds * kSecond);
    lease.OnFirstToken(now_ns);
    now_ns += 3 * kSecond;
    lease.OnTokens(100, now_ns);
    Serve(std::move(lease), now_ns);
  }
  EXPECT_TRUE(StatusOf("a", now_ns).rate_learnt);
  EXPECT_NEAR(StatusOf("a", now_ns).prefill_tokens_per_second, 3000, 200);
  EXPECT_NEAR(StatusOf("a", now_ns).decode_step_ms, 30, 2);
}

TEST_F(RouterTest, HedgesAfterAPercentileOfRecentTimesWhereAsked) {
  Use("cost", {.hedging = {.percentile = 95}});
  Add(Spec("a"));
  EXPECT_FALSE(Choose(Prompt(1)).decision().hedge_after_ms);
  for (std::int64_t i = 0; i < 40; ++i) {
    Lease lease = Choose(Prompt(1), i * kSecond);
    lease.OnFirstToken(i * kSecond + 200 * kMs);
    Serve(std::move(lease), i * kSecond + 300 * kMs);
  }
  EXPECT_NEAR(Choose(Prompt(1), 60 * kSecond).decision().hedge_after_ms.value(), 200, 1);
}

TEST_F(RouterTest, SlotsAreUsedAgainLate) {
  const ReplicaSlot first = Add(Spec("a"));
  ASSERT_TRUE(router_->Remove("a"));
  for (int i = 0; i < 200; ++i) {
    const ReplicaSlot slot = Add(Spec("b"));
    EXPECT_TRUE(i >= 31 || slot != first) << i;
    ASSERT_TRUE(router_->Remove("b"));
    EXPECT_LT(slot, 64u);
  }
}

// ---- any order, any thread ---------------------------------------------------------------------

RC_GTEST_PROP(RouterProperty, BooksAreZeroOnceAllLeasesAreGone, ()) {
  FleetCache caches;
  auto router = Router::Make({.policy = *rc::gen::elementOf(PolicyNames())}, caches).value();
  std::int64_t now_ns = 0;
  for (const char* name : {"a", "b", "c"}) {
    ReplicaSpec spec = Spec(name);
    spec.share.gpu = "GPU-1";
    RC_ASSERT(router->Add(spec, 0).has_value());
  }
  std::vector<Lease> leases;
  for (int i = 0; i < 60; ++i) {
    now_ns += *rc::gen::inRange<std::int64_t>(-kMs, 400 * kMs);
    RequestPrefix prefix = Prompt(*rc::gen::inRange<std::uint64_t>(0, 5), 10);
    prefix.stream = *rc::gen::arbitrary<bool>();
    prefix.choices = *rc::gen::inRange(0, 4);
    const int what = *rc::gen::inRange(0, 7);
    const std::size_t at = leases.empty() ? 0 : *rc::gen::inRange<std::size_t>(0, leases.size());
    if (what <= 1) {
      if (auto lease = router->Choose({.prefix = &prefix}, now_ns)) {
        leases.push_back(std::move(*lease));
      }
    } else if (leases.empty()) {
      continue;
    } else if (what == 2) {
      leases[at].OnFirstToken(now_ns);
    } else if (what == 3) {
      leases[at].OnTokens(*rc::gen::inRange(0, 40), now_ns);
    } else if (what == 6) {
      leases[at].OnSent();
    } else {
      if (what == 4)
        leases[at].Finish(
            {.outcome = *rc::gen::element(Outcome::kServed, Outcome::kFailed, Outcome::kCancelled,
                                          Outcome::kClientError, Outcome::kOverloaded)},
            now_ns);
      leases.erase(leases.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
  leases.clear();
  for (const ReplicaStatus& status : router->Replicas(now_ns)) {
    RC_ASSERT(status.in_flight == 0 && status.decoding == 0);
    RC_ASSERT(status.prefill_tokens_queued == 0);
  }
}

TEST_F(RouterTest, ManyThreadsUseItWhileReplicasComeAndGo) {
  for (int r = 0; r < 4; ++r) Add(Spec("r" + std::to_string(r)));
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < 300; ++i) {
        const RequestPrefix prefix = Prompt(t * 7 + i % 5, 10);
        auto lease = router_->Choose({.prefix = &prefix}, static_cast<std::int64_t>(i) * kMs);
        if (!lease) continue;
        if (i % 2 == 0) lease->OnSent();
        lease->OnFirstToken(static_cast<std::int64_t>(i) * kMs);
        lease->OnTokens(20, static_cast<std::int64_t>(i) * kMs);
        if (i % 3 != 0) lease->Finish({}, static_cast<std::int64_t>(i) * kMs);
      }
    });
  }
  threads.emplace_back([&] {
    for (int i = 0; i < 100; ++i) {
      const auto slot = router_->Add(Spec("extra"), i * kMs);
      if (slot) router_->OnScrape(*slot, {.waiting = 1, .running = 2}, i * kMs);
      if (slot) router_->OnHealth(*slot, ReplicaHealth::kHealthy, "", i * kMs);
      router_->Replicas(i * kMs);
      EXPECT_TRUE(router_->Remove("extra"));
    }
  });
  for (std::thread& thread : threads) thread.join();
  for (const ReplicaStatus& status : router_->Replicas(kSecond)) EXPECT_EQ(status.in_flight, 0);
}

}  // namespace
}  // namespace sublet
