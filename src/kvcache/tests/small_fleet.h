// kvcache/tests/small_fleet.h
//
// Requests and events for the tests, as engines and clients would make them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvcache/fleet_cache.h"

namespace sublet::testing {

using Tokens = std::vector<TokenId>;

// `count` tokens that no other `from` has.
inline Tokens Count(TokenId from, std::size_t count) {
  Tokens tokens;
  for (std::size_t i = 0; i < count; ++i) {
    tokens.push_back(from * 1'000'000 + static_cast<TokenId>(i));
  }
  return tokens;
}

inline Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline RequestPrefix TokenPrompt(Tokens tokens, std::string model = "m", std::string salt = "") {
  RequestPrefix prefix;
  prefix.known = true;
  prefix.model = std::move(model);
  prefix.salt = std::move(salt);
  prefix.token_ids = std::move(tokens);
  return prefix;
}

// A text whose block `i` is `content[i]`; `bytes` beyond the last.
inline RequestPrefix TextPrompt(const std::vector<int>& content, std::size_t rest_bytes = 0,
                                std::string model = "m") {
  RequestPrefix prefix;
  prefix.known = true;
  prefix.model = std::move(model);
  BlockHash at = TextChainSeed({.model = prefix.model});
  for (const int block : content) {
    at = ExtendChain(at, std::string_view(std::to_string(block)));
    prefix.text.push_back(at);
  }
  prefix.text_bytes = content.size() * kTextBlockBytes + rest_bytes;
  return prefix;
}

// An engine's name for the prefix that `blocks` blocks of `tokens` make. Engines that disagree on
// how to hash differ in `variant`.
inline EngineHash KeyOf(const Tokens& tokens, std::size_t blocks, int block_tokens,
                        int variant = 0) {
  EngineHash key = 0x9e3779b97f4a7c15u + static_cast<EngineHash>(variant);
  for (std::size_t i = 0; i < blocks * static_cast<std::size_t>(block_tokens); ++i) {
    key = (key ^ tokens[i]) * 0x100000001b3u;
  }
  return key;
}

// Blocks [from, to) of the prompt are stored.
inline KvEvent Stored(const Tokens& tokens, std::size_t from, std::size_t to, int block_tokens,
                      int variant = 0) {
  const auto size = static_cast<std::size_t>(block_tokens);
  KvEvent event;
  event.what = KvEvent::What::kStored;
  event.block_tokens = block_tokens;
  for (std::size_t i = from; i < to; ++i) {
    event.blocks.push_back(KeyOf(tokens, i + 1, block_tokens, variant));
  }
  if (from > 0) event.parent = KeyOf(tokens, from, block_tokens, variant);
  event.tokens.assign(tokens.begin() + static_cast<std::ptrdiff_t>(from * size),
                      tokens.begin() + static_cast<std::ptrdiff_t>(to * size));
  return event;
}

inline KvEvent Removed(std::vector<EngineHash> keys, KvTier tier = KvTier::kGpu) {
  KvEvent event;
  event.what = KvEvent::What::kRemoved;
  event.blocks = std::move(keys);
  event.tier = tier;
  return event;
}

inline KvEvent Cleared() {
  KvEvent event;
  event.what = KvEvent::What::kCleared;
  return event;
}

inline KvEventBatch Batch(std::vector<KvEvent> events) {
  KvEventBatch batch;
  batch.events = std::move(events);
  return batch;
}

// The replica's part of a match; empty where it has none.
inline CacheMatch MatchOf(const FleetCache& caches, const RequestPrefix& prefix, ReplicaSlot slot) {
  std::vector<CacheMatch> matches;
  caches.Match(prefix, matches);
  const auto found = std::find_if(matches.begin(), matches.end(),
                                  [&](const CacheMatch& match) { return match.slot == slot; });
  return found == matches.end() ? CacheMatch{.slot = slot} : *found;
}

inline constexpr std::int64_t kSecondNs = 1'000'000'000;

}  // namespace sublet::testing
