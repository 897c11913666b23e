// The simulated H200 against the figures measured on a real one (driver 580.159.04): kernels a
// second in a closed loop, of processes that work at the same time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "cuda_crowd.h"

namespace sublet::sim {
namespace {

std::vector<Member> Members(int count, const Member& member) {
  return std::vector<Member>(static_cast<std::size_t>(count), member);
}

double Sum(const std::vector<Figures*>& figures) {
  return std::accumulate(figures.begin(), figures.end(), 0.0,
                         [](double sum, const Figures* one) { return sum + one->rate; });
}

constexpr double kWithin = 0.05;
void ExpectNear(double value, double measured) {
  EXPECT_NEAR(value / measured, 1, kWithin) << value << " instead of " << measured;
}

TEST(CudaRates, AloneAsMeasured) {
  CudaCrowd crowd("h200");
  ExpectNear(Sum(crowd.Run({{.work = "small"}})), 10013);
  ExpectNear(Sum(crowd.Run({{.work = "big"}})), 2391);
  ExpectNear(Sum(crowd.Run({{.work = "mem"}})), 6823);
  ExpectNear(Sum(crowd.Run({{.work = "transformer"}})), 4244);
}

TEST(CudaRates, TwoStreamsOfOneProcessAsMeasured) {
  CudaCrowd crowd("h200");
  ExpectNear(Sum(crowd.Run({{.work = "small", .streams = 2}})), 19494);
  ExpectNear(Sum(crowd.Run({{.work = "big", .streams = 2}})), 2489);
  ExpectNear(Sum(crowd.Run({{.work = "mem", .streams = 2}})), 7155);
}

TEST(CudaRates, TimeSlicedProcessesAsMeasured) {
  CudaCrowd crowd("h200");
  struct Row {
    const char* work;
    int processes;
    double each;
  };
  for (const Row& row : {Row{"small", 2, 2197}, Row{"small", 4, 1121}, Row{"big", 2, 921},
                         Row{"big", 4, 459}, Row{"mem", 2, 1805}, Row{"mem", 4, 905}}) {
    SCOPED_TRACE(row.work);
    for (const Figures* one : crowd.Run(Members(row.processes, {.work = row.work}))) {
      ExpectNear(one->rate, row.each);
    }
  }
}

TEST(CudaRates, TimeSlicedReplicasAsMeasured) {
  CudaCrowd crowd("h200");
  ExpectNear(Sum(crowd.Run(Members(4, {.work = "transformer"}))), 2709);
  ExpectNear(Sum(crowd.Run(Members(16, {.work = "transformer"}))), 2709);
}

TEST(CudaRates, AreTheSameEachTime) {
  const auto once = [] {
    CudaCrowd crowd("h200");
    std::vector<long> units;
    for (const Figures* one : crowd.Run({{.work = "big"}, {.work = "mem"}, {.work = "small"}})) {
      units.push_back(one->units);
    }
    return units;
  };
  EXPECT_EQ(once(), once());
}

}  // namespace
}  // namespace sublet::sim
