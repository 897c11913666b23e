// kvcache/block_hash.h
//
// How a prefix of a prompt is named: a chain of hashes, one a block, each of which stands for its
// block and for all before it.
//
//   BlockHash at = ChainSeed({.model = "llama", .salt = "tenant-a"});
//   for (const std::span<const std::uint32_t> block : FullBlocks(token_ids, 16)) {
//     at = ExtendChain(at, block);
//     chain.push_back(at);
//   }
//
// Two prompts have equal hashes at a position exactly where they are equal up to it (but for a
// chance of 2^-64), so "how much of this prompt does that replica hold" is a walk along the chain.
//
// The hash is our own. Engines announce hashes of their own making, which depend on their version,
// settings and, in vLLM before its newest versions, on PYTHONHASHSEED; they are opaque here, and
// are used only as the names by which an engine later says that a block has gone.
//
// A chain of token ids and a chain of text never meet: they start from different seeds, and so do
// chains of different models, adapters, salts and block sizes.
//
// Source: XXH3-64 of xxHash 0.8.
//
// Thread safety: pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace sublet {

// Never 0, which callers may use for "none".
using BlockHash = std::uint64_t;
using TokenId = std::uint32_t;

// What besides its content makes a prefix another one.
struct ChainScope {
  std::string_view model = {};
  std::string_view lora = {};  // The adapter's name; empty: none.
  std::string_view salt = {};  // vLLM's cache_salt: tenants that mustn't share a cache.
};

// The start of a chain of token blocks of `block_tokens` tokens each.
BlockHash TokenChainSeed(const ChainScope& scope, int block_tokens);
// The start of a chain of text blocks.
BlockHash TextChainSeed(const ChainScope& scope);

BlockHash ExtendChain(BlockHash parent, std::span<const TokenId> block);
BlockHash ExtendChain(BlockHash parent, std::string_view block);

// The hashes of all full blocks of `tokens`; a partial block at the end has none.
std::vector<BlockHash> TokenChain(BlockHash seed, std::span<const TokenId> tokens,
                                  int block_tokens);

}  // namespace sublet
