#include "route/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "route/cost_model.h"
#include "route/ranking.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

// Replicas that are all alike, with names of their own.
std::vector<ReplicaView> Alike(std::size_t count) {
  std::vector<ReplicaView> replicas(count);
  for (std::size_t r = 0; r < count; ++r) {
    replicas[r].slot = static_cast<ReplicaSlot>(r);
    replicas[r].identity = MixBits(r + 77);
  }
  return replicas;
}

std::size_t Chosen(std::string_view policy, const std::vector<ReplicaView>& replicas,
                   const PolicyQuery& query) {
  return FindPolicy(policy).value().choose({.replicas = replicas, .gpus = {}}, query).index;
}

// How many of `requests` each replica gets, when nothing changes between them.
std::vector<int> Spread(std::string_view policy, const std::vector<ReplicaView>& replicas,
                        int requests) {
  std::vector<int> counts(replicas.size());
  for (int i = 0; i < requests; ++i) {
    const auto ordinal = static_cast<std::uint64_t>(i);
    ++counts[Chosen(policy, replicas,
                    {.prompt_tokens = 900, .ordinal = ordinal, .random = MixBits(ordinal + 5)})];
  }
  return counts;
}

TEST(Policies, HaveTheDefaultFirst) {
  EXPECT_EQ(PolicyNames().front(), "cost");
  EXPECT_EQ(PolicyNames().size(), 7u);
}

TEST(Policies, AnUnknownOneIsRefusedWithTheNamesOfAll) {
  const auto policy = FindPolicy("prefix");
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().code, ErrorCode::kUsage);
  EXPECT_THAT(policy.error().hint, HasSubstr("cost, cache-aware, consistent-hash"));
}

TEST(Policies, NoneHerdsOntoTheFirstOfEqualReplicas) {
  for (const std::string& policy : PolicyNames()) {
    for (const int count : Spread(policy, Alike(8), 800)) {
      EXPECT_GT(count, 50) << policy;
      EXPECT_LT(count, 150) << policy;
    }
  }
}

TEST(Policies, EqualBeginningsMeetOnEqualReplicas) {
  for (const std::string_view policy : {"cost", "least-load", "consistent-hash", "session"}) {
    const std::size_t first =
        Chosen(policy, Alike(8), {.prompt_tokens = 900, .ordinal = 1, .affinity = 42});
    for (std::uint64_t ordinal = 2; ordinal < 20; ++ordinal) {
      EXPECT_EQ(
          Chosen(policy, Alike(8), {.prompt_tokens = 900, .ordinal = ordinal, .affinity = 42}),
          first)
          << policy;
    }
  }
}

TEST(CostPolicy, GoesWhereThePromptIsHeld) {
  auto replicas = Alike(8);
  replicas[5].cached_tokens = 4000;
  for (std::uint64_t ordinal = 0; ordinal < 20; ++ordinal) {
    EXPECT_EQ(Chosen("cost", replicas, {.prompt_tokens = 5000, .ordinal = ordinal}), 5u);
  }
}

TEST(CostPolicy, AffinityGivesWayWhenTheQueueCostsMoreThanComputing) {
  auto replicas = Alike(2);
  replicas[0].cached_tokens = 4000;
  const PolicyQuery query{.prompt_tokens = 5000};
  // Computing 4,000 tokens counts kWorkWorthMin times.
  replicas[0].queued_tokens = kWorkWorthMin * 4000 * 0.95;
  EXPECT_EQ(Chosen("cost", replicas, query), 0u);
  replicas[0].queued_tokens = kWorkWorthMin * 4000 * 1.1;
  EXPECT_EQ(Chosen("cost", replicas, query), 1u);
}

TEST(CostPolicy, WhatEverybodyHoldsDecidesNothing) {
  auto replicas = Alike(8);
  for (ReplicaView& replica : replicas) replica.cached_tokens = 512;
  for (const int count : Spread("cost", replicas, 800)) EXPECT_GT(count, 50);
}

TEST(CostPolicy, ABlockThatOneHoldsIsNotWorthItsQueue) {
  auto replicas = Alike(8);
  replicas[3].cached_tokens = 512;
  replicas[3].queued_tokens = 12'000;
  EXPECT_NE(Chosen("cost", replicas, {.prompt_tokens = 12'000}), 3u);
}

// Computing it once more isn't lost work: whoever comes next finds it there.
TEST(CostPolicy, ACommonBeginningIsWorthOnlyItsOwnTime) {
  auto replicas = Alike(2);
  replicas[0].cached_tokens = 4000;
  replicas[0].queued_tokens = 4000 * 1.1;
  EXPECT_EQ(Chosen("cost", replicas, {.prompt_tokens = 5000}), 0u);
  EXPECT_EQ(Chosen("cost", replicas, {.prompt_tokens = 5000, .common_tokens = 4000}), 1u);
  replicas[0].queued_tokens = 4000 * 0.9;
  EXPECT_EQ(Chosen("cost", replicas, {.prompt_tokens = 5000, .common_tokens = 4000}), 0u);
}

TEST(CostPolicy, SparesWhoeverHasBeenBusy) {
  auto replicas = Alike(2);
  replicas[0].busy = 0.5;
  for (std::uint64_t ordinal = 0; ordinal < 20; ++ordinal) {
    EXPECT_EQ(Chosen("cost", replicas, {.prompt_tokens = 1000, .ordinal = ordinal}), 1u);
  }
  // Half a minute's work is no reason to leave a conversation.
  replicas[0].cached_tokens = 20'000;
  EXPECT_EQ(Chosen("cost", replicas, {.prompt_tokens = 21'000}), 0u);
}

TEST(CostPolicy, AFasterShareGetsMore) {
  auto replicas = Alike(2);
  replicas[1].prefill_tokens_per_second = 2000;
  for (ReplicaView& replica : replicas) replica.queued_tokens = 8000;
  EXPECT_EQ(Chosen("cost", replicas, {.prompt_tokens = 1000}), 0u);
}

TEST(CostPolicy, ASlowStarterIsSparedWhileOthersAreFree) {
  auto replicas = Alike(2);
  replicas[0].slow_start = 0.1;
  replicas[1].queued_tokens = 2000;
  EXPECT_EQ(Chosen("cost", replicas, {.prompt_tokens = 1000}), 1u);
}

TEST(CostPolicy, SaysWhatTheNextBestWouldCost) {
  auto replicas = Alike(3);
  replicas[0].queued_tokens = 4000;
  replicas[2].queued_tokens = 9000;
  const PolicyChoice choice =
      ChooseByCost({.replicas = replicas, .gpus = {}}, {.prompt_tokens = 1000});
  EXPECT_EQ(choice.index, 1u);
  EXPECT_EQ(choice.next_best, 0u);
  EXPECT_NEAR(choice.next_best_ms.value() - choice.cost_ms.value(), 500, 1e-6);
}

TEST(CacheAwarePolicy, TakesTheLongestMatchWhileLoadIsEven) {
  auto replicas = Alike(4);
  replicas[2].cached_tokens = 600;
  replicas[2].in_flight = 20;
  EXPECT_EQ(Chosen("cache-aware", replicas, {.prompt_tokens = 1000}), 2u);
  replicas[2].cached_tokens = 400;  // Not half of it.
  EXPECT_NE(Chosen("cache-aware", replicas, {.prompt_tokens = 1000}), 2u);
  replicas[2].cached_tokens = 600;
  replicas[2].in_flight = 33;  // More than 32 above the least.
  EXPECT_NE(Chosen("cache-aware", replicas, {.prompt_tokens = 1000}), 2u);
}

TEST(CacheAwarePolicy, AMissGoesToTheFewestRequests) {
  auto replicas = Alike(4);
  for (ReplicaView& replica : replicas) replica.in_flight = 3;
  replicas[1].in_flight = 1;
  EXPECT_EQ(Chosen("cache-aware", replicas, {.prompt_tokens = 1000}), 1u);
}

TEST(ConsistentHashPolicy, AReplicaThatGoesMovesOnlyItsOwn) {
  const auto all = Alike(8);
  auto fewer = all;
  fewer.erase(fewer.begin() + 3);
  int moved = 0;
  for (std::uint64_t key = 1; key <= 500; ++key) {
    const ReplicaSlot before = all[Chosen("consistent-hash", all, {.affinity = key})].slot;
    const ReplicaSlot after = fewer[Chosen("consistent-hash", fewer, {.affinity = key})].slot;
    EXPECT_TRUE(before == 3 || after == before) << key;
    moved += before != after ? 1 : 0;
  }
  EXPECT_NEAR(moved, 500 / 8, 25);
}

TEST(ConsistentHashPolicy, APopularBeginningSpillsOver) {
  auto replicas = Alike(4);
  for (int i = 0; i < 400; ++i) {
    ++replicas[Chosen("consistent-hash", replicas, {.affinity = 7})].in_flight;
  }
  for (const ReplicaView& replica : replicas) EXPECT_LE(replica.in_flight, 125);
}

TEST(SessionPolicy, KeepsTheReplicaWhateverTheLoad) {
  auto replicas = Alike(8);
  const std::size_t home = Chosen("session", replicas, {.affinity = 1, .session = 99});
  replicas[home].queued_tokens = 1e9;
  replicas[home].in_flight = 200;
  EXPECT_EQ(Chosen("session", replicas, {.affinity = 2, .session = 99}), home);
}

TEST(LeastLoadPolicy, TakesTheFewestTokens) {
  auto replicas = Alike(4);
  for (ReplicaView& replica : replicas) replica.queued_tokens = 5000;
  replicas[2].queued_tokens = 4000;
  replicas[2].in_flight = 5;
  EXPECT_EQ(Chosen("least-load", replicas, {.prompt_tokens = 10}), 2u);
}

TEST(PowerOfTwoPolicy, TakesTheLessBusyOfTwo) {
  auto replicas = Alike(4);
  replicas[0].in_flight = 10;
  // The busiest of four gets a request only where both that are drawn are it, which never happens.
  EXPECT_EQ(Spread("power-of-two", replicas, 400)[0], 0);
}

TEST(RoundRobinPolicy, VisitsAllInTurn) {
  EXPECT_EQ(Spread("round-robin", Alike(4), 400), std::vector<int>(4, 100));
}

// ---- properties --------------------------------------------------------------------------------

struct AnyFleet {
  std::vector<ReplicaView> replicas;
  std::vector<CoTenancy> gpus;
  PolicyQuery query;
  double mean_prefills = 0;
  FleetView View() const {
    return {.replicas = replicas, .gpus = gpus, .mean_prefills = mean_prefills};
  }
};

AnyFleet DrawFleet() {
  AnyFleet fleet;
  fleet.replicas = Alike(*rc::gen::inRange<std::size_t>(1, 12));
  fleet.query = {.prompt_tokens = *rc::gen::inRange(0u, 20'000u),
                 .ordinal = *rc::gen::arbitrary<std::uint64_t>(),
                 .random = *rc::gen::arbitrary<std::uint64_t>(),
                 .affinity = *rc::gen::element<std::uint64_t>(0, 1, 2),
                 .session = *rc::gen::element<std::uint64_t>(0, 1)};
  fleet.query.common_tokens = *rc::gen::inRange(0u, fleet.query.prompt_tokens + 1);
  fleet.mean_prefills = *rc::gen::inRange(0, 50) / 10.0;
  fleet.gpus.resize(1);
  std::vector<TenantLoad> tenants;
  for (ReplicaView& replica : fleet.replicas) {
    replica.in_flight = *rc::gen::inRange(0, 100);
    replica.queued_tokens = *rc::gen::inRange(0, 100'000);
    replica.decoding = *rc::gen::inRange(0, 50);
    replica.busy = *rc::gen::inRange(0, 11) / 10.0;
    replica.decode_step_ms = replica.decoding > 0 ? *rc::gen::inRange(5, 60) : 0;
    replica.prefill_tokens_per_second = *rc::gen::inRange(100, 50'000);
    replica.slow_start = *rc::gen::inRange(1, 11) / 10.0;
    replica.cached_tokens = *rc::gen::inRange(0u, fleet.query.prompt_tokens + 1);
    replica.knowledge = static_cast<CacheKnowledge>(*rc::gen::inRange(0, 3));
    replica.tokens_capacity = *rc::gen::inRange(1000, 1'000'000);
    replica.tokens_in_use = *rc::gen::inRange(0, 500'000);
    if (*rc::gen::arbitrary<bool>()) continue;
    replica.gpu = 0;
    replica.tenant = static_cast<std::uint32_t>(tenants.size());
    tenants.push_back({.sm_part = *rc::gen::inRange(1, 11) / 10.0,
                       .prefill_ms = replica.queued_tokens / RateOf(replica) * 1000,
                       .decoding = static_cast<int>(replica.decoding)});
  }
  fleet.gpus[0].Build(tenants);
  return fleet;
}

RC_GTEST_PROP(PolicyProperty, EveryChoiceIsOneOfTheReplicasAndAlwaysTheSame, ()) {
  const AnyFleet fleet = DrawFleet();
  for (const Policy& policy : Policies()) {
    const PolicyChoice choice = policy.choose(fleet.View(), fleet.query);
    RC_ASSERT(choice.index < fleet.replicas.size());
    RC_ASSERT(!choice.rule.empty());
    RC_ASSERT(policy.choose(fleet.View(), fleet.query).index == choice.index);
  }
}

RC_GTEST_PROP(PolicyProperty, TheOrderOfNamesDecidesNothing, ()) {
  // The same replicas under other slots: the same one is chosen.
  AnyFleet fleet = DrawFleet();
  if (fleet.query.affinity == 0) fleet.query.affinity = 3;
  const std::uint64_t chosen =
      fleet.replicas[ChooseByCost(fleet.View(), fleet.query).index].identity;
  std::reverse(fleet.replicas.begin(), fleet.replicas.end());
  for (std::size_t r = 0; r < fleet.replicas.size(); ++r) {
    fleet.replicas[r].slot = static_cast<ReplicaSlot>(r);
  }
  RC_ASSERT(fleet.replicas[ChooseByCost(fleet.View(), fleet.query).index].identity == chosen);
}

RC_GTEST_PROP(CostProperty, MoreCachedNeverMakesAReplicaDearer, ()) {
  const AnyFleet fleet = DrawFleet();
  ReplicaView replica = *rc::gen::elementOf(fleet.replicas);
  const CostContext context = CostContextOf(fleet.View());
  const CostTerms before = CostOf(replica, context, fleet.query);
  replica.cached_tokens += *rc::gen::inRange(1u, 5000u);
  const CostTerms after = CostOf(replica, context, fleet.query);
  RC_ASSERT(after.Total() <= before.Total() + 1e-6);
  RC_ASSERT(after.cotenant_ms <= before.cotenant_ms + 1e-6);
}

RC_GTEST_PROP(CostProperty, MoreQueuedNeverMakesAReplicaCheaper, ()) {
  const AnyFleet fleet = DrawFleet();
  ReplicaView replica = *rc::gen::elementOf(fleet.replicas);
  const CostContext context = CostContextOf(fleet.View());
  const double before_ms = CostOf(replica, context, fleet.query).Total();
  replica.queued_tokens += *rc::gen::inRange(1, 50'000);
  replica.tokens_in_use += *rc::gen::inRange(0, 50'000);
  RC_ASSERT(CostOf(replica, context, fleet.query).Total() >= before_ms);
}

RC_GTEST_PROP(CostProperty, EveryTermIsFiniteAndNotNegative, ()) {
  const AnyFleet fleet = DrawFleet();
  const CostContext context = CostContextOf(fleet.View());
  for (const ReplicaView& replica : fleet.replicas) {
    const CostTerms terms = CostOf(replica, context, fleet.query);
    for (const double ms : {terms.queue_ms, terms.prefill_ms, terms.later_ms, terms.pressure_ms,
                            terms.cotenant_ms, terms.decode_ms}) {
      RC_ASSERT(ms >= 0 && ms < 1e12);
    }
  }
}

}  // namespace
}  // namespace sublet
