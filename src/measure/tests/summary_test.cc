#include "measure/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "base/files.h"
#include "base/terminal.h"
#include "measure/calibrate.h"
#include "model/document.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// The H200 of docs/measured/.
Measurement H200() {
  const std::string path = SUBLET_SOURCE_DIR "/docs/measured/h200.json";
  const Result<std::string> text = ReadFile(path, kDocumentBytesMax);
  const Result<Measurement> seen = ParseMeasurement(text.value_or(""), path);
  EXPECT_TRUE(seen.has_value()) << seen.error().message;
  return seen.value_or(Measurement{});
}

TEST(MeasurementSummary, SaysTheAnswerFirstAndFitsATerminal) {
  const Measurement seen = H200();
  const std::string text = MeasurementSummary(seen, {}, GradeLessons(seen), {.colour = false});
  EXPECT_THAT(text, HasSubstr("40 transformer replicas under MPS"));
  EXPECT_THAT(text, HasSubstr("0 of 3 go on"));
  EXPECT_THAT(text, Not(HasSubstr("✗")));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(ColumnsOf(line), 100) << line;
}

TEST(MeasurementSummary, SaysPlainlyWhatLowersItsWorth) {
  Measurement seen = H200();
  seen.partial = true;
  seen.disturbed = true;
  seen.disturbed_by = {"77 python3, 812 MiB"};
  seen.skipped = {{"mps", "nvidia-cuda-mps-control is not installed"}};
  const std::string text = MeasurementSummary(seen, {}, GradeLessons(seen), {.colour = false});
  EXPECT_THAT(text, HasSubstr("partial"));
  EXPECT_THAT(text, HasSubstr("77 python3"));
  EXPECT_THAT(text, HasSubstr("nvidia-cuda-mps-control is not installed"));
}

TEST(MeasurementSummary, ManagesWithNothingButRunsAlone) {
  Measurement seen = H200();
  std::erase_if(seen.runs, [](const sublet::Run& run) { return run.series != "alone"; });
  seen.quotas.clear();
  seen.faults.clear();
  EXPECT_THAT(MeasurementSummary(seen, {}, GradeLessons(seen), {.colour = false}),
              HasSubstr("not measured"));
}

// The calibration that comes with Sublet is what this evidence gives.
TEST(ShippedCalibration, IsDrawnFromTheMeasurementInTheDocuments) {
  const Calibration drawn = Calibrate(H200());
  const Calibration& shipped = DefaultCalibration();
  EXPECT_NEAR(shipped.switch_ms, drawn.switch_ms, 1e-5);
  EXPECT_NEAR(shipped.mps_service_factor, drawn.mps_service_factor, 1e-4);
  EXPECT_EQ(shipped.mps_clients_max, drawn.mps_clients_max);
  EXPECT_EQ(shipped.device_reserve, drawn.device_reserve);
  ASSERT_EQ(shipped.contexts.size(), drawn.contexts.size());
  for (std::size_t i = 0; i < drawn.contexts.size(); ++i) {
    EXPECT_EQ(shipped.contexts[i].memory, drawn.contexts[i].memory);
  }
  ASSERT_EQ(shipped.profiles.size(), drawn.profiles.size());
  for (std::size_t i = 0; i < drawn.profiles[0].points.size(); ++i) {
    EXPECT_NEAR(*shipped.profiles[0].points[i].crowd_per_s,
                *drawn.profiles[0].points[i].crowd_per_s, 1);
  }
}

}  // namespace
}  // namespace sublet
