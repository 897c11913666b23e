#include "observe/race_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "base/terminal.h"

namespace sublet {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

Race SampleRace() {
  RaceLane cost{.policy = "cost", .served = 120, .prompt_tokens = 1000, .cached_tokens = 620};
  cost.ttft_ms_p50 = 80;
  cost.ttft_ms_p90 = 210;
  cost.ttft_ms_p99 = 15'500;
  cost.ttft_ms_history = {100, 200, 210};
  cost.replicas = {{"chat/0", "0", 60, 80, 2, 700, 500}, {"chat/1", "0", 20, 40, 1, 300, 120}};
  RaceLane robin = cost;
  robin.policy = "round-robin";
  robin.cached_tokens = 90;
  robin.ttft_ms_p90 = 900;
  robin.ttft_ms_history = {300, 600, 900};
  robin.failed = 3;
  return {.traffic = "24 conversations", .elapsed_s = 5, .total_s = 20, .lanes = {cost, robin}};
}

std::vector<std::string> LinesOf(const std::string& frame) {
  std::vector<std::string> lines;
  std::istringstream in(frame);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(RaceView, ShowsTheLanesSideBySide) {
  const std::vector<std::string> lines = LinesOf(RaceFrame(SampleRace(), {100, 0, false}));
  EXPECT_THAT(lines[0], HasSubstr("24 conversations"));
  EXPECT_THAT(lines[0], HasSubstr("5 of 20 s"));
  EXPECT_THAT(lines[2], HasSubstr("cost"));
  EXPECT_THAT(lines[2], HasSubstr("│ round-robin"));
  EXPECT_THAT(lines[3], HasSubstr(" 62.0 %"));
  EXPECT_THAT(lines[3], HasSubstr("  9.0 %"));
  EXPECT_THAT(lines[5], HasSubstr("p99 15.5 s"));
  EXPECT_THAT(lines[7], HasSubstr("3 failed"));
  EXPECT_THAT(lines.back(), HasSubstr("chat/1"));
  EXPECT_THAT(lines.back(), HasSubstr("GPU 0 20 %"));
}

TEST(RaceView, DrawsHistoriesOnOneScale) {
  const std::vector<std::string> lines = LinesOf(RaceFrame(SampleRace(), {100, 0, false}));
  EXPECT_THAT(lines[6], HasSubstr("p90 so far  ▁▂▂"));
  EXPECT_THAT(lines[6], HasSubstr("▃▆█"));
}

TEST(RaceView, HasAsManyRowsAsAskedForAndNoLineTooLong) {
  for (const int columns : {80, 101, 160}) {
    const std::vector<std::string> lines = LinesOf(RaceFrame(SampleRace(), {columns, 9, false}));
    EXPECT_THAT(lines, SizeIs(9));
    for (const std::string& line : lines) EXPECT_LE(ColumnsOf(line), columns) << line;
  }
}

TEST(RaceView, PaintsTheBetterOneGreenAndNeitherWhereTheyAreEqual) {
  Race race = SampleRace();
  EXPECT_THAT(RaceFrame(race, {100, 0, true}), HasSubstr("\x1b[32m 62.0 %"));
  race.lanes[1] = race.lanes[0];
  EXPECT_THAT(RaceFrame(race, {100, 0, true}), Not(HasSubstr("\x1b[32m")));
  EXPECT_THAT(RaceFrame(race, {100, 0, false}), Not(HasSubstr("\x1b")));
}

TEST(RaceView, StandsWithoutAnAnswerYet) {
  Race race = SampleRace();
  for (RaceLane& lane : race.lanes) {
    lane = {.policy = lane.policy, .replicas = {{"chat/0", "", {}, 0, 0, 0, 0}}};
  }
  const std::string frame = RaceFrame(race, {100, 0, false});
  EXPECT_THAT(frame, HasSubstr("p50 -"));
  EXPECT_THAT(frame, HasSubstr("chat/0"));
}

TEST(RaceView, LeavesNothingInANameThatSteersATerminal) {
  Race race = SampleRace();
  race.lanes[0].replicas[0].name = "a\x1b[2Jb";
  EXPECT_THAT(RaceFrame(race, {100, 0, false}), Not(HasSubstr("\x1b")));
}

}  // namespace
}  // namespace sublet
