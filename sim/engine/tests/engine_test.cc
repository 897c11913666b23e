#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "engine/tests/virtual_run.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr std::int64_t kMs = 1'000'000;

// 1 ms a prompt token, 10 ms a step, 2 ms a decoding sequence: figures that add up in the head.
EngineOptions Slow(std::int64_t blocks) {
  return {.kv_blocks = blocks,
          .block_tokens = 4,
          .prefill_tokens_per_second = 1000,
          .step_overhead_ms = 10,
          .decode_ms_a_sequence = 2};
}

std::vector<TokenId> Prompt(int tokens, TokenId first = 1) {
  std::vector<TokenId> prompt(static_cast<std::size_t>(tokens));
  std::iota(prompt.begin(), prompt.end(), first);
  return prompt;
}

EngineRequestId Submit(Engine& engine, EngineRequest request, std::int64_t now_ns = 0) {
  auto id = engine.Submit(std::move(request), now_ns);
  EXPECT_TRUE(id) << id.error().message;
  return *id;
}

TEST(Engine, TakesTheTimeThatTheFormulaSays) {
  Engine engine(Slow(100));
  VirtualRun run({&engine});
  const auto id = Submit(engine, {.prompt = Prompt(8), .output_tokens = 3}, 5 * kMs);
  EXPECT_EQ(engine.NextStepEnd(), (5 + 10 + 8) * kMs);
  run.Finish();
  EXPECT_EQ(run.FirstTokenOf(&engine, id), 23 * kMs);
  EXPECT_EQ(run.LastTokenOf(&engine, id), (23 + 2 * 12) * kMs);
  EXPECT_EQ(engine.NextStepEnd(), std::nullopt);
  EXPECT_EQ(engine.counters().output_tokens, 3);
  EXPECT_EQ(engine.counters().busy_ns, 42 * kMs);
}

TEST(Engine, CutsALongPromptIntoSteps) {
  EngineOptions options = Slow(100);
  options.step_tokens = 16;
  Engine engine(options);
  VirtualRun run({&engine});
  const auto id = Submit(engine, {.prompt = Prompt(40)});
  run.Finish();
  EXPECT_EQ(run.steps(), 3);
  EXPECT_EQ(run.FirstTokenOf(&engine, id), (3 * 10 + 40) * kMs);
}

TEST(Engine, DecodesWhileItPrefillsAnother) {
  EngineOptions options = Slow(100);
  options.step_tokens = 9;
  Engine engine(options);
  VirtualRun run({&engine});
  Submit(engine, {.prompt = Prompt(4), .output_tokens = 10});
  run.AdvanceTo(14 * kMs);
  const auto late = Submit(engine, {.prompt = Prompt(16, 100)}, 15 * kMs);
  run.AdvanceTo(26 * kMs);
  // One token of the budget of nine is the first one's.
  EXPECT_EQ(engine.NextStepEnd(), (26 + 10 + 2 + 8) * kMs);
  run.Finish();
  EXPECT_EQ(run.FirstTokenOf(&engine, late), (26 + 2 * 20) * kMs);
}

TEST(Engine, FindsAPrefixAgain) {
  Engine engine(Slow(100));
  VirtualRun run({&engine});
  Submit(engine, {.prompt = Prompt(12)});
  run.Finish();
  std::vector<TokenId> longer = Prompt(12);
  longer.insert(longer.end(), {7, 7, 7});
  const std::int64_t began_ns = run.now_ns();
  const auto id = Submit(engine, {.prompt = longer}, began_ns);
  EXPECT_EQ(engine.AdmissionOf(id)->cached_tokens, 12u);
  run.Finish();
  EXPECT_EQ(*run.FirstTokenOf(&engine, id) - began_ns, 13 * kMs);
  EXPECT_EQ(engine.counters().prompt_tokens, 27);
  EXPECT_EQ(engine.counters().cached_tokens, 12);
}

TEST(Engine, ComputesTheLastBlockOfAPromptThatItHasWhole) {
  Engine engine(Slow(100));
  VirtualRun run({&engine});
  Submit(engine, {.prompt = Prompt(12)});
  run.Finish();
  const auto id = Submit(engine, {.prompt = Prompt(12)}, run.now_ns());
  EXPECT_EQ(engine.AdmissionOf(id)->cached_tokens, 8u);
  run.Finish();
  // It is cached twice now, and announced twice.
  EXPECT_EQ(engine.blocks_cached(), 4);
  EXPECT_EQ(Replayed(run.EventsOf(&engine)), engine.CachedHashes());
}

TEST(Engine, TellsApartAdaptersAndSalts) {
  Engine engine(Slow(100));
  VirtualRun run({&engine});
  for (const auto& [lora, salt] : {std::pair("", ""), {"a", ""}, {"", "a"}, {"a", "b"}}) {
    const auto id = Submit(engine, {.prompt = Prompt(9), .lora = lora, .salt = salt}, run.now_ns());
    EXPECT_EQ(engine.AdmissionOf(id)->cached_tokens, 0u) << lora << " " << salt;
    run.Finish();
  }
  const auto id = Submit(engine, {.prompt = Prompt(9), .lora = "a", .salt = "b"}, run.now_ns());
  EXPECT_EQ(engine.AdmissionOf(id)->cached_tokens, 8u);
  run.Finish();
  const KvEvent& salted = run.EventsOf(&engine).at(2);
  EXPECT_THAT(salted.extra, ElementsAre("a", ""));
  EXPECT_EQ(run.EventsOf(&engine).at(1).lora, "a");
}

TEST(Engine, AnnouncesBlocksAsTheyFill) {
  Engine engine(Slow(100));
  VirtualRun run({&engine});
  Submit(engine, {.prompt = Prompt(6), .output_tokens = 4});
  run.Finish();
  const auto& events = run.EventsOf(&engine);
  ASSERT_THAT(events, SizeIs(2));
  EXPECT_THAT(events[0].tokens, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(events[0].parent, std::nullopt);
  EXPECT_EQ(events[0].block_tokens, 4);
  // The second block has two tokens of the output in it.
  const auto& output = run.OutputOf(&engine, 1);
  EXPECT_THAT(events[1].tokens, ElementsAre(5, 6, output[0], output[1]));
  EXPECT_EQ(events[1].parent, events[0].blocks[0]);
}

TEST(Engine, EvictsTheOldestAndOfARequestItsLastBlockFirst) {
  Engine engine(Slow(4));
  VirtualRun run({&engine});
  Submit(engine, {.prompt = Prompt(8)});
  run.Finish();
  const auto& stored = run.EventsOf(&engine).at(0).blocks;
  const std::vector<EngineHash> first = stored;
  Submit(engine, {.prompt = Prompt(4, 50)}, run.now_ns());
  run.Finish();
  Submit(engine, {.prompt = Prompt(8, 90)}, run.now_ns());
  run.Finish();
  const KvEvent removed = run.EventsOf(&engine).at(2);
  EXPECT_EQ(removed.what, KvEvent::What::kRemoved);
  EXPECT_THAT(removed.blocks, ElementsAre(first[1]));
  EXPECT_EQ(Replayed(run.EventsOf(&engine)), engine.CachedHashes());
}

TEST(Engine, PreemptsTheYoungestAndStartsItAnew) {
  Engine engine(Slow(4));  // 16 tokens.
  VirtualRun run({&engine});
  const auto a = Submit(engine, {.prompt = Prompt(6), .output_tokens = 8});
  const auto b = Submit(engine, {.prompt = Prompt(6, 100), .output_tokens = 8});
  run.Finish();
  EXPECT_GT(engine.counters().preemptions, 0);
  EXPECT_LT(run.LastTokenOf(&engine, a), run.LastTokenOf(&engine, b));
  EXPECT_THAT(run.OutputOf(&engine, a), SizeIs(8));
  EXPECT_THAT(run.OutputOf(&engine, b), SizeIs(8));
  EXPECT_EQ(engine.blocks_used(), 0);
  EXPECT_EQ(engine.counters().prompt_tokens, 12);
}

TEST(Engine, TakesNoMoreSequencesThanItMay) {
  EngineOptions options = Slow(100);
  options.sequences_max = 2;
  Engine engine(options);
  VirtualRun run({&engine});
  for (TokenId i = 0; i < 3; ++i) Submit(engine, {.prompt = Prompt(4, i * 10), .output_tokens = 5});
  run.AdvanceTo(20 * kMs);
  EXPECT_EQ(engine.running(), 2);
  EXPECT_EQ(engine.waiting(), 1);
  run.Finish();
  EXPECT_EQ(engine.counters().finished, 3);
}

TEST(Engine, GivesBackTheBlocksOfWhatIsCancelled) {
  Engine engine(Slow(100));
  VirtualRun run({&engine});
  const auto a = Submit(engine, {.prompt = Prompt(8), .output_tokens = 100});
  const auto b = Submit(engine, {.prompt = Prompt(8, 50), .output_tokens = 2});
  run.AdvanceTo(20 * kMs);
  engine.Cancel(a);
  engine.Cancel(a);
  engine.Cancel(77);
  run.Finish();
  EXPECT_EQ(run.LastTokenOf(&engine, a), std::nullopt);
  EXPECT_TRUE(run.LastTokenOf(&engine, b));
  EXPECT_EQ(engine.blocks_used(), 0);
  EXPECT_EQ(engine.counters().cancelled, 1);
}

TEST(Engine, RefusesWhatCanNeverFit) {
  Engine engine(Slow(4));
  EXPECT_TRUE(engine.Submit({.prompt = Prompt(10), .output_tokens = 7}, 0));
  EXPECT_EQ(engine.Submit({.prompt = Prompt(10), .output_tokens = 8}, 0).error().code,
            ErrorCode::kInvalid);
  EXPECT_FALSE(engine.Submit({}, 0));
  EXPECT_FALSE(engine.Submit({.prompt = Prompt(3), .output_tokens = 0}, 0));
  EXPECT_FALSE(engine.Submit({.contents = {1, 2}, .prompt_tokens = 9}, 0));
}

TEST(Engine, ForgetsItsCacheOnlyWhileNobodyUsesIt) {
  Engine engine(Slow(100));
  VirtualRun run({&engine});
  Submit(engine, {.prompt = Prompt(8)});
  EXPECT_EQ(engine.ResetPrefixCache().error().code, ErrorCode::kConflict);
  run.Finish();
  EXPECT_TRUE(engine.ResetPrefixCache());
  EXPECT_EQ(engine.blocks_cached(), 0);
  const std::vector<KvEvent> events = engine.TakeEvents();
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].what, KvEvent::What::kCleared);
}

TEST(Engine, FindsNothingWithoutPrefixCaching) {
  EngineOptions options = Slow(100);
  options.prefix_caching = false;
  Engine engine(options);
  VirtualRun run({&engine});
  Submit(engine, {.prompt = Prompt(8)});
  run.Finish();
  const auto id = Submit(engine, {.prompt = Prompt(8)}, run.now_ns());
  EXPECT_EQ(engine.AdmissionOf(id)->cached_tokens, 0u);
  run.Finish();
  EXPECT_THAT(run.EventsOf(&engine), IsEmpty());
}

TEST(Engine, TakesContentsForPrompts) {
  Engine engine(Slow(100));
  VirtualRun run({&engine});
  const std::vector<std::uint64_t> contents = {11, 12, 13};
  Submit(engine, {.contents = contents, .prompt_tokens = 10, .output_tokens = 5});
  run.Finish();
  // The tokens that are announced are those that a router is asked with.
  const std::vector<TokenId> prompt = ContentTokens(contents, 10, 4);
  std::vector<TokenId> all = prompt;
  const auto& output = run.OutputOf(&engine, 1);
  all.insert(all.end(), output.begin(), output.end());
  std::vector<TokenId> announced;
  for (const KvEvent& event : run.EventsOf(&engine)) {
    announced.insert(announced.end(), event.tokens.begin(), event.tokens.end());
  }
  ASSERT_THAT(announced, SizeIs(12));
  EXPECT_TRUE(std::equal(announced.begin(), announced.end(), all.begin()));

  const auto again = Submit(engine, {.contents = {11, 12, 99}, .prompt_tokens = 12}, run.now_ns());
  EXPECT_EQ(engine.AdmissionOf(again)->cached_tokens, 8u);
}

TEST(Engine, AnswersAlikeEverywhereAndByVariant) {
  Engine one(Slow(100));
  Engine other(Slow(7));
  VirtualRun run({&one, &other});
  const auto a = Submit(one, {.prompt = Prompt(8), .output_tokens = 9});
  const auto b = Submit(one, {.prompt = Prompt(8), .output_tokens = 9, .variant = 1});
  const auto c = Submit(other, {.prompt = Prompt(8), .output_tokens = 9});
  run.Finish();
  EXPECT_EQ(run.OutputOf(&one, a), run.OutputOf(&other, c));
  EXPECT_NE(run.OutputOf(&one, a), run.OutputOf(&one, b));
}

TEST(Engine, AConversationFindsItsOwnAnswer) {
  Engine engine(Slow(100));
  VirtualRun run({&engine});
  const auto first = Submit(engine, {.prompt = Prompt(8), .output_tokens = 9});
  run.Finish();
  std::vector<TokenId> next = Prompt(8);
  for (const TokenId token : run.OutputOf(&engine, first)) next.push_back(token);
  next.push_back(1);
  const auto second = Submit(engine, {.prompt = next}, run.now_ns());
  EXPECT_EQ(engine.AdmissionOf(second)->cached_tokens, 16u);
}

// In real time an engine is looked at after its step has ended; its steps lie where they would.
TEST(Engine, LosesNothingByBeingAdvancedLate) {
  Engine prompt(Slow(100));
  Engine late(Slow(100));
  VirtualRun run({&prompt});
  const auto id = Submit(prompt, {.prompt = Prompt(8), .output_tokens = 5});
  Submit(late, {.prompt = Prompt(8), .output_tokens = 5});
  run.Finish();
  EngineStep step;
  std::int64_t end_ns = 0;
  while (const auto next = late.NextStepEnd()) {
    late.Advance(*next + 3 * kMs, step);
    end_ns = step.end_ns;
  }
  EXPECT_EQ(end_ns, run.LastTokenOf(&prompt, id));
}

TEST(Engine, SharesAGpuByItsCaps) {
  const auto time = [](std::optional<double> percent) {
    auto gpu = std::make_shared<SharedGpu>();
    EngineOptions options = Slow(1000);
    options.share.sm_percent = percent;
    Engine one(options, gpu);
    Engine other(options, gpu);
    VirtualRun run({&one, &other});
    const auto id = Submit(one, {.prompt = Prompt(1000)});
    Submit(other, {.prompt = Prompt(1000, 5000)});
    run.Finish();
    return static_cast<double>(*run.FirstTokenOf(&one, id)) / kMs;
  };
  EXPECT_DOUBLE_EQ(time(50), 1010);
  EXPECT_NEAR(time(std::nullopt), 1010 * 1.82, 10);
}

}  // namespace
}  // namespace sublet
