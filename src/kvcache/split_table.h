// kvcache/split_table.h
//
// A hash table that grows by one bucket at a time, and whose nodes are somebody else's.
//
//   SplitTable table(budget, nodes_max, /*nodes_a_bucket=*/1);
//   table.Insert(handle, hash, traits);
//   for (SlabHandle at = table.First(hash); at != 0; at = traits.Next(at)) ...
//   table.Remove(handle, hash, traits);
//
// A bucket is the head of a list that runs through the nodes: `traits.Next(handle)` is a node's
// link, `traits.HashOf(handle)` its hash. When a node comes for which there would be more nodes
// than wanted, the oldest unsplit bucket is split by the hash's next bit; so no insertion ever
// waits for a whole table to be moved. Without memory for another bucket the lists grow longer.
//
// Buckets are never merged: they are four bytes each, as many as there were nodes at most.
//
// Source: Litwin, "Linear hashing: a new tool for file and table addressing", 1980.
//
// Thread safety: its owner's.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "kvcache/slab_arena.h"

namespace sublet {

class SplitTable {
 public:
  // `budget` outlives the table.
  SplitTable(MemoryBudget& budget, std::size_t nodes_max, std::size_t nodes_a_bucket)
      : budget_(budget),
        nodes_a_bucket_(nodes_a_bucket),
        buckets_max_(std::bit_ceil(nodes_max / nodes_a_bucket + kBucketsAStep)),
        space_(buckets_max_ * sizeof(SlabHandle)) {
    CHECK(budget_.Take(kStepBytes));
  }
  ~SplitTable() { budget_.Give(paid_ * sizeof(SlabHandle)); }

  SlabHandle First(std::uint64_t hash) const { return heads()[BucketOf(hash)]; }
  const SlabHandle* Head(std::uint64_t hash) const { return heads() + BucketOf(hash); }

  template <typename Traits>
  void Insert(SlabHandle node, std::uint64_t hash, const Traits& traits) {
    if (++nodes_ > buckets_ * nodes_a_bucket_) Split(traits);
    SlabHandle& head = heads()[BucketOf(hash)];
    traits.Next(node) = head;
    head = node;
  }

  template <typename Traits>
  void Remove(SlabHandle node, std::uint64_t hash, const Traits& traits) {
    SlabHandle* link = heads() + BucketOf(hash);
    while (*link != node) {
      CHECK(*link != 0);
      link = &traits.Next(*link);
    }
    *link = traits.Next(node);
    --nodes_;
  }

  std::size_t nodes() const { return nodes_; }

 private:
  static constexpr std::size_t kStepBytes = 4096;  // A page of the system's.
  static constexpr std::size_t kBucketsAStep = kStepBytes / sizeof(SlabHandle);

  SlabHandle* heads() const { return reinterpret_cast<SlabHandle*>(space_.data()); }

  // Those before `split_` are split already, so one bit more of the hash counts.
  std::size_t BucketOf(std::uint64_t hash) const {
    const std::size_t bucket = hash & (level_ - 1);
    return bucket < split_ ? hash & (2 * level_ - 1) : bucket;
  }

  template <typename Traits>
  void Split(const Traits& traits) {
    if (buckets_ == paid_) {
      if (buckets_ == buckets_max_ || !budget_.Take(kStepBytes)) return;
      paid_ += kBucketsAStep;
    }
    SlabHandle* low = heads() + split_;
    SlabHandle* high = heads() + split_ + level_;
    SlabHandle at = *low;
    while (at != 0) {
      const SlabHandle next = traits.Next(at);
      SlabHandle*& to = (traits.HashOf(at) & level_) != 0 ? high : low;
      *to = at;
      to = &traits.Next(at);
      at = next;
    }
    *low = *high = 0;
    ++buckets_;
    if (++split_ == level_) {
      level_ *= 2;
      split_ = 0;
    }
  }

  MemoryBudget& budget_;
  std::size_t nodes_a_bucket_;
  std::size_t buckets_max_;
  ReservedSpace space_;
  std::size_t level_ = 64;  // A power of two; level_ + split_ buckets are there.
  std::size_t split_ = 0;
  std::size_t buckets_ = 64;
  std::size_t paid_ = kBucketsAStep;
  std::size_t nodes_ = 0;
};

}  // namespace sublet
