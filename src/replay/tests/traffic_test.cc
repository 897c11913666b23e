#include "replay/traffic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "replay/seeded_random.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

Trace Generated(std::string_view text) {
  Result<Trace> trace = GenerateTraffic(text);
  EXPECT_TRUE(trace) << trace.error().message;
  return trace ? std::move(*trace) : Trace{};
}

Error ErrorOf(std::string_view text) {
  const Result<Trace> trace = GenerateTraffic(text);
  EXPECT_FALSE(trace) << text;
  return trace ? Error{} : trace.error();
}

TEST(Traffic, MakesEveryKindWhole) {
  for (const TrafficKind& kind : TrafficKinds()) {
    const Trace trace = Generated("gen:" + std::string(kind.name));
    EXPECT_GT(trace.requests.size(), 500u) << kind.name;
    for (RequestIndex i = 0; i < trace.requests.size(); ++i) {
      const TraceRequest& request = trace.requests[i];
      std::uint32_t tokens = 0;
      for (const PromptPiece& piece : trace.PiecesOf(request)) {
        tokens += piece.tokens;
        if (const auto answered = AnswerOf(piece.content)) {
          // What is answered to an earlier request, in full.
          ASSERT_LT(*answered, i) << kind.name;
          EXPECT_EQ(piece.tokens, trace.requests[*answered].output_tokens);
        }
      }
      EXPECT_EQ(tokens, request.prompt_tokens);
      ASSERT_LT(request.after.value_or(0), std::max(1u, i));
    }
  }
}

TEST(Traffic, IsTheSameForTheSameSeed) {
  for (const TrafficKind& kind : TrafficKinds()) {
    const std::string name = "gen:" + std::string(kind.name);
    const Trace once = Generated(name + ",seed=3");
    EXPECT_EQ(once.requests, Generated(name + ",seed=3").requests);
    EXPECT_EQ(once.pieces, Generated(name + ",seed=3").pieces);
    EXPECT_NE(once.requests, Generated(name + ",seed=4").requests);
  }
}

// A seed beyond 2^32 is one of its own.
TEST(Traffic, TakesLargeSeeds) {
  EXPECT_NE(Generated("gen:rag,requests=9,seed=4294967297").requests,
            Generated("gen:rag,requests=9,seed=1").requests);
}

TEST(Traffic, SharesPrefixesWithinGroups) {
  const Trace trace = Generated("gen:shared-prefix,groups=20,questions=3,rate=2");
  EXPECT_EQ(trace.requests.size(), 60u);
  std::map<std::uint32_t, int> groups;
  for (const TraceRequest& request : trace.requests) {
    EXPECT_EQ(request.prompt_tokens, 7200u);
    EXPECT_EQ(request.output_tokens, 1000u);
    ++groups[trace.PiecesOf(request).front().content];
  }
  EXPECT_EQ(groups.size(), 20u);
  for (const auto& [group, count] : groups) EXPECT_EQ(count, 3);
  EXPECT_NEAR(static_cast<double>(trace.requests.back().at_ns) / 1e9, 30, 12);
}

TEST(Traffic, GrowsConversations) {
  const Trace trace = Generated("gen:chat,sessions=50");
  std::size_t followers = 0;
  for (const TraceRequest& request : trace.requests) {
    if (!request.after) continue;
    ++followers;
    const TraceRequest& before = trace.requests[*request.after];
    EXPECT_EQ(before.session, request.session);
    EXPECT_GT(request.prompt_tokens, before.prompt_tokens + before.output_tokens);
    // All that was said before is in it.
    const auto pieces = trace.PiecesOf(request);
    const auto earlier = trace.PiecesOf(before);
    ASSERT_EQ(pieces.size(), earlier.size() + 2);
    EXPECT_TRUE(std::equal(earlier.begin(), earlier.end(), pieces.begin()));
    EXPECT_EQ(AnswerOf(pieces[earlier.size()].content), *request.after);
  }
  EXPECT_GT(followers, trace.requests.size() / 2);
}

TEST(Traffic, SaysWhatItDoesNotUnderstand) {
  EXPECT_EQ(ErrorOf("gen:nothing").code, ErrorCode::kUsage);
  EXPECT_THAT(ErrorOf("gen:nothing").hint, HasSubstr("shared-prefix, chat"));
  EXPECT_THAT(ErrorOf("gen:chat,color=3").message, HasSubstr("no such parameter of chat: 'color'"));
  EXPECT_THAT(ErrorOf("gen:chat,rate=fast").message, HasSubstr("isn't a number"));
  EXPECT_THAT(ErrorOf("gen:chat,rate").message, HasSubstr("isn't a number"));
  EXPECT_THAT(ErrorOf("gen:chat,rate=0").message, HasSubstr("isn't a number from 0.001"));
  EXPECT_THAT(ErrorOf("gen:chat,").message, HasSubstr("no such parameter"));
  EXPECT_THAT(ErrorOf("chat").message, HasSubstr("not gen:KIND"));
}

TEST(Traffic, IsBounded) {
  EXPECT_EQ(ErrorOf("gen:shared-prefix,groups=1e6,questions=1e6").code, ErrorCode::kInvalid);
}

TEST(SeededRandom, DrawsWhatIsExpected) {
  SeededRandom random(5);
  double sum = 0;
  for (int i = 0; i < 20'000; ++i) sum += random.Exponential(3);
  EXPECT_NEAR(sum / 20'000, 3, 0.1);
  const ZipfRanks ranks(100, 1);
  std::vector<int> counts(100);
  for (int i = 0; i < 20'000; ++i) ++counts[ranks.Draw(random)];
  // 1 / H(100) = 0.193, and half of it.
  EXPECT_NEAR(counts[0], 3855, 250);
  EXPECT_NEAR(counts[1], 1928, 200);
}

// The figures of a replay rest on it: it must never change.
TEST(SeededRandom, IsSplitMix) {
  SeededRandom random(1234567);
  EXPECT_EQ(random.Next(), 6457827717110365317u);
  EXPECT_EQ(random.Next(), 3203168211198807973u);
}

}  // namespace
}  // namespace sublet
