#include "model/workload_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "model/calibration.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

WorkloadProfile Sample() {
  WorkloadProfile profile;
  profile.name = "encoder";
  profile.board = "h200";
  profile.source = "a test";
  profile.unit = "forward pass";
  profile.service_ms = 0.25;
  profile.steps = 3;
  profile.memory = 700_MiB;
  profile.bandwidth_percent = 12.5;
  profile.copy_to_device_mib_s = 10;
  profile.copy_from_device_mib_s = 0.5;
  profile.crowd = 16;
  profile.sharpness = 2.5;
  profile.points = {{10, 2000, 0.5, 0.6, 20'000, 4.0, 410_MiB},
                    {50, 3800, 0.26, 0.3, 14'000, {}, 680_MiB},
                    {100, 4000, 0.25, 0.3, 10'000, {}, 950_MiB}};
  return profile;
}

nlohmann::ordered_json SampleJson() {
  return WorkloadProfileToJson(Sample());
}

std::string ErrorOf(const nlohmann::ordered_json& json) {
  const auto profile = ParseWorkloadProfile(json.dump(), "p.json");
  return profile ? "no error" : profile.error().message;
}

TEST(WorkloadProfileTest, JsonRoundTripKeepsEveryField) {
  const std::string written = SampleJson().dump();
  const auto again = ParseWorkloadProfile(written, "p.json");
  ASSERT_TRUE(again.has_value()) << again.error().message;
  EXPECT_EQ(WorkloadProfileToJson(*again).dump(), written);
  EXPECT_EQ(again->name, "encoder");
  EXPECT_EQ(again->steps, 3);
  EXPECT_EQ(again->memory, 700_MiB);
  EXPECT_EQ(again->bandwidth_percent, 12.5);
  EXPECT_EQ(again->points[0].sharpness, 4.0);
  EXPECT_FALSE(again->points[1].sharpness.has_value());
  EXPECT_EQ(again->points[2].context, 950_MiB);
}

TEST(WorkloadProfileTest, WhatWasNotMeasuredMayBeAbsent) {
  nlohmann::ordered_json json = SampleJson();
  for (const char* key : {"bandwidth_percent", "crowd", "sharpness", "steps",
                          "copy_to_device_mib_s", "copy_from_device_mib_s"}) {
    json.erase(key);
  }
  for (auto& point : json["points"]) point.erase("crowd_per_s");
  EXPECT_EQ(ErrorOf(json), "no error");
}

TEST(WorkloadProfileTest, ReadingIsStrict) {
  const auto with = [](const char* key, const nlohmann::ordered_json& value) {
    nlohmann::ordered_json json = SampleJson();
    json[key] = value;
    return ErrorOf(json);
  };
  EXPECT_THAT(with("version", "sublet.profile/v2"), HasSubstr("unknown version"));
  EXPECT_THAT(with("colour", "red"), HasSubstr("unknown key in workload profile: 'colour'"));
  EXPECT_THAT(with("name", ""), HasSubstr("name must not be empty"));
  EXPECT_THAT(with("board", ""), HasSubstr("board must not be empty"));
  EXPECT_THAT(with("service_ms", 0), HasSubstr("must be from"));
  EXPECT_THAT(with("crowd", 1), HasSubstr("one copy is no crowd"));
  EXPECT_THAT(with("crowd", 0), HasSubstr("need crowd"));
  EXPECT_THAT(with("sharpness", 0.1), HasSubstr("must be from"));
  EXPECT_THAT(with("points", nlohmann::ordered_json::array()), HasSubstr("the last point"));
  nlohmann::ordered_json json = SampleJson();
  json["points"][1]["sm_percent"] = 10;
  EXPECT_THAT(ErrorOf(json), HasSubstr("ascending"));
  json = SampleJson();
  json["points"].erase(2);
  EXPECT_THAT(ErrorOf(json), HasSubstr("the one at sm_percent 100"));
}

TEST(WorkloadProfileTest, SpeedIsLinearBetweenPointsAndInProportionBelow) {
  const WorkloadProfile profile = Sample();
  EXPECT_DOUBLE_EQ(profile.SpeedAt(100), 1);
  EXPECT_DOUBLE_EQ(profile.SpeedAt(50), 0.95);
  EXPECT_DOUBLE_EQ(profile.SpeedAt(30), (0.5 + 0.95) / 2);
  EXPECT_DOUBLE_EQ(profile.SpeedAt(5), 0.25);
  EXPECT_DOUBLE_EQ(profile.SpeedAt(0), 0);
  EXPECT_EQ(profile.Knee(), 50);
  EXPECT_EQ(profile.Knee(0.96), 100);
  EXPECT_EQ(profile.Knee(0.5), 10);
}

TEST(WorkloadProfileTest, SpeedNeverFallsWithMoreSms) {
  WorkloadProfile profile = Sample();
  profile.points[0].alone_per_s = 3900;  // Measurements scatter.
  profile.points[1].alone_per_s = 3850;
  EXPECT_DOUBLE_EQ(profile.SpeedAt(50), profile.SpeedAt(10));
  profile.points[1].alone_per_s = 4100;
  EXPECT_DOUBLE_EQ(profile.SpeedAt(50), 1);
  double before = 0;
  for (int percent = 1; percent <= 100; ++percent) {
    EXPECT_GE(profile.SpeedAt(percent), before);
    before = profile.SpeedAt(percent);
  }
}

TEST(WorkloadProfileTest, CrowdsAreLinearBetweenPointsAndUnknownAbove) {
  WorkloadProfile profile = Sample();
  EXPECT_DOUBLE_EQ(*profile.CrowdAt(75), 12'000);
  EXPECT_DOUBLE_EQ(*profile.CrowdAt(5), 10'000);
  profile.points[2].crowd_per_s.reset();
  EXPECT_TRUE(profile.CrowdAt(50).has_value());
  // Whoever comes to 50 by way of fractions.
  EXPECT_DOUBLE_EQ(profile.CrowdAt(50 * (1 + 1e-12)).value_or(0), *profile.CrowdAt(50));
  EXPECT_FALSE(profile.CrowdAt(75).has_value()) << "a looser cap can have less capacity";
  profile.crowd = 0;
  EXPECT_FALSE(profile.CrowdAt(50).has_value());
}

TEST(WorkloadProfileTest, SharpnessIsThatOfThePointOrOfTheProfile) {
  WorkloadProfile profile = Sample();
  EXPECT_DOUBLE_EQ(profile.SharpnessAt(5), 4);
  EXPECT_DOUBLE_EQ(profile.SharpnessAt(30), 3.25);
  EXPECT_DOUBLE_EQ(profile.SharpnessAt(100), 2.5);
  profile.sharpness.reset();
  EXPECT_DOUBLE_EQ(profile.SharpnessAt(100), 4) << "the only one that was measured";
  profile.points[0].sharpness.reset();
  EXPECT_DOUBLE_EQ(profile.SharpnessAt(100), kSharpnessUnknown);
}

double OnCurve(double alone, int copies, double demand, double sharpness) {
  return copies * alone /
         std::pow(1 + (std::pow(copies, sharpness) - 1) * std::pow(demand, sharpness),
                  1 / sharpness);
}

TEST(FitSharpness, GivesBackTheSharpnessOfACurve) {
  for (const double sharpness : {0.6, 1.0, 2.3, 8.0}) {
    const CrowdRate few{4, OnCurve(1000, 4, 0.4, sharpness)};
    const CrowdRate crowd{16, OnCurve(1000, 16, 0.4, sharpness)};
    const auto fitted = FitSharpness(1000, few, crowd);
    ASSERT_TRUE(fitted.has_value());
    EXPECT_NEAR(*fitted, sharpness, 1e-6);
    EXPECT_NEAR(DemandOfOne(1000, crowd, *fitted), 0.4, 1e-6);
  }
}

TEST(FitSharpness, StaysWithinItsBoundsWhateverWasMeasured) {
  EXPECT_NEAR(*FitSharpness(1000, {4, 4100}, {16, 8000}), kSharpnessMax, 1e-6);
  EXPECT_NEAR(*FitSharpness(1000, {4, 900}, {16, 8000}), kSharpnessMin, 1e-6);
  EXPECT_FALSE(FitSharpness(1000, {4, 4000}, {16, 16'100}).has_value()) << "nobody waits";
  EXPECT_DOUBLE_EQ(DemandOfOne(1000, {16, 16'100}, 2), 0);
  EXPECT_DOUBLE_EQ(DemandOfOne(1000, {16, 700}, 2), 1) << "slower together than one alone";
}

TEST(ParseProfileNamed, TakesAProfileOrOneOfACalibration) {
  const std::string profile = SampleJson().dump();
  EXPECT_EQ(ParseProfileNamed(profile, "p.json", "")->name, "encoder");
  EXPECT_EQ(ParseProfileNamed(profile, "p.json", "encoder")->name, "encoder");
  Calibration calibration = DefaultCalibration();
  calibration.profiles = {Sample(), Sample()};
  calibration.profiles[1].name = "big";
  const std::string both = CalibrationToJson(calibration).dump();
  EXPECT_EQ(ParseProfileNamed(both, "c.json", "big")->name, "big");
  const auto several = ParseProfileNamed(both, "c.json", "");
  EXPECT_THAT(several.error().message, HasSubstr("several workload profiles in c.json"));
  EXPECT_THAT(several.error().hint, HasSubstr("encoder, big"));
  const auto other = ParseProfileNamed(both, "c.json", "encodr");
  EXPECT_THAT(other.error().message, HasSubstr("no such workload profile in c.json: 'encodr'"));
  EXPECT_THAT(other.error().hint, HasSubstr("did you mean 'encoder'?"));
  calibration.profiles.clear();
  const auto none = ParseProfileNamed(CalibrationToJson(calibration).dump(), "c.json", "x");
  EXPECT_THAT(none.error().hint, HasSubstr("sublet profile"));
}

}  // namespace
}  // namespace sublet
