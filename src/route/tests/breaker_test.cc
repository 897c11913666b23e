#include "route/breaker.h"

#include <gtest/gtest.h>

namespace sublet {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

void Fail(Breaker& breaker, std::int64_t now_ns, int times) {
  for (int i = 0; i < times; ++i) breaker.OnFailure(breaker.OnSent(now_ns), now_ns);
}

Breaker OpenedAt(std::int64_t now_ns) {
  Breaker breaker;
  Fail(breaker, now_ns, 5);
  return breaker;
}

TEST(Breaker, OpensAfterFiveFailuresInARow) {
  Breaker breaker;
  Fail(breaker, 0, 4);
  EXPECT_TRUE(breaker.Allows(0));
  Fail(breaker, 0, 1);
  EXPECT_FALSE(breaker.Allows(0));
  EXPECT_EQ(BreakerStateName(breaker.StateAt(0)), "open");
}

TEST(Breaker, ASuccessBetweenFailuresKeepsItClosed) {
  Breaker breaker;
  for (int i = 0; i < 8; ++i) {
    Fail(breaker, 0, 1);
    breaker.OnSuccess(breaker.OnSent(0));
    breaker.OnSuccess(breaker.OnSent(0));
  }
  EXPECT_TRUE(breaker.Allows(0));
}

TEST(Breaker, OpensWhenHalfOfTheLastRequestsFailed) {
  Breaker breaker;
  for (int i = 0; i < 16; ++i) {
    ASSERT_TRUE(breaker.Allows(0)) << i;
    breaker.OnSuccess(breaker.OnSent(0));
    Fail(breaker, 0, 1);
  }
  EXPECT_FALSE(breaker.Allows(0));
}

TEST(Breaker, AnswersThatBlameTheClientNeverOpenIt) {
  Breaker breaker;
  for (int i = 0; i < 10'000; ++i) breaker.OnNothing(breaker.OnSent(i));
  EXPECT_EQ(breaker.StateAt(10'000), BreakerState::kClosed);
  Fail(breaker, 0, 4);
  for (int i = 0; i < 10'000; ++i) breaker.OnNothing(breaker.OnSent(i));
  EXPECT_TRUE(breaker.Allows(10'000));
}

TEST(Breaker, LetsOneProbeInWhenThePauseIsOver) {
  Breaker breaker = OpenedAt(0);
  EXPECT_FALSE(breaker.Allows(kSecond - 1));
  ASSERT_TRUE(breaker.Allows(kSecond));
  breaker.OnSent(kSecond);
  EXPECT_FALSE(breaker.Allows(kSecond));
  EXPECT_EQ(breaker.StateAt(kSecond), BreakerState::kHalfOpen);
}

TEST(Breaker, AProbeThatSucceedsClosesIt) {
  Breaker breaker = OpenedAt(0);
  breaker.OnSuccess(breaker.OnSent(kSecond));
  EXPECT_EQ(breaker.StateAt(kSecond), BreakerState::kClosed);
  Fail(breaker, kSecond, 4);  // The old failures are forgotten.
  EXPECT_TRUE(breaker.Allows(kSecond));
}

TEST(Breaker, AProbeThatFailsOpensItForTwiceAsLong) {
  Breaker breaker = OpenedAt(0);
  std::int64_t now_ns = kSecond;
  for (const int pause_s : {2, 4, 8, 16, 30, 30}) {
    Fail(breaker, now_ns, 1);
    EXPECT_FALSE(breaker.Allows(now_ns + pause_s * kSecond - 1));
    now_ns += pause_s * kSecond;
    ASSERT_TRUE(breaker.Allows(now_ns)) << pause_s;
  }
}

TEST(Breaker, AProbeThatWasTheClientsFaultMakesPlaceForAnother) {
  Breaker breaker = OpenedAt(0);
  breaker.OnNothing(breaker.OnSent(kSecond));
  EXPECT_TRUE(breaker.Allows(kSecond));
  EXPECT_EQ(breaker.StateAt(kSecond), BreakerState::kHalfOpen);
}

TEST(Breaker, AProbeThatIsNeverHeardOfGivesItsPlaceAway) {
  Breaker breaker = OpenedAt(0);
  breaker.OnSent(kSecond);
  EXPECT_FALSE(breaker.Allows(60 * kSecond));
  EXPECT_TRUE(breaker.Allows(61 * kSecond));
}

TEST(Breaker, LateResultsOfRequestsSentBeforeItOpenedDecideNothing) {
  Breaker breaker;
  const std::uint32_t early = breaker.OnSent(0);
  Fail(breaker, 0, 5);
  breaker.OnSuccess(early);
  EXPECT_FALSE(breaker.Allows(0));
  const std::uint32_t probe = breaker.OnSent(kSecond);
  breaker.OnFailure(early, kSecond);
  EXPECT_EQ(breaker.StateAt(kSecond), BreakerState::kHalfOpen);
  breaker.OnSuccess(probe);
  breaker.OnFailure(early, kSecond);
  EXPECT_EQ(breaker.failures_in_a_row(), 0);
}

TEST(Breaker, AHealthCheckEndsThePause) {
  Breaker breaker = OpenedAt(0);
  breaker.EndPause(kSecond / 2);
  EXPECT_TRUE(breaker.Allows(kSecond / 2));
  EXPECT_EQ(breaker.StateAt(kSecond / 2), BreakerState::kHalfOpen);
}

}  // namespace
}  // namespace sublet
