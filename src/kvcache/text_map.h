// kvcache/text_map.h
//
// Which chain of token blocks a text prompt is, as far as was learnt: for each block of text, one
// block of tokens that surely lies within the text so far.
//
//   TextMap map(bytes_max);
//   LearnText(map, sample);                // A prompt whose tokens' chain is known.
//   map.Find(TextKey(text[i], scope));     // {hash, depth}: tokens through there.
//
// How text becomes tokens isn't known, only how long both are. Between two places whose tokens are
// known (the beginning, ends of earlier prompts, the end of this one) a place in the text is taken
// to be as far along in tokens as in bytes, less a sixteenth. A guess that goes too far shows when
// two prompts share the text and not the tokens: such a place is put back to the last one on which
// both agree, or by a block, and is never moved forward again.
//
// A block of text that isn't known says nothing: those after it may be.
//
// Thread safety: their owner's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "kvcache/block_hash.h"
#include "kvcache/memory_budget.h"
#include "kvcache/slab_arena.h"
#include "kvcache/split_table.h"

namespace sublet {

struct TokenPlace {
  BlockHash hash = 0;
  std::uint32_t depth = 0;  // In blocks; at least 1.
  bool bounded = false;     // Known to be as deep as it may be.
  friend bool operator==(const TokenPlace&, const TokenPlace&) = default;
};

// The least recently used is forgotten where the memory is spent.
class TextMap {
 public:
  explicit TextMap(std::size_t bytes_max);

  std::optional<TokenPlace> Find(std::uint64_t key) const;
  // Those of at most kBatch keys, in less time than one by one; a depth of 0: not known.
  static constexpr std::size_t kBatch = 16;
  void FindAll(std::span<const std::uint64_t> keys, std::span<TokenPlace> places) const;
  // Puts or overwrites; counts as a use.
  void Put(std::uint64_t key, const TokenPlace& place);
  void Erase(std::uint64_t key);
  void Touch(std::uint64_t key);

  std::int64_t size() const { return static_cast<std::int64_t>(table_.nodes()); }
  std::size_t bytes() const { return budget_.used(); }

 private:
  struct Node;
  struct Links;

  Node* At(SlabHandle handle) const { return arena_.At<Node>(handle); }
  SlabHandle FindNode(std::uint64_t key) const;
  TokenPlace PlaceAt(SlabHandle handle) const;
  SlabHandle Make();
  void Remove(SlabHandle handle);
  void LinkNewest(SlabHandle handle);
  void Unlink(SlabHandle handle);

  MemoryBudget budget_;
  SlabArena arena_;
  SplitTable table_;
  SlabHandle newest_ = 0;
  SlabHandle oldest_ = 0;
};

// One text has other tokens for each model, and other blocks for each size of block.
std::uint64_t TextKey(BlockHash text, std::uint64_t scope);

// A prompt of which both are known.
struct TextSample {
  std::span<const BlockHash> text;
  std::size_t text_bytes = 0;
  std::span<const BlockHash> chain;  // Of its full blocks of tokens.
  std::uint32_t prompt_tokens = 0;
  std::uint32_t block_tokens = 1;
  std::uint64_t scope = 0;
};

void LearnText(TextMap& map, const TextSample& sample);

}  // namespace sublet
