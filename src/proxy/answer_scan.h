// proxy/answer_scan.h
//
// What a router learns from an answer while it passes through: when the first token came, how many
// events there were, and the tokens that the engine counted.
//
//   scan.Begin(RequestKind::kChat, true);
//   scan.Take(piece);                        // Each piece, as it was cut by the network.
//   scan.first_token(), scan.events(), scan.at_event_end();
//   scan.FindUsage();                        // At the end.
//
// Events are counted by their lines, without parsing them: some 0.2 ns a byte. Only what might be
// the first token is looked at, since chat streams begin with an event that has no more than a
// role. The usage stands near the end of every answer, so the last few KiB are kept and the last
// object of that name in them is parsed; text that a model wrote can't be taken for it, because
// quotes are escaped in it.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "kvcache/request_prefix.h"

namespace sublet::internal {

struct TokenUsage {
  std::optional<std::uint32_t> prompt_tokens = {};
  std::optional<std::uint32_t> cached_tokens = {};
  std::optional<std::uint32_t> output_tokens = {};

  friend bool operator==(const TokenUsage&, const TokenUsage&) = default;
};

class AnswerScan {
 public:
  void Begin(RequestKind kind, bool events);
  void Take(std::string_view piece);

  bool first_token() const { return first_token_; }
  std::int64_t events() const { return events_; }  // With data, "[DONE]" not counted.
  // The last byte taken ended an event, or none has come.
  bool at_event_end() const { return last_line_empty_ && line_bytes_ == 0; }

  TokenUsage FindUsage() const;

 private:
  void TakeEvents(std::string_view piece);
  void EndLine();

  RequestKind kind_ = RequestKind::kOther;
  bool is_stream_ = false;
  bool first_token_ = false;
  std::int64_t events_ = 0;
  bool last_line_empty_ = true;  // Which ends an event.
  std::size_t line_bytes_ = 0;   // Of the line that has begun,
  std::string line_;             // and its beginning, as far as it must be looked at.
  std::string tail_;
};

// In the text of an answer, or of the end of one: the last `"usage": {...}`.
TokenUsage FindUsageIn(std::string_view text);

}  // namespace sublet::internal
