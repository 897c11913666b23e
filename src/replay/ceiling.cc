#include "replay/ceiling.h"

#include <algorithm>
#include <list>
#include <ranges>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/check.h"
#include "kvcache/block_hash.h"

namespace sublet {
namespace {

// A request as a cache sees it.
struct BlockChain {
  std::vector<BlockHash> blocks;  // Of prompt and answer.
  std::size_t prompt_blocks = 0;  // The part of one at the end is one.
  std::size_t findable = 0;       // Of the prompt, with at least a token behind them.
};

// Calls `take` with each request's chain, in the order of the trace.
template <typename Take>
void ForEachChain(const Trace& trace, int block_tokens, const Take& take) {
  CHECK(block_tokens > 0);
  const auto size = static_cast<std::size_t>(block_tokens);
  const BlockHash seed = TokenChainSeed({.model = "ceiling"}, block_tokens);
  std::vector<TokenId> tokens;
  for (std::size_t i = 0; i < trace.requests.size(); ++i) {
    const TraceRequest& request = trace.requests[i];
    tokens.clear();
    for (const PromptPiece& piece : trace.PiecesOf(request)) AppendTokens(piece, tokens);
    BlockChain chain;
    chain.prompt_blocks = (tokens.size() + size - 1) / size;
    chain.findable = (tokens.size() - 1) / size;
    // The last token of an answer is told and never computed with.
    AppendTokens({AnswerTo(static_cast<RequestIndex>(i)), request.output_tokens - 1}, tokens);
    chain.blocks = TokenChain(seed, tokens, block_tokens);
    take(chain);
  }
}

class LeastRecentlyUsed {
 public:
  explicit LeastRecentlyUsed(std::size_t blocks_max) : blocks_max_(blocks_max) {}

  bool Holds(BlockHash block) const { return places_.contains(block); }

  void Use(BlockHash block) {
    const auto [it, is_new] = places_.try_emplace(block);
    if (is_new) {
      it->second = order_.insert(order_.end(), block);
    } else {
      order_.splice(order_.end(), order_, it->second);
    }
  }

  void Shrink() {
    while (places_.size() > blocks_max_) {
      places_.erase(order_.front());
      order_.pop_front();
    }
  }

 private:
  std::size_t blocks_max_;
  std::list<BlockHash> order_;  // The least recently used first.
  std::unordered_map<BlockHash, std::list<BlockHash>::iterator> places_;
};

double Ratio(std::size_t part, std::size_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

double CeilingHitRatio(const Trace& trace, int block_tokens) {
  std::unordered_set<BlockHash> cache;
  std::size_t found = 0;
  std::size_t blocks = 0;
  ForEachChain(trace, block_tokens, [&](const BlockChain& chain) {
    std::size_t prefix = 0;
    while (prefix < chain.findable && cache.contains(chain.blocks[prefix])) ++prefix;
    found += prefix;
    blocks += chain.prompt_blocks;
    cache.insert(chain.blocks.begin() + static_cast<std::ptrdiff_t>(prefix), chain.blocks.end());
  });
  return Ratio(found, blocks);
}

std::optional<double> PooledHitRatio(const Trace& trace, int block_tokens, std::int64_t blocks) {
  CHECK(blocks > 0);
  const auto follows = [](const TraceRequest& request) { return request.after.has_value(); };
  if (std::ranges::any_of(trace.requests, follows)) return std::nullopt;
  LeastRecentlyUsed cache(static_cast<std::size_t>(blocks));
  std::size_t found = 0;
  std::size_t all = 0;
  ForEachChain(trace, block_tokens, [&](const BlockChain& chain) {
    std::size_t prefix = 0;
    while (prefix < chain.findable && cache.Holds(chain.blocks[prefix])) ++prefix;
    found += prefix;
    all += chain.prompt_blocks;
    // A request's last blocks go before its first.
    for (const BlockHash block : std::views::reverse(chain.blocks)) cache.Use(block);
    cache.Shrink();
  });
  return Ratio(found, all);
}

}  // namespace sublet
