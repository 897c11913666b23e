#include "card_sharing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet::sim {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::Pointwise;

constexpr CardCapacity kCard{.sms = 100, .bytes_per_ns = 1000};

// A kernel that alone would occupy `sms` for 10 ns.
RunningKernel Kernel(int client, double sms, double cap = 100, double bytes_per_ns = 0) {
  return {client, cap, {.full_ns = 10, .sm_ns = sms * 10, .bytes = bytes_per_ns * 10}};
}

std::vector<double> Speeds(const std::vector<RunningKernel>& kernels) {
  SharedSpeeds out;
  ShareCard(kernels, kCard, out);
  return out.speeds;
}

TEST(CardSharing, WhatFitsRunsAtFullSpeed) {
  EXPECT_THAT(Speeds({Kernel(0, 40), Kernel(1, 60)}), ElementsAre(0.1, 0.1));
  EXPECT_THAT(Speeds({}), ElementsAre());
}

TEST(CardSharing, ASmallClientIsNotSlowedByALargeOne) {
  EXPECT_THAT(Speeds({Kernel(0, 20), Kernel(1, 100)}), Pointwise(DoubleNear(1e-9), {0.1, 0.08}));
}

TEST(CardSharing, ManyKernelsOfOneClientCountAsOne) {
  EXPECT_THAT(Speeds({Kernel(0, 100), Kernel(0, 100), Kernel(1, 100)}),
              Pointwise(DoubleNear(1e-9), {0.025, 0.025, 0.05}));
}

TEST(CardSharing, ACapHoldsAlsoWithNobodyElseThere) {
  EXPECT_THAT(Speeds({Kernel(0, 100, 25)}), ElementsAre(0.025));
}

TEST(CardSharing, BandwidthSlowsOnlyWhoNeedsIt) {
  EXPECT_THAT(Speeds({Kernel(0, 10, 100, 1000), Kernel(1, 10, 100, 1000), Kernel(2, 10)}),
              Pointwise(DoubleNear(1e-9), {0.05, 0.05, 0.1}));
}

TEST(CardSharing, ACrowdCostsThoseThatSpreadOut) {
  RunningKernel wide = Kernel(0, 100);
  wide.work.crowd = 1;
  RunningKernel other = wide;
  other.client = 1;
  EXPECT_THAT(Speeds({wide}), ElementsAre(0.1)) << "nobody else is there";
  const double disturbed = Speeds({wide, other}).front();
  EXPECT_NEAR(disturbed, 0.05 / 1.5, 1e-9);
  wide.sm_cap = other.sm_cap = 50;
  EXPECT_NEAR(Speeds({wide, other}).front(), 0.05 / 1.125, 1e-9) << "on half of the SMs";
}

TEST(CardSharing, ReportsWhatIsUsed) {
  SharedSpeeds out;
  ShareCard({Kernel(0, 100, 25, 100), Kernel(1, 30)}, kCard, out);
  EXPECT_NEAR(out.sms_busy, 55, 1e-9);
  EXPECT_NEAR(out.bytes_per_ns, 25, 1e-9);
}

TEST(MaxMinFair, GivesEachItsEvenPartAtLeast) {
  std::vector<double> out;
  MaxMinFair({10, 50, 80}, 90, out);
  EXPECT_THAT(out, ElementsAre(10, 40, 40));
  MaxMinFair({10, 20}, 90, out);
  EXPECT_THAT(out, ElementsAre(10, 20));
}

}  // namespace
}  // namespace sublet::sim
