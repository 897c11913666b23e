// The parts behind FleetCache: memory, tables, sets of holders, walks.
#include "kvcache/block_index.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "kvcache/chain_walk.h"

namespace sublet {
namespace {

TEST(SlabArena, ObjectsDoNotOverlapAndPagesComeBack) {
  MemoryBudget budget(std::size_t{1} << 20);
  SlabArena arena(budget);
  std::mt19937 random(1);
  const std::vector<std::size_t> sizes = {20, 36, 16, 264, 4096};
  struct Object {
    SlabHandle handle;
    std::size_t bytes;
    std::uint8_t fill;
  };
  std::vector<Object> objects;
  for (int step = 0; step < 50'000; ++step) {
    if (objects.empty() || random() % 5 < 3) {
      const std::size_t bytes = sizes[random() % sizes.size()];
      const SlabHandle handle = arena.Allocate(bytes);
      if (handle != 0) {
        objects.push_back({handle, bytes, static_cast<std::uint8_t>(random())});
        std::memset(arena.At<char>(handle), objects.back().fill, bytes);
        continue;
      }
    }
    if (objects.empty()) continue;
    std::swap(objects[random() % objects.size()], objects.back());
    const Object object = objects.back();
    objects.pop_back();
    const auto* const bytes = arena.At<std::uint8_t>(object.handle);
    ASSERT_TRUE(std::all_of(bytes, bytes + object.bytes,
                            [&](std::uint8_t byte) { return byte == object.fill; }));
    arena.Free(object.handle, object.bytes);
    ASSERT_LE(budget.used(), budget.max());
  }
  for (const Object& object : objects) arena.Free(object.handle, object.bytes);
  EXPECT_EQ(budget.used(), 0u);
}

// Holders as bits of a map, over every form that a set takes.
RC_GTEST_PROP(HolderSets, IsAMapFromLaneToHowItHolds, ()) {
  MemoryBudget budget(std::size_t{8} << 20);
  SlabArena arena(budget);
  HolderSets sets(arena);
  const auto words = *rc::gen::element<std::size_t>(1, 2, 5, 16, 128);
  sets.SetLaneWords(words);
  const auto lanes = *rc::gen::inRange<LaneId>(1, static_cast<LaneId>(words * 64) + 1);
  std::map<LaneId, Holds> plain;
  std::uint32_t holders = 0;
  std::mt19937 random(*rc::gen::arbitrary<std::uint32_t>());
  for (int step = 0; step < 1500; ++step) {
    const LaneId lane = random() % lanes;
    // Grows for a while, then shrinks.
    const bool away = random() % 10 < (step % 1000 < 500 ? 2u : 8u);
    const Holds holds = away ? Holds::kNot : static_cast<Holds>(1 + random() % 3);
    RC_ASSERT(sets.Set(holders, lane, holds));
    plain.erase(lane);
    if (holds != Holds::kNot) plain[lane] = holds;
    RC_ASSERT(sets.Count(holders) == static_cast<int>(plain.size()));
  }
  std::vector<std::uint64_t> any(words), lower(words), predicted(words);
  HolderPlanes planes{any, lower, predicted};
  sets.Spread(holders, planes);
  for (LaneId lane = 0; lane < lanes; ++lane) {
    const auto found = plain.find(lane);
    const Holds holds = found == plain.end() ? Holds::kNot : found->second;
    RC_ASSERT(sets.Get(holders, lane) == holds);
    const auto bit = [&](const std::vector<std::uint64_t>& plane) {
      return (plane[lane / 64] >> lane % 64 & 1u) != 0;
    };
    RC_ASSERT(bit(any) == (holds != Holds::kNot));
    if (!planes.special) {
      RC_ASSERT(holds == Holds::kNot || holds == Holds::kGpu);
      continue;
    }
    RC_ASSERT(bit(lower) == (holds == Holds::kLower));
    RC_ASSERT(bit(predicted) == (holds == Holds::kPredicted));
  }
  for (LaneId lane = 0; lane < lanes; ++lane) RC_ASSERT(sets.Set(holders, lane, Holds::kNot));
  RC_ASSERT(holders == 0u);
  RC_ASSERT(budget.used() == 0u);
}

TEST(HolderSets, ChangesNothingWithoutMemory) {
  MemoryBudget budget(0);
  SlabArena arena(budget);
  HolderSets sets(arena);
  std::uint32_t holders = 0;
  EXPECT_TRUE(sets.Set(holders, 1, Holds::kGpu));
  EXPECT_TRUE(sets.Set(holders, 2, Holds::kLower));
  EXPECT_FALSE(sets.Set(holders, 3, Holds::kGpu));
  EXPECT_EQ(sets.Get(holders, 3), Holds::kNot);
  EXPECT_EQ(sets.Count(holders), 2);
}

std::uint32_t PlainDepth(const std::vector<std::vector<bool>>& held, LaneId lane) {
  std::uint32_t depth = 0;
  while (depth < held[lane].size() && held[lane][depth]) ++depth;
  return depth;
}

std::vector<BlockHash> AnyChain(std::size_t blocks) {
  std::vector<BlockHash> chain;
  BlockHash at = 1;
  for (std::size_t i = 0; i < blocks; ++i) {
    chain.push_back(at = ExtendChain(at, std::string_view("x")));
  }
  return chain;
}

// Lanes with holes anywhere on short chains; on long ones, which are looked at in jumps, without.
RC_GTEST_PROP(ChainWalk, FindsTheLongestPrefixWithoutAHole, ()) {
  const bool holes = *rc::gen::arbitrary<bool>();
  const auto lanes = *rc::gen::element<LaneId>(1, 3, 70, 300);
  const auto blocks =
      holes ? *rc::gen::inRange<std::size_t>(1, 60) : *rc::gen::inRange<std::size_t>(500, 1600);
  std::mt19937 random(*rc::gen::arbitrary<std::uint32_t>());
  BlockIndex index(std::size_t{64} << 20);
  const std::vector<BlockHash> chain = AnyChain(blocks);
  std::vector<std::vector<bool>> held(lanes, std::vector<bool>(blocks));
  std::vector<std::uint32_t> lower(lanes);
  std::vector<std::uint64_t> eligible((lanes + 63) / 64);
  for (LaneId lane = 0; lane < lanes; ++lane) {
    RC_ASSERT(index.Open() == lane);
    const std::size_t depth = random() % (blocks + 1);
    index.BeginRun(lane, {});
    for (std::size_t i = 0; i < depth; ++i) {
      held[lane][i] = !(holes && random() % 30 == 0);
      if (!held[lane][i]) continue;
      const bool slow = holes && random() % 10 == 0;
      RC_ASSERT(index.Announce(lane, {.key = i, .hash = chain[i], .lower = slow}, 0));
      if (slow && PlainDepth(held, lane) > i) ++lower[lane];
    }
    if (random() % 8 != 0) eligible[lane / 64] |= std::uint64_t{1} << lane % 64;
  }
  index.Audit();
  const auto walk = std::make_unique<ChainWalk>(index);
  for (int twice = 0; twice < 2; ++twice) {
    walk->Run({.hashes = chain, .tokens_a_block = 16}, eligible);
    std::map<LaneId, LaneMatch> found;
    for (const LaneMatch& match : walk->matches()) found[match.lane] = match;
    RC_ASSERT(found.size() == walk->matches().size());
    for (LaneId lane = 0; lane < lanes; ++lane) {
      const bool in = (eligible[lane / 64] >> lane % 64 & 1u) != 0;
      const std::uint32_t depth = in ? PlainDepth(held, lane) : 0;
      RC_ASSERT(found.contains(lane) == (depth > 0));
      if (depth == 0) continue;
      RC_ASSERT(found[lane].tokens == depth * 16);
      RC_ASSERT(found[lane].tokens_lower == lower[lane] * 16);
    }
  }
}

// However much comes, the memory stays within its bounds, and what came last is there.
RC_GTEST_PROP(BlockIndex, StaysWithinItsBudget, ()) {
  constexpr std::size_t kBytes = std::size_t{1} << 20;
  BlockIndex index(kBytes);
  std::mt19937_64 random(*rc::gen::arbitrary<std::uint32_t>());
  const auto lanes = *rc::gen::element<std::size_t>(1, 5, 100);
  const auto distinct = *rc::gen::element<std::uint64_t>(10, 3000, std::uint64_t{1} << 40);
  std::vector<LaneId> open;
  for (std::size_t i = 0; i < lanes; ++i) open.push_back(index.Open());
  for (UseMoment now = 0; now < 30'000; ++now) {
    const std::size_t which = random() % lanes;
    const BlockHash hash = random() % distinct + 1;
    switch (random() % 20) {
      case 0:
        index.Withdraw(open[which], hash, false, now);
        break;
      case 1:
        index.Predict(open[which], hash * 3, true, now);
        break;
      case 2:
        index.Release(open[which], hash * 3, ReleaseAs::kSettled, now);
        break;
      case 3:
        if (random() % 50 != 0) break;
        index.Retire(open[which]);
        open[which] = index.Open();
        break;
      default:
        index.BeginRun(open[which], {});
        index.Announce(open[which], {.key = hash, .hash = hash}, now);
        break;
    }
    RC_ASSERT(index.bytes() <= kBytes);
  }
  index.Audit();
  for (const LaneId lane : open) index.Retire(lane);
  while (!index.swept()) index.Sweep(1000);
  RC_ASSERT(index.holdings() == 0);
  RC_ASSERT(index.records() == 0);
}

TEST(BlockIndex, TheLargestForgetsItsOldest) {
  BlockIndex index(std::size_t{1} << 20);
  const LaneId small = index.Open();
  const LaneId large = index.Open();
  index.BeginRun(small, {});
  for (std::uint64_t i = 1; i <= 100; ++i) {
    ASSERT_TRUE(index.Announce(small, {.key = i, .hash = i}, 0));
  }
  for (std::uint64_t i = 1'000; i < 100'000; ++i) {
    index.BeginRun(large, {});
    ASSERT_TRUE(index.Announce(large, {.key = i, .hash = i}, static_cast<UseMoment>(i / 1000)));
  }
  EXPECT_EQ(index.Announced(small).count, 100);
  EXPECT_FALSE(index.Find(large, 1'000).has_value());
  EXPECT_TRUE(index.Find(large, 99'999).has_value());
  EXPECT_GT(index.Announced(large).count, 10'000);
  EXPECT_EQ(index.forgotten() + index.Announced(large).count, 99'000);
  index.Audit();
}

TEST(BlockIndex, AChainIsFollowedToItsBeginning) {
  BlockIndex index(std::size_t{1} << 20);
  const LaneId lane = index.Open();
  const std::vector<BlockHash> chain = AnyChain(20);
  index.BeginRun(lane, {});
  for (std::size_t i = 0; i < 12; ++i) index.Announce(lane, {.key = i, .hash = chain[i]}, 0);
  index.BeginRun(lane, *index.Find(lane, 11));
  for (std::size_t i = 12; i < 20; ++i) index.Announce(lane, {.key = i, .hash = chain[i]}, 0);
  EXPECT_EQ(index.ChainTo(lane, chain[19], 100), chain);
  EXPECT_TRUE(index.ChainTo(lane, chain[19], 19).empty());
  EXPECT_EQ(index.TouchUp(lane, chain[19], 5, 9), chain[14]);
  index.Withdraw(lane, 3, false, 0);
  EXPECT_TRUE(index.ChainTo(lane, chain[19], 100).empty());
}

// One block under two of the engine's names, and expected by a request under the first.
TEST(BlockIndex, WhatIsAnnouncedNeedsNoSettling) {
  BlockIndex index(std::size_t{1} << 20);
  const LaneId lane = index.Open();
  index.Announce(lane, {.key = 1, .hash = 5}, 0);
  index.Predict(lane, 5, false, 0);
  index.Announce(lane, {.key = 2, .hash = 5}, 0);
  index.Withdraw(lane, 1, false, 0);
  EXPECT_EQ(index.Predicted(lane).count, 1);
  index.Release(lane, 5, ReleaseAs::kSettled, 0);
  EXPECT_EQ(index.Predicted(lane).count, 0);
  index.Withdraw(lane, 2, false, 0);
  EXPECT_EQ(index.records(), 0);
}

TEST(BlockIndex, LanesAreUsedAgain) {
  BlockIndex index(std::size_t{4} << 20);
  for (int round = 0; round < 50'000; ++round) {
    const LaneId lane = index.Open();
    ASSERT_LT(lane, kLanesMax);
    index.Announce(lane, {.key = 1, .hash = 1}, 0);
    index.Retire(lane);
  }
  EXPECT_LE(index.holdings(), 2);
}

TEST(UseMoment, GoesRound) {
  const std::int64_t half_a_year_ns = (std::int64_t{1} << kUseMomentBits) * kUseMomentNs;
  EXPECT_DOUBLE_EQ(UseAgeSeconds(UseMomentOf(half_a_year_ns - kUseMomentNs),
                                 UseMomentOf(half_a_year_ns + kUseMomentNs)),
                   0.5);
  EXPECT_DOUBLE_EQ(UseAgeSeconds(UseMomentOf(4 * kUseMomentNs), UseMomentOf(0)), 0);
}

}  // namespace
}  // namespace sublet
