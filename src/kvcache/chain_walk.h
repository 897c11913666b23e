// kvcache/chain_walk.h
//
// How far along a prompt's chain each lane holds it: the longest prefix without a hole.
//
//   ChainWalk walk(index);
//   walk.Run({.hashes = chain, .tokens_a_block = 16}, eligible);
//   for (const LaneMatch& match : walk.matches()) ...   // In no order that means anything.
//
// The set of lanes that hold everything so far is intersected with the holders of each next block,
// until none is left: 64 lanes a step of the processor, with the blocks' memory fetched sixteen at
// a time. Up to kExactBlocks this is exact for whatever engines do.
//
// Longer chains are looked at in equal jumps, so that a prompt of any length takes about as long:
// where nobody drops out between two looks, what lies between is taken to be held by all of them.
// That is so for an engine that evicts a block only after all that continue it, as SGLang's tree
// does and vLLM's free list does but for ties. An engine that evicts a chain's beginning first (a
// sliding window alone) is believed to hold what it lost, until a look meets the hole.
//
// Thread safety: none; as its index.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/block_index.h"

namespace sublet {

struct ChainView {
  std::span<const BlockHash> hashes;
  std::uint32_t tokens_a_block = 0;
  // Tokens of the prompt through each of the hashes, where they aren't of equal blocks.
  std::span<const std::uint32_t> tokens = {};

  std::uint32_t TokensThrough(std::size_t blocks) const {
    if (blocks == 0) return 0;
    return tokens.empty() ? static_cast<std::uint32_t>(blocks) * tokens_a_block
                          : tokens[blocks - 1];
  }
};

struct LaneMatch {
  LaneId lane = 0;
  std::uint32_t tokens = 0;  // In all tiers.
  std::uint32_t tokens_lower = 0;
  bool predicted = false;  // Some of it is.
};

class ChainWalk {
 public:
  static constexpr std::size_t kExactBlocks = 512;

  // `index` outlives the walk.
  explicit ChainWalk(const BlockIndex& index) : index_(index) {}

  // `eligible`: a bit for each lane that is looked for, index.lane_words() words of them.
  void Run(const ChainView& chain, std::span<const std::uint64_t> eligible);
  std::span<const LaneMatch> matches() const { return matches_; }

 private:
  static constexpr std::size_t kWordsMax = kLanesMax / 64;

  void Begin(std::span<const std::uint64_t> eligible);
  // Blocks [from, to) one by one, until nobody is left.
  void WalkEach(const ChainView& chain, std::size_t from, std::size_t to);
  void WalkInJumps(const ChainView& chain, std::size_t from, std::size_t jump);
  void Spread(std::uint32_t holders);
  bool AllHoldIt() const;
  // What a block's holders leave of the blocks [from, to).
  void Take(const ChainView& chain, std::uint32_t holders, std::size_t from, std::size_t to);
  // What was spread holds of blocks [from, to); those who don't hold it end before.
  void Step(const ChainView& chain, std::size_t from, std::size_t to);
  void EmitWord(const ChainView& chain, std::size_t word, std::uint64_t lanes, std::size_t blocks);
  void Narrow();
  bool nobody() const { return low_ == high_; }

  const BlockIndex& index_;
  std::array<std::uint64_t, kWordsMax> alive_{};
  std::array<std::uint64_t, kWordsMax> guessed_{};  // Of these, who held a block by prediction.
  std::array<std::uint64_t, kWordsMax> any_{};
  std::array<std::uint64_t, kWordsMax> lower_{};
  std::array<std::uint64_t, kWordsMax> predicted_{};
  std::array<std::uint32_t, kLanesMax> lower_tokens_{};  // 0 for all between two runs.
  HolderPlanes planes_;
  std::size_t low_ = 0;  // Words in [low_, high_) of alive_ may have bits.
  std::size_t high_ = 0;
  // The holders that were taken last, where taking them again would change nothing: along a chain
  // they mostly stay the same. 0: others.
  std::uint32_t settled_ = 0;
  std::vector<LaneMatch> matches_;
};

}  // namespace sublet
