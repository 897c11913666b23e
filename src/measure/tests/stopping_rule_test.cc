// The rule on streams of rounds such as GPUs give them, each made from a seed.
#include "measure/stopping_rule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

namespace sublet {
namespace {

using Kind = StoppingVerdict::Kind;
using ::testing::HasSubstr;

constexpr double kRoundMs = 100;

struct Outcome {
  StoppingVerdict verdict;
  int rounds = 0;
  Estimate estimate;
  bool settled = false;
};

// Feeds rate(0), rate(1), ... until the rule has enough.
Outcome RunOn(const StoppingOptions& options, const std::function<double(int)>& rate,
              double round_ms = kRoundMs) {
  StoppingRule rule(options);
  for (int round = 0;; ++round) {
    const StoppingVerdict verdict = rule.Add({.rate_per_s = rate(round), .cost_ms = round_ms});
    if (verdict.kind == Kind::kContinue) continue;
    return {verdict, rule.rounds(), rule.estimate(), rule.settled()};
  }
}

// Normal noise around 10,000 a second.
std::function<double(int)> Noisy(double sigma, unsigned seed) {
  return [random = std::mt19937(seed), noise = std::normal_distribution<double>(1, sigma)](
             int) mutable { return 10'000 * std::max(0.0, noise(random)); };
}

TEST(StoppingRule, SettlesAConstantStreamAfterTheFewestRounds) {
  for (const char* effort : {"quick", "full"}) {
    const StoppingOptions options = StoppingOptionsFor(effort);
    const Outcome outcome = RunOn(options, [](int) { return 10'000; });
    EXPECT_EQ(outcome.verdict.kind, Kind::kSettled) << effort;
    EXPECT_EQ(outcome.rounds, options.rounds_min) << effort;
    EXPECT_EQ(outcome.estimate.value, 10'000);
    EXPECT_TRUE(outcome.settled);
  }
}

TEST(StoppingRule, SaysContinueBeforeTheFewestRounds) {
  StoppingRule rule(StoppingOptionsFor("quick"));
  for (int round = 1; round < StoppingOptionsFor("quick").rounds_min; ++round) {
    EXPECT_EQ(rule.Add({10'000, kRoundMs}).kind, Kind::kContinue) << round;
    EXPECT_FALSE(rule.settled());
  }
  EXPECT_EQ(rule.Add({10'000, kRoundMs}).kind, Kind::kSettled);
}

TEST(StoppingRule, TakesMoreRoundsForMoreNoise) {
  double rounds_calm = 0;
  double rounds_noisy = 0;
  for (unsigned seed = 0; seed < 50; ++seed) {
    rounds_calm += RunOn(StoppingOptionsFor("full"), Noisy(0.005, seed)).rounds;
    rounds_noisy += RunOn(StoppingOptionsFor("full"), Noisy(0.02, seed)).rounds;
  }
  EXPECT_GT(rounds_noisy, 1.5 * rounds_calm);
}

TEST(StoppingRule, KnowsTheMedianAsWellAsItSays) {
  int settled = 0;
  int near = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    const Outcome outcome = RunOn(StoppingOptionsFor("full"), Noisy(0.015, seed));
    if (!outcome.settled) continue;
    ++settled;
    // Stopping at the first narrow interval favours the lucky ones, hence twice the width.
    if (std::abs(outcome.estimate.value - 10'000) <= 200) ++near;
  }
  EXPECT_GE(settled, 180) << "steady noise of 1.5 % must settle";
  EXPECT_GE(near, settled * 97 / 100);
}

TEST(StoppingRule, GivesUpOnANoisyStreamAndSaysHowWellItIsKnown) {
  const StoppingOptions options = StoppingOptionsFor("quick");
  const Outcome outcome = RunOn(options, Noisy(0.3, 3));
  EXPECT_EQ(outcome.verdict.kind, Kind::kGaveUp);
  EXPECT_EQ(outcome.rounds, options.rounds_max);
  EXPECT_FALSE(outcome.settled);
  EXPECT_THAT(outcome.verdict.reason, HasSubstr("after 12 rounds"));
}

TEST(StoppingRule, NamesTheIntervalWhereTheStreamIsSteadyButWide) {
  // Alternates: the halves agree, the interval spans both values.
  const Outcome outcome = RunOn(StoppingOptionsFor("quick"),
                                [](int round) { return round % 2 == 0 ? 9000.0 : 11'000.0; });
  EXPECT_EQ(outcome.verdict.kind, Kind::kGaveUp);
  EXPECT_THAT(outcome.verdict.reason,
              HasSubstr("the median is known to 10.0 %, 2.0 % were wanted"));
  EXPECT_LE(outcome.estimate.low, 9000);
  EXPECT_GE(outcome.estimate.high, 11'000);
}

// 0.4 % a round: each interval of the last rounds is narrow, the rate is not.
TEST(StoppingRule, DoesNotSettleADriftingStream) {
  StoppingOptions options = StoppingOptionsFor("full");
  options.half_width_max = 0.1;  // So that only the drift stands against it.
  const Outcome outcome = RunOn(options, [](int round) { return 10'000 * (1 - 0.005 * round); });
  EXPECT_EQ(outcome.verdict.kind, Kind::kGaveUp);
  EXPECT_THAT(outcome.verdict.reason, HasSubstr("the rate drifts"));
}

TEST(StoppingRule, DoesNotSettleWhereTheClockStepsDownHalfWay) {
  // Down to two thirds at the fourth round; neither value may pass for the rate.
  const Outcome outcome = RunOn(StoppingOptionsFor("quick"),
                                [](int round) { return round % 8 < 4 ? 10'000.0 : 6667.0; });
  EXPECT_EQ(outcome.verdict.kind, Kind::kGaveUp);
}

TEST(StoppingRule, OutlivesAColdStart) {
  // Two slow rounds, then steady: more rounds are taken and the median is that of the steady ones.
  for (const char* effort : {"quick", "full"}) {
    const StoppingOptions options = StoppingOptionsFor(effort);
    const Outcome outcome = RunOn(options, [](int round) { return round < 2 ? 5000.0 : 10'000.0; });
    EXPECT_EQ(outcome.verdict.kind, Kind::kSettled) << effort;
    EXPECT_GT(outcome.rounds, options.rounds_min) << effort;
    EXPECT_EQ(outcome.estimate.low, 10'000) << effort;
  }
}

TEST(StoppingRule, GivesUpWhenTheTimeIsUpEvenBeforeTheFewestRounds) {
  const Outcome outcome = RunOn(
      StoppingOptionsFor("quick"), [](int) { return 10'000; }, 2000);
  EXPECT_EQ(outcome.verdict.kind, Kind::kGaveUp);
  EXPECT_EQ(outcome.rounds, 2);
  EXPECT_THAT(outcome.verdict.reason, HasSubstr("the time was up after 2 rounds, 4000 ms"));
  EXPECT_THAT(outcome.verdict.reason, HasSubstr("at least 6 rounds were wanted"));
}

TEST(StoppingRule, SettlesInTheRoundThatIsAlsoTheLast) {
  StoppingOptions options = StoppingOptionsFor("quick");
  options.rounds_max = options.rounds_min;
  EXPECT_EQ(RunOn(options, [](int) { return 10'000; }).verdict.kind, Kind::kSettled);
}

TEST(StoppingRule, EndsOnAnyStream) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    std::mt19937 random(seed);
    for (const char* effort : {"quick", "full"}) {
      const StoppingOptions options = StoppingOptionsFor(effort);
      const Outcome outcome =
          RunOn(options, [&](int) { return static_cast<double>(random() % 3 * (random() % 100)); });
      EXPECT_LE(outcome.rounds, options.rounds_max);
      EXPECT_GE(outcome.rounds, options.rounds_min);
      EXPECT_EQ(outcome.settled, outcome.verdict.kind == Kind::kSettled);
      EXPECT_FALSE(outcome.verdict.reason.empty());
    }
  }
}

TEST(StoppingRule, TakesAStreamOfZerosForKnown) {
  const Outcome outcome = RunOn(StoppingOptionsFor("quick"), [](int) { return 0; });
  EXPECT_EQ(outcome.verdict.kind, Kind::kSettled);
  EXPECT_EQ(outcome.estimate.high, 0);
}

}  // namespace
}  // namespace sublet
