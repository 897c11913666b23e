#include "measure/calibrate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "measure/crowd_profile.h"
#include "measure/lab_runs.h"
#include "measure/tests/h200_measurement.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const Derivation& DerivationOf(const DerivedCalibration& derived, std::string_view figure) {
  const auto found = std::ranges::find(derived.derivations, figure, &Derivation::figure);
  EXPECT_NE(found, derived.derivations.end()) << figure;
  return *found;
}

// The measurement without the runs for which `gone` holds.
template <typename Gone>
Measurement Without(const Gone& gone) {
  Measurement m = H200Measurement();
  std::erase_if(m.runs, gone);
  return m;
}

void ExpectReadable(const Calibration& calibration) {
  const std::string text = CalibrationToJson(calibration).dump();
  const Result<Calibration> read = ParseCalibration(text, "written");
  ASSERT_TRUE(read.has_value()) << read.error().message;
  EXPECT_EQ(CalibrationToJson(*read).dump(), text);
}

TEST(Calibrate, FindsTheSwitchOfTheH200) {
  const DerivedCalibration derived = DeriveCalibration(H200Measurement());
  EXPECT_NEAR(derived.calibration.switch_ms, 0.13, 0.05 * 0.13);
  const Derivation& how = DerivationOf(derived, "switch_ms");
  EXPECT_TRUE(how.measured);
  EXPECT_THAT(how.how, HasSubstr("9 time-sliced runs"));
}

// Cycles that the model makes give back the model's switch, whatever the card.
RC_GTEST_PROP(CalibrateProperty, FindsTheSwitchThatTheRunsWereMadeWith, ()) {
  const double switch_ms = *rc::gen::inRange(0, 1000) / 1000.0;
  Measurement m;
  m.gpu_name = "NVIDIA Test";
  for (const char* workload : {"small", "big", "mem"}) {
    const double service = *rc::gen::inRange(10, 2000) / 1000.0;
    m.runs.push_back(MakeRun({.series = "alone",
                              .workload = workload,
                              .total_per_s = 1000 / service,
                              .sm_percent = {}}));
    for (const int copies : {2, 4}) {
      m.runs.push_back(MakeRun({SharingMode::kTimeSlicing,
                                "scaling",
                                workload,
                                copies,
                                1000 / (service + switch_ms),
                                {}}));
    }
  }
  RC_ASSERT(std::abs(Calibrate(m).switch_ms - switch_ms) <= 1e-5 * switch_ms + 1e-9);
}

TEST(Calibrate, KeepsTheSwitchWhereOneWorkloadWasDisturbed) {
  Measurement m = H200Measurement();
  for (auto& run : m.runs) {
    if (run.mode == SharingMode::kTimeSlicing && run.tenants[0].workload == "big") {
      run.total_per_s = {900, 880, 920};
    }
  }
  EXPECT_NEAR(Calibrate(m).switch_ms, 0.13, 0.05 * 0.13);
}

TEST(Calibrate, LeavesCopyingOutOfTheSwitch) {
  Measurement m = H200Measurement();
  const double before = Calibrate(m).switch_ms;
  m.runs.push_back(
      MakeRun({.series = "alone", .workload = "transfer", .total_per_s = 1400, .sm_percent = {}}));
  for (int i = 0; i < 20; ++i) {
    auto run = MakeRun({SharingMode::kTimeSlicing, "scaling", "transfer", 2, 2500, {}});
    run.id += std::to_string(i);
    m.runs.push_back(run);
  }
  EXPECT_EQ(Calibrate(m).switch_ms, before);
}

TEST(Calibrate, CallsNoLossAtASwitchZero) {
  Measurement m;
  m.gpu_name = "NVIDIA Test";
  m.runs.push_back(
      MakeRun({.series = "alone", .workload = "small", .total_per_s = 1000, .sm_percent = {}}));
  m.runs.push_back(MakeRun({SharingMode::kTimeSlicing, "scaling", "small", 2, 1010, {}}));
  EXPECT_EQ(Calibrate(m).switch_ms, 0);
}

TEST(Calibrate, TakesTheServiceFactorFromTheTransformer) {
  EXPECT_NEAR(Calibrate(H200Measurement()).mps_service_factor, 4244.0 / 4111, 1e-5);
}

TEST(Calibrate, NeverCallsMpsFasterThanNoMps) {
  Measurement m = H200Measurement();
  for (auto& run : m.runs) {
    if (run.id == "mps/transformer/x1") run.total_per_s = {4300, 4290, 4310};
  }
  EXPECT_EQ(Calibrate(m).mps_service_factor, 1);
}

TEST(Calibrate, TakesContextsFromTheClientsUnderEachCap) {
  const Calibration calibration = Calibrate(H200Measurement());
  EXPECT_EQ(calibration.ContextAt(10), 75_MiB);
  EXPECT_EQ(calibration.ContextAt(25), 147_MiB);
  EXPECT_EQ(calibration.ContextAt(50), 277_MiB);
  EXPECT_EQ(calibration.ContextAt(100), 519_MiB);
}

TEST(Calibrate, TakesTheContextWithoutACapFromPlainProcessesWhereNoClientHadNone) {
  const Measurement m =
      Without([](const auto& run) { return run.mode == SharingMode::kMps && CapOf(run) == 100; });
  const DerivedCalibration derived = DeriveCalibration(m);
  EXPECT_EQ(derived.calibration.ContextAt(100), 519_MiB);
  EXPECT_THAT(DerivationOf(derived, "contexts").how, HasSubstr("outside MPS"));
}

TEST(Calibrate, TakesTheProbedFiguresAsTheyAre) {
  Measurement m = H200Measurement();
  m.mps_clients_max = 60;
  const Calibration calibration = Calibrate(m);
  EXPECT_EQ(calibration.mps_clients_max, 60);
  EXPECT_EQ(calibration.device_reserve, 690_MiB);
}

TEST(Calibrate, NamesWhatWhenAndNothingElseWhereAllIsMeasured) {
  const Calibration calibration = Calibrate(H200Measurement());
  EXPECT_EQ(calibration.board, "h200");
  EXPECT_EQ(calibration.source, "NVIDIA H200, driver 580.159.04, CUDA 13.0, 2026-11-20, quick");
  EXPECT_FALSE(calibration.scaled);
}

TEST(Calibrate, SaysWhichFiguresAreNotItsOwnAndWhy) {
  Measurement m = Without([](const auto& run) { return run.mode == SharingMode::kTimeSlicing; });
  m.mps_clients_max = 0;
  m.simulated = true;
  const DerivedCalibration derived = DeriveCalibration(m);
  EXPECT_EQ(derived.calibration.switch_ms, DefaultCalibration().switch_ms);
  EXPECT_EQ(derived.calibration.mps_clients_max, DefaultCalibration().mps_clients_max);
  EXPECT_THAT(derived.calibration.source,
              HasSubstr("simulated; not measured here but taken over from h200: switch_ms (nothing "
                        "was time-sliced), mps_clients_max (not probed)"));
  EXPECT_FALSE(derived.calibration.scaled) << "of the same board";
  EXPECT_FALSE(DerivationOf(derived, "switch_ms").measured);
  ExpectReadable(derived.calibration);
}

TEST(Calibrate, ScalesWhatItTakesOverFromAnotherBoard) {
  Measurement m = Without([](const auto& run) { return run.mode == SharingMode::kTimeSlicing; });
  m.board = "l40s";
  m.gpu_name = "NVIDIA L40S";
  const Calibration calibration = Calibrate(m);
  EXPECT_EQ(calibration.board, "l40s");
  EXPECT_TRUE(calibration.scaled);
  EXPECT_GT(calibration.switch_ms, DefaultCalibration().switch_ms);
  EXPECT_EQ(calibration.ContextAt(100), 519_MiB) << "measured, so not scaled";
  EXPECT_THAT(calibration.source, HasSubstr("scaled from h200: switch_ms"));
}

TEST(Calibrate, OfAnUnknownBoardIsNamedAfterTheGpu) {
  Measurement m = H200Measurement();
  m.board.clear();
  m.gpu_name = "NVIDIA GeForce RTX 4090";
  const Calibration calibration = Calibrate(m);
  EXPECT_EQ(calibration.board, "NVIDIA GeForce RTX 4090");
  EXPECT_FALSE(calibration.scaled) << "every figure was measured";
  ExpectReadable(calibration);
}

TEST(Calibrate, OfNothingIsTheDefaultWithEveryFigureNamed) {
  Measurement m;
  m.board = "h200";
  m.gpu_name = "NVIDIA H200";
  const Calibration calibration = Calibrate(m);
  for (const char* figure :
       {"switch_ms", "mps_service_factor", "mps_clients_max", "contexts", "device_reserve"}) {
    EXPECT_THAT(calibration.source, HasSubstr(std::string(figure) + " ("));
  }
  EXPECT_TRUE(calibration.profiles.empty());
  ExpectReadable(calibration);
}

TEST(Calibrate, MakesAProfileOfTheTransformerAlone) {
  const Calibration calibration = Calibrate(H200Measurement());
  ASSERT_EQ(calibration.profiles.size(), 1u) << "only the transformer ran under several caps";
  const WorkloadProfile& profile = calibration.profiles[0];
  EXPECT_EQ(profile.name, "transformer");
  EXPECT_EQ(profile.board, "h200");
  EXPECT_EQ(profile.unit, "forward pass");
  EXPECT_NEAR(profile.service_ms, 1000.0 / 4244, 1e-9);
  EXPECT_EQ(profile.memory, BuffersOf("transformer", 1).value());
  EXPECT_EQ(profile.crowd, 40);
  ASSERT_EQ(profile.points.size(), 4u);
  EXPECT_EQ(profile.points[0].sm_percent, 10);
  EXPECT_EQ(profile.points[0].alone_per_s, 1650);
  EXPECT_NEAR(profile.points[0].latency_ms_p50, 1000.0 / 1650, 1e-9);
  EXPECT_EQ(profile.points[0].crowd_per_s, 25'589);
  EXPECT_EQ(profile.points[0].context, 75_MiB);
  EXPECT_EQ(profile.points[3].sm_percent, 100);
  EXPECT_EQ(profile.points[3].alone_per_s, 4111);
  EXPECT_EQ(profile.points[3].crowd_per_s, 10'790);
  ExpectReadable(calibration);
}

// The curve that the planner draws through the profile stays within 15 % of what was measured.
TEST(Calibrate, FitsASharpnessThatMeetsTheSmallerCrowds) {
  const Calibration calibration = Calibrate(H200Measurement());
  const WorkloadProfile& profile = calibration.profiles.at(0);
  ASSERT_TRUE(profile.sharpness.has_value());
  const double p = *profile.sharpness;
  const double d = DemandOfOne(4111, {40, 10'790}, p);
  for (const CrowdRate& seen : {CrowdRate{4, 9425}, CrowdRate{16, 10'658}, CrowdRate{40, 10'790}}) {
    const double slowdown = std::pow(1 + (std::pow(seen.copies, p) - 1) * std::pow(d, p), 1 / p);
    EXPECT_NEAR(seen.copies * 4111 / slowdown, seen.per_s, 0.15 * seen.per_s) << seen.copies;
  }
}

TEST(CrowdSharpness, ComesFromTheCrowdThatServesAllOfThemBest) {
  // Made by the curve itself with sharpness 3, but for one crowd that was disturbed.
  const double d = DemandOfOne(100, {40, 500}, 3);
  const auto rate = [&](int copies) {
    return copies * 100 / std::pow(1 + (std::pow(copies, 3) - 1) * std::pow(d, 3), 1.0 / 3);
  };
  std::vector<CrowdRate> fewer{{2, rate(2)}, {4, rate(4)}, {8, 0.7 * rate(8)}, {16, rate(16)}};
  const std::optional<double> sharpness = CrowdSharpness(100, fewer, {40, 500});
  ASSERT_TRUE(sharpness.has_value());
  EXPECT_NEAR(*sharpness, 3, 0.1);
}

TEST(CrowdSharpness, IsAbsentWhereNothingBetweenWasRunOrTheCrowdIsNotSlowed) {
  EXPECT_FALSE(CrowdSharpness(100, {}, {40, 500}).has_value());
  EXPECT_FALSE(CrowdSharpness(100, {{4, 400}}, {8, 800}).has_value());
}

TEST(ProfileFromLab, SaysWhatIsMissing) {
  const Measurement m = H200Measurement();
  const auto error = [&](std::string_view workload) {
    const auto profile = ProfileFromLab(m, workload, DefaultCalibration());
    return profile ? "none" : profile.error().message;
  };
  EXPECT_EQ(error("small"), "not run alone under several SM caps and without one: small");
  EXPECT_EQ(error("gemm"), "no run alone: gemm");
  EXPECT_EQ(error("mining"), "no run alone: mining");
}

TEST(ProfileFromLab, PutsTheRunWithoutACapBeforeOneCappedAtAHundred) {
  Measurement m = H200Measurement();
  m.runs.push_back(MakeRun({SharingMode::kMps, "sm-sweep", "transformer", 1, 4050, 100}));
  m.runs.insert(m.runs.begin(), m.runs.back());
  m.runs.front().id = "first";
  const auto profile = ProfileFromLab(m, "transformer", DefaultCalibration());
  ASSERT_TRUE(profile.has_value());
  EXPECT_EQ(profile->points.back().alone_per_s, 4111);
}

// Whatever part of a measurement is missing, the calibration can be written and read.
RC_GTEST_PROP(CalibrateProperty, IsReadableWhateverRunsAreMissing, ()) {
  Measurement m = H200Measurement();
  const unsigned gone = *rc::gen::arbitrary<unsigned>();
  unsigned state = gone;
  std::erase_if(m.runs,
                [&](const auto&) { return (state = state * 1664525u + 1013904223u) >> 30; });
  const std::string text = CalibrationToJson(Calibrate(m)).dump();
  RC_ASSERT(ParseCalibration(text, "written").has_value());
}

}  // namespace
}  // namespace sublet
