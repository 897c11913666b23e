#include "proxy/answer_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet::internal {
namespace {

constexpr std::string_view kRole =
    R"(data: {"choices":[{"delta":{"role":"assistant","content":""}}]})"
    "\n\n";
constexpr std::string_view kToken = R"(data: {"choices":[{"delta":{"content":"Hi"}}]})"
                                    "\n\n";
constexpr std::string_view kUsageEvent =
    R"(data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3,)"
    R"("prompt_tokens_details":{"cached_tokens":8}}})"
    "\n\n";
constexpr std::string_view kDone = "data: [DONE]\n\n";

TokenUsage Usage(std::uint32_t prompt, std::uint32_t cached, std::uint32_t output) {
  return {.prompt_tokens = prompt, .cached_tokens = cached, .output_tokens = output};
}

TEST(AnswerScan, FindsTheSameHoweverTheStreamIsCut) {
  const std::string stream = ": ping\n\n" + std::string(kRole) + std::string(kToken) +
                             std::string(kToken) + std::string(kUsageEvent) + std::string(kDone);
  for (std::size_t cut = 0; cut <= stream.size(); ++cut) {
    AnswerScan scan;
    scan.Begin(RequestKind::kChat, true);
    scan.Take(stream.substr(0, cut));
    scan.Take(stream.substr(cut));
    EXPECT_EQ(scan.events(), 4) << cut;
    EXPECT_TRUE(scan.first_token()) << cut;
    EXPECT_TRUE(scan.at_event_end()) << cut;
    EXPECT_EQ(scan.FindUsage(), Usage(12, 8, 3)) << cut;
  }
}

TEST(AnswerScan, TakesNoRoleForAToken) {
  AnswerScan scan;
  scan.Begin(RequestKind::kChat, true);
  scan.Take(kRole);
  EXPECT_FALSE(scan.first_token());
  scan.Take(
      "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\", \"content\": null}}]}\r\n\r\n");
  EXPECT_FALSE(scan.first_token());
  EXPECT_TRUE(scan.at_event_end());
  scan.Take(kToken.substr(0, 20));
  EXPECT_FALSE(scan.at_event_end());
  EXPECT_FALSE(scan.first_token());
  scan.Take(kToken.substr(20));
  EXPECT_TRUE(scan.first_token());
}

TEST(AnswerScan, TakesThoughtsAndToolCallsForTokens) {
  for (const char* delta : {R"({"reasoning_content":"hm"})", R"({"reasoning":"hm"})",
                            R"({"tool_calls":[{"index":0}]})"}) {
    AnswerScan scan;
    scan.Begin(RequestKind::kChat, true);
    scan.Take("data: {\"choices\":[{\"delta\":" + std::string(delta) + "}]}\n\n");
    EXPECT_TRUE(scan.first_token()) << delta;
  }
}

TEST(AnswerScan, TakesAnUnknownStreamToHaveBegunAtSomeTime) {
  AnswerScan scan;
  scan.Begin(RequestKind::kChat, true);
  for (int i = 0; i < 10 && !scan.first_token(); ++i) scan.Take("data: {\"novel\":1}\n\n");
  EXPECT_TRUE(scan.first_token());
  EXPECT_EQ(scan.events(), 6);
}

TEST(AnswerScan, KnowsTheResponsesApi) {
  AnswerScan scan;
  scan.Begin(RequestKind::kResponses, true);
  scan.Take("event: response.created\ndata: {\"type\":\"response.created\"}\n\n");
  EXPECT_FALSE(scan.first_token());
  scan.Take("data: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n");
  EXPECT_TRUE(scan.first_token());
  scan.Take(
      "data: {\"response\":{\"usage\":{\"input_tokens\":5,\"input_tokens_details\":"
      "{\"cached_tokens\":2},\"output_tokens\":1},\"user\":null}}\n\n");
  EXPECT_EQ(scan.FindUsage(), Usage(5, 2, 1));
}

TEST(AnswerScan, FindsTheUsageOfALongBody) {
  AnswerScan scan;
  scan.Begin(RequestKind::kEmbedding, false);
  scan.Take("{\"data\":[" + std::string(100'000, '1'));
  scan.Take(std::string(50'000, '1') + "],\"usage\": {\"prompt_tokens\": 7}, \"x\": null}");
  EXPECT_EQ(scan.FindUsage(), (TokenUsage{.prompt_tokens = 7}));
}

TEST(FindUsage, IsNotFooledByText) {
  EXPECT_EQ(FindUsageIn(R"({"content":"\"usage\":{\"prompt_tokens\":1}"})"), TokenUsage{});
  EXPECT_EQ(FindUsageIn(R"({"usage":null})"), TokenUsage{});
  EXPECT_EQ(FindUsageIn(R"({"usage":{"prompt_tokens":)"), TokenUsage{});
  EXPECT_EQ(FindUsageIn(R"({"usage":{"prompt_tokens":-1}})"), TokenUsage{});
  EXPECT_EQ(FindUsageIn(R"({"usage":{"prompt_tokens":3}} {"usage":null})"),
            (TokenUsage{.prompt_tokens = 3}));
  EXPECT_EQ(FindUsageIn(R"({"usage":{"a":"}","prompt_tokens":3}})"),
            (TokenUsage{.prompt_tokens = 3}));
  EXPECT_EQ(FindUsageIn(""), TokenUsage{});
}

}  // namespace
}  // namespace sublet::internal
