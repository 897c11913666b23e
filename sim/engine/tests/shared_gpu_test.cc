#include "engine/shared_gpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

constexpr std::int64_t kMs = 1'000'000;

// How much slower each of `count` tenants' equal steps is than one alone.
double Slowdown(int count, const EngineShare& share, double compute_part) {
  SharedGpu gpu;
  for (int i = 0; i < count; ++i) {
    const auto tenant = gpu.Enter(share);
    gpu.Begin(tenant, compute_part * 10.0 * kMs, (1 - compute_part) * 10.0 * kMs, 0);
  }
  return static_cast<double>(*gpu.EndOf(0)) / (10.0 * kMs);
}

// The measured figures that the header names.
TEST(SharedGpu, SlowsAsAnH200UnderMpsDoes) {
  EXPECT_NEAR(Slowdown(2, {}, 1), 1.83, 0.05);
  EXPECT_NEAR(Slowdown(4, {}, 1), 3.67, 0.05);
  EXPECT_NEAR(Slowdown(2, {.bandwidth_percent = 100}, 0), 1.80, 0.05);
  EXPECT_NEAR(Slowdown(4, {.bandwidth_percent = 100}, 0), 3.63, 0.05);
  EXPECT_DOUBLE_EQ(Slowdown(4, {.sm_percent = 25}, 1), 1);
}

TEST(SharedGpu, LetsComputingAndMemoryRunSideBySide) {
  SharedGpu gpu;
  const auto prefill = gpu.Enter({});
  const auto decode = gpu.Enter({.bandwidth_percent = 100});
  gpu.Begin(prefill, 10.0 * kMs, 0, 0);
  gpu.Begin(decode, 0, 10.0 * kMs, 0);
  EXPECT_EQ(gpu.EndOf(prefill), 10 * kMs);
  EXPECT_EQ(gpu.EndOf(decode), 10 * kMs);
}

// Two steps of 10 ms; the second comes when the first has done 4. Both then run 1.84 times slower
// until the first is done, and the second goes on alone.
TEST(SharedGpu, StretchesWhatIsLeftWhenAnotherComesOrGoes) {
  SharedGpu gpu;
  const auto a = gpu.Enter({});
  const auto b = gpu.Enter({});
  gpu.Begin(a, 10.0 * kMs, 0, 0);
  EXPECT_EQ(gpu.EndOf(a), 10 * kMs);
  gpu.Begin(b, 10.0 * kMs, 0, 4 * kMs);
  const double stretch = 2 * SharedGpu::kComputeAlone;
  const double end_a = 4 + 6 * stretch;
  EXPECT_NEAR(static_cast<double>(*gpu.EndOf(a)) / kMs, end_a, 1e-5);
  EXPECT_NEAR(static_cast<double>(*gpu.EndOf(b)) / kMs, 4 + 10 * stretch, 1e-5);
  gpu.End(a, *gpu.EndOf(a));
  EXPECT_EQ(gpu.EndOf(a), std::nullopt);
  EXPECT_NEAR(static_cast<double>(*gpu.EndOf(b)) / kMs, end_a + 4, 1e-5);
}

TEST(SharedGpu, EndsTogetherWhatBeganTogether) {
  SharedGpu gpu;
  const auto a = gpu.Enter({});
  const auto b = gpu.Enter({});
  gpu.Begin(a, 7.0 * kMs, 1.0 * kMs, 3);
  gpu.Begin(b, 7.0 * kMs, 1.0 * kMs, 3);
  const std::int64_t end_ns = *gpu.EndOf(a);
  gpu.End(a, end_ns);
  EXPECT_EQ(gpu.EndOf(b), end_ns);
}

TEST(SharedGpu, GivesTheSeatOfOneWhoLeftToTheNext) {
  SharedGpu gpu;
  const auto a = gpu.Enter({});
  const auto b = gpu.Enter({});
  gpu.Begin(a, 10.0 * kMs, 0, 0);
  gpu.Begin(b, 10.0 * kMs, 0, 0);
  gpu.Leave(a);  // With a step under way: what it took is free.
  EXPECT_EQ(gpu.EndOf(b), 10 * kMs);
  EXPECT_EQ(gpu.Enter({}), a);
}

}  // namespace
}  // namespace sublet
