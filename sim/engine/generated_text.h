// sim/engine/generated_text.h
//
// What an engine without a model says: sentences of common words.
//
//   for (int i = 0; i < 40; ++i) tokens.push_back(GeneratedToken(stream, i));
//   *Detokenize(tokens)   // "Paper music under the river could. Never green ..."
//
// Each token is a function of the stream's number and its place, and tokenizing the text gives the
// same tokens again: a conversation that goes on with an answer has the answer's blocks.
//
// Thread safety: pure.
#pragma once

#include <cstdint>

#include "kvcache/block_hash.h"

namespace sublet {

TokenId GeneratedToken(std::uint64_t stream, std::int64_t place);

// Spreads a number over 64 bits (SplitMix64's last step).
constexpr std::uint64_t MixBits(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace sublet
