// replay/trace.h
//
// Requests over time, as a value: what a recorded trace and generated traffic have in common.
//
//   ASSIGN_OR_RETURN(const Trace trace, ParseTrace(text, "conversation.jsonl"));
//   for (const TraceRequest& request : trace.requests) {
//     for (const PromptPiece& piece : trace.PiecesOf(request)) AppendTokens(piece, tokens);
//   }
//
// A prompt is a list of pieces: so many tokens of content number such. Traces name contents by
// hashes and never have the text; what a router and an engine see is only where two prompts begin
// to differ, and two prompts of pieces are equal up to a token exactly where their pieces are.
// Pieces have any length, so a generator needs to know nothing of blocks.
//
// A piece may be the answer to an earlier request of the same trace: the next turn of a chat has
// it in its prompt, and finds it in the cache of the replica that wrote it. Which tokens an engine
// wrote is known only while the trace is replayed.
//
// A request comes at a time of its own, or some time after the last token of another one: a person
// who reads first, an agent whose tool runs first. The latter makes a load that a slow fleet slows
// too (a closed loop).
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kvcache/block_hash.h"

namespace sublet {

// A trace of a day on a large service (BurstGPT's longest: 5.3 million over four months). What is
// longer can be cut; this keeps a replay's books below 1 GiB.
inline constexpr std::size_t kTraceRequestsMax = 8'000'000;
inline constexpr std::size_t kTracePiecesMax = 64'000'000;  // 512 MiB.
// No model served today takes more; what is larger is a wrong column.
inline constexpr std::uint32_t kPromptTokensMax = 16u << 20;
inline constexpr std::uint32_t kOutputTokensMax = 1u << 20;

struct PromptPiece {
  std::uint32_t content = 0;  // A number of the trace's own; or, of an answer, AnswerTo()'s.
  std::uint32_t tokens = 0;

  friend bool operator==(const PromptPiece&, const PromptPiece&) = default;
};

using RequestIndex = std::uint32_t;  // Into Trace::requests.

inline constexpr std::uint32_t kAnswerBit = 1u << 31;
// The content that is what request `index` was answered with.
constexpr std::uint32_t AnswerTo(RequestIndex index) {
  return kAnswerBit | index;
}
constexpr std::optional<RequestIndex> AnswerOf(std::uint32_t content) {
  if ((content & kAnswerBit) == 0) return std::nullopt;
  return content & ~kAnswerBit;
}

struct TraceRequest {
  // Since the trace began; where `after` is given, since that request's last token.
  std::int64_t at_ns = 0;
  std::optional<RequestIndex> after = {};  // An earlier one.
  std::uint32_t prompt_tokens = 0;         // The sum of its pieces.
  std::uint32_t output_tokens = 1;
  std::optional<std::uint32_t> session = {};  // Where the trace tells.
  std::size_t pieces_begin = 0;
  std::size_t pieces_count = 0;

  friend bool operator==(const TraceRequest&, const TraceRequest&) = default;
};

struct Trace {
  std::string name;
  // Of the trace's own hashes; absent: it has none, and any size of block suits it.
  std::optional<int> block_tokens;
  std::vector<PromptPiece> pieces;
  // By time; one that follows another stands behind it, wherever that is.
  std::vector<TraceRequest> requests;

  std::span<const PromptPiece> PiecesOf(const TraceRequest& request) const {
    return {pieces.data() + request.pieces_begin, request.pieces_count};
  }
};

// The piece's tokens. Different contents differ in their first token, and in each that stands at
// the same place.
void AppendTokens(const PromptPiece& piece, std::vector<TokenId>& tokens);

// Puts a trace together, within its bounds.
class TraceBuilder {
 public:
  TraceBuilder(std::string name, std::optional<int> block_tokens);

  // Says beforehand how many requests will come, so that too many cost no memory.
  void Expect(double requests);
  // A content that no other piece has.
  std::uint32_t NewContent();

  // The pieces of the request that Add() will add.
  void Piece(std::uint32_t content, std::uint32_t tokens);

  struct Arrival {
    std::int64_t at_ns = 0;
    std::optional<RequestIndex> after = {};
    std::optional<std::uint32_t> session = {};
    std::uint32_t output_tokens = 1;
  };
  RequestIndex Add(const Arrival& arrival);

  // Whether no more fits; what is added then is dropped, and Finish() fails.
  bool full() const { return full_; }

  // The requests in the order of their time, which is counted from the first. Fails with kInvalid
  // where there is none, or where there were too many.
  Result<Trace> Finish();

 private:
  Trace trace_;
  std::uint32_t next_content_ = 1;
  std::uint32_t tokens_ = 0;  // Of the request under way.
  std::size_t pieces_begin_ = 0;
  bool full_ = false;
};

// Recorded times are often whole ticks: Mooncake's are 3 s, BurstGPT's 1 s. Where several requests
// share a time, they are spread evenly over the tick, which is the most frequent distance between
// two times. REQUIRES: requests by time, none with `after`.
void SpreadOverTicks(std::vector<TraceRequest>& requests);

}  // namespace sublet
