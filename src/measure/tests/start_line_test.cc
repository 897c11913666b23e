#include "measure/start_line.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

namespace sublet {
namespace {

StartLine MakeLine() {
  auto line = StartLine::Make();
  EXPECT_TRUE(line.has_value());
  return std::move(*line);
}

// The same memory, as another process would map it.
StartLine Again(const StartLine& line) {
  auto other = StartLine::Open(FileDescriptor(::dup(line.fd())));
  EXPECT_TRUE(other.has_value());
  return std::move(*other);
}

TEST(StartLine, GivesAllOneStartTimeNotBeforeTheLastArrived) {
  StartLine line = MakeLine();
  for (int round = 0; round < 100; ++round) {
    line.Reset(4);
    std::atomic<int> arriving = 0;
    std::vector<std::optional<std::int64_t>> starts(4);
    std::vector<std::thread> runners;
    for (int i = 0; i < 4; ++i) {
      runners.emplace_back([&, i] {
        StartLine mine = Again(line);
        ++arriving;
        // Whoever writes the time must see all four on the way.
        starts[static_cast<std::size_t>(i)] =
            mine.Arrive(i, [&] { return std::int64_t{100} * arriving + i; });
      });
    }
    for (std::thread& runner : runners) runner.join();
    for (const auto& start : starts) {
      ASSERT_TRUE(start.has_value());
      EXPECT_EQ(*start, *starts[0]);
      EXPECT_GE(*start, 400);
    }
  }
}

TEST(StartLine, GoesWithoutTheOneThatIsLeftOut) {
  StartLine line = MakeLine();
  line.Reset(2);
  std::thread runner([&] {
    StartLine mine = Again(line);
    EXPECT_EQ(mine.Arrive(0, [] { return 7; }), 7);
    EXPECT_FALSE(mine.AllPast());
    mine.Pass(0);
    EXPECT_TRUE(mine.AllPast());
  });
  line.LeaveOut(1);
  runner.join();
}

TEST(StartLine, IsOverOnceAllArePast) {
  StartLine line = MakeLine();
  line.Reset(2);
  StartLine other = Again(line);
  line.Pass(0);
  EXPECT_FALSE(other.AllPast());
  other.Pass(1);
  EXPECT_TRUE(line.AllPast());
  line.Reset(2);
  EXPECT_FALSE(other.AllPast());
}

TEST(StartLine, SendsEverybodyAwayWhenAborted) {
  StartLine line = MakeLine();
  line.Reset(3);
  std::thread waiting([&] { EXPECT_FALSE(Again(line).Arrive(0, [] { return 1; }).has_value()); });
  std::thread halted([&] { Again(line).AwaitGo(); });
  line.Abort();
  waiting.join();
  halted.join();
  EXPECT_TRUE(line.AllPast());
}

TEST(StartLine, HaltsARunnerUntilItMayGo) {
  StartLine line = MakeLine();
  line.Reset(1);
  std::atomic<bool> gone = false;
  std::thread runner([&] {
    Again(line).AwaitGo();
    EXPECT_TRUE(gone);
  });
  gone = true;
  line.Go();
  runner.join();
}

}  // namespace
}  // namespace sublet
