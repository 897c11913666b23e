#include "kvcache/block_hash.h"

// The hash is called once a block: inlined, a block of 16 tokens costs some 10 ns.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <string>

#include "base/check.h"

namespace sublet {
namespace {

BlockHash NotZero(XXH64_hash_t hash) {
  return hash == 0 ? 1 : hash;
}

// Lengths go in front, so that no two scopes are the same bytes.
void Append(std::string& bytes, std::string_view part) {
  bytes += std::to_string(part.size());
  bytes += ':';
  bytes += part;
}

BlockHash Seed(char kind, const ChainScope& scope, int block_tokens) {
  std::string bytes(1, kind);
  Append(bytes, std::to_string(block_tokens));
  Append(bytes, scope.model);
  Append(bytes, scope.lora);
  Append(bytes, scope.salt);
  return NotZero(XXH3_64bits(bytes.data(), bytes.size()));
}

}  // namespace

BlockHash TokenChainSeed(const ChainScope& scope, int block_tokens) {
  return Seed('k', scope, block_tokens);
}

BlockHash TextChainSeed(const ChainScope& scope) {
  return Seed('t', scope, 0);
}

BlockHash ExtendChain(BlockHash parent, std::span<const TokenId> block) {
  return NotZero(XXH3_64bits_withSeed(block.data(), block.size_bytes(), parent));
}

BlockHash ExtendChain(BlockHash parent, std::string_view block) {
  return NotZero(XXH3_64bits_withSeed(block.data(), block.size(), parent));
}

std::vector<BlockHash> TokenChain(BlockHash seed, std::span<const TokenId> tokens,
                                  int block_tokens) {
  CHECK(block_tokens > 0);
  const auto size = static_cast<std::size_t>(block_tokens);
  std::vector<BlockHash> chain;
  chain.reserve(tokens.size() / size);
  BlockHash at = seed;
  for (; tokens.size() >= size; tokens = tokens.subspan(size)) {
    at = ExtendChain(at, tokens.first(size));
    chain.push_back(at);
  }
  return chain;
}

}  // namespace sublet
