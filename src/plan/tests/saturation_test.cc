#include "plan/saturation.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>

#include "base/files.h"
#include "model/document.h"
#include "plan/tests/random_fleet.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

// One NVIDIA H200 (driver 580.159.04), copies of a 6-layer encoder in a closed loop: what
// docs/operating/latency-model.md compares the predictions with.
constexpr double kSwitchMs = 0.13;
constexpr double kServiceMs = 1000.0 / 4244;
constexpr double kAloneUnderMps = 4111;
constexpr CrowdRate kFew{4, 9425};

struct Seen {
  int copies;
  double per_s;
  double p50_ms;  // 0: not comparable, see ExpectWithin15Percent().
};

double Total(const std::vector<BusyKind>& kinds, const std::vector<BusyFigures>& figures) {
  return TotalPerS(kinds, figures);
}

// Where forty spinning processes have sixteen cores, most units are those of processes that have a
// core and half of the time none is waited for: the median is below the mean. The mean is copies /
// rate whatever the cores do, so that is what is compared.
void ExpectWithin15Percent(const Seen& seen, double per_s, double latency_ms) {
  EXPECT_NEAR(per_s, seen.per_s, 0.15 * seen.per_s) << seen.copies << " copies";
  const double p50_ms = seen.p50_ms > 0 ? seen.p50_ms : 1000 * seen.copies / seen.per_s;
  EXPECT_NEAR(latency_ms, p50_ms, 0.15 * p50_ms) << seen.copies << " copies";
}

BusyKind Uncapped(int copies, const CrowdRate& crowd) {
  WorkloadProfile profile;
  profile.service_ms = kServiceMs;
  profile.crowd = crowd.copies;
  profile.sharpness = FitSharpness(kAloneUnderMps, kFew, crowd);
  profile.points = {{100, kAloneUnderMps, 0.242, 0.25, crowd.per_s, {}, {}}};
  BusyKind kind = KindUnderMps(profile, {});
  kind.count = copies;
  return kind;
}

// Under a cap of 10 %, the sharpness being that without a cap.
BusyKind Capped(const CrowdRate& crowd, double alone_per_s) {
  WorkloadProfile profile;
  profile.crowd = crowd.copies;
  profile.sharpness = FitSharpness(kAloneUnderMps, kFew, {40, 10'790});
  profile.points = {{10, alone_per_s, 0, 0, crowd.per_s, {}, {}},
                    {100, kAloneUnderMps, 0, 0, 10'790, {}, {}}};
  return KindUnderMps(profile,
                      {.sm_percent = 10, .stretch = kAloneUnderMps / alone_per_s, .share = 0.1});
}

TEST(SaturationFacts, TimeSlicingIsPredictedFromTheServiceTimeAndTheSwitch) {
  for (const Seen& seen :
       {Seen{1, 4244, 0.235}, Seen{4, 2709, 1.48}, Seen{16, 2709, 5.9}, Seen{40, 2762, 13.9}}) {
    const std::vector<BusyKind> kinds{{.count = seen.copies, .unit_ms = kServiceMs}};
    const auto figures = TakingTurns(kinds, kSwitchMs);
    ExpectWithin15Percent(seen, Total(kinds, figures), figures[0].latency_ms);
  }
}

TEST(SaturationFacts, MpsIsPredictedFromOneCrowdAndFourCopies) {
  for (const CrowdRate& crowd : {CrowdRate{16, 10'658}, CrowdRate{40, 10'790}}) {
    for (const Seen& seen :
         {Seen{1, 4111, 0.242}, Seen{4, 9425, 0.42}, Seen{16, 10'658, 1.50}, Seen{40, 10'790, 0}}) {
      const std::vector<BusyKind> kinds{Uncapped(seen.copies, crowd)};
      const auto figures = UnderMps(kinds, 0);
      ExpectWithin15Percent(seen, Total(kinds, figures), figures[0].latency_ms);
    }
  }
}

TEST(SaturationFacts, ACapIsPredictedFromOneCrowdUnderIt) {
  for (const CrowdRate& crowd : {CrowdRate{16, 25'295}, CrowdRate{40, 25'589}}) {
    // One copy under the cap was not measured: whatever rate is assumed for it, within reason, the
    // crowd decides.
    for (const double alone : {2500.0, 3000.0, 4000.0}) {
      for (const Seen& seen : {Seen{16, 25'295, 0.63}, Seen{40, 25'589, 0}}) {
        BusyKind kind = Capped(crowd, alone);
        kind.count = seen.copies;
        const auto figures = UnderMps({kind}, 0);
        ExpectWithin15Percent(seen, Total({kind}, figures), figures[0].latency_ms);
      }
    }
  }
}

// "25,589".
std::string Digits(double per_s) {
  std::string digits = fmt::format("{:.0f}", per_s);
  for (std::size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

TEST(SaturationFacts, TheTableInTheDocumentationIsWhatIsPredicted) {
  const auto text =
      ReadFile(SUBLET_SOURCE_DIR "/docs/operating/latency-model.md", kDocumentBytesMax);
  ASSERT_TRUE(text.has_value());
  const auto expect_row = [&](const std::string& mode, const Seen& seen, const BusyKind& kind,
                              const std::vector<BusyFigures>& figures) {
    const double per_s = Total({kind}, figures);
    const double off = std::round(1000 * (per_s / seen.per_s - 1)) / 10 + 0.0;  // No "-0.0".
    const double mean_ms = 1000 * seen.copies / seen.per_s;
    const std::string latency =
        seen.p50_ms > 0 ? fmt::format("{:.3g}", seen.p50_ms) : fmt::format("mean {:.3g}", mean_ms);
    EXPECT_THAT(*text, HasSubstr(fmt::format("| {} | {} | {} | {} | {:+.1f} % | {:.3g} | {} |\n",
                                             mode, seen.copies, Digits(per_s), Digits(seen.per_s),
                                             off, figures[0].latency_ms, latency)));
  };
  for (const Seen& seen :
       {Seen{1, 4244, 0.235}, Seen{4, 2709, 1.48}, Seen{16, 2709, 5.9}, Seen{40, 2762, 13.9}}) {
    const BusyKind kind{.count = seen.copies, .unit_ms = kServiceMs};
    expect_row("time-slicing", seen, kind, TakingTurns({kind}, kSwitchMs));
  }
  for (const Seen& seen :
       {Seen{1, 4111, 0.242}, Seen{4, 9425, 0.42}, Seen{16, 10'658, 1.50}, Seen{40, 10'790, 0}}) {
    const BusyKind kind = Uncapped(seen.copies, {16, 10'658});
    expect_row(seen.copies == 40 ? "MPS" : "MPS (given)", seen, kind, UnderMps({kind}, 0));
  }
  for (const Seen& seen : {Seen{16, 25'295, 0.63}, Seen{40, 25'589, 0}}) {
    BusyKind kind = Capped({40, 25'589}, 2500);
    kind.count = seen.copies;
    expect_row(seen.copies == 16 ? "MPS, 10 %" : "MPS, 10 % (given)", seen, kind,
               UnderMps({kind}, 0));
  }
}

TEST(SaturationFacts, TwoServersTakeTurnsWithAllTheirClients) {
  // `small` under MPS, 0.1 ms: two servers with one client each, then with two clients each.
  const BusyKind small{.unit_ms = 0.1007, .demand = 0.12, .part = 0.12, .sharpness = kSharpnessMax};
  std::vector<BusyKind> kinds{small, small};
  kinds[1].server = 1;
  EXPECT_NEAR(Total(kinds, UnderMpsServers(kinds, kSwitchMs)), 2354 + 2384, 0.15 * 4738);
  kinds[0].count = kinds[1].count = 2;
  EXPECT_NEAR(Total(kinds, UnderMpsServers(kinds, kSwitchMs)), 8754, 0.15 * 8754);
}

TEST(Saturation, OneAloneIsNotSlowedInAnyMode) {
  const std::vector<BusyKind> one{{.unit_ms = 2, .steps = 5, .demand = 0.7, .part = 1.4}};
  for (const auto& figures : {TakingTurns(one, 0.5), UnderMps(one, 0), UnderMpsServers(one, 0.5)}) {
    EXPECT_DOUBLE_EQ(figures[0].slowdown, 1);
    EXPECT_DOUBLE_EQ(figures[0].rate_per_s, 500);
    EXPECT_DOUBLE_EQ(figures[0].latency_ms, 2);
  }
}

TEST(Saturation, TheSoftestOfDifferentNeighboursSetsTheCurveForAll) {
  BusyKind soft{.unit_ms = 1, .demand = 0.3, .part = 0.3, .sharpness = 1};
  BusyKind sharp = soft;
  sharp.sharpness = 20;
  const double both_soft = UnderMps({soft, soft}, 0)[0].slowdown;
  EXPECT_DOUBLE_EQ(both_soft, 1.3);
  EXPECT_NEAR(UnderMps({sharp, sharp}, 0)[0].slowdown, 1, 1e-3);
  for (const auto& figures : {UnderMps({soft, sharp}, 0), UnderMps({sharp, soft}, 0)}) {
    EXPECT_DOUBLE_EQ(figures[0].slowdown, both_soft);
    EXPECT_DOUBLE_EQ(figures[1].slowdown, both_soft);
  }
}

TEST(Saturation, TurnsAreTakenStepByStep) {
  // A long unit of many steps does not hold up a short one for longer than a step.
  const std::vector<BusyKind> kinds{{.unit_ms = 10, .steps = 10}, {.unit_ms = 1, .steps = 1}};
  const auto figures = TakingTurns(kinds, 0.5);
  EXPECT_DOUBLE_EQ(figures[1].latency_ms, 3) << "a step of each, and two switches";
  EXPECT_DOUBLE_EQ(figures[0].latency_ms, 30);
}

TEST(Saturation, WithoutACrowdSharesAreDisjointUntilTheyAddUp) {
  WorkloadProfile profile;
  profile.points = {{100, 1000, 1, 1, {}, {}, {}}};
  BusyKind kind = KindUnderMps(profile, {.sm_percent = 20, .stretch = 2, .share = 0.2});
  EXPECT_DOUBLE_EQ(kind.unit_ms, 2);
  kind.count = 5;
  EXPECT_NEAR(UnderMps({kind}, 0)[0].slowdown, 1, 0.04);
  kind.count = 20;
  EXPECT_NEAR(UnderMps({kind}, 0)[0].slowdown, 4, 1e-9);
}

TEST(Saturation, ACapBetweenTwoThatWereMeasuredLiesBetweenThem) {
  WorkloadProfile profile;
  profile.crowd = 16;
  profile.points = {{10, 2000, 0, 0, 20'000, 3.0, {}},
                    {50, 4000, 0, 0, 10'000, 2.0, {}},
                    {100, 4000, 0, 0, 8'000, 2.0, {}}};
  const auto full = [&](double sm_percent) {
    BusyKind kind = KindUnderMps(
        profile, {.sm_percent = sm_percent, .stretch = 1 / profile.SpeedAt(sm_percent)});
    kind.count = 100;
    return Total({kind}, UnderMps({kind}, 0));
  };
  EXPECT_NEAR(full(30), 15'000, 1);
  EXPECT_NEAR(full(5), 10'000, 1) << "below the first: in proportion, never better";
}

// Kinds as profiles give them, at random.
std::vector<BusyKind> RandomKinds(Dice& dice) {
  std::vector<BusyKind> kinds;
  const int count = dice.Int(1, 4);
  for (int k = 0; k < count; ++k) {
    WorkloadProfile profile;
    profile.crowd = dice.Int(2, 48);
    profile.steps = dice.Int(1, 9);
    if (dice.Chance(0.7)) profile.sharpness = dice.Real(kSharpnessMin, kSharpnessMax);
    const double alone = dice.Real(10, 10'000);
    profile.points = {{100, alone, 0, 0, alone * dice.Real(0.8, 1.2 * profile.crowd), {}, {}}};
    if (dice.Chance(0.2)) profile.points[0].crowd_per_s.reset();
    BusyKind kind =
        KindUnderMps(profile, {.stretch = dice.Real(1, 4), .share = dice.Real(0.05, 1)});
    kind.count = dice.Int(1, 20);
    kind.server = dice.Int(0, 2);
    kinds.push_back(kind);
  }
  return kinds;
}

RC_GTEST_PROP(SaturationProperties, NobodyGetsFasterByANeighbour, (std::uint64_t seed)) {
  Dice dice(seed);
  std::vector<BusyKind> kinds = RandomKinds(dice);
  const double other_load = dice.Chance(0.5) ? dice.Real(0, 0.5) : 0;
  const auto turns = TakingTurns(kinds, kSwitchMs);
  const auto mps = UnderMps(kinds, other_load);
  ++kinds[static_cast<std::size_t>(dice.Int(0, static_cast<int>(kinds.size()) - 1))].count;
  const auto turns_more = TakingTurns(kinds, kSwitchMs);
  const auto mps_more = UnderMps(kinds, other_load + dice.Real(0, 0.5));
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    RC_ASSERT(turns[k].slowdown >= 1 - 1e-9 && mps[k].slowdown >= 1);
    RC_ASSERT(turns_more[k].rate_per_s <= turns[k].rate_per_s * (1 + 1e-9));
    RC_ASSERT(mps_more[k].rate_per_s <= mps[k].rate_per_s * (1 + 1e-9));
  }
}

RC_GTEST_PROP(SaturationProperties, TogetherTheyNeverGetMoreThanThereIs, (std::uint64_t seed)) {
  Dice dice(seed);
  const std::vector<BusyKind> kinds = RandomKinds(dice);
  const auto figures = UnderMps(kinds, 0);
  double used = 0;
  int replicas = 0;
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    used += kinds[k].count * kinds[k].part / figures[k].slowdown;
    replicas += kinds[k].count;
  }
  RC_PRE(replicas > 1);
  RC_ASSERT(used <= 1 + 1e-9);
}

RC_GTEST_PROP(SaturationProperties, TheSwitchIsPaidInTurnsOnly, (std::uint64_t seed)) {
  Dice dice(seed);
  std::vector<BusyKind> kinds = RandomKinds(dice);
  for (BusyKind& kind : kinds) kind.server = 7;
  const auto one_server = UnderMpsServers(kinds, kSwitchMs);
  const auto mps = UnderMps(kinds, 0);
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    RC_ASSERT(one_server[k].rate_per_s == mps[k].rate_per_s);
  }
}

}  // namespace
}  // namespace sublet
