#include "node/xid_rules.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/files.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

XidVerdict VerdictOf(int xid, const XidOverrides& overrides = {}) {
  return JudgeXid(xid, overrides).verdict;
}

TEST(XidRules, TheCatalogueIsInOrderAndSaysWhy) {
  int last = 0;
  for (const XidRule& rule : XidCatalogue()) {
    EXPECT_GT(rule.first, last);
    EXPECT_GE(rule.last, rule.first);
    EXPECT_THAT(rule.name, Not(IsEmpty())) << rule.first;
    EXPECT_THAT(rule.why, Not(IsEmpty())) << rule.first;
    last = rule.last;
  }
}

TEST(XidRules, TheDocumentHasThemAll) {
  const auto document = ReadFile(SUBLET_SOURCE_DIR "/docs/operating/health.md", 1 << 20);
  ASSERT_TRUE(document) << document.error().message;
  for (const XidVerdict verdict :
       {XidVerdict::kTenant, XidVerdict::kIgnore, XidVerdict::kGpu, XidVerdict::kGpuReset}) {
    std::string numbers;
    for (const XidRule& rule : XidCatalogue()) {
      if (rule.verdict != verdict) continue;
      numbers += numbers.empty() ? "" : ", ";
      numbers += std::to_string(rule.first);
      if (rule.last != rule.first) numbers += fmt::format("-{}", rule.last);
    }
    EXPECT_THAT(*document,
                HasSubstr(fmt::format("| `{}` | {} |", XidVerdictName(verdict), numbers)));
  }
}

TEST(XidRules, AProgramsOwnErrorsAreTheTenants) {
  // A null pointer, an illegal instruction, a misaligned address: 31, 13 and 43 on an H200.
  for (const int xid : {13, 31, 32, 43, 69, 94}) {
    EXPECT_EQ(VerdictOf(xid), XidVerdict::kTenant) << xid;
  }
}

TEST(XidRules, BrokenHardwareNeedsAReset) {
  for (const int xid : {46, 48, 62, 64, 79, 95, 119, 120, 140, 143}) {
    EXPECT_EQ(VerdictOf(xid), XidVerdict::kGpuReset) << xid;
  }
}

TEST(XidRules, WhatATenantCanCauseAtWillNeverDemandsAReset) {
  EXPECT_EQ(VerdictOf(109), XidVerdict::kGpu);
}

TEST(XidRules, SequelsAndInformationAreIgnored) {
  for (const int xid : {45, 63, 92, 121}) EXPECT_EQ(VerdictOf(xid), XidVerdict::kIgnore) << xid;
}

TEST(XidRules, RangesHoldToTheirEnds) {
  EXPECT_EQ(JudgeXid(98, {}).name, "video decoder exception");
  EXPECT_EQ(JudgeXid(99, {}).name, "JPEG engine exception");
  EXPECT_EQ(JudgeXid(105, {}).name, "JPEG engine exception");
}

TEST(XidRules, AnUnknownNumberKeepsWorkAwayForAWhile) {
  const XidJudgement judged = JudgeXid(999, {});
  EXPECT_EQ(judged.verdict, XidVerdict::kGpu);
  EXPECT_EQ(judged.Text(), "XID 999 (unknown)");
  EXPECT_FALSE(judged.overridden);
}

TEST(XidRules, AnOverrideWinsAndKeepsTheName) {
  const XidJudgement judged = JudgeXid(31, {{31, XidVerdict::kGpuReset}});
  EXPECT_EQ(judged.verdict, XidVerdict::kGpuReset);
  EXPECT_EQ(judged.Text(), "XID 31 (memory page fault)");
  EXPECT_TRUE(judged.overridden);
}

TEST(XidRules, ReadsOverrides) {
  const auto overrides = ParseXidOverrides(" 31 = gpu, 119=gpu-reset,500-502=ignore, 31=tenant ");
  ASSERT_TRUE(overrides) << overrides.error().message;
  EXPECT_THAT(*overrides, SizeIs(5));
  EXPECT_EQ(overrides->at(31), XidVerdict::kTenant);
  EXPECT_EQ(overrides->at(119), XidVerdict::kGpuReset);
  EXPECT_EQ(overrides->at(502), XidVerdict::kIgnore);
  EXPECT_THAT(*ParseXidOverrides(" "), IsEmpty());
}

TEST(XidRules, RefusesWhatIsNoOverride) {
  for (const char* text : {"31", "31=", "=gpu", "31=broken", "0=gpu", "1024=gpu", "9-3=gpu",
                           "3-=gpu", "31=gpu,,32=gpu", "31=gpu,", "x=gpu", "-3=gpu"}) {
    const auto overrides = ParseXidOverrides(text);
    ASSERT_FALSE(overrides) << text;
    EXPECT_EQ(overrides.error().code, ErrorCode::kInvalid);
    EXPECT_THAT(overrides.error().hint, HasSubstr("gpu-reset"));
  }
}

}  // namespace
}  // namespace sublet
