#include "engine/block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(BlockPool, GivesFreshBlocksBeforeItEvicts) {
  BlockPool pool(3);
  std::vector<EngineHash> evicted;
  const BlockIndex first = pool.Take(evicted);
  pool.Name(first, 100);
  pool.Release(first);
  EXPECT_EQ(pool.free(), 3);
  pool.Take(evicted);
  pool.Take(evicted);
  EXPECT_THAT(evicted, IsEmpty());
  EXPECT_EQ(pool.Find(100), first);
  EXPECT_EQ(pool.Take(evicted), first);
  EXPECT_THAT(evicted, ElementsAre(100));
  EXPECT_EQ(pool.Find(100), std::nullopt);
  EXPECT_TRUE(pool.Consistent());
}

TEST(BlockPool, EvictsWhatWasReleasedFirst) {
  BlockPool pool(2);
  std::vector<EngineHash> evicted;
  const BlockIndex a = pool.Take(evicted);
  const BlockIndex b = pool.Take(evicted);
  pool.Name(a, 1);
  pool.Name(b, 2);
  pool.Release(b);
  pool.Release(a);
  pool.Touch(b);  // Used again, and so the younger one of the two.
  pool.Release(b);
  pool.Take(evicted);
  EXPECT_THAT(evicted, ElementsAre(1));
}

TEST(BlockPool, KeepsABlockThatAnotherStillUses) {
  BlockPool pool(1);
  std::vector<EngineHash> evicted;
  const BlockIndex a = pool.Take(evicted);
  pool.Name(a, 1);
  pool.Touch(a);
  pool.Release(a);
  EXPECT_EQ(pool.free(), 0);
  EXPECT_FALSE(pool.Forget());
  pool.Release(a);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_TRUE(pool.Forget());
  EXPECT_EQ(pool.Find(1), std::nullopt);
  EXPECT_EQ(pool.named(), 0);
}

TEST(BlockPool, FindsTheFirstOfTwinsAndThenTheOther) {
  BlockPool pool(3);
  std::vector<EngineHash> evicted;
  const BlockIndex a = pool.Take(evicted);
  const BlockIndex b = pool.Take(evicted);
  const BlockIndex c = pool.Take(evicted);
  for (const BlockIndex block : {a, b, c}) pool.Name(block, 7);
  EXPECT_EQ(pool.Find(7), a);
  EXPECT_THAT(pool.Hashes(), ElementsAre(7, 7, 7));
  pool.Release(b);
  EXPECT_EQ(pool.Take(evicted), b);  // The middle one goes.
  EXPECT_EQ(pool.Find(7), a);
  pool.Release(a);
  EXPECT_EQ(pool.Take(evicted), a);
  EXPECT_EQ(pool.Find(7), c);
  EXPECT_THAT(evicted, ElementsAre(7, 7));
  EXPECT_TRUE(pool.Consistent());
}

}  // namespace
}  // namespace sublet
