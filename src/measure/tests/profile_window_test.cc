#include "measure/profile_window.h"

#include <gtest/gtest.h>

#include <memory>

namespace sublet {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

BurstCounts At(double seconds, std::uint64_t bursts) {
  BurstCounts counts;
  counts.bursts = bursts;
  counts.last_burst_end_ns = static_cast<std::uint64_t>(seconds * kSecond);
  counts.durations.assign(guard::kDurationBuckets, 0);
  return counts;
}

// A program that is looked at every 50 ms.
class Watched {
 public:
  explicit Watched(SteadyRule& rule) : rule_(rule) {}

  SteadyState Run(int looks, double rate) {
    for (int i = 0; i < looks; ++i) {
      bursts_ += rate * 0.05;
      const double seconds = 1 + 0.05 * ++looks_;
      if (rule_.Add(At(seconds, static_cast<std::uint64_t>(bursts_))) != SteadyState::kWarming) {
        break;
      }
    }
    return rule_.state();
  }

 private:
  SteadyRule& rule_;
  int looks_ = 0;
  double bursts_ = 0;
};

TEST(SteadyRule, IsMetByThreeEqualSteps) {
  SteadyRule rule({});
  Watched program(rule);
  EXPECT_EQ(program.Run(29, 4000), SteadyState::kWarming);
  EXPECT_EQ(program.Run(5, 4000), SteadyState::kSteady);
}

TEST(SteadyRule, WaitsUntilAProgramStopsGettingFaster) {
  SteadyRule rule({});
  Watched program(rule);
  for (const double rate : {100.0, 400.0, 900.0, 1600.0, 2500.0}) {
    EXPECT_EQ(program.Run(12, rate), SteadyState::kWarming);
  }
  EXPECT_EQ(program.Run(60, 3000), SteadyState::kSteady);
}

TEST(SteadyRule, TakesAPauseForNoSteadiness) {
  SteadyRule rule({});
  EXPECT_EQ(rule.Add(At(1, 10)), SteadyState::kWarming);
  // Compiling: looked at often, with nothing new to see.
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(rule.Add(At(1, 10)), SteadyState::kWarming);
}

TEST(SteadyRule, WaitsForWholeBurstsOfASlowProgram) {
  SteadyRule rule({});
  // A burst every two seconds, looked at every half of one.
  int looks = 0;
  for (double t = 0; rule.state() == SteadyState::kWarming && looks < 1000; t += 0.5, ++looks) {
    const auto bursts = static_cast<std::uint64_t>(t / 2);
    rule.Add(At(2.0 * static_cast<double>(bursts), bursts));
  }
  EXPECT_EQ(rule.state(), SteadyState::kSteady);
  EXPECT_GE(looks, 3 * 4 * 4);
}

TEST(SteadyRule, GivesUpOnAProgramThatIsNeverSteady) {
  SteadyRule rule({});
  Watched program(rule);
  for (int i = 0; i < 60 && rule.state() == SteadyState::kWarming; ++i) {
    program.Run(11, i % 2 == 0 ? 1000 : 2000);
  }
  EXPECT_EQ(rule.state(), SteadyState::kRestless);
}

TEST(WindowFigures, HaveTheRateOfTheWholeWindowWhereBurstsAreMany) {
  BurstCounts begin = At(10, 1000);
  BurstCounts end = At(13.9, 9000);
  begin.bytes_to_device = 1 << 20;
  end.bytes_to_device = 9 << 20;
  end.bytes_from_device = 2 << 20;
  end.durations[static_cast<std::size_t>(guard::DurationBucket(235'000))] = 7900;
  end.durations[static_cast<std::size_t>(guard::DurationBucket(5'000'000))] = 100;
  const WindowFigures figures = FiguresBetween(begin, end, 4);
  EXPECT_EQ(figures.bursts, 8000u);
  EXPECT_DOUBLE_EQ(figures.bursts_per_s, 2000);
  EXPECT_NEAR(figures.latency_ms_p50, 0.235, 0.235 * 0.03);
  EXPECT_NEAR(figures.latency_ms_p99, 5, 5 * 0.03);
  EXPECT_DOUBLE_EQ(figures.to_device_mib_s, 2);
  EXPECT_DOUBLE_EQ(figures.from_device_mib_s, 0.5);
}

TEST(WindowFigures, TakeTheTimeFromBurstToBurstWhereTheyAreFew) {
  // Three bursts of 1.5 s, in a window of 5 s.
  const WindowFigures figures = FiguresBetween(At(9, 4), At(13.5, 7), 5);
  EXPECT_DOUBLE_EQ(figures.bursts_per_s, 3 / 4.5);
}

TEST(WindowFigures, AreNoughtWhereNothingHappened) {
  EXPECT_EQ(FiguresBetween(At(1, 5), At(1, 5), 4).bursts_per_s, 0);
}

TEST(DurationQuantile, LiesWhereThatPartOfThemIsBelow) {
  std::vector<std::uint64_t> durations(guard::kDurationBuckets, 0);
  EXPECT_EQ(DurationQuantileMs(durations, 0.5), 0);
  for (int i = 1; i <= 100; ++i) {
    ++durations[static_cast<std::size_t>(
        guard::DurationBucket(static_cast<std::uint64_t>(i) * 1'000'000))];
  }
  EXPECT_NEAR(DurationQuantileMs(durations, 0.50), 50, 2);
  EXPECT_NEAR(DurationQuantileMs(durations, 0.99), 99, 3);
}

TEST(ReadCounts, AddsUpTheProcesses) {
  const auto observation = std::make_unique<guard::Observation>();
  for (int i = 0; i < 2; ++i) {
    guard::ObservedProcess& process = observation->processes[i];
    process.pid = 100 + i;
    process.launches = 30;
    process.bursts = 10;
    process.last_burst_end_ns = static_cast<std::uint64_t>(7 - i);
    process.durations[64] = 10;
  }
  observation->processes_lost = 3;
  const BurstCounts counts = ReadCounts(*observation);
  EXPECT_EQ(counts.processes, 2);
  EXPECT_EQ(counts.processes_lost, 3u);
  EXPECT_EQ(counts.launches, 60u);
  EXPECT_EQ(counts.bursts, 20u);
  EXPECT_EQ(counts.last_burst_end_ns, 7u);
  EXPECT_EQ(counts.durations[64], 20u);
}

}  // namespace
}  // namespace sublet
