#include "base/terminal.h"

#include <gtest/gtest.h>

namespace sublet {
namespace {

TEST(Painter, ColoursOnlyWhereAsked) {
  EXPECT_EQ(Painter(false).Good("yes"), "yes");
  EXPECT_EQ(Painter(true).Good("yes"), "\x1b[32myes\x1b[0m");
  EXPECT_NE(Painter(true).Series(0, "a"), Painter(true).Series(1, "a"));
}

TEST(BarText, DrawsEighthsAndStaysWithinItsWidth) {
  EXPECT_EQ(BarText(0, 4), "");
  EXPECT_EQ(BarText(0.5, 4), "██");
  EXPECT_EQ(BarText(0.53125, 4), "██▏");
  EXPECT_EQ(BarText(1.7, 4), "████");
}

TEST(Columns, CountCharactersNotBytes) {
  EXPECT_EQ(ColumnsOf("▏abc"), 4);
  EXPECT_EQ(PaddedRight("█", 3), "█  ");
  EXPECT_EQ(PaddedLeft("1,000", 3), "1,000");
}

TEST(Numbers, HaveSeparatorsAndThreeDigits) {
  EXPECT_EQ(Grouped(25589.4), "25,589");
  EXPECT_EQ(Grouped(-1234567), "-1,234,567");
  EXPECT_EQ(Grouped(2372.5), "2,373");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(ThreeDigits(0.2351), "0.24");
  EXPECT_EQ(ThreeDigits(13.94), "13.9");
  EXPECT_EQ(ThreeDigits(99.97), "100");
}

TEST(WrappedText, BreaksAtSpacesAndIndentsWhatFollows) {
  EXPECT_EQ(WrappedText("one two three", 2, 9), "one two\n  three");
  EXPECT_EQ(WrappedText("unbreakable", 0, 4), "unbreakable");
  EXPECT_EQ(WrappedText("", 3, 9), "");
}

}  // namespace
}  // namespace sublet
