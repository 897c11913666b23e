// kvcache/holder_sets.h
//
// Who holds a block: a set of lanes (kvcache/block_index.h), each with how it holds it, in a word
// of four bytes and what that word points to.
//
//   HolderSets sets(arena);
//   std::uint32_t holders = 0;                         // Nobody.
//   sets.Set(holders, lane, Holds::kGpu);              // False: no memory, nothing has changed.
//   sets.Get(holders, lane);
//   sets.Spread(holders, planes);                      // As bits, for a walk along a chain.
//
// Most blocks have one or two holders, and lie in the word itself. More are a list, and where that
// would be as large as a bit for every lane, two bits for every lane: a block that everybody holds
// costs a quarter of a byte a holder.
//
// Thread safety: its owner's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kvcache/slab_arena.h"

namespace sublet {

using LaneId = std::uint32_t;
inline constexpr std::size_t kLanesMax = 8192;

// The worst that a request must do to have the block is what counts, so a lane that holds a block
// in a slower tier and is predicted to load it holds it in the slower tier.
enum class Holds : std::uint32_t { kNot = 0, kGpu = 1, kLower = 2, kPredicted = 3 };

// One bit a lane: which lanes hold it at all, and which of them not simply on the GPU.
struct HolderPlanes {
  std::span<std::uint64_t> any;
  std::span<std::uint64_t> lower;
  std::span<std::uint64_t> predicted;
  // Whether a bit of `lower` or `predicted` is set; otherwise neither was written.
  bool special = false;
};

class HolderSets {
 public:
  // `arena` outlives the sets.
  explicit HolderSets(SlabArena& arena) : arena_(arena) {}

  // Lanes from now on are below 64 times this. Where they were more, those beyond hold nothing.
  void SetLaneWords(std::size_t words);

  Holds Get(std::uint32_t holders, LaneId lane) const;
  // False where there is no memory for it, which taking a holder away never needs.
  bool Set(std::uint32_t& holders, LaneId lane, Holds holds);
  // Overwrites the planes; lanes that lie beyond them are left out.
  void Spread(std::uint32_t holders, HolderPlanes& planes) const;
  // Fetches what Spread() will read.
  void Prefetch(std::uint32_t holders) const;
  int Count(std::uint32_t holders) const;
  // Whether the word says all: then the same word is the same set.
  static bool IsWhole(std::uint32_t holders) { return (holders & kElsewhere) == 0; }

 private:
  // A word without this bit is up to two entries; with it, the handle of a list or of bits.
  static constexpr std::uint32_t kElsewhere = 1u << 31;

  static SlabHandle HandleOf(std::uint32_t holders) { return holders & ~kElsewhere; }

  struct List;
  struct Bits;

  bool SetInWord(std::uint32_t& holders, LaneId lane, Holds holds);
  bool SetInList(std::uint32_t& holders, LaneId lane, Holds holds);
  bool SetInBits(std::uint32_t& holders, LaneId lane, Holds holds);
  bool ToList(std::uint32_t& holders, std::uint32_t capacity);
  bool ToBits(std::uint32_t& holders, std::uint32_t words);
  void ToWord(std::uint32_t& holders);
  void Free(std::uint32_t holders);
  // Calls visit(lane, holds) for each holder.
  template <typename Visit>
  void ForEach(std::uint32_t holders, const Visit& visit) const;

  SlabArena& arena_;
  std::uint32_t bit_words_ = 1;  // Of a set of bits that is made now; a power of two.
};

}  // namespace sublet
