#include "observe/status_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "base/terminal.h"
#include "observe/tests/sample_status.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(StatusTable, ShowsSharesAndBelowWhatIsWrong) {
  EXPECT_EQ(
      StatusTable(SampleStatus(), {.columns = 120}),
      "TENANT    NAME                   ID   MODE          GPU           MEMORY  SM CAP  STATE  "
      "      UPTIME  RESTARTS\n"
      "search    chat/0                 s1   mps           0      20.0/24.1 GiB    25 %  ready  "
      "        3h12         0\n"
      "search    chat/1                 s2   mps           0      20.5/24.1 GiB    25 %  ready  "
      "        3h12         0\n"
      "search    chat/2                 s3   mps           0      21.0/24.1 GiB    25 %  ready  "
      "        3h12         0\n"
      "search    chat/3                 s4   mps           0      21.5/24.1 GiB    25 %  ready  "
      "        3h12         0\n"
      "ads       embed/0                s5   mps           0         ?/10.1 GiB    10 %  "
      "backing-off       -         7\n"
      "research  train ?[31m\"big\" run?  s9   mig           1 MIG  41.0/40.0 GiB       -  "
      "running         59s         0\n"
      "research  notebook               s10  time-slicing  2       0.7/6.0 GiB!   50 %!  "
      "running       2d07h         0\n"
      "\n"
      "under way: up shop: starting chat/4\n"
      "GPU 0: 2 processes of others with 2.0 GiB: Xorg (pid 777) and more\n"
      "GPU 2 is unhealthy: XID 79 (fallen off the bus) at 2026-11-21T09:58:01Z: the GPU can't "
      "be reached over PCIe\n"
      "MPS server gpu0-ads is faulted: a client of 1 made an illegal access\n"
      "embed/0: it ended 3 times within a minute; next try in 4 s\n"
      "notebook: its memory limit and its SM cap are not enforced\n");
}

TEST(StatusTable, FitsTheTerminal) {
  for (const int columns : {40, 60, 80, 100, 132}) {
    std::istringstream lines(StatusTable(SampleStatus(), {.columns = columns}));
    std::string line;
    while (std::getline(lines, line)) EXPECT_LE(ColumnsOf(line), std::max(columns, 56)) << line;
  }
}

TEST(StatusTable, WhatMattersLeastGoesFirst) {
  const std::string narrow = StatusTable(SampleStatus(), {.columns = 80});
  EXPECT_THAT(narrow, Not(HasSubstr("RESTARTS")));
  EXPECT_THAT(narrow, HasSubstr("STATE"));
  EXPECT_THAT(narrow, HasSubstr("MEMORY"));
}

TEST(StatusTable, WithoutColourThereAreNoEscapes) {
  EXPECT_THAT(StatusTable(SampleStatus(), {}), Not(HasSubstr("\x1b")));
  EXPECT_THAT(StatusTable(SampleStatus(), {.columns = 0, .colour = true}), HasSubstr("\x1b[32m"));
}

TEST(StatusTable, NothingRunsIsSaid) {
  EXPECT_THAT(StatusTable({}, {}), HasSubstr("no shares"));
}

}  // namespace
}  // namespace sublet
