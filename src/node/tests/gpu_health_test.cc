#include "node/gpu_health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <vector>

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using What = HealthChange::What;

constexpr std::int64_t kSecond = 1'000'000'000;

// A GPU that is polled every five seconds, by a clock of its own.
class Bench {
 public:
  explicit Bench(const HealthLimits& limits = {}) : judge(limits) {}

  std::optional<HealthChange> Xid(int xid) {
    return judge.OnXid(JudgeXid(xid, {}), "at noon", now_ns);
  }
  std::optional<HealthChange> Poll(const GpuFacts& facts = Well()) {
    now_ns += 5 * kSecond;
    return judge.OnPoll(facts, now_ns);
  }
  // Seconds of good polls until it recovers; absent where it doesn't within `most`.
  std::optional<double> TimeToRecover(double most = 10'000) {
    const std::int64_t from = now_ns;
    while (static_cast<double>(now_ns - from) < most * kSecond) {
      const auto change = Poll();
      if (change && change->what == What::kRecovered) {
        why = change->why;
        return static_cast<double>(now_ns - from) / kSecond;
      }
    }
    return std::nullopt;
  }

  static GpuFacts Well() {
    GpuFacts facts;
    facts.ecc_uncorrected = 0;
    facts.remap_pending = false;
    facts.remap_failed = false;
    return facts;
  }
  static GpuFacts Lost() {
    GpuFacts facts;
    facts.lost = true;
    return facts;
  }

  HealthJudge judge;
  std::int64_t now_ns = 1000 * kSecond;
  std::string why;
};

TEST(GpuHealth, IsHealthyUntilSomethingHappens) {
  Bench bench;
  EXPECT_FALSE(bench.Poll());
  EXPECT_FALSE(bench.Xid(31)) << "a tenant's fault";
  EXPECT_FALSE(bench.Xid(45)) << "nobody's";
  EXPECT_TRUE(bench.judge.healthy());
  EXPECT_EQ(bench.judge.why(), "");
}

TEST(GpuHealth, AnUnknownXidPassesByItself) {
  Bench bench;
  const auto change = bench.Xid(999);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->what, What::kUnhealthy);
  EXPECT_THAT(change->why, AllOf(HasSubstr("XID 999 (unknown)"), HasSubstr("at noon")));
  EXPECT_EQ(bench.judge.why(), change->why);
  EXPECT_EQ(bench.TimeToRecover(), 60);
  EXPECT_TRUE(bench.judge.healthy());
  EXPECT_THAT(bench.why, HasSubstr("XID 999"));
}

TEST(GpuHealth, AnotherEventBeginsTheQuietAnew) {
  Bench bench;
  bench.Xid(74);
  for (int i = 0; i < 11; ++i) EXPECT_FALSE(bench.Poll());
  EXPECT_FALSE(bench.Xid(74)) << "more of the same is not news";
  EXPECT_EQ(bench.TimeToRecover(), 60);
}

TEST(GpuHealth, RecoversOnlyAfterEnoughPollsHoweverLongItTakes) {
  Bench bench;
  bench.Xid(74);
  bench.now_ns += 3600 * kSecond;  // Nobody polled, as while a driver hangs.
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(bench.Poll());
  ASSERT_TRUE(bench.Poll());
}

TEST(GpuHealth, WhatNeedsAResetWaitsForIt) {
  Bench bench;
  bench.Poll();
  ASSERT_TRUE(bench.Xid(119));
  EXPECT_TRUE(bench.judge.needs_reset());
  EXPECT_FALSE(bench.TimeToRecover());
  bench.Poll(Bench::Lost());
  EXPECT_TRUE(bench.TimeToRecover());
  EXPECT_THAT(bench.why, HasSubstr("was reset"));
}

TEST(GpuHealth, ALostGpuThatIsBackRecovers) {
  Bench bench;
  const auto change = bench.Poll(Bench::Lost());
  ASSERT_TRUE(change);
  EXPECT_THAT(change->why, HasSubstr("lost"));
  EXPECT_FALSE(bench.Poll(Bench::Lost()));
  EXPECT_EQ(bench.TimeToRecover(), 65) << "the quiet begins when it is back";
}

TEST(GpuHealth, EachSignOfAResetCounts) {
  const auto recovers = [](GpuFacts before, GpuFacts after) {
    Bench bench;
    bench.Poll(before);
    bench.Xid(48);
    bench.Poll(before);
    for (int i = 0; i < 20; ++i) bench.Poll(after);
    return bench.judge.healthy();
  };
  GpuFacts facts = Bench::Well();
  EXPECT_FALSE(recovers(facts, facts));
  GpuFacts before = facts;
  before.remap_pending = true;
  EXPECT_TRUE(recovers(before, facts));
  before = facts;
  before.ecc_uncorrected = 7;
  EXPECT_TRUE(recovers(before, facts));
  before = facts;
  before.reset_required = true;
  EXPECT_TRUE(recovers(before, facts));
  before = facts;
  before.energy_mj = 1000;
  GpuFacts after = facts;
  after.energy_mj = 10;
  EXPECT_TRUE(recovers(before, after));
  after.energy_mj = 2000;
  EXPECT_FALSE(recovers(before, after));
}

TEST(GpuHealth, AResetIsSeenThoughTheNextTroubleIsThereAtOnce) {
  Bench bench;
  bench.Poll();
  bench.Poll(Bench::Lost());
  GpuFacts facts = Bench::Well();
  facts.ecc_uncorrected = 2;
  bench.Poll(facts);
  EXPECT_FALSE(bench.judge.needs_reset());
  for (int i = 0; i < 20; ++i) bench.Poll(facts);
  EXPECT_TRUE(bench.judge.healthy());
}

TEST(GpuHealth, MoreMemoryErrorsAreTroubleOldOnesAreNot) {
  Bench bench;
  GpuFacts facts = Bench::Well();
  facts.ecc_uncorrected = 3;
  EXPECT_FALSE(bench.Poll(facts)) << "from before we looked";
  facts.ecc_uncorrected = 5;
  const auto change = bench.Poll(facts);
  ASSERT_TRUE(change);
  EXPECT_THAT(change->why, HasSubstr("2 more uncorrectable memory errors"));
}

TEST(GpuHealth, AFigureThatIsMissingOnceHidesNothing) {
  Bench bench;
  GpuFacts facts = Bench::Well();
  bench.Poll(facts);
  facts.ecc_uncorrected.reset();
  bench.Poll(facts);
  facts.ecc_uncorrected = 1;
  EXPECT_TRUE(bench.Poll(facts));
}

TEST(GpuHealth, ARowThatCannotBeReplacedKeepsItAwayForGood) {
  Bench bench;
  GpuFacts facts = Bench::Well();
  facts.remap_failed = true;
  ASSERT_TRUE(bench.Poll(facts));
  EXPECT_TRUE(bench.judge.OnClear("root", bench.now_ns));
  EXPECT_TRUE(bench.Poll(facts)) << "the next poll finds it again";
}

TEST(GpuHealth, APendingRowCanBeSetNotToCount) {
  HealthLimits limits;
  limits.remap_pending_counts = false;
  Bench bench(limits);
  GpuFacts facts = Bench::Well();
  facts.remap_pending = true;
  EXPECT_FALSE(bench.Poll(facts));
  Bench strict;
  EXPECT_TRUE(strict.Poll(facts));
}

TEST(GpuHealth, OneMissedAnswerIsAHiccupTwoAreNot) {
  Bench bench;
  EXPECT_FALSE(bench.judge.OnNoAnswer("timeout (10)", bench.now_ns));
  bench.Poll();
  EXPECT_FALSE(bench.judge.OnNoAnswer("timeout (10)", bench.now_ns));
  const auto change = bench.judge.OnNoAnswer("timeout (10)", bench.now_ns);
  ASSERT_TRUE(change);
  EXPECT_THAT(change->why, HasSubstr("timeout (10)"));
  EXPECT_TRUE(bench.TimeToRecover());
}

TEST(GpuHealth, WorseIsToldOnce) {
  Bench bench;
  bench.Xid(74);
  const auto change = bench.Xid(79);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->what, What::kWorse);
  EXPECT_THAT(bench.judge.why(), HasSubstr("79"));
  EXPECT_FALSE(bench.Xid(79));
}

TEST(GpuHealth, AnOperatorClearsWhatAnEventBegan) {
  Bench bench;
  bench.Xid(119);
  const auto change = bench.judge.OnClear("ops", bench.now_ns);
  ASSERT_TRUE(change);
  EXPECT_EQ(change->what, What::kRecovered);
  EXPECT_THAT(change->why, AllOf(HasSubstr("ops"), HasSubstr("119")));
  EXPECT_FALSE(bench.judge.OnClear("ops", bench.now_ns)) << "it is healthy already";
}

TEST(GpuHealth, NobodyClearsALostOrSilentGpu) {
  Bench bench;
  bench.Poll(Bench::Lost());
  EXPECT_FALSE(bench.judge.OnClear("ops", bench.now_ns));
  Bench silent;
  silent.judge.OnNoAnswer("?", silent.now_ns);
  silent.judge.OnNoAnswer("?", silent.now_ns);
  EXPECT_FALSE(silent.judge.OnClear("ops", silent.now_ns));
}

TEST(GpuHealth, EachRelapseWaitsTwiceAsLongUpToALimit) {
  Bench bench;
  double wait = 60;
  for (int i = 0; i < 10; ++i) {
    bench.Xid(74);
    EXPECT_EQ(bench.TimeToRecover(), wait);
    wait = std::min(2 * wait, 3600.0);
  }
  bench.now_ns += std::int64_t{7} * 3600 * kSecond;
  bench.Xid(74);
  EXPECT_EQ(bench.TimeToRecover(), 60) << "forgiven after six good hours";
}

// Whatever comes, in whatever order.
RC_GTEST_PROP(GpuHealthProperty, NeverHealthyWhileLostAndNeverFlapping, ()) {
  const HealthLimits limits;
  Bench bench(limits);
  const auto steps = *rc::gen::container<std::vector<std::pair<int, int>>>(
      rc::gen::pair(rc::gen::inRange(0, 8), rc::gen::element(31, 74, 79, 119, 999, 45)));
  std::optional<std::int64_t> unhealthy_ns;
  for (const auto& [kind, xid] : steps) {
    bool lost = false;
    std::optional<HealthChange> change;
    switch (kind) {
      case 0:
        change = bench.Xid(xid);
        break;
      case 1:
        change = bench.Poll(Bench::Lost());
        lost = true;
        break;
      case 2:
        change = bench.judge.OnNoAnswer("?", bench.now_ns += kSecond);
        break;
      default:
        for (int i = 0; i < 3 * kind && !change; ++i) change = bench.Poll();
    }
    RC_ASSERT(!lost || !bench.judge.healthy());
    RC_ASSERT(bench.judge.healthy() == bench.judge.why().empty());
    if (!change) continue;
    if (change->what == What::kUnhealthy) unhealthy_ns = bench.now_ns;
    if (change->what != What::kRecovered) continue;
    // It was away for the whole quiet time, so there are at most two changes in any such time.
    RC_ASSERT(unhealthy_ns.has_value());
    RC_ASSERT(bench.now_ns - *unhealthy_ns >= limits.quiet_s * kSecond);
    RC_ASSERT(bench.judge.healthy());
  }
}

}  // namespace
}  // namespace sublet
