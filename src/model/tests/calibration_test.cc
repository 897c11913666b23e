#include "model/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sublet {
namespace {

using ::testing::HasSubstr;

std::string DefaultText() {
  return CalibrationToJson(DefaultCalibration()).dump();
}

std::string ErrorOf(const std::string& text) {
  const Result<Calibration> calibration = ParseCalibration(text, "c.json");
  return calibration ? "no error" : calibration.error().message;
}

// The default calibration with one field replaced, or removed where `value` is null.
std::string With(const std::string& field, const nlohmann::ordered_json& value) {
  nlohmann::ordered_json json = CalibrationToJson(DefaultCalibration());
  if (value.is_null()) {
    json.erase(field);
  } else {
    json[field] = value;
  }
  return json.dump();
}

TEST(CalibrationTest, TheDefaultIsTheMeasuredH200) {
  const Calibration& h200 = DefaultCalibration();
  EXPECT_EQ(h200.board, "h200");
  EXPECT_FALSE(h200.scaled);
  // Measured on two other days: 0.13 and 0.128 ms; 1.030; contexts of 519 and 75 MiB.
  EXPECT_NEAR(h200.switch_ms, 0.13, 0.006);
  EXPECT_NEAR(h200.mps_service_factor, 1.03, 0.005);
  EXPECT_EQ(h200.mps_clients_max, 48);
  EXPECT_NEAR(static_cast<double>(h200.ContextAt(100).mib()), 519, 3);
  EXPECT_NEAR(static_cast<double>(h200.ContextAt(10).mib()), 75, 3);
  // The driver reserved 616 MiB; an MPS server took 75.
  EXPECT_GE(h200.device_reserve, 691_MiB);
}

TEST(CalibrationTest, ContextsAreLinearBetweenPointsAndFlatOutside) {
  Calibration h200 = DefaultCalibration();
  h200.contexts = {{10, 410_MiB}, {100, 953_MiB}};
  EXPECT_EQ(h200.ContextAt(5), 410_MiB);
  EXPECT_EQ(h200.ContextAt(0), 410_MiB);
  EXPECT_EQ(h200.ContextAt(200), 953_MiB);
  EXPECT_EQ(h200.ContextAt(55), 682_MiB) << "half way is 681.5";
  for (int percent = 1; percent <= 100; ++percent) {
    EXPECT_LE(h200.ContextAt(percent - 1), h200.ContextAt(percent)) << percent;
  }
}

TEST(CalibrationTest, JsonRoundTripKeepsEveryField) {
  Calibration calibration = DefaultCalibration();
  calibration.scaled = true;
  calibration.switch_ms = 0.1 + 0.2;  // Has no short decimal form.
  calibration.contexts = {{5, 100_MiB}, {50, 200_MiB}, {100, 300_MiB}};
  const std::string text = CalibrationToJson(calibration).dump();
  const Result<Calibration> read = ParseCalibration(text, "c.json");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(CalibrationToJson(*read).dump(), text);
  EXPECT_EQ(read->switch_ms, calibration.switch_ms);
  ASSERT_EQ(read->contexts.size(), 3u);
  EXPECT_EQ(read->contexts[1].memory, 200_MiB);
}

TEST(CalibrationTest, AMeasuredBoardIsNotScaled) {
  const Calibration& h200 = DefaultCalibration();
  Board board;
  board.name = "h200";
  const Calibration same = ForBoard(h200, board);
  EXPECT_FALSE(same.scaled);
  EXPECT_EQ(CalibrationToJson(same).dump(), DefaultText());
}

TEST(CalibrationTest, AnotherBoardGetsWorseFiguresAndIsMarked) {
  Calibration h200 = DefaultCalibration();
  h200.switch_ms = 0.13;
  h200.contexts = {{10, 410_MiB}, {100, 953_MiB}};
  Board board;
  board.name = "a100-80gb";
  const Calibration scaled = ForBoard(h200, board);
  EXPECT_TRUE(scaled.scaled);
  EXPECT_EQ(scaled.board, "a100-80gb");
  EXPECT_EQ(scaled.source, "scaled from h200: " + h200.source);
  EXPECT_DOUBLE_EQ(scaled.switch_ms, 0.195);
  EXPECT_EQ(scaled.ContextAt(100), 1192_MiB) << "953 x 1.25 = 1191.25";
  EXPECT_EQ(scaled.mps_clients_max, 48);
  EXPECT_EQ(scaled.device_reserve, h200.device_reserve);
}

TEST(CalibrationTest, WrongFilesAreRefused) {
  EXPECT_EQ(ErrorOf(DefaultText()), "no error");
  EXPECT_THAT(ErrorOf(With("version", "sublet.calibration/v2")), HasSubstr("unknown version"));
  EXPECT_THAT(ErrorOf(With("board", "")), HasSubstr("board must not be empty"));
  EXPECT_THAT(ErrorOf(With("switch_ms", -1)), HasSubstr("must be from 0 to 1000: -1"));
  EXPECT_THAT(ErrorOf(With("switch_ms", "0.13")), HasSubstr("a number is expected"));
  EXPECT_THAT(ErrorOf(With("mps_service_factor", 0)), HasSubstr("must be from 1"));
  EXPECT_THAT(ErrorOf(With("mps_clients_max", 0)), HasSubstr("must be from 1"));
  EXPECT_THAT(ErrorOf(With("device_reserve_mib", -5)), HasSubstr("must be from 0"));
  EXPECT_THAT(ErrorOf(With("contexts", nlohmann::ordered_json::array())),
              HasSubstr("the last context must be the one at sm_percent 100"));
  EXPECT_THAT(ErrorOf(With("contexts", {{{"sm_percent", 50}, {"memory_mib", 1}}})),
              HasSubstr("the last context must be the one at sm_percent 100"));
  EXPECT_THAT(ErrorOf(With("contexts", {{{"sm_percent", 100}, {"memory_mib", 1}},
                                        {{"sm_percent", 100}, {"memory_mib", 2}}})),
              HasSubstr("ascending sm_percent"));
  EXPECT_THAT(ErrorOf(With("contexts", nullptr)), HasSubstr("missing key in calibration"));
  EXPECT_THAT(ErrorOf(With("swich_ms", 1)), HasSubstr("unknown key in calibration: 'swich_ms'"));
  EXPECT_THAT(ErrorOf(DefaultText().substr(0, 100)), HasSubstr("not valid JSON"));
}

WorkloadProfile Encoder() {
  WorkloadProfile profile;
  profile.name = "encoder";
  profile.board = "h200";
  profile.source = "a test";
  profile.unit = "pass";
  profile.service_ms = 0.25;
  profile.points = {{100, 4000, 0.25, 0.3, {}, {}, 950_MiB}};
  return profile;
}

TEST(CalibrationTest, ProfilesComeAlongAndStayWithTheirBoard) {
  Calibration calibration = DefaultCalibration();
  calibration.profiles = {Encoder()};
  const std::string written = CalibrationToJson(calibration).dump();
  const auto again = ParseCalibration(written, "c.json");
  ASSERT_TRUE(again) << again.error().message;
  ASSERT_EQ(again->profiles.size(), 1u);
  EXPECT_EQ(again->profiles[0].name, "encoder");
  EXPECT_EQ(CalibrationToJson(*again).dump(), written);
  EXPECT_EQ(ForBoard(*again, **BuiltInBoards().Find("h200")).profiles.size(), 1u);
  EXPECT_TRUE(ForBoard(*again, **BuiltInBoards().Find("l4")).profiles.empty());
  calibration.profiles.push_back(Encoder());
  EXPECT_THAT(ErrorOf(CalibrationToJson(calibration).dump()),
              HasSubstr("two profiles of one name: 'encoder'"));
}

TEST(CalibrationTest, TheEvidenceIsPassedOverWhateverIsInIt) {
  std::string text = DefaultText();
  text.pop_back();
  const auto with = [&](const std::string& evidence, const std::string& rest = "}") {
    return ErrorOf(text + ",\n\"measurement\" :\n " + evidence + rest);
  };
  EXPECT_EQ(with(R"({"a": "}]\"{", "b": [{"measurement": {}}, [1, 2]], "c": {}})"), "no error");
  EXPECT_EQ(with("{}"), "no error");
  EXPECT_THAT(with("{\n\n}", ",\n\"x\": 1}"), HasSubstr("c.json:6:1: unknown key"));
  EXPECT_THAT(with("{}", ", \"measurement\": {}}"), HasSubstr("duplicate key"));
  EXPECT_THAT(with("{\"a\": [}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(with("{\"a\": \""), HasSubstr("not valid JSON"));
  EXPECT_THAT(with(""), HasSubstr("not valid JSON"));
  // Elsewhere it is a word like any other.
  EXPECT_THAT(ErrorOf(With("source", {{"measurement", {{"a", 1}}}})),
              HasSubstr("text is expected"));
  EXPECT_EQ(ErrorOf(With("source", "measurement")), "no error");
}

TEST(CalibrationTest, TheEvidenceIsAnObject) {
  EXPECT_EQ(ErrorOf(With("measurement", {{"version", "any"}, {"runs", {1, 2, 3}}})), "no error");
  EXPECT_THAT(ErrorOf(With("measurement", 5)), HasSubstr("an object is expected"));
}

}  // namespace
}  // namespace sublet
