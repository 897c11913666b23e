// sim/engine/block_pool.h
//
// The KV blocks of an engine: which are free, which hold a prefix, who uses them.
//
//   BlockPool pool(1600);
//   if (const auto held = pool.Find(hash)) pool.Touch(*held);   // A hit.
//   const BlockIndex fresh = pool.Take(evicted);                 // Else the least recently used.
//   pool.Name(fresh, hash);                                      // It is full: others may find it.
//   pool.Release(fresh);                                         // Free, but still found.
//
// As vLLM's BlockPool: free blocks stand in one queue, in which those released last are last; a
// block keeps its content while it is free, until it is taken. Several blocks may have one hash
// (nothing is deduplicated, since a sequence's blocks don't move); the first named is found.
//
// Thread safety: its owner's.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "kvcache/kv_event.h"

namespace sublet {

using BlockIndex = std::int32_t;

class BlockPool {
 public:
  // REQUIRES: blocks > 0.
  explicit BlockPool(std::int64_t blocks);

  std::optional<BlockIndex> Find(EngineHash hash) const;
  // One more user; a free block leaves the queue.
  void Touch(BlockIndex block);
  // A free block with one user. Where it had content, that is gone and its hash is appended to
  // `evicted`. REQUIRES: free() > 0.
  BlockIndex Take(std::vector<EngineHash>& evicted);
  // REQUIRES: the block is used and has no name.
  void Name(BlockIndex block, EngineHash hash);
  // One user less; the last one's block goes to the end of the queue.
  void Release(BlockIndex block);
  // Forgets all content. False, and nothing is done, where a block is used.
  bool Forget();

  bool IsFree(BlockIndex block) const { return At(block).users == 0; }
  std::int64_t size() const { return static_cast<std::int64_t>(blocks_.size()) - 1; }
  std::int64_t free() const { return free_; }
  std::int64_t named() const { return named_; }
  // Of all blocks with content, sorted.
  std::vector<EngineHash> Hashes() const;
  // The whole of the books holds together; for tests, since it looks at every block.
  bool Consistent() const;

 private:
  static constexpr BlockIndex kNone = -1;
  struct Block {
    std::int32_t users = 0;
    bool named = false;
    EngineHash hash = 0;
    // In the queue of free blocks, a ring through the sentinel.
    BlockIndex before = kNone;
    BlockIndex after = kNone;
    // Among the blocks of one hash, in the order in which they were named.
    BlockIndex twin_before = kNone;
    BlockIndex twin_after = kNone;
  };
  struct Twins {
    BlockIndex first = kNone;
    BlockIndex last = kNone;
  };

  Block& At(BlockIndex block) { return blocks_[static_cast<std::size_t>(block)]; }
  const Block& At(BlockIndex block) const { return blocks_[static_cast<std::size_t>(block)]; }
  BlockIndex sentinel() const { return static_cast<BlockIndex>(blocks_.size()) - 1; }
  void Unqueue(BlockIndex block);
  void Enqueue(BlockIndex block);
  void Unname(BlockIndex block);

  std::vector<Block> blocks_;  // The last one is the queue's sentinel.
  std::unordered_map<EngineHash, Twins> by_hash_;
  std::int64_t free_ = 0;
  std::int64_t named_ = 0;
};

}  // namespace sublet
