#include "replay/ceiling.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "replay/trace_reader.h"
#include "replay/traffic.h"

namespace sublet {
namespace {

TEST(Ceiling, IsWhatTheConversationTraceAllows) {
  const auto text =
      ReadFile(SUBLET_SOURCE_DIR "/examples/06_route/conversation.jsonl", kTraceBytesMax);
  ASSERT_TRUE(text) << text.error().message;
  const auto trace = ParseTrace(*text, "t");
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_NEAR(CeilingHitRatio(*trace, 512), 0.366, 0.0001);
  // What eight engines of 1,600 blocks have together, in one; a simulation in Python agrees.
  EXPECT_NEAR(PooledHitRatio(*trace, 512, 8 * 1600).value_or(0), 0.2396, 0.0001);
}

// 150 texts of 11 full blocks, each found four times of five, in prompts of 15 blocks.
TEST(Ceiling, IsWhatGroupsShare) {
  const auto trace = GenerateTraffic("gen:shared-prefix");
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_NEAR(CeilingHitRatio(*trace, 512), 0.8 * 11 / 15, 1e-9);
}

TEST(Ceiling, FindsAnswersButNeverAPromptsLastToken) {
  TraceBuilder builder("t", std::nullopt);
  builder.Piece(1, 64);
  const RequestIndex first = builder.Add({.output_tokens = 65});
  builder.Piece(1, 64);
  builder.Piece(AnswerTo(first), 65);
  builder.Add({.at_ns = 1, .after = first});
  builder.Piece(1, 64);
  builder.Add({.at_ns = 1, .after = first});
  const auto trace = builder.Finish();
  ASSERT_TRUE(trace) << trace.error().message;
  // Blocks: 4 + 9 + 4; found: none, 8, and all but the last of 4.
  EXPECT_DOUBLE_EQ(CeilingHitRatio(*trace, 16), 11.0 / 17);
  EXPECT_EQ(PooledHitRatio(*trace, 16, 1000), std::nullopt);
}

TEST(Ceiling, OfAPoolForgetsTheLeastRecentlyUsedAndTheEndBeforeTheBeginning) {
  TraceBuilder builder("t", std::nullopt);
  std::int64_t at_ns = 0;
  // Prompts of four blocks and a token, by content; answers stay below a block.
  for (const std::uint32_t content : {1u, 2u, 1u, 3u, 2u, 1u}) {
    builder.Piece(content, 65);
    builder.Add({.at_ns = ++at_ns});
  }
  const auto trace = builder.Finish();
  ASSERT_TRUE(trace) << trace.error().message;
  // Two prompts fit. The second of 1 finds 4; 3 drives 2 out; 2 then drives 1 out.
  EXPECT_DOUBLE_EQ(PooledHitRatio(*trace, 16, 8).value_or(0), 4.0 / 30);
  // With room for one block more, one of the first of 2, and later of 1, is left.
  EXPECT_DOUBLE_EQ(PooledHitRatio(*trace, 16, 9).value_or(0), 6.0 / 30);
  EXPECT_DOUBLE_EQ(PooledHitRatio(*trace, 16, 100).value_or(0), 12.0 / 30);
  EXPECT_DOUBLE_EQ(CeilingHitRatio(*trace, 16), 12.0 / 30);
}

}  // namespace
}  // namespace sublet
