// kvcache/slab_arena.h
//
// Memory for many small objects of a few sizes, named by 32 bits and never moved.
//
//   SlabArena arena(budget);
//   const SlabHandle handle = arena.Allocate(20);   // 0: the budget is spent.
//   arena.At<Record>(handle)->depth = 1;
//   arena.Free(handle, 20);
//
// The address space is reserved at the start, as large as the budget; pages of 16 KiB are taken as
// they are needed, each for objects of one size, and go back to the budget when their last object
// is freed (and to the system, but for a few that are kept at hand). So a handle is an address,
// without a table between, and memory that one size has freed serves another.
//
// Thread safety: its owner's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvcache/memory_budget.h"

namespace sublet {

// In words of four bytes, from the arena's start. Below 2^31, so that a user has a bit to spare.
using SlabHandle = std::uint32_t;

// Address space without memory behind it, which is zero where it is first touched.
class ReservedSpace {
 public:
  explicit ReservedSpace(std::size_t bytes);
  ~ReservedSpace();
  ReservedSpace(const ReservedSpace&) = delete;
  ReservedSpace& operator=(const ReservedSpace&) = delete;

  std::byte* data() const { return data_; }
  // The system may have these back; they are zero again afterwards.
  void Discard(std::size_t offset, std::size_t bytes);

 private:
  std::byte* data_;
  std::size_t bytes_;
};

class SlabArena {
 public:
  static constexpr std::size_t kWordBytes = 4;
  static constexpr std::size_t kPageWords = 4096;
  static constexpr std::size_t kPageBytes = kPageWords * kWordBytes;
  static constexpr std::size_t kObjectBytesMax = kPageBytes / 4;
  static constexpr std::size_t kArenaBytesMax = std::size_t{1} << 33;  // 2^31 words.

  // `budget` outlives the arena.
  explicit SlabArena(MemoryBudget& budget);

  // REQUIRES: `bytes` is a multiple of 4, at most kObjectBytesMax. Aligned to 4 bytes, to 8 where
  // `bytes` is a multiple of 8. Where a page is needed, at least `pages_left` must be left after.
  SlabHandle Allocate(std::size_t bytes, std::size_t pages_left = 0);
  void Free(SlabHandle handle, std::size_t bytes);

  template <typename T>
  T* At(SlabHandle handle) const {
    return reinterpret_cast<T*>(space_.data() + std::size_t{handle} * kWordBytes);
  }

 private:
  struct Page {
    std::uint16_t words = 0;  // Of an object; 0: the page is free.
    std::uint16_t used = 0;
    std::uint16_t fresh = 0;  // From this word on, nothing was ever given out.
    std::uint16_t freed = 0;  // The first of the freed objects, as its word plus one.
    std::uint32_t before = 0;
    std::uint32_t after = 0;  // Neighbours among the pages that have room.
  };

  std::uint32_t TakePage(std::size_t words, std::size_t pages_left);
  void GivePage(std::uint32_t page);
  void Link(std::uint32_t page);
  void Unlink(std::uint32_t page);

  MemoryBudget& budget_;
  ReservedSpace space_;
  std::vector<Page> pages_;             // The first is never used: handle 0 is none.
  std::vector<std::uint32_t> at_hand_;  // Free ones, whose memory is still there.
  std::vector<std::uint32_t> gone_;     // Free ones.
  std::array<std::uint32_t, kObjectBytesMax / kWordBytes + 1> room_{};
};

}  // namespace sublet
