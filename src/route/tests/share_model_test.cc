#include "route/share_model.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace sublet {
namespace {

CoTenancy Of(const std::vector<TenantLoad>& tenants) {
  CoTenancy gpu;
  gpu.Build(tenants);
  return gpu;
}

TenantLoad Working(double ms, double sm_part = 1) {
  return {.sm_part = sm_part, .prefill_ms = ms};
}

TEST(ShareModel, AloneNothingIsSlower) {
  const CoTenancy gpu = Of({Working(100), {}});
  EXPECT_EQ(gpu.DelayOf(0, 50).own_ms, 0);
  EXPECT_EQ(gpu.DelayOf(0, 50).others_ms, 0);
}

TEST(ShareModel, CapsThatFitTheGpuDontDisturbEachOther) {
  const CoTenancy gpu = Of({Working(100, 0.6), Working(100, 0.4)});
  EXPECT_EQ(gpu.DelayOf(0, 500).own_ms, 0);
  EXPECT_EQ(gpu.DelayOf(1, 500).others_ms, 0);
}

TEST(ShareModel, TwoWithoutCapsSlowEachOtherWhileBothWork) {
  const double slower = 2 * kComputeAlone - 1;
  const CoTenancy gpu = Of({{}, Working(100)});
  const CoTenantDelay delay = gpu.DelayOf(0, 300);
  // The other has 100 ms to do: so long both are slower, and then nobody is.
  EXPECT_NEAR(delay.own_ms, 100 * slower, 1e-9);
  EXPECT_NEAR(delay.others_ms, 100 * slower, 1e-9);
}

TEST(ShareModel, WhoIsDoneBeforeTheOthersDelaysThemNoLonger) {
  const double slower = 2 * kComputeAlone - 1;
  const CoTenantDelay delay = Of({{}, Working(1000)}).DelayOf(0, 50);
  EXPECT_NEAR(delay.own_ms, 50 * slower, 1e-9);
  EXPECT_NEAR(delay.others_ms, 50 * slower, 1e-9);
}

TEST(ShareModel, WhatItsReplicaHasToDoAnywayIsNotChargedAgainToTheOthers) {
  // Both have 100 ms: they are through at the same time, and what is added meets nobody.
  const CoTenantDelay delay = Of({Working(100), Working(100)}).DelayOf(0, 50);
  EXPECT_NEAR(delay.own_ms, 100 * (2 * kComputeAlone - 1), 1e-9);
  EXPECT_EQ(delay.others_ms, 0);
}

TEST(ShareModel, DecodingNeedsBandwidthThatOthersDecodingTakes) {
  const TenantLoad decoding{.decoding = 8};
  EXPECT_EQ(Of({decoding, {}}).DecodeSlowdown(0), 1);
  EXPECT_NEAR(Of({decoding, decoding}).DecodeSlowdown(0), 2 * kBandwidthAlone, 1e-12);
  EXPECT_NEAR(Of({decoding, decoding, {}}).DecodeSlowdown(2), 3 * kBandwidthAlone, 1e-12);
}

TEST(ShareModel, PrefillSlowdownCountsOneselfAsBusy) {
  EXPECT_NEAR(Of({{}, Working(10)}).PrefillSlowdown(0), 2 * kComputeAlone, 1e-12);
  EXPECT_NEAR(Of({{}, Working(10)}).PrefillSlowdown(1), 1, 1e-12);
}

// The same by small steps: everybody who has work gets on, slower by what they ask for together.
double TimeBySteps(std::vector<TenantLoad> tenants, std::size_t of, double added_ms) {
  tenants[of].prefill_ms += added_ms;
  constexpr double kStepMs = 0.01;
  double time_ms = 0;
  while (tenants[of].prefill_ms > 1e-9) {
    double demand = 0;
    for (const TenantLoad& tenant : tenants) {
      if (tenant.prefill_ms > 1e-9) demand += tenant.sm_part * kComputeAlone;
    }
    for (TenantLoad& tenant : tenants) {
      tenant.prefill_ms = std::max(0.0, tenant.prefill_ms - kStepMs / std::max(1.0, demand));
    }
    time_ms += kStepMs;
  }
  return time_ms;
}

std::vector<TenantLoad> AnyTenants() {
  return *rc::gen::container<std::vector<TenantLoad>>(*rc::gen::inRange(1, 6), rc::gen::exec([] {
    return TenantLoad{.sm_part = *rc::gen::inRange(1, 21) / 20.0,
                      .prefill_ms = *rc::gen::inRange(0, 60) * 1.0,
                      .decoding = *rc::gen::inRange(0, 3)};
  }));
}

RC_GTEST_PROP(ShareModelProperty, TakesAsLongAsBySmallSteps, ()) {
  const std::vector<TenantLoad> tenants = AnyTenants();
  const auto of = *rc::gen::inRange<std::size_t>(0, tenants.size());
  const double added_ms = *rc::gen::inRange(1, 80);
  const double alone_ms = tenants[of].prefill_ms + added_ms;
  const double own_ms = Of(tenants).DelayOf(of, added_ms).own_ms;
  RC_ASSERT(std::abs(alone_ms + own_ms - TimeBySteps(tenants, of, added_ms)) < 0.3);
}

RC_GTEST_PROP(ShareModelProperty, ChargesWhatTheOthersLose, ()) {
  std::vector<TenantLoad> tenants = AnyTenants();
  const auto of = *rc::gen::inRange<std::size_t>(0, tenants.size());
  const double added_ms = *rc::gen::inRange(1, 80);
  double lost_ms = 0;
  for (std::size_t other = 0; other < tenants.size(); ++other) {
    if (other == of) continue;
    const double before_ms = TimeBySteps(tenants, other, 0);
    std::vector<TenantLoad> after = tenants;
    after[of].prefill_ms += added_ms;
    lost_ms += TimeBySteps(after, other, 0) - before_ms;
  }
  RC_ASSERT(std::abs(Of(tenants).DelayOf(of, added_ms).others_ms - lost_ms) < 1.5);
}

RC_GTEST_PROP(ShareModelProperty, MoreWorkNeverDelaysLess, ()) {
  std::vector<TenantLoad> tenants = AnyTenants();
  const auto of = *rc::gen::inRange<std::size_t>(0, tenants.size());
  const double added_ms = *rc::gen::inRange(1, 80);
  const CoTenantDelay before = Of(tenants).DelayOf(of, added_ms);
  const CoTenantDelay longer = Of(tenants).DelayOf(of, added_ms + *rc::gen::inRange(1, 40));
  RC_ASSERT(longer.own_ms >= before.own_ms - 1e-9);
  RC_ASSERT(longer.others_ms >= before.others_ms - 1e-9);
  const auto other = *rc::gen::inRange<std::size_t>(0, tenants.size());
  tenants[other].prefill_ms += *rc::gen::inRange(1, 40);
  RC_ASSERT(Of(tenants).DelayOf(of, added_ms).own_ms >= before.own_ms - 1e-9);
}

}  // namespace
}  // namespace sublet
