// FleetCache: who holds how much of a prompt.
#include <algorithm>
#include <bit>
#include <cmath>
#include <mutex>
#include <utility>

#include "kvcache/fleet_books.h"

namespace sublet {

MatchSummary FleetBooks::Match(const RequestPrefix& prefix, std::vector<CacheMatch>& matches) {
  matches.clear();
  std::vector<HashedChain> chains;
  if (!prefix.token_ids.empty()) chains = HashChains(prefix);
  MatchSummary summary;
  const std::lock_guard lock(mutex_);
  groups_.For(prefix.model, prefix.salt, served_);
  best_.resize(replicas_.size());
  found_.assign((replicas_.size() + 63) / 64, 0);
  if (!prefix.token_ids.empty()) {
    summary.prompt_tokens = static_cast<std::uint32_t>(prefix.token_ids.size());
    MatchTokens(prefix, chains);
  } else {
    const double bytes_a_token = BytesAToken();
    summary.prompt_tokens =
        static_cast<std::uint32_t>(static_cast<double>(prefix.text_bytes) / bytes_a_token);
    MatchTexts(prefix, static_cast<std::uint32_t>(
                           std::lround(static_cast<double>(kTextBlockBytes) / bytes_a_token)));
  }
  Report(summary, matches);
  return summary;
}

// Without the lock but for a look at whom to hash for: one chain a size of block, mostly one.
std::vector<FleetBooks::HashedChain> FleetBooks::HashChains(const RequestPrefix& prefix) {
  std::vector<ServedBy> served;
  {
    const std::lock_guard lock(mutex_);
    groups_.For(prefix.model, prefix.salt, served);
  }
  std::vector<HashedChain> chains;
  for (const ServedBy& by : served) chains.push_back({.by = by, .hashes = ChainOf(prefix, by)});
  return chains;
}

void FleetBooks::MatchTokens(const RequestPrefix& prefix, std::span<const HashedChain> chains) {
  for (const ServedBy& by : served_) {
    const auto hashed = std::find_if(chains.begin(), chains.end(),
                                     [&](const HashedChain& chain) { return chain.by == by; });
    // A group that came since is rare enough to be hashed for here.
    const std::vector<BlockHash> late =
        hashed == chains.end() ? ChainOf(prefix, by) : std::vector<BlockHash>{};
    walk_.Run({.hashes = hashed == chains.end() ? late : hashed->hashes,
               .tokens_a_block = static_cast<std::uint32_t>(by.block_tokens)},
              LanesOf(by.group));
    Collect();
  }
}

void FleetBooks::MatchTexts(const RequestPrefix& prefix, std::uint32_t tokens_a_block) {
  const std::span<const BlockHash> text =
      std::span(prefix.text).first(std::min(prefix.text.size(), kChainBlocksMax));
  // What was predicted, by the text itself; its hashes have the model in them.
  for (const ServedBy& by : served_) {
    walk_.Run({.hashes = text, .tokens_a_block = tokens_a_block}, LanesOf(by.group));
    Collect();
    if (texts_.size() == 0) continue;
    // What was announced, by the tokens that are known to be the text's.
    Translate(text, by);
    walk_.Run({.hashes = translated_, .tokens = translated_tokens_}, LanesOf(by.group));
    Collect();
  }
}

void FleetBooks::Translate(std::span<const BlockHash> text, const ServedBy& by) {
  translated_.clear();
  translated_tokens_.clear();
  const BlockHash scope = groups_.PlainSeedOf(by.group);
  std::array<std::uint64_t, TextMap::kBatch> keys;
  std::array<TokenPlace, TextMap::kBatch> places;
  std::uint32_t depth = 0;
  for (; !text.empty(); text = text.subspan(std::min(text.size(), keys.size()))) {
    const std::size_t count = std::min(text.size(), keys.size());
    for (std::size_t i = 0; i < count; ++i) keys[i] = TextKey(text[i], scope);
    texts_.FindAll(std::span(keys).first(count), places);
    for (std::size_t i = 0; i < count; ++i) {
      if (places[i].depth <= depth) continue;
      depth = places[i].depth;
      translated_.push_back(places[i].hash);
      translated_tokens_.push_back(depth * static_cast<std::uint32_t>(by.block_tokens));
    }
  }
}

std::span<const std::uint64_t> FleetBooks::LanesOf(GroupId group) {
  const std::span<const std::uint64_t> lanes = groups_.LanesOf(group);
  return lanes.first(std::min(lanes.size(), index_.lane_words()));
}

// Of the group whose texts are best known.
double FleetBooks::BytesAToken() const {
  TokenRatio best;
  for (const ServedBy& by : served_) {
    const TokenRatio& ratio = groups_.RatioOf(by.group);
    if (ratio.tokens() > best.tokens()) best = ratio;
  }
  return best.bytes_a_token();
}

void FleetBooks::Collect() {
  for (const LaneMatch& match : walk_.matches()) {
    const ReplicaSlot slot = slot_of_[match.lane];
    std::uint64_t& found = found_[slot / 64];
    const std::uint64_t bit = std::uint64_t{1} << slot % 64;
    LaneMatch& best = best_[slot];
    const bool better = (found & bit) == 0 || match.tokens > best.tokens ||
                        (match.tokens == best.tokens && best.predicted && !match.predicted);
    found |= bit;
    if (better) best = match;
  }
}

void FleetBooks::Report(MatchSummary& summary, std::vector<CacheMatch>& matches) {
  std::uint32_t least = summary.prompt_tokens;
  for (std::size_t w = 0; w < found_.size(); ++w) {
    for (std::uint64_t bits = found_[w]; bits != 0; bits &= bits - 1) {
      const std::size_t slot = w * 64 + static_cast<std::size_t>(std::countr_zero(bits));
      const LaneMatch& best = best_[slot];
      // An estimate of a text's tokens may fall short of what is known of its beginning.
      summary.prompt_tokens = std::max(summary.prompt_tokens, best.tokens);
      least = std::min(least, best.tokens);
      matches.push_back(
          {.slot = static_cast<ReplicaSlot>(slot),
           .tokens = best.tokens - best.tokens_lower,
           .tokens_offloaded = best.tokens_lower,
           .predicted = best.predicted || replicas_[slot]->knowledge != CacheKnowledge::kExact});
    }
  }
  std::int64_t serving = 0;
  for (const ServedBy& by : served_) serving += groups_.MembersOf(by.group);
  if (static_cast<std::int64_t>(matches.size()) == serving && serving > 0) {
    summary.tokens_everywhere = least;
  }
}

}  // namespace sublet
