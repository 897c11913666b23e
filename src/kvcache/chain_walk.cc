#include "kvcache/chain_walk.h"

#include <algorithm>
#include <bit>

namespace sublet {

void ChainWalk::Run(const ChainView& chain, std::span<const std::uint64_t> eligible) {
  Begin(eligible);
  const std::size_t blocks = chain.hashes.size();
  if (blocks == 0) return;
  if (blocks <= kExactBlocks) {
    WalkEach(chain, 0, blocks);
  } else {
    WalkEach(chain, 0, 1);
    WalkInJumps(chain, 1, (blocks + kExactBlocks - 1) / kExactBlocks);
  }
  for (std::size_t w = low_; w < high_; ++w) EmitWord(chain, w, alive_[w], blocks);
}

void ChainWalk::Begin(std::span<const std::uint64_t> eligible) {
  matches_.clear();
  settled_ = 0;
  low_ = 0;
  high_ = eligible.size();
  std::copy(eligible.begin(), eligible.end(), alive_.begin());
  std::fill_n(guessed_.begin(), high_, 0);
  Narrow();
}

void ChainWalk::WalkEach(const ChainView& chain, std::size_t from, std::size_t to) {
  std::uint32_t holders[BlockIndex::kBatch];
  // Most prompts that nobody knows are unknown from the start.
  std::size_t batch = from == 0 ? 2 : BlockIndex::kBatch;
  while (from < to && !nobody()) {
    const std::size_t count = std::min(batch, to - from);
    index_.HoldersOf(&chain.hashes[from], 1, count, holders);
    for (std::size_t i = 0; i < count && !nobody(); ++i, ++from) {
      if (holders[i] != settled_ || settled_ == 0) Take(chain, holders[i], from, from + 1);
    }
    batch = BlockIndex::kBatch;
  }
}

void ChainWalk::WalkInJumps(const ChainView& chain, std::size_t from, std::size_t jump) {
  std::uint32_t holders[BlockIndex::kBatch];
  const std::size_t blocks = chain.hashes.size();
  while (from + jump <= blocks && !nobody()) {
    const std::size_t count = std::min(BlockIndex::kBatch, (blocks - from) / jump);
    index_.HoldersOf(&chain.hashes[from + jump - 1], jump, count, holders);
    for (std::size_t i = 0; i < count && !nobody(); ++i, from += jump) {
      if (holders[i] == settled_ && settled_ != 0) continue;
      Spread(holders[i]);
      if (AllHoldIt()) {
        Step(chain, from, from + jump);
      } else {
        WalkEach(chain, from, from + jump);
      }
    }
  }
  WalkEach(chain, from, blocks);
}

void ChainWalk::Take(const ChainView& chain, std::uint32_t holders, std::size_t from,
                     std::size_t to) {
  Spread(holders);
  Step(chain, from, to);
  settled_ = HolderSets::IsWhole(holders) && !planes_.special ? holders : 0;
}

void ChainWalk::Spread(std::uint32_t holders) {
  planes_ = {.any = {any_.data(), high_},
             .lower = {lower_.data(), high_},
             .predicted = {predicted_.data(), high_}};
  index_.sets().Spread(holders, planes_);
}

bool ChainWalk::AllHoldIt() const {
  std::uint64_t missing = 0;
  for (std::size_t w = low_; w < high_; ++w) missing |= alive_[w] & ~any_[w];
  return missing == 0;
}

void ChainWalk::Step(const ChainView& chain, std::size_t from, std::size_t to) {
  std::uint64_t changed = 0;
  for (std::size_t w = low_; w < high_; ++w) {
    const std::uint64_t gone = alive_[w] & ~any_[w];
    if (gone == 0) continue;
    changed |= gone;
    alive_[w] &= any_[w];
    if (from > 0) EmitWord(chain, w, gone, from);
  }
  if (planes_.special) {
    const std::uint32_t tokens = chain.TokensThrough(to) - chain.TokensThrough(from);
    for (std::size_t w = low_; w < high_; ++w) {
      guessed_[w] |= alive_[w] & predicted_[w];
      for (std::uint64_t bits = alive_[w] & lower_[w]; bits != 0; bits &= bits - 1) {
        lower_tokens_[w * 64 + static_cast<std::size_t>(std::countr_zero(bits))] += tokens;
      }
    }
  }
  if (changed != 0) Narrow();
}

void ChainWalk::EmitWord(const ChainView& chain, std::size_t word, std::uint64_t lanes,
                         std::size_t blocks) {
  for (; lanes != 0; lanes &= lanes - 1) {
    const auto bit = static_cast<std::size_t>(std::countr_zero(lanes));
    const std::size_t lane = word * 64 + bit;
    matches_.push_back({.lane = static_cast<LaneId>(lane),
                        .tokens = chain.TokensThrough(blocks),
                        .tokens_lower = lower_tokens_[lane],
                        .predicted = (guessed_[word] >> bit & 1u) != 0});
    lower_tokens_[lane] = 0;
  }
}

void ChainWalk::Narrow() {
  while (low_ < high_ && alive_[low_] == 0) ++low_;
  while (low_ < high_ && alive_[high_ - 1] == 0) --high_;
  if (low_ == high_) low_ = high_ = 0;
}

}  // namespace sublet
