#include "engine/block_pool.h"

#include <algorithm>

#include "base/check.h"

namespace sublet {

BlockPool::BlockPool(std::int64_t blocks) {
  CHECK(blocks > 0 && blocks < INT32_MAX);
  blocks_.resize(static_cast<std::size_t>(blocks) + 1);
  by_hash_.reserve(blocks_.size());
  At(sentinel()).before = At(sentinel()).after = sentinel();
  for (BlockIndex block = 0; block < sentinel(); ++block) Enqueue(block);
}

std::optional<BlockIndex> BlockPool::Find(EngineHash hash) const {
  const auto found = by_hash_.find(hash);
  if (found == by_hash_.end()) return std::nullopt;
  return found->second.first;
}

void BlockPool::Touch(BlockIndex block) {
  if (At(block).users == 0) Unqueue(block);
  ++At(block).users;
}

BlockIndex BlockPool::Take(std::vector<EngineHash>& evicted) {
  CHECK(free_ > 0);
  const BlockIndex block = At(sentinel()).after;
  Unqueue(block);
  if (At(block).named) {
    evicted.push_back(At(block).hash);
    Unname(block);
  }
  At(block).users = 1;
  return block;
}

void BlockPool::Name(BlockIndex block, EngineHash hash) {
  Block& it = At(block);
  CHECK(it.users > 0 && !it.named);
  it.named = true;
  it.hash = hash;
  ++named_;
  Twins& twins = by_hash_[hash];
  it.twin_before = twins.last;
  it.twin_after = kNone;
  if (twins.last != kNone) At(twins.last).twin_after = block;
  if (twins.first == kNone) twins.first = block;
  twins.last = block;
}

void BlockPool::Unname(BlockIndex block) {
  Block& it = At(block);
  const auto twins = by_hash_.find(it.hash);
  CHECK(twins != by_hash_.end());
  if (it.twin_before != kNone) At(it.twin_before).twin_after = it.twin_after;
  if (it.twin_after != kNone) At(it.twin_after).twin_before = it.twin_before;
  if (twins->second.first == block) twins->second.first = it.twin_after;
  if (twins->second.last == block) twins->second.last = it.twin_before;
  if (twins->second.first == kNone) by_hash_.erase(twins);
  it.named = false;
  it.twin_before = it.twin_after = kNone;
  --named_;
}

void BlockPool::Release(BlockIndex block) {
  CHECK(At(block).users > 0);
  if (--At(block).users == 0) Enqueue(block);
}

bool BlockPool::Forget() {
  if (free_ != size()) return false;
  for (BlockIndex block = 0; block < sentinel(); ++block) {
    if (At(block).named) Unname(block);
  }
  return true;
}

std::vector<EngineHash> BlockPool::Hashes() const {
  std::vector<EngineHash> hashes;
  hashes.reserve(static_cast<std::size_t>(named_));
  for (const Block& block : blocks_) {
    if (block.named) hashes.push_back(block.hash);
  }
  std::sort(hashes.begin(), hashes.end());
  return hashes;
}

bool BlockPool::Consistent() const {
  std::int64_t queued = 0;
  for (BlockIndex at = At(sentinel()).after; at != sentinel(); at = At(at).after) {
    if (At(at).users != 0 || At(At(at).after).before != at || ++queued > size()) return false;
  }
  std::int64_t idle = 0;
  std::int64_t with_name = 0;
  for (BlockIndex block = 0; block < sentinel(); ++block) {
    if (At(block).users < 0) return false;
    idle += At(block).users == 0 ? 1 : 0;
    with_name += At(block).named ? 1 : 0;
    if (At(block).named && !Find(At(block).hash)) return false;
  }
  return queued == free_ && idle == free_ && with_name == named_;
}

void BlockPool::Unqueue(BlockIndex block) {
  Block& it = At(block);
  At(it.before).after = it.after;
  At(it.after).before = it.before;
  --free_;
}

void BlockPool::Enqueue(BlockIndex block) {
  Block& end = At(sentinel());
  Block& it = At(block);
  it.before = end.before;
  it.after = sentinel();
  At(end.before).after = block;
  end.before = block;
  ++free_;
}

}  // namespace sublet
