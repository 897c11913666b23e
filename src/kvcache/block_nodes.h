// kvcache/block_nodes.h
//
// What BlockIndex (kvcache/block_index.h) is made of: its nodes in the arena, and how its three
// tables find them. For its own source files only.
//
// Thread safety: the index's owner's.
#pragma once

#include <cstdint>

#include "kvcache/block_index.h"

namespace sublet {

// Engines' hashes may be small numbers; a chain's are as good as random.
inline std::uint64_t Mixed(std::uint64_t value, LaneId lane) {
  value ^= lane * 0x9e3779b97f4a7c15u;
  value = (value ^ value >> 33) * 0xff51afd7ed558ccdu;
  value = (value ^ value >> 33) * 0xc4ceb9fe1a85ec53u;
  return value ^ value >> 33;
}

// Of a lane's holding of a block: known before the record is looked for.
inline std::uint64_t OwnHash(BlockHash hash, LaneId lane) {
  hash ^= lane * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

// Words of 32 bits throughout: 64-bit members would cost four bytes of padding each.
struct BlockRecord {
  std::uint32_t hash_low;
  std::uint32_t hash_high;
  SlabHandle next;
  std::uint32_t holders;
  // 0: it begins a chain, or nobody has announced it. May name a record that has gone, and so, in
  // time, another; who follows it looks whether the lane holds that.
  std::uint32_t parent : 31;
  std::uint32_t text : 1;

  BlockHash hash() const { return std::uint64_t{hash_high} << 32 | hash_low; }
};

struct BlockHolding {
  std::uint32_t key_low;
  std::uint32_t key_high;
  SlabHandle record;
  SlabHandle key_next;
  SlabHandle own_next;
  SlabHandle newer;
  SlabHandle older;
  std::uint32_t lane : 13;
  std::uint32_t in_flight : 10;
  std::uint32_t gpu : 9;  // How often it was announced there, less how often it was removed.
  std::uint32_t used : 26;
  std::uint32_t lower : 5;
  std::uint32_t settled : 1;

  std::uint64_t key() const { return std::uint64_t{key_high} << 32 | key_low; }
  bool announced() const { return gpu + lower > 0; }
};

struct LinksByHash {
  const SlabArena& arena;
  SlabHandle& Next(SlabHandle at) const { return arena.At<BlockRecord>(at)->next; }
  std::uint64_t HashOf(SlabHandle at) const { return arena.At<BlockRecord>(at)->hash(); }
};

struct LinksByKey {
  const SlabArena& arena;
  SlabHandle& Next(SlabHandle at) const { return arena.At<BlockHolding>(at)->key_next; }
  std::uint64_t HashOf(SlabHandle at) const {
    return Mixed(arena.At<BlockHolding>(at)->key(), arena.At<BlockHolding>(at)->lane);
  }
};

struct LinksByOwner {
  const SlabArena& arena;
  SlabHandle& Next(SlabHandle at) const { return arena.At<BlockHolding>(at)->own_next; }
  std::uint64_t HashOf(SlabHandle at) const {
    const BlockHolding* const holding = arena.At<BlockHolding>(at);
    return OwnHash(arena.At<BlockRecord>(holding->record)->hash(), holding->lane);
  }
};

}  // namespace sublet
