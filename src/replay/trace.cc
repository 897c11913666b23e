#include "replay/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"

namespace sublet {
namespace {

// 2^32 divided by the golden ratio. Odd, so that contents times it never meet (mod 2^32), and far
// apart, so that two contents' runs of tokens rarely overlap at any distance.
constexpr std::uint32_t kContentStride = 0x9E3779B1u;

// A tick longer than this is a pause: nobody knows when in it a request came.
constexpr std::int64_t kTickMaxNs = 10'000'000'000;

}  // namespace

void AppendTokens(const PromptPiece& piece, std::vector<TokenId>& tokens) {
  const std::uint32_t first = piece.content * kContentStride;
  const std::size_t begin = tokens.size();
  tokens.resize(begin + piece.tokens);
  for (std::uint32_t i = 0; i < piece.tokens; ++i) tokens[begin + i] = first + i;
}

TraceBuilder::TraceBuilder(std::string name, std::optional<int> block_tokens) {
  trace_.name = std::move(name);
  trace_.block_tokens = block_tokens;
}

void TraceBuilder::Expect(double requests) {
  if (requests > static_cast<double>(kTraceRequestsMax)) full_ = true;
}

std::uint32_t TraceBuilder::NewContent() {
  if (next_content_ == kAnswerBit) {
    full_ = true;
    return 0;
  }
  return next_content_++;
}

void TraceBuilder::Piece(std::uint32_t content, std::uint32_t tokens) {
  if (tokens == 0) return;
  if (trace_.pieces.size() >= kTracePiecesMax || tokens > kPromptTokensMax - tokens_) {
    full_ = true;
    return;
  }
  trace_.pieces.push_back({content, tokens});
  tokens_ += tokens;
}

RequestIndex TraceBuilder::Add(const Arrival& arrival) {
  const auto index = static_cast<RequestIndex>(trace_.requests.size());
  if (index >= kTraceRequestsMax) full_ = true;
  if (!full_) {
    CHECK(tokens_ > 0);
    CHECK(!arrival.after || *arrival.after < index);
    trace_.requests.push_back({.at_ns = arrival.at_ns,
                               .after = arrival.after,
                               .prompt_tokens = tokens_,
                               .output_tokens = std::max(1u, arrival.output_tokens),
                               .session = arrival.session,
                               .pieces_begin = pieces_begin_,
                               .pieces_count = trace_.pieces.size() - pieces_begin_});
  }
  pieces_begin_ = trace_.pieces.size();
  tokens_ = 0;
  return index;
}

Result<Trace> TraceBuilder::Finish() {
  if (full_) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("more than {} requests, {} pieces or {} tokens a prompt",
                            kTraceRequestsMax, kTracePiecesMax, kPromptTokensMax));
  }
  if (trace_.requests.empty()) return Fail(ErrorCode::kInvalid, "no request in it");
  std::vector<TraceRequest>& requests = trace_.requests;
  // Those that follow others name them by their index, and are made in order.
  const bool open =
      std::ranges::none_of(requests, [](const TraceRequest& r) { return r.after.has_value(); });
  if (open) {
    std::ranges::stable_sort(requests, {}, &TraceRequest::at_ns);
    const std::int64_t start_ns = requests.front().at_ns;
    for (TraceRequest& request : requests) request.at_ns -= start_ns;
  }
  return std::move(trace_);
}

void SpreadOverTicks(std::vector<TraceRequest>& requests) {
  std::map<std::int64_t, std::size_t> distances;
  std::size_t times = requests.empty() ? 0 : 1;
  for (std::size_t i = 1; i < requests.size(); ++i) {
    const std::int64_t distance = requests[i].at_ns - requests[i - 1].at_ns;
    CHECK(distance >= 0);
    if (distance == 0) continue;
    ++distances[distance];
    ++times;
  }
  if (distances.empty() || times == requests.size()) return;
  const auto by_count = [](const auto& a, const auto& b) { return a.second < b.second; };
  const std::int64_t tick_ns =
      std::min(kTickMaxNs, std::ranges::max_element(distances, by_count)->first);
  for (std::size_t begin = 0, end = 0; begin < requests.size(); begin = end) {
    const std::int64_t at_ns = requests[begin].at_ns;
    while (end < requests.size() && requests[end].at_ns == at_ns) ++end;
    // The next tick may come early (Mooncake's clock jitters by a millisecond).
    const std::int64_t room_ns =
        end < requests.size() ? std::min(tick_ns, requests[end].at_ns - at_ns) : tick_ns;
    const auto count = static_cast<std::int64_t>(end - begin);
    for (std::int64_t k = 0; k < count; ++k) {
      requests[begin + static_cast<std::size_t>(k)].at_ns =
          at_ns + room_ns * (2 * k + 1) / (2 * count);
    }
  }
}

}  // namespace sublet
