#include "node/back_off.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(RestartDelay, DoublesUpToTheMost) {
  double undisturbed = 0.5;
  for (int attempt = 1; attempt <= 100; ++attempt) {
    const double delay = RestartDelay(attempt, "s17");
    EXPECT_LE(delay, undisturbed) << attempt;
    EXPECT_GE(delay, 0.75 * undisturbed) << attempt;
    undisturbed = std::min(2 * undisturbed, 30.0);
  }
}

TEST(RestartDelay, IsNothingWithoutAnEnd) {
  EXPECT_EQ(RestartDelay(0, "s17"), 0);
}

TEST(RestartDelay, IsTheSameEachTime) {
  EXPECT_EQ(RestartDelay(3, "s17"), RestartDelay(3, "s17"));
}

TEST(RestartDelay, KeepsSharesOutOfStep) {
  std::set<double> delays;
  double least = 30;
  double most = 0;
  for (int share = 0; share < 40; ++share) {
    const double delay = RestartDelay(8, "s" + std::to_string(share));
    delays.insert(delay);
    least = std::min(least, delay);
    most = std::max(most, delay);
  }
  EXPECT_EQ(delays.size(), 40u);
  EXPECT_LT(least, 24);  // They use the room between 22.5 and 30 s.
  EXPECT_GT(most, 28.5);
}

TEST(RestartDelay, FollowsItsSettings) {
  const BackOff back_off{.first_s = 2, .most_s = 3};
  EXPECT_GT(RestartDelay(1, "s1", back_off), 1.5 - 1e-9);
  EXPECT_LE(RestartDelay(9, "s1", back_off), 3);
  EXPECT_GE(RestartDelay(9, "s1", back_off), 2.25);
}

TEST(AttemptsAfterEnd, BeginsAnewAfterASteadyRun) {
  EXPECT_EQ(AttemptsAfterEnd(0, 0.1), 1);
  EXPECT_EQ(AttemptsAfterEnd(7, 59.9), 8);
  EXPECT_EQ(AttemptsAfterEnd(7, 60), 1);
  EXPECT_EQ(AttemptsAfterEnd(7, 6, {.steady_s = 5}), 1);
}

TEST(DescribePause, SaysSoOfACrashLoop) {
  EXPECT_EQ(DescribePause(1, 0.43), "starts again in 0.4 s");
  EXPECT_THAT(DescribePause(4, 3.8), Not(HasSubstr("crash loop")));
  EXPECT_EQ(DescribePause(6, 14.2),
            "crash loop: ended 6 times in a row, each within 60 s of its start; starts again in "
            "14 s");
  EXPECT_TRUE(IsCrashLoop(5));
  EXPECT_FALSE(IsCrashLoop(4));
}

}  // namespace
}  // namespace sublet
