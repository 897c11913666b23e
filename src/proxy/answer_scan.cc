#include "proxy/answer_scan.h"

#include <simdjson.h>

#include <algorithm>
#include <cstring>

namespace sublet::internal {
namespace {

// The usage and all that engines put behind it: parameters of a KV transfer, a fingerprint. The
// Responses API ends with some 300 bytes more.
constexpr std::size_t kTailBytes = 4u << 10;
constexpr std::size_t kUsageBytesMax = 2u << 10;
// Of a line that may hold the first token; one that is longer certainly does.
constexpr std::size_t kFirstLineBytesMax = 2u << 10;
// An engine whose events have a form that isn't known has begun by then: the Responses API has the
// most in front of its first token, four.
constexpr int kSilentEventsMax = 6;
constexpr std::string_view kData = "data:";

std::string_view WithoutBlanks(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\r')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

// `"name"` followed by a colon and then by none of what says that there is nothing.
bool HasValue(std::string_view json, std::string_view quoted_name) {
  for (std::size_t at = json.find(quoted_name); at != std::string_view::npos;
       at = json.find(quoted_name, at + 1)) {
    std::string_view rest = WithoutBlanks(json.substr(at + quoted_name.size()));
    if (!rest.starts_with(':')) continue;
    rest = WithoutBlanks(rest.substr(1));
    if (!rest.starts_with("\"\"") && !rest.starts_with("null") && !rest.starts_with("[]")) {
      return true;
    }
  }
  return false;
}

bool HasToken(RequestKind kind, std::string_view json) {
  switch (kind) {
    case RequestKind::kChat:
      return HasValue(json, "\"content\"") || HasValue(json, "\"reasoning_content\"") ||
             HasValue(json, "\"reasoning\"") || HasValue(json, "\"tool_calls\"");
    case RequestKind::kResponses:
      return json.find(".delta\"") != std::string_view::npos;
    default:
      return true;
  }
}

// The object that begins at `text`, with its braces; empty where it doesn't end.
std::string_view ObjectAt(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < std::min(text.size(), kUsageBytesMax); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth == 0) {
      return text.substr(0, i + 1);
    }
  }
  return {};
}

std::optional<std::uint32_t> Count(simdjson::dom::element object, std::string_view pointer) {
  std::uint64_t value = 0;
  if (object.at_pointer(pointer).get(value) != simdjson::SUCCESS) return std::nullopt;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(value, UINT32_MAX));
}

std::optional<std::uint32_t> EitherCount(simdjson::dom::element object, std::string_view pointer,
                                         std::string_view other) {
  const auto count = Count(object, pointer);
  return count ? count : Count(object, other);
}

}  // namespace

TokenUsage FindUsageIn(std::string_view text) {
  constexpr std::string_view kName = "\"usage\"";
  for (std::size_t at = text.rfind(kName); at != std::string_view::npos;
       at = at > 0 ? text.rfind(kName, at - 1) : std::string_view::npos) {
    std::string_view rest = WithoutBlanks(text.substr(at + kName.size()));
    if (!rest.starts_with(':')) continue;
    rest = WithoutBlanks(rest.substr(1));
    if (!rest.starts_with('{')) continue;  // Events before the last have null.
    const std::string_view object = ObjectAt(rest);
    if (object.empty()) continue;
    thread_local simdjson::dom::parser parser(kUsageBytesMax);
    simdjson::dom::element usage;
    if (parser.parse(object.data(), object.size()).get(usage) != simdjson::SUCCESS) continue;
    return {.prompt_tokens = EitherCount(usage, "/prompt_tokens", "/input_tokens"),
            .cached_tokens = EitherCount(usage, "/prompt_tokens_details/cached_tokens",
                                         "/input_tokens_details/cached_tokens"),
            .output_tokens = EitherCount(usage, "/completion_tokens", "/output_tokens")};
  }
  return {};
}

void AnswerScan::Begin(RequestKind kind, bool events) {
  kind_ = kind;
  is_stream_ = events;
  first_token_ = false;
  events_ = 0;
  last_line_empty_ = true;
  line_bytes_ = 0;
  line_.clear();
  tail_.clear();
}

void AnswerScan::Take(std::string_view piece) {
  if (piece.empty()) return;
  if (is_stream_) {
    TakeEvents(piece);
  } else {
    first_token_ = true;
  }
  if (kind_ == RequestKind::kOther) return;
  if (tail_.size() + piece.size() > 2 * kTailBytes) {
    if (piece.size() >= kTailBytes) {
      tail_.clear();
    } else {
      tail_.erase(0, tail_.size() - (kTailBytes - piece.size()));
    }
  }
  tail_.append(piece.size() > kTailBytes ? piece.substr(piece.size() - kTailBytes) : piece);
}

void AnswerScan::TakeEvents(std::string_view piece) {
  while (!piece.empty()) {
    const std::size_t end = piece.find('\n');
    const std::string_view part = piece.substr(0, end);
    // The first bytes of each line, and until the first token the line.
    const std::size_t wanted = first_token_ ? kData.size() + 8 : kFirstLineBytesMax;
    if (line_.size() < wanted) line_.append(part.substr(0, wanted - line_.size()));
    line_bytes_ += part.size();
    if (end == std::string_view::npos) return;
    EndLine();
    piece.remove_prefix(end + 1);
  }
}

void AnswerScan::EndLine() {
  const std::string_view line = line_;
  last_line_empty_ = line_bytes_ == 0 || (line_bytes_ == 1 && line == "\r");
  if (line.starts_with(kData)) {
    const std::string_view data = WithoutBlanks(line.substr(kData.size()));
    if (!data.starts_with("[DONE]")) {
      ++events_;
      if (!first_token_) {
        first_token_ = line_bytes_ > kFirstLineBytesMax || events_ >= kSilentEventsMax ||
                       HasToken(kind_, data);
      }
    }
  }
  line_.clear();
  line_bytes_ = 0;
}

TokenUsage AnswerScan::FindUsage() const {
  return kind_ == RequestKind::kOther ? TokenUsage{} : FindUsageIn(tail_);
}

}  // namespace sublet::internal
