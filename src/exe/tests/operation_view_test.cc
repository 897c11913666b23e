#include "exe/operation_view.h"

#include <gmock/gmock.h>

#include "base/terminal.h"

namespace sublet {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr bool kPlain = false;

TEST(StepList, AStepLivesUntilItIsDone) {
  StepList steps;
  EXPECT_THAT(steps.Take({"replica chat/0", "starting", "a new one"}, 1, kPlain), IsEmpty());
  ASSERT_THAT(steps.Live(3.5, 80, 8, kPlain), SizeIs(1));
  EXPECT_THAT(steps.Live(3.5, 80, 8, kPlain)[0], HasSubstr("replica chat/0"));
  EXPECT_THAT(steps.Live(3.5, 80, 8, kPlain)[0], HasSubstr("a new one"));
  EXPECT_THAT(steps.Live(3.5, 80, 8, kPlain)[0], HasSubstr("2.5 s"));
  EXPECT_THAT(steps.Take({"replica chat/0", "done", ""}, 4, kPlain),
              ElementsAre("✓ replica chat/0  3.0 s"));
  EXPECT_THAT(steps.Live(5, 80, 8, kPlain), IsEmpty());
  EXPECT_EQ(steps.done(), 1);
}

TEST(StepList, NewsOfAStepReplaceItsWords) {
  StepList steps;
  steps.Take({"replica chat/0", "starting", "a new one"}, 0, kPlain);
  steps.Take({"replica chat/0", "starting", "its probe fails"}, 1, kPlain);
  ASSERT_THAT(steps.Live(2, 80, 8, kPlain), SizeIs(1));
  EXPECT_THAT(steps.Live(2, 80, 8, kPlain)[0], HasSubstr("its probe fails"));
  EXPECT_THAT(steps.Live(2, 80, 8, kPlain)[0], HasSubstr("2.0 s"));
}

TEST(StepList, AFailureSaysWhy) {
  StepList steps;
  steps.Take({"replica chat/0", "starting", ""}, 0, kPlain);
  const auto lines = steps.Take({"replica chat/0", "failed", "exited with status 3"}, 0, kPlain);
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_THAT(lines[0], HasSubstr("✗ replica chat/0"));
  EXPECT_THAT(lines[0], HasSubstr("exited with status 3"));
  EXPECT_EQ(steps.failed(), 1);
}

TEST(StepList, WhatStoppedSaysSo) {
  StepList steps;
  steps.Take({"replica chat/0", "stopping", "not in the plan"}, 0, kPlain);
  const auto lines = steps.Take({"replica chat/0", "stopped", ""}, 0, kPlain);
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_THAT(lines[0], HasSubstr("stopped"));
}

TEST(StepList, TooManyStepsAreCounted) {
  StepList steps;
  for (int i = 0; i < 40; ++i) {
    steps.Take({"replica chat/" + std::to_string(i), "starting", ""}, 0, kPlain);
  }
  const auto lines = steps.Live(1, 80, 8, kPlain);
  ASSERT_THAT(lines, SizeIs(8));
  EXPECT_THAT(lines[7], HasSubstr("33 more"));
}

TEST(StepList, NoLiveLineIsWiderThanTheTerminal) {
  StepList steps;
  steps.Take({"replica größe/0", "starting", std::string(300, 'x')}, 0, kPlain);
  for (const int columns : {20, 40, 80}) {
    for (const std::string& line : steps.Live(250, columns, 8, kPlain)) {
      EXPECT_LT(ColumnsOf(line), columns) << line;
    }
  }
}

TEST(StepList, WhatOthersWroteDoesNotSteerTheTerminal) {
  StepList steps;
  const auto lines = steps.Take({"a", "failed", "\x1b[2Jgone\n\x7f"}, 0, kPlain);
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_THAT(lines[0], Not(HasSubstr("\x1b")));
  EXPECT_THAT(lines[0], Not(HasSubstr("\n")));
}

}  // namespace
}  // namespace sublet
