#include "observe/cells.h"

#include <gtest/gtest.h>

namespace sublet {
namespace {

TEST(Cells, NothingSteersATerminal) {
  EXPECT_EQ(Printable("a\x1b[31mb\n\tc\x7f"), "a?[31mb??c?");
  EXPECT_EQ(Printable("a\xc2\x9b"
                      "b"),
            "a?b")
      << "the control sequence introducer as one character";
  EXPECT_EQ(Printable("\xff\xe2\x82"), "???") << "not UTF-8";
  EXPECT_EQ(Printable("grün €"), "grün €");
}

TEST(Cells, AreAsWideAsAsked) {
  EXPECT_EQ(Cell("ab", 4), "ab  ");
  EXPECT_EQ(RightCell("ab", 4), "  ab");
  EXPECT_EQ(Cell("äöüß", 4), "äöüß");
  EXPECT_EQ(Cell("äöüßx", 4), "äöü…");
  EXPECT_EQ(CutText("ab", 4), "ab");
  EXPECT_EQ(CutText("abc", 1), "…");
  EXPECT_EQ(CutText("abc", 0), "");
}

TEST(Cells, TimesHaveTwoUnits) {
  EXPECT_EQ(DurationText(0), "0s");
  EXPECT_EQ(DurationText(59.9), "59s");
  EXPECT_EQ(DurationText(750), "12m30");
  EXPECT_EQ(DurationText(11520), "3h12");
  EXPECT_EQ(DurationText(1051200), "12d04h");
  EXPECT_EQ(DurationText({}), "-");
}

TEST(Cells, MemoryHasOneUnit) {
  EXPECT_EQ(MemoryText(9_GiB, 10_GiB), "9.0/10.0 GiB");
  EXPECT_EQ(MemoryText(512_MiB, 600_MiB), "512/600 MiB");
  EXPECT_EQ(MemoryText(512_MiB, 2_GiB), "0.5/2.0 GiB");
  EXPECT_EQ(MemoryText({}, 2_GiB), "?/2.0 GiB");
  EXPECT_EQ(MemoryText(512_MiB, {}), "512 MiB");
  EXPECT_EQ(MemoryText({}, {}), "?");
}

TEST(Cells, LittleIsNotNothing) {
  EXPECT_EQ(PercentText(0), "0 %");
  EXPECT_EQ(PercentText(0.4), "0.4 %");
  EXPECT_EQ(PercentText(12.4), "12 %");
  EXPECT_EQ(PercentText({}), "-");
}

TEST(Cells, OnlyWhatIsEnforcedCounts) {
  Share share;
  share.enforcement = {{"memory", "not enforced", false}, {"sm", "MPS", true}};
  EXPECT_FALSE(IsEnforced(share, "memory"));
  EXPECT_TRUE(IsEnforced(share, "sm"));
  EXPECT_FALSE(IsEnforced({}, "sm"));
}

}  // namespace
}  // namespace sublet
