// sim/engine/sequence.h
//
// A request inside an engine: its tokens, how far it is computed, and the names of its blocks.
//
//   Sequence sequence(id, std::move(request), options, now_ns);
//   sequence.NameBlocks(full);                  // hashes()[i] is the name of its block i.
//   sequence.AppendTokens(first, last, event.tokens);
//
// A block's name is a chain: it stands for the block's tokens, all before them, the adapter and the
// salt. It is the engine's own (not that of kvcache/block_hash.h), since to others it is opaque.
//
// Thread safety: its owner's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/block_pool.h"
#include "engine/engine.h"

namespace sublet {

class Sequence {
 public:
  Sequence(EngineRequestId id, EngineRequest request, const EngineOptions& options,
           std::int64_t arrival_ns);

  EngineRequestId id() const { return id_; }
  std::int64_t arrival_ns() const { return arrival_ns_; }
  int prompt_tokens() const { return prompt_tokens_; }
  int length() const { return prompt_tokens_ + generated_; }  // In tokens.
  int generated() const { return generated_; }
  bool finished() const { return generated_ == request_.output_tokens; }
  const std::string& lora() const { return request_.lora; }
  const std::string& salt() const { return request_.salt; }

  // The next token of the output.
  TokenId Generate();

  // Names the first `count` blocks. REQUIRES: so many are full.
  void NameBlocks(int count);
  const std::vector<EngineHash>& hashes() const { return hashes_; }
  // The tokens of blocks [first, last). REQUIRES: they are full.
  void AppendTokens(int first, int last, std::vector<TokenId>& out) const;

  // The scheduler's books.
  int computed = 0;   // Tokens whose KV is in `blocks`.
  int scheduled = 0;  // Tokens that the running step computes.
  int cached = 0;     // Of `blocks`, those that the pool has names for.
  std::vector<BlockIndex> blocks;
  std::optional<EngineAdmission> admission;

 private:
  EngineHash HashOf(int block, EngineHash parent) const;
  void AppendBlock(int block, std::vector<TokenId>& out) const;

  const EngineRequestId id_;
  EngineRequest request_;  // The output is appended to a prompt of tokens.
  const int block_tokens_;
  const std::int64_t arrival_ns_;
  const bool by_content_;
  const int prompt_tokens_;
  int generated_ = 0;
  EngineHash root_ = 0;       // Of the chain.
  std::uint64_t stream_ = 0;  // Of the output.
  std::vector<EngineHash> hashes_;
};

}  // namespace sublet
