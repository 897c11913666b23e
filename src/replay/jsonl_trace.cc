// Mooncake's and Qwen-Bailian's traces: a JSON object a line, with the hashes of its prompt's
// blocks.
#include <fmt/format.h>
#include <simdjson.h>

#include <cmath>
#include <limits>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "replay/trace_lines.h"
#include "replay/trace_reader.h"

namespace sublet {
namespace {

// The two publishers' units, which the lines don't name.
constexpr int kMooncakeBlockTokens = 512;
constexpr int kQwenBlockTokens = 16;

class JsonlTraceReader {
 public:
  JsonlTraceReader(TraceLines lines, bool qwen)
      : lines_(lines),
        qwen_(qwen),
        block_tokens_(qwen ? kQwenBlockTokens : kMooncakeBlockTokens),
        builder_(std::string(lines.source()), block_tokens_) {}

  Result<Trace> Read() {
    while (const auto line = lines_.Next()) {
      if (line->size() > kTraceLineBytesMax) return lines_.Fails("a line of more than 16 MiB");
      RETURN_IF_ERROR(ReadLine(*line));
      if (builder_.full()) break;
    }
    Result<Trace> trace = builder_.Finish();
    if (!trace) return lines_.Fails(std::move(trace).error().message);
    return trace;
  }

 private:
  using Object = simdjson::dom::element;

  Status ReadLine(std::string_view line) {
    Object object;
    const auto error = parser_.parse(line.data(), line.size()).get(object);
    if (error != simdjson::SUCCESS || !object.is_object()) {
      return lines_.Fails(fmt::format("not a JSON object: {}", line.substr(0, 40)));
    }
    ASSIGN_OR_RETURN(const std::int64_t at_ns, ReadTime(object));
    ASSIGN_OR_RETURN(const std::int64_t input,
                     ReadWhole(object, "input_length", 1, kPromptTokensMax));
    ASSIGN_OR_RETURN(const std::int64_t output,
                     ReadWhole(object, "output_length", 0, kOutputTokensMax));
    RETURN_IF_ERROR(ReadHashes(object, input));
    TraceBuilder::Arrival arrival{.at_ns = at_ns,
                                  .output_tokens = static_cast<std::uint32_t>(output)};
    if (qwen_) {
      ASSIGN_OR_RETURN(arrival.session, ReadChat(object));
    }
    builder_.Add(arrival);
    return {};
  }

  Result<std::int64_t> ReadWhole(const Object& object, std::string_view key, std::int64_t min,
                                 std::int64_t max) const {
    std::int64_t value = 0;
    if (object[key].get(value) != simdjson::SUCCESS) {
      return lines_.Fails(fmt::format("no whole number '{}'", key));
    }
    if (value < min || value > max) {
      return lines_.Fails(fmt::format("'{}' isn't within {} and {}: {}", key, min, max, value));
    }
    return value;
  }

  // Milliseconds in Mooncake's, seconds in Qwen's.
  Result<std::int64_t> ReadTime(const Object& object) const {
    double time = 0;
    if (object["timestamp"].get(time) != simdjson::SUCCESS) {
      return lines_.Fails("no number 'timestamp'");
    }
    const double seconds = qwen_ ? time : time / 1e3;
    if (!(seconds >= 0 && seconds <= kTraceSecondsMax)) {
      return lines_.Fails(fmt::format("'timestamp' isn't a time: {}", time));
    }
    return std::llround(seconds * 1e9);
  }

  // A piece for each hash. The last block may be in part, and Qwen's has no hash then in some
  // releases: what has none is the request's own.
  Status ReadHashes(const Object& object, std::int64_t input) {
    simdjson::dom::array hashes;
    if (object["hash_ids"].get(hashes) != simdjson::SUCCESS) {
      return lines_.Fails("no list 'hash_ids'");
    }
    const std::int64_t full = input / block_tokens_;
    const std::int64_t blocks = (input + block_tokens_ - 1) / block_tokens_;
    std::int64_t left = input;
    std::int64_t count = 0;
    for (const Object hash : hashes) {
      std::int64_t id = 0;
      if (hash.get(id) != simdjson::SUCCESS) return lines_.Fails("a hash that is no whole number");
      if (++count > blocks) break;
      const std::int64_t tokens = std::min<std::int64_t>(block_tokens_, left);
      builder_.Piece(ContentOf(id), static_cast<std::uint32_t>(tokens));
      left -= tokens;
    }
    if (count < full || count > blocks) {
      return lines_.Fails(fmt::format("{} hash_ids for a prompt of {} tokens, which has {} blocks",
                                      hashes.size(), input, blocks));
    }
    if (left > 0) builder_.Piece(builder_.NewContent(), static_cast<std::uint32_t>(left));
    return {};
  }

  std::uint32_t ContentOf(std::int64_t hash) {
    const auto [it, is_new] = contents_.try_emplace(hash, 0);
    if (is_new) it->second = builder_.NewContent();
    return it->second;
  }

  // The chat's first request names the session. A parent that isn't in the trace (it was cut) makes
  // a session of its own.
  Result<std::uint32_t> ReadChat(const Object& object) {
    constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
    ASSIGN_OR_RETURN(const std::int64_t chat, ReadWhole(object, "chat_id", 0, kMax));
    ASSIGN_OR_RETURN(const std::int64_t parent, ReadWhole(object, "parent_chat_id", -1, kMax));
    const auto known = sessions_.find(parent);
    const std::uint32_t session =
        known != sessions_.end() ? known->second : static_cast<std::uint32_t>(sessions_.size());
    if (!sessions_.emplace(chat, session).second) {
      return lines_.Fails(fmt::format("a second request of 'chat_id' {}", chat));
    }
    return session;
  }

  TraceLines lines_;
  bool qwen_;
  int block_tokens_;
  TraceBuilder builder_;
  simdjson::dom::parser parser_;
  std::unordered_map<std::int64_t, std::uint32_t> contents_;
  std::unordered_map<std::int64_t, std::uint32_t> sessions_;
};

}  // namespace

Result<Trace> ParseJsonlTrace(TraceLines lines) {
  TraceLines ahead = lines;
  const std::string_view first = ahead.Next().value_or("");
  return JsonlTraceReader(lines, first.find("\"chat_id\"") != std::string_view::npos).Read();
}

}  // namespace sublet
