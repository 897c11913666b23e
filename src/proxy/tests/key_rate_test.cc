#include "proxy/key_rate.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace sublet {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

TEST(KeyRate, LetsABurstThroughAndThenItsRate) {
  KeyRate rate(60);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(rate.Take(1, 0), 0) << i;
  EXPECT_EQ(rate.Take(1, 0), kSecond);
  EXPECT_EQ(rate.Take(1, kSecond), 0);
  EXPECT_GT(rate.Take(1, kSecond), 0);
  int taken = 0;
  for (std::int64_t at = kSecond; at < 61 * kSecond; at += kSecond / 10)
    taken += rate.Take(1, at) == 0;
  EXPECT_NEAR(taken, 60, 1);
}

TEST(KeyRate, LetsOneThroughWhereOneIsAllowedInAMinute) {
  KeyRate rate(1);
  EXPECT_EQ(rate.Take(1, 0), 0);
  EXPECT_EQ(rate.Take(1, 0), 60 * kSecond);
  EXPECT_GT(rate.Take(1, 59 * kSecond), 0);
  EXPECT_EQ(rate.Take(1, 60 * kSecond), 0);
}

TEST(KeyRate, LetsWhatIsLargerThanTheBurstThroughAndHasItPaid) {
  KeyRate rate(6000);  // 100 a second, 1,000 at once.
  EXPECT_EQ(rate.Take(5000, 0), 0);
  const std::int64_t wait_ns = rate.Take(1, 0);
  EXPECT_NEAR(static_cast<double>(wait_ns), 40e9, 0.1e9);
  EXPECT_EQ(rate.Take(1, wait_ns), 0);
}

TEST(KeyRate, CountsOnceFromManyThreads) {
  KeyRate rate(6000);
  std::atomic<int> taken = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 1000; ++k) taken += rate.Take(1, 0) == 0 ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(taken, 1000);
}

}  // namespace
}  // namespace sublet
