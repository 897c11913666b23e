#include "replay/trace_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "base/files.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Trace Parsed(std::string_view text) {
  Result<Trace> trace = ParseTrace(text, "t");
  EXPECT_TRUE(trace) << trace.error().message;
  return trace ? std::move(*trace) : Trace{};
}

std::string ErrorOf(std::string_view text) {
  const Result<Trace> trace = ParseTrace(text, "t");
  EXPECT_FALSE(trace);
  if (trace) return "";
  EXPECT_EQ(trace.error().code, ErrorCode::kInvalid);
  return trace.error().message;
}

std::vector<PromptPiece> PiecesAt(const Trace& trace, std::size_t index) {
  const auto pieces = trace.PiecesOf(trace.requests[index]);
  return {pieces.begin(), pieces.end()};
}

// Requests of `seconds`, one a line, with `hashes` of 512 tokens.
std::string MooncakeLine(int timestamp_ms, int input, std::string_view hashes) {
  return "{\"timestamp\": " + std::to_string(timestamp_ms) +
         ", \"input_length\": " + std::to_string(input) +
         ", \"output_length\": 7, \"hash_ids\": [" + std::string(hashes) + "]}\n";
}

TEST(TraceReader, ReadsMooncake) {
  const Trace trace = Parsed(MooncakeLine(0, 1000, "0, 1") + MooncakeLine(40, 1400, "0, 5, 9"));
  EXPECT_EQ(trace.block_tokens, 512);
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[1].at_ns, 40'000'000);
  EXPECT_EQ(trace.requests[1].prompt_tokens, 1400u);
  EXPECT_EQ(trace.requests[1].output_tokens, 7u);
  EXPECT_THAT(PiecesAt(trace, 0), ElementsAre(PromptPiece{1, 512}, PromptPiece{2, 488}));
  EXPECT_THAT(PiecesAt(trace, 1),
              ElementsAre(PromptPiece{1, 512}, PromptPiece{3, 512}, PromptPiece{4, 376}));
}

TEST(TraceReader, ReadsTheConversationTrace) {
  const Result<std::string> text =
      ReadFile(SUBLET_SOURCE_DIR "/examples/06_route/conversation.jsonl", kTraceBytesMax);
  ASSERT_TRUE(text) << text.error().message;
  const Trace trace = Parsed(*text);
  EXPECT_EQ(trace.requests.size(), 12'031u);
  std::set<std::int64_t> times;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t output_tokens = 0;
  for (const TraceRequest& request : trace.requests) {
    times.insert(request.at_ns);
    prompt_tokens += request.prompt_tokens;
    output_tokens += request.output_tokens;
    EXPECT_EQ(trace.PiecesOf(request).front().content, 1u);
  }
  EXPECT_EQ(prompt_tokens / trace.requests.size(), 12'035u);
  EXPECT_EQ(output_tokens / trace.requests.size(), 342u);
  EXPECT_EQ(times.size(), trace.requests.size()) << "ticks weren't spread";
  EXPECT_NEAR(static_cast<double>(trace.requests.back().at_ns) / 1e9, 3537, 3);
}

TEST(TraceReader, ReadsQwenWithItsChats) {
  const std::string head = "\"input_length\": 20, \"output_length\": 3, \"type\": \"text\", ";
  const Trace trace = Parsed(
      "{\"chat_id\": 7, \"parent_chat_id\": -1, \"timestamp\": 61.114, \"turn\": 1, " + head +
      "\"hash_ids\": [10, 11]}\n"
      "{\"chat_id\": 9, \"parent_chat_id\": -1, \"timestamp\": 62, \"turn\": 1, " +
      head +
      "\"hash_ids\": [10]}\n"
      "{\"chat_id\": 8, \"parent_chat_id\": 7, \"timestamp\": 63.5, \"turn\": 2, " +
      head + "\"hash_ids\": [10, 11]}\n");
  EXPECT_EQ(trace.block_tokens, 16);
  ASSERT_EQ(trace.requests.size(), 3u);
  EXPECT_EQ(trace.requests[1].at_ns, 886'000'000);
  EXPECT_EQ(trace.requests[0].session, 0u);
  EXPECT_EQ(trace.requests[1].session, 1u);
  EXPECT_EQ(trace.requests[2].session, 0u);
  // A last block without a hash is the request's own.
  EXPECT_THAT(PiecesAt(trace, 1), ElementsAre(PromptPiece{1, 16}, PromptPiece{3, 4}));
  EXPECT_EQ(PiecesAt(trace, 2), PiecesAt(trace, 0));
}

TEST(TraceReader, ReadsAzure) {
  const Trace trace = Parsed(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
      "2023-11-16 23:59:59.6805900,4808,10\r\n"
      "2023-11-17 00:00:01,3180,8\r\n"
      "2023-11-17 00:00:01.5+00:00,110,27");
  EXPECT_EQ(trace.block_tokens, std::nullopt);
  ASSERT_EQ(trace.requests.size(), 3u);
  EXPECT_EQ(trace.requests[1].at_ns, 1'319'410'000);
  EXPECT_EQ(trace.requests[2].at_ns, 1'819'410'000);
  EXPECT_EQ(trace.requests[2].prompt_tokens, 110u);
  EXPECT_EQ(trace.requests[2].output_tokens, 27u);
  EXPECT_NE(PiecesAt(trace, 0).front().content, PiecesAt(trace, 1).front().content);
}

TEST(TraceReader, ReadsBurstGptWhoseFailuresHaveNoAnswer) {
  const Trace trace = Parsed(
      "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log "
      "Type\n"
      "5,1,0.2,ChatGPT,472,18,490,Conversation log\n"
      "45.5,2,0.1,GPT-4,1087,0,1087,API log\n"
      "46,2,0.1,GPT-4,0,0,0,API log\n");
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[1].at_ns, 40'500'000'000);
  EXPECT_EQ(trace.requests[1].prompt_tokens, 1087u);
  EXPECT_EQ(trace.requests[1].output_tokens, 1u);
}

TEST(TraceReader, NamesTheLineThatIsWrong) {
  const std::string good = MooncakeLine(0, 512, "1");
  EXPECT_THAT(ErrorOf(good + "\n" + good + "{\"timestamp\": 1"), HasSubstr("t:4: not a JSON"));
  EXPECT_THAT(ErrorOf(good + "[1]"), HasSubstr("t:2: not a JSON object: [1]"));
  EXPECT_THAT(ErrorOf(good + "{\"timestamp\": 1}"), HasSubstr("t:2: no whole number 'input_l"));
  EXPECT_THAT(ErrorOf(MooncakeLine(-1, 512, "1")), HasSubstr("t:1: 'timestamp' isn't a time: -1"));
  EXPECT_THAT(ErrorOf(MooncakeLine(0, 0, "")), HasSubstr("'input_length' isn't within 1"));
  EXPECT_THAT(ErrorOf(MooncakeLine(0, 99'999'999, "1")), HasSubstr("isn't within 1"));
  EXPECT_THAT(ErrorOf(MooncakeLine(0, 513, "1, \"x\"")), HasSubstr("no whole number"));
}

TEST(TraceReader, HoldsHashesToTheLength) {
  EXPECT_THAT(ErrorOf(MooncakeLine(0, 1400, "1")), HasSubstr("1 hash_ids for a prompt of 1400"));
  EXPECT_THAT(ErrorOf(MooncakeLine(0, 512, "1, 2")), HasSubstr("2 hash_ids for a prompt of 512"));
}

TEST(TraceReader, RefusesAChatThatComesTwice) {
  const std::string line =
      "{\"chat_id\": 7, \"parent_chat_id\": -1, \"timestamp\": 1, \"input_length\": 9, "
      "\"output_length\": 3, \"hash_ids\": [1]}\n";
  EXPECT_THAT(ErrorOf(line + line), HasSubstr("t:2: a second request of 'chat_id' 7"));
}

TEST(TraceReader, RefusesCsvThatIsNone) {
  const std::string azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
  EXPECT_THAT(ErrorOf(""), HasSubstr("an empty trace"));
  EXPECT_THAT(ErrorOf(" \n\n"), HasSubstr("an empty trace"));
  EXPECT_THAT(ErrorOf("a,b\n1,2\n"), HasSubstr("t:1: not the head of a trace"));
  EXPECT_THAT(ErrorOf(azure), HasSubstr("no request"));
  EXPECT_THAT(ErrorOf(azure + "2023-02-30 00:00:00,1,1\n"), HasSubstr("t:2: not a time"));
  EXPECT_THAT(ErrorOf(azure + "2023-11-16T00:00:00,1,1\n"), HasSubstr("not a time"));
  EXPECT_THAT(ErrorOf(azure + "2023-11-16 00:00:00.,1,1\n"), HasSubstr("not a time"));
  EXPECT_THAT(ErrorOf(azure + "2023-11-16 00:00:00,-1,1\n"), HasSubstr("not a number of tokens"));
  EXPECT_THAT(ErrorOf(azure + "2023-11-16 00:00:00,1\n"), HasSubstr("2 columns, the head has 3"));
  EXPECT_THAT(ErrorOf(azure + "2023-11-16 00:00:00,\"1\",1\n"), HasSubstr("a quoted column"));
}

TEST(TraceReader, PutsRequestsInOrder) {
  const Trace trace = Parsed(MooncakeLine(900, 512, "1") + MooncakeLine(100, 300, "2"));
  EXPECT_EQ(trace.requests[0].prompt_tokens, 300u);
  EXPECT_EQ(trace.requests[1].at_ns, 800'000'000);
}

}  // namespace
}  // namespace sublet
