#include "route/rate_learner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "route/affine_fit.h"

namespace sublet {
namespace {

TEST(AffineFit, FindsTheLineThroughItsPairs) {
  AffineFit fit({.intercept = 5, .slope = 1, .x = 100});
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const double x = 10 + random() % 1000;
    fit.Add(x, 40 + 0.3 * x);
  }
  EXPECT_NEAR(fit.slope(), 0.3, 0.02);
  EXPECT_NEAR(fit.intercept(), 40, 5);
}

TEST(AffineFit, KeepsItsAssumptionWhereAllPairsAreAtOnePlace) {
  AffineFit fit({.intercept = 20, .slope = 0.125, .x = 1024});
  for (int i = 0; i < 300; ++i) fit.Add(2000, 20 + 0.25 * 2000);
  EXPECT_NEAR(fit.At(2000), 520, 15);
  EXPECT_GT(fit.slope(), 0.2);
}

TEST(AffineFit, OutliersHardlyMoveIt) {
  AffineFit fit({.intercept = 20, .slope = 0.125, .x = 1024});
  std::mt19937 random(2);
  for (int i = 0; i < 500; ++i) {
    const double x = 100 + random() % 8000;
    const double y = 20 + 0.125 * x;
    fit.Add(x, random() % 10 == 0 ? 20 * y : y);
  }
  EXPECT_NEAR(fit.At(4000), 520, 200);
}

TEST(AffineFit, ForgetsWhatWas) {
  AffineFit fit({.intercept = 20, .slope = 0.125, .x = 1024});
  std::mt19937 random(3);
  for (const double slope : {0.1, 0.5}) {
    for (int i = 0; i < 400; ++i) {
      const double x = 100 + random() % 8000;
      fit.Add(x, 20 + slope * x);
    }
    EXPECT_NEAR(fit.slope(), slope, 0.05 * slope);
  }
}

TEST(AffineFit, IsNeverNegative) {
  AffineFit fit({.intercept = 0, .slope = 1, .x = 1});
  for (int i = 1; i < 100; ++i) fit.Add(i, 1000.0 / i);
  EXPECT_GT(fit.slope(), 0);
  EXPECT_GE(fit.intercept(), 0);
  fit.Add(-1, 5);
  fit.Add(5, 0);
  EXPECT_EQ(fit.count(), 99);
}

// An engine that prefills in the order of arrival, and the learner that watches it.
class WatchedEngine {
 public:
  WatchedEngine(double rate, double overhead_ms, const RateAssumptions& assumptions = {})
      : rate_(rate), overhead_ms_(overhead_ms), learner_(assumptions) {}

  // `slowdown`: by a co-tenant, which the work clock knows of.
  void Request(double sent_ms, double tokens, double slowdown = 1) {
    const double begun_ms = std::max(sent_ms, free_ms_);
    const double alone_ms = overhead_ms_ + tokens / rate_ * 1000;
    const double begun_work_ms = work_ms_ + std::max(0.0, sent_ms - free_ms_);
    work_ms_ = begun_work_ms + alone_ms;
    free_ms_ = begun_ms + alone_ms * slowdown;
    learner_.OnFirstToken({.now_ns = static_cast<std::int64_t>(free_ms_ * 1e6),
                           .work_ns = work_ms_ * 1e6,
                           .tokens = tokens,
                           .begun_work_ns = begun_work_ms * 1e6});
  }
  const RateLearner& learner() const { return learner_; }
  double free_ms() const { return free_ms_; }

 private:
  double rate_;
  double overhead_ms_;
  RateLearner learner_;
  double free_ms_ = 0;
  double work_ms_ = 0;
};

TEST(RateLearner, DoesNotTakeQueueingForSlowness) {
  std::mt19937 random(1);
  WatchedEngine idle(5000, 15);
  WatchedEngine flooded(5000, 15);
  for (int i = 0; i < 300; ++i) {
    const double tokens = 200 + random() % 6000;
    idle.Request(idle.free_ms() + 500, tokens);
    flooded.Request(i, tokens);  // All at once: the last one waits for minutes.
  }
  EXPECT_NEAR(idle.learner().PrefillTokensPerSecond(), 5000, 250);
  EXPECT_NEAR(flooded.learner().PrefillTokensPerSecond(), 5000, 250);
  EXPECT_TRUE(flooded.learner().PrefillLearnt());
}

TEST(RateLearner, DoesNotTakeABusyCoTenantForSlowness) {
  std::mt19937 random(2);
  WatchedEngine engine(5000, 15);
  for (int i = 0; i < 300; ++i) engine.Request(0, 200 + random() % 6000, 1.84);
  EXPECT_NEAR(engine.learner().PrefillTokensPerSecond(), 5000, 250);
}

TEST(RateLearner, FirstTokensOfOneStepAreOneSample) {
  RateLearner rates;
  double work_ms = 0;
  for (int i = 0; i < 200; ++i) {
    const double begun_ms = work_ms;
    const int count = 1 + i % 7;
    work_ms += 10 + count * 300 / 4.0;  // 4,000 tokens a second.
    for (int k = 0; k < count; ++k) {
      rates.OnFirstToken({.now_ns = static_cast<std::int64_t>(work_ms * 1e6) + k * 50'000,
                          .work_ns = work_ms * 1e6 + k * 50'000,
                          .tokens = 300,
                          .head = k > 0,  // The first to be heard wasn't the oldest.
                          .begun_work_ns = k > 1 ? work_ms * 1e6 : begun_ms * 1e6});
    }
  }
  EXPECT_NEAR(rates.PrefillTokensPerSecond(), 4000, 500);
}

TEST(RateLearner, AssumesLessOfASmallerShare) {
  EXPECT_NEAR(RateLearner({.sm_part = 0.25}).PrefillTokensPerSecond(), 2000, 1);
}

TEST(RateLearner, BelievesWhatItWasTold) {
  WatchedEngine engine(5000, 15, {.prefill_tokens_per_second = 9000});
  for (int i = 0; i < 100; ++i) engine.Request(0, 1000 + i);
  EXPECT_NEAR(engine.learner().PrefillTokensPerSecond(), 9000, 1e-6);
  EXPECT_FALSE(engine.learner().PrefillLearnt());
}

TEST(RateLearner, LearnsTheStepOfDecoding) {
  RateLearner rates;
  for (int i = 0; i < 300; ++i) rates.OnDecode(1 + i % 32, 8 + 0.5 * (1 + i % 32));
  EXPECT_NEAR(rates.DecodeStepMs(1), 8.5, 0.7);
  EXPECT_NEAR(rates.DecodeStepMs(32), 24, 1);
}

}  // namespace
}  // namespace sublet
