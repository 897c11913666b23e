#include "replay/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<TraceRequest> RequestsAt(const std::vector<std::int64_t>& times_ms) {
  std::vector<TraceRequest> requests;
  for (const std::int64_t ms : times_ms) requests.push_back({.at_ns = ms * 1'000'000});
  return requests;
}

std::vector<std::int64_t> TimesMs(const std::vector<TraceRequest>& requests) {
  std::vector<std::int64_t> times;
  for (const TraceRequest& request : requests) times.push_back(request.at_ns / 1'000'000);
  return times;
}

std::vector<TokenId> TokensOf(const std::vector<PromptPiece>& pieces) {
  std::vector<TokenId> tokens;
  for (const PromptPiece& piece : pieces) AppendTokens(piece, tokens);
  return tokens;
}

TEST(Trace, SpreadsATickEvenlyOverIt) {
  std::vector<TraceRequest> requests = RequestsAt({0, 0, 0, 3000, 3000, 6000});
  SpreadOverTicks(requests);
  EXPECT_THAT(TimesMs(requests), ElementsAre(500, 1500, 2500, 3750, 5250, 7500));
}

TEST(Trace, SpreadsNoFurtherThanTheNextTickThatComesEarly) {
  std::vector<TraceRequest> requests = RequestsAt({0, 3000, 6000, 6000, 7000, 10000});
  SpreadOverTicks(requests);
  EXPECT_THAT(TimesMs(requests), ElementsAre(1500, 4500, 6250, 6750, 8500, 11500));
}

TEST(Trace, TakesAPauseForNoTick) {
  std::vector<TraceRequest> requests = RequestsAt({0, 3000, 3000, 6000, 600'000, 600'000});
  SpreadOverTicks(requests);
  EXPECT_THAT(TimesMs(requests), ElementsAre(1500, 3750, 5250, 7500, 600'750, 602'250));
}

TEST(Trace, LeavesTimesThatNobodyShares) {
  const std::vector<TraceRequest> before = RequestsAt({0, 7, 9, 1000});
  std::vector<TraceRequest> requests = before;
  SpreadOverTicks(requests);
  EXPECT_EQ(requests, before);
  requests = RequestsAt({5, 5, 5});
  SpreadOverTicks(requests);
  EXPECT_EQ(requests, RequestsAt({5, 5, 5}));
}

TEST(Trace, HasContentsThatDifferAtEveryPlace) {
  const auto a = TokensOf({{1, 4096}});
  const auto b = TokensOf({{2, 4096}});
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NE(a[i], b[i]);
}

// What the whole module rests on: prompts are equal up to a token exactly where pieces are.
RC_GTEST_PROP(Trace, HasPromptsThatAreEqualAsFarAsTheirPieces, ()) {
  const auto pieces = rc::gen::container<std::vector<PromptPiece>>(
      rc::gen::construct<PromptPiece>(rc::gen::inRange(1u, 5u), rc::gen::inRange(1u, 6u)));
  const std::vector<PromptPiece> a = *pieces;
  const std::vector<PromptPiece> b = *pieces;
  // Pieces unrolled: content and place of each token.
  const auto unrolled = [](const std::vector<PromptPiece>& list) {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> out;
    for (const PromptPiece& piece : list) {
      for (std::uint32_t i = 0; i < piece.tokens; ++i) out.emplace_back(piece.content, i);
    }
    return out;
  };
  const auto common = [](const auto& x, const auto& y) {
    std::size_t n = 0;
    while (n < x.size() && n < y.size() && x[n] == y[n]) ++n;
    return n;
  };
  RC_ASSERT(common(TokensOf(a), TokensOf(b)) == common(unrolled(a), unrolled(b)));
}

TEST(TraceBuilder, CountsTimeFromTheFirstRequestAndPutsThemInOrder) {
  TraceBuilder builder("t", 16);
  for (const std::int64_t at_ns : {50, 20, 90}) {
    builder.Piece(builder.NewContent(), static_cast<std::uint32_t>(at_ns));
    builder.Add({.at_ns = at_ns});
  }
  const Result<Trace> trace = builder.Finish();
  ASSERT_TRUE(trace) << trace.error().message;
  ASSERT_EQ(trace->requests.size(), 3u);
  EXPECT_EQ(trace->requests[0].at_ns, 0);
  EXPECT_EQ(trace->requests[0].prompt_tokens, 20u);
  EXPECT_EQ(trace->requests[1].at_ns, 30);
  EXPECT_EQ(trace->requests[2].at_ns, 70);
  EXPECT_THAT(std::vector(trace->PiecesOf(trace->requests[2]).begin(),
                          trace->PiecesOf(trace->requests[2]).end()),
              ElementsAre(PromptPiece{3, 90}));
}

TEST(TraceBuilder, RefusesAPromptThatNoModelTakes) {
  TraceBuilder builder("t", std::nullopt);
  builder.Piece(1, kPromptTokensMax);
  EXPECT_FALSE(builder.full());
  builder.Piece(2, 1);
  EXPECT_TRUE(builder.full());
  builder.Add({});
  EXPECT_EQ(builder.Finish().error().code, ErrorCode::kInvalid);
}

TEST(TraceBuilder, RefusesAnEmptyTrace) {
  EXPECT_THAT(TraceBuilder("t", std::nullopt).Finish().error().message, HasSubstr("no request"));
}

}  // namespace
}  // namespace sublet
