#include "kvcache/fleet_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "kvcache/tests/small_fleet.h"

namespace sublet::testing {
namespace {

using ::testing::HasSubstr;

// Replicas of model "m" in blocks of four tokens, whose events arrive.
class FleetCacheTest : public ::testing::Test {
 protected:
  void AddExact(ReplicaSlot slot, int block_tokens = 4) {
    caches_.Add(slot, {.model = "m", .blocks = 100, .block_tokens = block_tokens, .events = true},
                0);
    caches_.SetKnowledge(slot, CacheKnowledge::kExact, "", false, 0);
  }
  void AddApprox(ReplicaSlot slot, std::int64_t blocks = 100) {
    caches_.Add(slot, {.model = "m", .blocks = blocks, .block_tokens = 4, .events = false}, 0);
  }
  void Apply(ReplicaSlot slot, std::vector<KvEvent> events, std::int64_t now_ns = 0) {
    caches_.Apply(slot, Batch(std::move(events)), now_ns);
    caches_.Audit();
  }
  std::uint32_t Held(const Tokens& tokens, ReplicaSlot slot) const {
    return MatchOf(caches_, TokenPrompt(tokens), slot).tokens;
  }

  FleetCache caches_;
  const Tokens prompt_ = Count(1, 40);
};

TEST_F(FleetCacheTest, MatchesThePrefixThatWasStored) {
  AddExact(0);
  AddExact(1);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  Apply(1, {Stored(prompt_, 0, 3, 4), Stored(prompt_, 3, 5, 4)});
  std::vector<CacheMatch> matches;
  const MatchSummary summary = caches_.Match(TokenPrompt(prompt_), matches);
  EXPECT_EQ(summary.prompt_tokens, 40u);
  EXPECT_EQ(summary.tokens_everywhere, 20u);
  ASSERT_EQ(matches.size(), 2u);
  EXPECT_EQ(matches[0].slot, 0u);
  EXPECT_EQ(matches[0].tokens, 40u);
  EXPECT_FALSE(matches[0].predicted);
  EXPECT_EQ(matches[1].tokens, 20u);
}

TEST_F(FleetCacheTest, EqualLengthPromptsDiffer) {
  AddExact(0);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  EXPECT_EQ(Held(Count(2, 40), 0), 0u);
}

TEST_F(FleetCacheTest, NothingIsHeldEverywhereWhereOneHoldsNothing) {
  AddExact(0);
  AddExact(1);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  std::vector<CacheMatch> matches;
  EXPECT_EQ(caches_.Match(TokenPrompt(prompt_), matches).tokens_everywhere, 0u);
}

TEST_F(FleetCacheTest, AHoleEndsTheMatch) {
  AddExact(0);
  Apply(0, {Stored(prompt_, 0, 10, 4), Removed({KeyOf(prompt_, 4, 4)})});
  EXPECT_EQ(Held(prompt_, 0), 12u);
  Apply(0, {Removed({KeyOf(prompt_, 1, 4)})});
  EXPECT_EQ(Held(prompt_, 0), 0u);
  Apply(0, {Stored(prompt_, 0, 1, 4)});
  EXPECT_EQ(Held(prompt_, 0), 12u);
}

TEST_F(FleetCacheTest, ABlockIsThereWhileAnyTierOrGroupHasIt) {
  AddExact(0);
  KvEvent offloaded = Stored(prompt_, 0, 2, 4);
  offloaded.tier = KvTier::kHost;
  offloaded.tokens.clear();
  offloaded.parent.reset();
  KvEvent second_group = Stored(prompt_, 0, 10, 4);
  second_group.group = 1;
  Apply(0, {Stored(prompt_, 0, 10, 4), second_group, offloaded});
  Apply(0, {Removed({KeyOf(prompt_, 1, 4), KeyOf(prompt_, 2, 4)})});
  EXPECT_EQ(MatchOf(caches_, TokenPrompt(prompt_), 0).tokens, 40u);
  Apply(0, {Removed({KeyOf(prompt_, 1, 4), KeyOf(prompt_, 2, 4)})});
  EXPECT_EQ(MatchOf(caches_, TokenPrompt(prompt_), 0).tokens, 32u);
  EXPECT_EQ(MatchOf(caches_, TokenPrompt(prompt_), 0).tokens_offloaded, 8u);
  Apply(0, {Removed({KeyOf(prompt_, 1, 4)}, KvTier::kHost)});
  EXPECT_EQ(MatchOf(caches_, TokenPrompt(prompt_), 0).tokens, 0u);
}

TEST_F(FleetCacheTest, CountsWhatItCannotPlace) {
  AddExact(0);
  Apply(0, {Stored(prompt_, 3, 10, 4)});
  EXPECT_EQ(Held(prompt_, 0), 0u);
  const ReplicaCacheStatus status = caches_.StatusOf(0, 0);
  EXPECT_EQ(status.blocks_unplaced, 7);
  EXPECT_THAT(status.why, HasSubstr("couldn't be placed: 7"));
}

TEST_F(FleetCacheTest, AnEventWithTooFewTokensPlacesWhatItCan) {
  AddExact(0);
  KvEvent event = Stored(prompt_, 0, 10, 4);
  event.tokens.resize(11);
  Apply(0, {event});
  EXPECT_EQ(Held(prompt_, 0), 8u);
  EXPECT_EQ(caches_.StatusOf(0, 0).blocks_unplaced, 8);
}

TEST_F(FleetCacheTest, TakesTheBlockSizeOfTheFirstEvent) {
  AddExact(0, 16);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  EXPECT_EQ(Held(prompt_, 0), 40u);
  EXPECT_EQ(caches_.StatusOf(0, 0).block_tokens, 4);
  EXPECT_EQ(caches_.StatusOf(0, 0).blocks_capacity, 400);
  Apply(0, {Stored(prompt_, 0, 5, 8, 1)});
  EXPECT_EQ(caches_.StatusOf(0, 0).blocks_unplaced, 5);
  EXPECT_EQ(Held(prompt_, 0), 40u);
}

TEST_F(FleetCacheTest, BlockSizesMayDifferBetweenReplicas) {
  AddExact(0, 4);
  AddExact(1, 8);
  Apply(0, {Stored(prompt_, 0, 7, 4)});
  Apply(1, {Stored(prompt_, 0, 3, 8)});
  EXPECT_EQ(Held(prompt_, 0), 28u);
  EXPECT_EQ(Held(prompt_, 1), 24u);
}

TEST_F(FleetCacheTest, ClearedMeansEmpty) {
  AddExact(0);
  Apply(0, {Stored(prompt_, 0, 10, 4), Cleared(), Stored(prompt_, 0, 2, 4)});
  EXPECT_EQ(Held(prompt_, 0), 8u);
  EXPECT_EQ(caches_.StatusOf(0, 0).blocks_held, 2);
}

TEST_F(FleetCacheTest, AReplicaThatComesBackHoldsNothing) {
  AddExact(0);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  caches_.Drop(0);
  EXPECT_EQ(Held(prompt_, 0), 0u);
  AddExact(0);
  EXPECT_EQ(Held(prompt_, 0), 0u);
  for (int i = 0; i < 20; ++i) Apply(0, {Stored(Count(9, 4), 0, 1, 4)});
  EXPECT_EQ(caches_.Status().holdings, 1);
  EXPECT_EQ(caches_.Status().blocks, 1);
}

TEST_F(FleetCacheTest, ARestartForgetsAndAGapDoesNot) {
  AddExact(0);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  caches_.SetKnowledge(0, CacheKnowledge::kStale, "a gap", false, 5);
  EXPECT_EQ(Held(prompt_, 0), 40u);
  EXPECT_TRUE(MatchOf(caches_, TokenPrompt(prompt_), 0).predicted);
  EXPECT_EQ(caches_.StatusOf(0, 0).gaps, 1);
  EXPECT_EQ(caches_.StatusOf(0, 0).since_ns, 5);
  caches_.SetKnowledge(0, CacheKnowledge::kExact, "", true, 6);
  EXPECT_EQ(Held(prompt_, 0), 0u);
  EXPECT_EQ(caches_.StatusOf(0, 0).restarts, 1);
}

TEST_F(FleetCacheTest, StartsOutApproximateAndSaysWhy) {
  caches_.Add(0, {.model = "m", .blocks = {}, .events = true}, 7);
  AddApprox(1);
  EXPECT_EQ(caches_.StatusOf(0, 0).knowledge, CacheKnowledge::kApprox);
  EXPECT_EQ(caches_.StatusOf(0, 0).why, "no event yet");
  EXPECT_EQ(caches_.StatusOf(0, 0).since_ns, 7);
  EXPECT_EQ(caches_.StatusOf(1, 0).why, "sends no events");
}

TEST_F(FleetCacheTest, TheSaltOfARequestMeetsTheFirstExtraKey) {
  AddExact(0);
  KvEvent event = Stored(prompt_, 0, 10, 4);
  event.extra.assign(10, "");
  event.extra[0] = "tenant-a";
  Apply(0, {event});
  EXPECT_EQ(Held(prompt_, 0), 0u);
  EXPECT_EQ(MatchOf(caches_, TokenPrompt(prompt_, "m", "tenant-a"), 0).tokens, 40u);
  EXPECT_EQ(MatchOf(caches_, TokenPrompt(prompt_, "m", "tenant-b"), 0).tokens, 0u);
}

TEST_F(FleetCacheTest, ALaterExtraKeyMakesAnotherBlock) {
  AddExact(0);
  KvEvent event = Stored(prompt_, 0, 10, 4);
  event.extra.assign(10, "");
  event.extra[3] = "image";
  Apply(0, {event});
  EXPECT_EQ(Held(prompt_, 0), 12u);
}

TEST_F(FleetCacheTest, AnAdapterIsAModelOfItsOwn) {
  AddExact(0);
  EXPECT_EQ(MatchOf(caches_, TokenPrompt(prompt_, "other-name"), 0).tokens, 0u);
  KvEvent event = Stored(prompt_, 0, 6, 4, 1);
  event.lora = "adapter";
  Apply(0, {Stored(prompt_, 0, 10, 4), event});
  EXPECT_EQ(Held(prompt_, 0), 40u);
  EXPECT_EQ(MatchOf(caches_, TokenPrompt(prompt_, "adapter"), 0).tokens, 24u);
  EXPECT_EQ(MatchOf(caches_, TokenPrompt(prompt_, "other-name"), 0).tokens, 40u);
}

TEST_F(FleetCacheTest, AnotherModelHoldsNothingOfIt) {
  AddExact(0);
  caches_.Add(1, {.model = "n", .blocks = 100, .block_tokens = 4, .events = true}, 0);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  Apply(1, {Stored(prompt_, 0, 10, 4)});
  std::vector<CacheMatch> matches;
  const MatchSummary summary = caches_.Match(TokenPrompt(prompt_, "n"), matches);
  ASSERT_EQ(matches.size(), 1u);
  EXPECT_EQ(matches[0].slot, 1u);
  EXPECT_EQ(summary.tokens_everywhere, 40u);
}

TEST_F(FleetCacheTest, ANameThatIsUsedForAnotherBlockIsThatBlock) {
  AddExact(0);
  KvEvent other = Stored(Count(2, 4), 0, 1, 4);
  other.blocks = {KeyOf(prompt_, 1, 4)};
  Apply(0, {Stored(prompt_, 0, 1, 4), other});
  EXPECT_EQ(Held(prompt_, 0), 0u);
  EXPECT_EQ(Held(Count(2, 4), 0), 4u);
  EXPECT_EQ(caches_.Status().holdings, 1);
}

TEST_F(FleetCacheTest, WhatWasSentCountsAtOnce) {
  AddExact(0);
  const PredictionId id = caches_.Predict(0, TokenPrompt(prompt_), 0);
  EXPECT_EQ(Held(prompt_, 0), 40u);
  EXPECT_TRUE(MatchOf(caches_, TokenPrompt(prompt_), 0).predicted);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  EXPECT_FALSE(MatchOf(caches_, TokenPrompt(prompt_), 0).predicted);
  caches_.Confirm(0, id, 40, kSecondNs);
  Apply(0, {Removed({KeyOf(prompt_, 10, 4)})}, kSecondNs);
  EXPECT_EQ(Held(prompt_, 0), 40u) << "until the events have surely caught up";
  EXPECT_EQ(caches_.StatusOf(0, 4 * kSecondNs).blocks_predicted, 0);
  EXPECT_EQ(Held(prompt_, 0), 36u);
}

TEST_F(FleetCacheTest, RetractTakesBackOnlyItsOwn) {
  AddApprox(0);
  const Tokens longer = prompt_ + Count(3, 8);
  const PredictionId first = caches_.Predict(0, TokenPrompt(prompt_), 0);
  const PredictionId second = caches_.Predict(0, TokenPrompt(longer), 0);
  caches_.Retract(0, second);
  EXPECT_EQ(Held(longer, 0), 40u);
  caches_.Confirm(0, first, 40, 1);
  const PredictionId third = caches_.Predict(0, TokenPrompt(longer), 0);
  EXPECT_EQ(Held(longer, 0), 48u);
  caches_.Retract(0, third);
  caches_.Retract(0, third);
  EXPECT_EQ(Held(longer, 0), 40u);
  caches_.Audit();
}

TEST_F(FleetCacheTest, ForgetsTheLeastRecentlyUsedAsItsCapacityHasIt) {
  AddApprox(0, 20);
  for (TokenId i = 1; i <= 3; ++i) {
    const auto now_ns = static_cast<std::int64_t>(i) * kSecondNs;
    caches_.Confirm(0, caches_.Predict(0, TokenPrompt(Count(i, 32)), now_ns), 32, now_ns);
    EXPECT_EQ(caches_.PressureOf(0, now_ns).tail_age_s.has_value(), i == 3);
  }
  // The last blocks of a chain go first.
  EXPECT_EQ(Held(Count(1, 32), 0), 16u);
  EXPECT_EQ(Held(Count(2, 32), 0), 32u);
  const CachePressure pressure = caches_.PressureOf(0, 11 * kSecondNs);
  EXPECT_EQ(pressure.tokens_held, 80);
  EXPECT_EQ(pressure.tokens_capacity, 80);
  EXPECT_DOUBLE_EQ(pressure.tail_age_s.value(), 10);
}

TEST_F(FleetCacheTest, EvictionsTellTheAgeOfTheTail) {
  AddExact(0, 64);
  const Tokens prompt = Count(1, 640);
  Apply(0, {Stored(prompt, 0, 10, 64)}, 0);
  EXPECT_FALSE(caches_.StatusOf(0, 0).tail_age_s.has_value());
  Apply(0, {Removed({KeyOf(prompt, 10, 64)})}, 30 * kSecondNs);
  EXPECT_DOUBLE_EQ(caches_.StatusOf(0, 0).tail_age_s.value(), 30);
  caches_.Predict(0, TokenPrompt(prompt), 50 * kSecondNs);
  Apply(0, {Removed({KeyOf(prompt, 9, 64)})}, 60 * kSecondNs);
  EXPECT_DOUBLE_EQ(caches_.StatusOf(0, 0).tail_age_s.value(), 30 - 20.0 / 16);
}

TEST_F(FleetCacheTest, CallsForWhatIsGoneDoNothing) {
  AddExact(0);
  const PredictionId id = caches_.Predict(0, TokenPrompt(prompt_), 0);
  caches_.Drop(0);
  caches_.Confirm(0, id, 40, 0);
  caches_.Retract(0, id);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  caches_.Predict(0, TokenPrompt(prompt_), 0);
  caches_.SetKnowledge(3, CacheKnowledge::kExact, "", false, 0);
  caches_.Drop(3);
  EXPECT_FALSE(caches_.PressureOf(0, 0).there);
  EXPECT_EQ(caches_.Status().predictions, 0);
}

TEST_F(FleetCacheTest, AnotherBlockSizeStartsAnew) {
  AddExact(0);
  Apply(0, {Stored(prompt_, 0, 10, 4)});
  caches_.Update(0, {.model = "m", .blocks = 50, .block_tokens = 4, .events = true}, 0);
  EXPECT_EQ(Held(prompt_, 0), 40u);
  EXPECT_EQ(caches_.StatusOf(0, 0).blocks_capacity, 50);
  caches_.Update(0, {.model = "m", .blocks = 50, .block_tokens = 8, .events = true}, 0);
  EXPECT_EQ(Held(prompt_, 0), 0u);
}

TEST_F(FleetCacheTest, AnyPromptIsTaken) {
  AddExact(0);
  AddApprox(1);
  std::vector<CacheMatch> matches;
  for (const RequestPrefix& prefix :
       {RequestPrefix{}, TokenPrompt({}), TokenPrompt({1, 2}), TextPrompt({}, 3)}) {
    for (const ReplicaSlot slot : {0u, 1u}) {
      caches_.Match(prefix, matches);
      EXPECT_TRUE(matches.empty());
      caches_.Confirm(slot, caches_.Predict(slot, prefix, 0), 3, 0);
    }
  }
  caches_.LearnTokens(TextPrompt({1}), {});
}

// Matches while events are applied: the thread sanitizer looks, and a match never waits for a
// batch.
TEST_F(FleetCacheTest, MatchesWhileEventsAreApplied) {
  AddExact(0);
  AddApprox(1);
  std::atomic<bool> done = false;
  std::thread applying([&] {
    for (TokenId i = 0; i < 40; ++i) {
      caches_.Apply(0, Batch({Stored(Count(i, 4000), 0, 1000, 4)}), 0);
    }
    done = true;
  });
  std::vector<CacheMatch> matches;
  int rounds = 0;
  while (!done || rounds < 20) {
    caches_.Match(TokenPrompt(prompt_), matches);
    caches_.Confirm(1, caches_.Predict(1, TokenPrompt(prompt_), rounds), 40, rounds);
    caches_.StatusOf(0, rounds++);
  }
  applying.join();
  caches_.Audit();
  EXPECT_EQ(Held(Count(7, 4000), 0), 4000u);
}

}  // namespace
}  // namespace sublet::testing
