// Retry budget, slow start, hedging.
#include <gtest/gtest.h>

#include "route/hedging.h"
#include "route/retry_budget.h"
#include "route/slow_start.h"

namespace sublet {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

int TakeAll(RetryBudget& budget, std::int64_t now_ns) {
  int taken = 0;
  while (budget.Take(now_ns)) ++taken;
  return taken;
}

TEST(RetryBudget, LetsASmallRouterRetryALittle) {
  RetryBudget budget;
  EXPECT_EQ(TakeAll(budget, 0), 10);
  EXPECT_EQ(TakeAll(budget, kSecond), 10);
}

TEST(RetryBudget, AllowsAFifthOfTheRequestsWhenAllFail) {
  RetryBudget budget({.part = 0.2, .a_second = 0});
  int retries = 0;
  for (std::int64_t ms = 0; ms < 10'000; ++ms) {  // A thousand a second.
    budget.OnRequest(ms * 1'000'000);
    if (budget.Take(ms * 1'000'000)) ++retries;
  }
  EXPECT_NEAR(retries, 2000, 60);
}

TEST(RetryBudget, DoesNotSaveUpForLong) {
  RetryBudget budget({.part = 0.2, .a_second = 10, .kept_s = 10});
  for (int i = 0; i < 100'000; ++i) budget.OnRequest(0);
  EXPECT_LE(TakeAll(budget, 3600 * kSecond), 100);
}

TEST(RetryBudget, ATimeThatGoesBackChangesNothing) {
  RetryBudget budget;
  TakeAll(budget, kSecond);
  EXPECT_FALSE(budget.Take(0));
}

TEST(SlowStart, GrowsFromATenthToAllWithinHalfAMinute) {
  EXPECT_EQ(SlowStartPart(-kSecond), 0.1);
  EXPECT_EQ(SlowStartPart(0), 0.1);
  EXPECT_EQ(SlowStartPart(15 * kSecond), 0.5);
  EXPECT_EQ(SlowStartPart(30 * kSecond), 1);
  EXPECT_EQ(SlowStartPart(3600 * kSecond), 1);
}

TEST(Hedging, IsOffByDefault) {
  TtftWindow window;
  for (int i = 0; i < 100; ++i) window.Add(100);
  EXPECT_FALSE(HedgeAfterMs({}, window));
}

TEST(Hedging, WaitsForThePercentileOfRecentTimes) {
  TtftWindow window;
  for (int i = 1; i <= 100; ++i) window.Add(i * 10);
  EXPECT_FLOAT_EQ(HedgeAfterMs({.percentile = 95}, window).value(), 950);
  EXPECT_FLOAT_EQ(HedgeAfterMs({.percentile = 100}, window).value(), 1000);
  EXPECT_FLOAT_EQ(HedgeAfterMs({.percentile = 1}, window).value(), 50);  // after_ms_min.
}

TEST(Hedging, NeedsSomeTimesToGoBy) {
  TtftWindow window;
  for (int i = 0; i < 19; ++i) window.Add(100);
  EXPECT_FALSE(HedgeAfterMs({.percentile = 95}, window));
  window.Add(100);
  EXPECT_TRUE(HedgeAfterMs({.percentile = 95}, window));
}

TEST(Hedging, ForgetsOldTimes) {
  TtftWindow window;
  for (int i = 0; i < 128; ++i) window.Add(10'000);
  for (int i = 0; i < 128; ++i) window.Add(100);
  EXPECT_FLOAT_EQ(window.Percentile(100), 100);
}

}  // namespace
}  // namespace sublet
