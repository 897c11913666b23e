#include "measure/profile_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

WorkloadProfile Encoder() {
  WorkloadProfile profile;
  profile.name = "encoder";
  profile.unit = "forward pass";
  for (const auto& [percent, rate] :
       {std::pair{5, 900.0}, {10, 2400.0}, {25, 4050.0}, {50, 4111.0}, {100, 4123.4}}) {
    ProfilePoint point;
    point.sm_percent = percent;
    point.alone_per_s = rate;
    point.latency_ms_p50 = 1000 / rate;
    point.latency_ms_p99 = 1200 / rate;
    point.context = Bytes::FromMib(300 + 6 * percent);
    profile.points.push_back(point);
  }
  return profile;
}

// Columns on a screen: every character but the later bytes of one that has several.
std::size_t WidthOf(std::string_view line) {
  return static_cast<std::size_t>(std::ranges::count_if(
      line, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::size_t WidthMax(std::string_view text) {
  std::size_t most = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    most = std::max(most, WidthOf(text.substr(0, end)));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return most;
}

TEST(ProfileChart, FitsATerminalAndHasNoColourUnlessAsked) {
  WorkloadProfile profile = Encoder();
  profile.crowd = 40;
  for (ProfilePoint& point : profile.points) point.crowd_per_s = 25589;
  const std::string text = ProfileChart(profile, {}) + ProfileTable(profile, {});
  EXPECT_LE(WidthMax(text), 80u) << text;
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(ProfileTable(profile, {.colour = true}), HasSubstr("\x1b[32m"));
}

TEST(ProfileChart, MarksTheKneeOnceAndEveryOtherPoint) {
  const std::string text = ProfileChart(Encoder(), {.colour = false, .unicode = false});
  EXPECT_EQ(std::ranges::count(text, '#'), 1) << text;
  EXPECT_EQ(std::ranges::count(text.substr(text.find('\n')), 'o'), 4) << text;
  for (const unsigned char c : text) EXPECT_LT(c, 0x80);
}

TEST(ProfileChart, PutsFasterPointsHigher) {
  const std::string text = ProfileChart(Encoder(), {.colour = false, .unicode = false});
  // The knee, at 98 % of the speed, is in the row of the most; the first point far below.
  const std::size_t knee_row = static_cast<std::size_t>(
      std::count(text.begin(), text.begin() + static_cast<long>(text.find('#')), '\n'));
  EXPECT_EQ(knee_row, 1u) << text;
  EXPECT_THAT(text, HasSubstr("4,123"));
  EXPECT_THAT(text, HasSubstr("25"));
}

TEST(ProfileChart, IsNothingWithoutAnyRate) {
  WorkloadProfile profile = Encoder();
  for (ProfilePoint& point : profile.points) point.alone_per_s = 0;
  EXPECT_EQ(ProfileChart(profile, {}), "");
}

TEST(ProfileTable, HasARowForEachCapAndSaysWhichIsTheKnee) {
  const std::string text = ProfileTable(Encoder(), {});
  EXPECT_EQ(std::ranges::count(text, '\n'), 6);
  EXPECT_THAT(text, HasSubstr("25       4,050    98 %      0.247      0.296         450  ◆ knee"))
      << text;
}

TEST(RateText, HasThreeDigitsThatCount) {
  EXPECT_EQ(RateText(0.05214), "0.0521");
  EXPECT_EQ(RateText(12.34), "12.3");
  EXPECT_EQ(RateText(123.4), "123");
  EXPECT_EQ(RateText(25589.4), "25,589");
  EXPECT_EQ(RateText(1234567), "1,234,567");
}

}  // namespace
}  // namespace sublet
