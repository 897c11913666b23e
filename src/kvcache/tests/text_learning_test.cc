// Text prompts on replicas that announce tokens.
#include <gtest/gtest.h>

#include "kvcache/stored_runs.h"
#include "kvcache/tests/small_fleet.h"
#include "kvcache/text_map.h"

namespace sublet::testing {
namespace {

// `blocks` blocks of text, the first `shared` of them everybody's.
std::vector<int> Text(int blocks, int own, int shared = 0) {
  std::vector<int> content;
  for (int i = 0; i < blocks; ++i) content.push_back(i < shared ? i : own * 1000 + i);
  return content;
}

class TextLearningTest : public ::testing::Test {
 protected:
  TextLearningTest() {
    for (const ReplicaSlot slot : {0u, 1u}) {
      caches_.Add(slot, {.model = "m", .blocks = 1000, .block_tokens = 16, .events = true}, 0);
      caches_.SetKnowledge(slot, CacheKnowledge::kExact, "", false, 0);
    }
  }
  // Sent to the replica, computed there from block `from` on, and answered.
  void Serve(ReplicaSlot slot, const RequestPrefix& text, const Tokens& tokens,
             std::size_t from = 0) {
    const PredictionId id = caches_.Predict(slot, text, now_ns_);
    caches_.Apply(slot, Batch({Stored(tokens, from, tokens.size() / 16, 16)}), now_ns_ + 1);
    now_ns_ += kSecondNs;
    caches_.Confirm(slot, id, static_cast<std::uint32_t>(tokens.size()), now_ns_);
  }
  // After it, what was only predicted has lapsed.
  void LetSettle() {
    now_ns_ += 10 * kSecondNs;
    for (const ReplicaSlot slot : {0u, 1u}) caches_.StatusOf(slot, now_ns_);
  }

  FleetCache caches_;
  std::int64_t now_ns_ = 0;
};

TEST_F(TextLearningTest, ATextIsFoundWhereItsTokensAreAnnounced) {
  const RequestPrefix text = TextPrompt(Text(20, 1));
  const Tokens tokens = Count(1, 1280);
  Serve(0, text, tokens);
  LetSettle();
  EXPECT_EQ(caches_.Status().texts_learnt, 1);
  EXPECT_EQ(caches_.StatusOf(0, now_ns_).blocks_predicted, 0);
  const CacheMatch match = MatchOf(caches_, text, 0);
  EXPECT_FALSE(match.predicted);
  EXPECT_GE(match.tokens, 1280u * 15 / 16 - 64);
  EXPECT_LE(match.tokens, 1280u);
  // Another replica that announces the same tokens holds the text, too, unasked.
  EXPECT_EQ(MatchOf(caches_, text, 1).tokens, 0u);
  caches_.Apply(1, Batch({Stored(tokens, 0, 40, 16)}), now_ns_);
  EXPECT_GE(MatchOf(caches_, text, 1).tokens, 640u - 128);
  EXPECT_LE(MatchOf(caches_, text, 1).tokens, 640u);
  // And what is evicted is not held.
  std::vector<EngineHash> keys;
  for (std::size_t i = 80; i > 50; --i) keys.push_back(KeyOf(tokens, i, 16));
  caches_.Apply(0, Batch({Removed(keys)}), now_ns_);
  EXPECT_GE(MatchOf(caches_, text, 0).tokens, 800u - 128);
  EXPECT_LE(MatchOf(caches_, text, 0).tokens, 800u);
}

TEST_F(TextLearningTest, EventsMayComeAfterTheAnswer) {
  const RequestPrefix text = TextPrompt(Text(20, 1));
  const Tokens tokens = Count(1, 1280);
  const PredictionId id = caches_.Predict(0, text, 0);
  caches_.Confirm(0, id, 1280, 1);
  EXPECT_TRUE(MatchOf(caches_, text, 0).predicted);
  caches_.Apply(0, Batch({Stored(tokens, 0, 80, 16)}), 2);
  LetSettle();
  EXPECT_EQ(caches_.Status().texts_learnt, 1);
  EXPECT_FALSE(MatchOf(caches_, text, 0).predicted);
}

TEST_F(TextLearningTest, ChunksOfAPrefillAndTheAnswerAreOneChain) {
  const RequestPrefix text = TextPrompt(Text(20, 1));
  const Tokens tokens = Count(1, 1280 + 64);
  const PredictionId id = caches_.Predict(0, text, 0);
  caches_.Apply(0, Batch({Stored(tokens, 0, 32, 16)}), 1);
  caches_.Apply(0, Batch({Stored(tokens, 32, 80, 16)}), 2);
  for (std::size_t i = 80; i < 84; ++i) {
    caches_.Apply(0, Batch({Stored(tokens, i, i + 1, 16)}), 3);
  }
  caches_.Confirm(0, id, 1280 + 5, 4);
  LetSettle();
  EXPECT_EQ(caches_.Status().texts_learnt, 1);
  EXPECT_GE(MatchOf(caches_, text, 0).tokens, 1100u);
}

TEST_F(TextLearningTest, AnAnswerThatPassesThereIsNoCandidate) {
  const RequestPrefix text = TextPrompt(Text(20, 1));
  const Tokens tokens = Count(1, 1280);
  const Tokens other = Count(2, 1300);
  const PredictionId id = caches_.Predict(0, text, 0);
  caches_.Apply(0, Batch({Stored(other, 0, 78, 16)}), 1);
  caches_.Apply(0, Batch({Stored(tokens, 0, 80, 16)}), 1);
  for (std::size_t i = 78; i < 81; ++i) {
    caches_.Apply(0, Batch({Stored(other, i, i + 1, 16)}), 2);
  }
  caches_.Confirm(0, id, 1280, 3);
  EXPECT_EQ(caches_.Status().texts_learnt, 1);
}

TEST_F(TextLearningTest, TwoOfOneLengthTeachNothing) {
  const RequestPrefix text = TextPrompt(Text(20, 1));
  const PredictionId id = caches_.Predict(0, text, 0);
  caches_.Apply(0, Batch({Stored(Count(1, 1280), 0, 80, 16), Stored(Count(2, 1280), 0, 80, 16)}),
                1);
  caches_.Confirm(0, id, 1280, 2);
  LetSettle();
  EXPECT_EQ(caches_.Status().texts_learnt, 0);
  EXPECT_TRUE(MatchOf(caches_, text, 0).predicted) << "it stays as a prediction";
}

TEST_F(TextLearningTest, AConversationIsLearntTurnByTurn) {
  Tokens tokens = Count(1, 1280);
  Serve(0, TextPrompt(Text(20, 1)), tokens);
  const Tokens longer = tokens + Count(2, 640);
  Serve(0, TextPrompt(Text(30, 1)), longer, 80);
  LetSettle();
  EXPECT_EQ(caches_.Status().texts_learnt, 2);
  EXPECT_GE(MatchOf(caches_, TextPrompt(Text(30, 1)), 0).tokens, 1750u);
  // The same again is computed nowhere, announced nowhere, and known.
  const PredictionId id = caches_.Predict(0, TextPrompt(Text(30, 1)), now_ns_);
  caches_.Confirm(0, id, 1920, now_ns_);
  LetSettle();
  EXPECT_EQ(caches_.StatusOf(0, now_ns_).blocks_predicted, 0);
}

// Half of the first text's bytes are everybody's, but only a quarter of its tokens.
TEST_F(TextLearningTest, AGuessThatWentTooFarIsPutBack) {
  const Tokens shared = Count(1, 640);
  const RequestPrefix first = TextPrompt(Text(40, 1, 20));
  Serve(0, first, shared + Count(2, 1920));
  LetSettle();
  const RequestPrefix second = TextPrompt(Text(40, 2, 20));
  EXPECT_EQ(MatchOf(caches_, second, 0).tokens, 1200u) << "too much: it holds 640 of it";
  Serve(0, second, shared + Count(3, 1920), 40);
  LetSettle();
  EXPECT_EQ(caches_.Status().texts_learnt, 2);
  // A third that shares only the beginning is no longer promised more than there is.
  EXPECT_LE(MatchOf(caches_, TextPrompt(Text(40, 3, 20)), 0).tokens, 1200u);
  Serve(1, second, shared + Count(3, 1920), 0);
  Serve(1, TextPrompt(Text(41, 4, 20)), shared + Count(4, 1984), 0);
  LetSettle();
  for (const ReplicaSlot slot : {0u, 1u}) {
    const std::uint32_t held = MatchOf(caches_, TextPrompt(Text(40, 3, 20)), slot).tokens;
    EXPECT_LE(held, 640u);
    EXPECT_GE(held, 500u);
  }
}

TEST_F(TextLearningTest, AnEnginesTokenizerTeachesAllReplicas) {
  const RequestPrefix text = TextPrompt(Text(20, 1));
  const Tokens tokens = Count(1, 1280);
  caches_.LearnTokens(text, tokens);
  caches_.Apply(1, Batch({Stored(tokens, 0, 80, 16)}), 0);
  EXPECT_GE(MatchOf(caches_, text, 1).tokens, 1150u);
  EXPECT_FALSE(MatchOf(caches_, text, 1).predicted);
}

TEST_F(TextLearningTest, TheLengthOfATextInTokensIsLearnt) {
  const RequestPrefix text = TextPrompt(Text(40, 1));
  std::vector<CacheMatch> matches;
  EXPECT_EQ(caches_.Match(text, matches).prompt_tokens, 2560u);
  for (int i = 0; i < 50; ++i) {
    caches_.Confirm(0, caches_.Predict(0, text, 0), 5120, 0);
  }
  EXPECT_NEAR(caches_.Match(text, matches).prompt_tokens, 5120, 200);
}

TEST(TextMap, ForgetsTheLeastRecentlyUsed) {
  TextMap map(128 << 10);
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    map.Put(TextKey(i, 1), {.hash = i + 1, .depth = 1});
    if (i > 0) map.Touch(TextKey(0, 1));
  }
  EXPECT_LE(map.bytes(), 128u << 10);
  EXPECT_GT(map.size(), 1000);
  EXPECT_EQ(map.Find(TextKey(0, 1))->hash, 1u);
  EXPECT_EQ(map.Find(TextKey(99'999, 1))->hash, 100'000u);
  EXPECT_FALSE(map.Find(TextKey(1, 1)).has_value());
  EXPECT_FALSE(map.Find(TextKey(99'999, 2)).has_value());
}

TEST(StoredRuns, StayWithinTheirBudget) {
  MemoryBudget budget(10'000);
  {
    StoredRuns runs(budget);
    for (std::uint32_t i = 0; i < 1000; ++i) runs.Add({.blocks = 40, .last = i + 1}, i);
    EXPECT_LE(budget.used(), 10'000u);
    EXPECT_GT(budget.used(), 5'000u);
    EXPECT_EQ(runs.Find(40, 999).count, 1);
    EXPECT_EQ(runs.Find(40, 999).run->last, 1000u);
    EXPECT_EQ(runs.Find(40, 998).count, 2);
    EXPECT_TRUE(runs.Grow(1000, 2000));
    EXPECT_FALSE(runs.Grow(1000, 2000));
    EXPECT_EQ(runs.BlocksThrough(2000), 41u);
  }
  EXPECT_EQ(budget.used(), 0u);
}

}  // namespace
}  // namespace sublet::testing
