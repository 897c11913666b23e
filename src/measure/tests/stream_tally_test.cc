#include "measure/stream_tally.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace sublet {
namespace {

constexpr std::int64_t kMs = 1'000'000;

TEST(LatencyHistogram, IsExactBelow256NanosecondsAndWithinHalfAPercentAbove) {
  for (std::int64_t ns = 0; ns < 256; ++ns) {
    LatencyHistogram histogram;
    histogram.Add(ns);
    histogram.Add(1'000'000);
    EXPECT_EQ(histogram.PercentileNs(0.5), static_cast<double>(ns));
  }
  for (double at = 256; at < 1e12; at *= 1.0037) {
    const auto ns = static_cast<std::int64_t>(at);
    LatencyHistogram histogram;
    histogram.Add(ns);
    histogram.Add(std::int64_t{1} << 50);
    EXPECT_NEAR(histogram.PercentileNs(0.5) / static_cast<double>(ns), 1, 0.004) << ns;
  }
}

TEST(LatencyHistogram, TakesTheSmallestThatCoversTheShare) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.PercentileNs(0.5), 0);
  for (std::int64_t ns = 1; ns <= 100; ++ns) histogram.Add(ns);
  EXPECT_EQ(histogram.PercentileNs(0), 1);
  EXPECT_EQ(histogram.PercentileNs(0.5), 50);
  EXPECT_EQ(histogram.PercentileNs(0.99), 99);
  EXPECT_EQ(histogram.PercentileNs(1), 100);
  EXPECT_EQ(histogram.count(), 100);
  EXPECT_EQ(histogram.max_ns(), 100);
}

TEST(LatencyHistogram, NeverTellsOfMoreThanTheLongest) {
  LatencyHistogram histogram;
  histogram.Add(1'000'000);
  EXPECT_LE(histogram.PercentileNs(0.99), 1e6);
  histogram.Add(std::int64_t{1} << 60);  // Beyond its last class.
  EXPECT_EQ(histogram.max_ns(), std::int64_t{1} << 60);
}

TEST(StreamTally, CountsAUnitThatTheWindowCutsInPart) {
  StreamTally tally({.begin_ns = 100 * kMs, .end_ns = 200 * kMs});
  // Units of 40 ms from 0: the one from 80 to 120 lies half in the window; 120 and 160 begin whole
  // ones.
  for (std::int64_t at = 0; at < 240; at += 40) tally.Finished(at * kMs, (at + 40) * kMs);
  EXPECT_TRUE(tally.Crossed());
  const StreamFigures figures = tally.Figures();
  EXPECT_NEAR(figures.rate_per_s, 25, 1e-9);
  EXPECT_EQ(figures.units, 2);  // Ended at 120 and 160; 200 is after the window.
  EXPECT_NEAR(figures.latency_ms_p50, 40, 0.2);
  EXPECT_NEAR(figures.gap_ms_max, 40, 1e-9);
}

TEST(StreamTally, TakesWaitsBetweenUnitsIntoTheGapButNotIntoTheLatency) {
  StreamTally tally({.begin_ns = 0, .end_ns = 100 * kMs});
  tally.Finished(1, 10 * kMs);
  tally.Finished(60 * kMs, 70 * kMs);
  tally.Finished(70 * kMs, 100 * kMs);
  const StreamFigures figures = tally.Figures();
  EXPECT_NEAR(figures.gap_ms_max, 60, 1e-9);
  EXPECT_NEAR(figures.latency_ms_max, 10, 1e-9);
}

TEST(StreamTally, SeesAPauseThatOutlastsTheWindow) {
  StreamTally tally({.begin_ns = 0, .end_ns = 100 * kMs});
  tally.Finished(1, 50 * kMs);
  tally.Finished(50 * kMs, 250 * kMs);
  EXPECT_NEAR(tally.Figures().gap_ms_max, 200, 1e-9);
}

TEST(StreamTally, KnowsAUnitLongerThanTheWindow) {
  StreamTally tally({.begin_ns = 100 * kMs, .end_ns = 200 * kMs});
  tally.Finished(50 * kMs, 250 * kMs);
  const StreamFigures figures = tally.Figures();
  EXPECT_EQ(figures.units, 0);
  EXPECT_NEAR(figures.rate_per_s, 5, 1e-9);
  EXPECT_NEAR(figures.latency_ms_p50, 200, 1e-9);
  EXPECT_NEAR(figures.latency_ms_max, 200, 1e-9);
}

TEST(StreamTally, LeavesOutWarmUpAndWhatComesAfter) {
  StreamTally tally({.begin_ns = 100 * kMs, .end_ns = 200 * kMs});
  tally.Finished(1, 90 * kMs);  // Long and before.
  EXPECT_FALSE(tally.Crossed());
  for (std::int64_t at = 90; at < 210; at += 10) tally.Finished(at * kMs, (at + 10) * kMs);
  tally.Finished(210 * kMs, 900 * kMs);  // Long and after.
  const StreamFigures figures = tally.Figures();
  EXPECT_NEAR(figures.rate_per_s, 100, 1e-9);
  EXPECT_NEAR(figures.gap_ms_max, 10, 1e-9);
  EXPECT_NEAR(figures.latency_ms_max, 10, 1e-9);
}

// The bias of a rate shows where units differ much in length and few fit the window.
TEST(StreamTally, HasNoBiasForIrregularUnits) {
  std::mt19937_64 random(1);
  std::exponential_distribution<double> length_ms(0.1);  // 10 ms on average.
  double sum = 0;
  constexpr int kRounds = 20'000;
  for (int round = 0; round < kRounds; ++round) {
    StreamTally tally({.begin_ns = 200 * kMs, .end_ns = 250 * kMs});
    std::int64_t at = 1;
    while (!tally.Crossed()) {
      const auto end = at + 1 + static_cast<std::int64_t>(length_ms(random) * 1e6);
      tally.Finished(at, end);
      at = end;
    }
    sum += tally.Figures().rate_per_s;
  }
  EXPECT_NEAR(sum / kRounds, 100, 1.5);
}

}  // namespace
}  // namespace sublet
