#include "observe/live_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <sstream>
#include <vector>

#include "base/terminal.h"
#include "observe/tests/sample_status.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

std::vector<std::string> LinesOf(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string Plain(const std::string& text) {
  static const std::regex kEscape("\x1b\\[[0-9;]*m");
  return std::regex_replace(text, kEscape, "");
}

// The shares' names of a frame, in their order.
std::vector<std::string> Names(const NodeStatus& status, LiveSort sort) {
  std::vector<std::string> names;
  for (const std::string& line :
       LinesOf(LiveFrame(status, {.sort = sort}, {.columns = 80, .rows = 0}))) {
    if (line.size() > 5 && line.starts_with("  ") && line[2] != ' ' && line[3] == ' ' &&
        line.find('/') != std::string::npos) {
      names.push_back(line.substr(4, line.find(' ', 4) - 4));
    }
  }
  return names;
}

TEST(LiveView, ShowsAGpuAsABarOfItsShares) {
  NodeStatus node = SampleStatus();
  node.gpus = {node.gpus[0]};
  const std::vector<std::string> lines = LinesOf(LiveFrame(node, {}, {.columns = 80, .rows = 0}));
  EXPECT_THAT(
      lines,
      ElementsAre(
          "node1   plan shop   simulated                                       10:00:12 UTC",
          "1 GPU, 7 shares, 6 running   up shop: starting chat/4                           ", "",
          "    NAME           TENANT      MODE     CAP     SM           MEMORY  STATE      ",
          "GPU 0  NVIDIA H200                   107 of 140 GiB booked, 86.0 used, busy 87 %",
          "  ███████████░░▓▓▓▓▓▓▓▓▓▓▓░░███████████░░▓▓▓▓▓▓▓▓▓▓▓▓░░░░░░░▒·················",
          "  a            b            c            d            e                       ",
          "  a chat/0         search      mps      25%      -    20.0/24.1 GiB  ready      ",
          "  b chat/1         search      mps      25%      -    20.5/24.1 GiB  ready      ",
          "  c chat/2         search      mps      25%      -    21.0/24.1 GiB  ready      ",
          "  d chat/3         search      mps      25%      -    21.5/24.1 GiB  ready      ",
          "  e embed/0        ads         mps      10%      -       ?/10.1 GiB  backing-off",
          "    it ended 3 times within a minute; next try in 4 s",
          "  MPS gpu0-ads              faulted   0 clients, 2 restarts: a client of 1 made…",
          "  MPS gpu0-search           ready     4 clients, busy 87 %",
          "  ▒ not Sublet's: Xorg (pid 777)  2.0 GiB", "  ▒ not Sublet's: ? (pid 778)  ?"));
}

// Whatever the size and the node, a frame is exactly that large, and colours change no letter.
TEST(LiveView, FitsEveryTerminal) {
  for (const NodeStatus& node :
       {SampleStatus(), CrowdedStatus(40), CrowdedStatus(200), NodeStatus{}}) {
    for (int columns = 60; columns <= 210; columns += 7) {
      for (const int rows : {6, 24, 50}) {
        const LiveSize size{.columns = columns, .rows = rows, .colour = true};
        const std::vector<std::string> lines = LinesOf(Plain(LiveFrame(node, {}, size)) + "\n");
        ASSERT_THAT(lines, SizeIs(rows)) << columns;
        for (const std::string& line : lines) ASSERT_LE(ColumnsOf(line), columns) << line;
      }
    }
  }
}

TEST(LiveView, ABarIsAsWideAsTheGpuHoweverManyShares) {
  for (const int shares : {0, 1, 40, 75, 76, 200}) {
    const auto lines =
        LinesOf(LiveFrame(CrowdedStatus(shares), {}, {.columns = 80, .rows = 0, .colour = false}));
    EXPECT_EQ(ColumnsOf(lines[5]), 78) << shares;
  }
}

TEST(LiveView, SortsAsAsked) {
  NodeStatus node = CrowdedStatus(3);
  node.shares[0].memory_used = 1_GiB;
  node.shares[1].memory_used = 3_GiB;
  node.shares[2].memory_used = 2_GiB;
  node.shares[0].sm_used_percent = 5;
  node.shares[2].sm_used_percent = 50;
  node.shares[1].share.tenant = "a";
  node.shares[0].uptime_s = 30;
  node.shares[1].uptime_s.reset();
  node.shares[2].uptime_s = 10;
  EXPECT_THAT(Names(node, LiveSort::kPlace), ElementsAre("chat/0", "chat/1", "chat/2"));
  EXPECT_THAT(Names(node, LiveSort::kMemory), ElementsAre("chat/1", "chat/2", "chat/0"));
  EXPECT_THAT(Names(node, LiveSort::kSm), ElementsAre("chat/2", "chat/0", "chat/1"));
  EXPECT_THAT(Names(node, LiveSort::kTenant), ElementsAre("chat/1", "chat/0", "chat/2"));
  EXPECT_THAT(Names(node, LiveSort::kUptime), ElementsAre("chat/2", "chat/0", "chat/1"));
}

TEST(LiveView, ScrollsWithinWhatThereIs) {
  const NodeStatus node = CrowdedStatus(40);
  const LiveSize size{.columns = 80, .rows = 24, .colour = false};
  LiveView view;
  EXPECT_EQ(AfterKey(view, LiveKey::kUp, node, size).first, 0);
  EXPECT_THAT(LiveFrame(node, view, size), HasSubstr("more below"));
  view = AfterKey(view, LiveKey::kDown, node, size);
  EXPECT_EQ(view.first, 1);
  EXPECT_THAT(LinesOf(LiveFrame(node, view, size))[4], StartsWith("  █"));
  for (int i = 0; i < 20; ++i) view = AfterKey(view, LiveKey::kPageDown, node, size);
  const std::string end = LiveFrame(node, view, size);
  EXPECT_THAT(end, HasSubstr("chat/39"));
  EXPECT_THAT(end, Not(HasSubstr("more below")));
  EXPECT_THAT(LinesOf(end)[22], Not(testing::IsEmpty())) << "no further than the last line";
  EXPECT_EQ(AfterKey(view, LiveKey::kHome, node, size).first, 0);
  EXPECT_EQ(AfterKey({.first = 9}, LiveKey::kUp, SampleStatus(), {.columns = 80, .rows = 50}).first,
            0)
      << "all of it is seen";
}

TEST(LiveView, AnUnhealthyGpuIsSaidInTheHeadToo) {
  const std::string frame =
      LiveFrame(SampleStatus(), {}, {.columns = 120, .rows = 0, .colour = true});
  EXPECT_THAT(frame, HasSubstr("\x1b[33m1 unhealthy\x1b[0m"));
  EXPECT_THAT(frame, HasSubstr("unhealthy: XID 79 (fallen off the bus)"));
}

TEST(LiveView, ALimitThatNobodyEnforcesIsMarked) {
  const std::string frame =
      LiveFrame(SampleStatus(), {}, {.columns = 120, .rows = 0, .colour = true});
  EXPECT_THAT(frame, HasSubstr("50%!"));
  EXPECT_THAT(frame, HasSubstr("\x1b[33m    0.7/6.0 GiB\x1b[0m"));
}

TEST(LiveView, NamesCannotSteerTheTerminal) {
  const std::string frame = LiveFrame(SampleStatus(), {}, {.columns = 120, .rows = 0});
  EXPECT_THAT(frame, Not(HasSubstr("\x1b")));
  EXPECT_THAT(frame, HasSubstr("train ?[31m"));
}

TEST(LiveInput, KnowsKeysHoweverTheyComeTogether) {
  const LiveInput input = ParseLiveInput("\x1b[Am\x1bOB\x1b[6~gk");
  EXPECT_THAT(input.keys, ElementsAre(LiveKey::kUp, LiveKey::kSortMemory, LiveKey::kDown,
                                      LiveKey::kPageDown, LiveKey::kHome, LiveKey::kUp));
  EXPECT_FALSE(input.quit);
  EXPECT_TRUE(ParseLiveInput("mq").quit);
}

TEST(LiveInput, OtherKeysMeanNothing) {
  // F5, a shifted arrow, a mouse report, delete, a lone escape, an umlaut.
  const LiveInput input = ParseLiveInput("\x1b[15~\x1b[1;2A\x1b[<0;3;4M\x1b[3~\x1b\xc3\xa4x");
  EXPECT_THAT(input.keys, SizeIs(0));
  EXPECT_FALSE(input.quit);
  EXPECT_FALSE(ParseLiveInput("\x1b[").quit);
}

TEST(LiveView, ANodeWithoutGpusSaysSo) {
  EXPECT_THAT(LiveFrame({}, {}, {.columns = 80, .rows = 24}), HasSubstr("no GPU is seen"));
}

}  // namespace
}  // namespace sublet
