#include "exe/run_request.h"

#include <gmock/gmock.h>

namespace sublet {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

TEST(RunRequest, ReadsWhatWasTyped) {
  const Result<ShareRequest> request = RequestFrom({.memory = "20GiB",
                                                    .sm = "25%",
                                                    .mode = "mps",
                                                    .tenant = "search",
                                                    .gpu = "1",
                                                    .command = {"/usr/bin/python3", "x.py"}});
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->name, "python3");
  EXPECT_EQ(request->memory, 20_GiB);
  EXPECT_EQ(request->sm_percent, 25);
  EXPECT_EQ(request->mode, SharingMode::kMps);
  EXPECT_EQ(request->tenant, "search");
  EXPECT_EQ(request->gpu, "1");
}

TEST(RunRequest, WhatWasNotTypedIsLeftToTheNode) {
  const Result<ShareRequest> request = RequestFrom({.mode = "auto", .command = {"true"}});
  ASSERT_TRUE(request);
  EXPECT_FALSE(request->memory);
  EXPECT_FALSE(request->sm_percent);
  EXPECT_FALSE(request->mode);
  EXPECT_THAT(request->tenant, IsEmpty());
}

TEST(RunRequest, APercentageNeedsNoSign) {
  EXPECT_EQ(RequestFrom({.sm = "25"})->sm_percent, 25);
  EXPECT_EQ(RequestFrom({.sm = "100%"})->sm_percent, 100);
}

TEST(RunRequest, RefusesWhatIsNoPercentage) {
  for (const char* text : {"0", "101", "-5", "%", "25 %", "25%%", "2.5", "a", "99999999999"}) {
    const Result<ShareRequest> request = RequestFrom({.sm = text});
    ASSERT_FALSE(request) << text;
    EXPECT_EQ(request.error().code, ErrorCode::kUsage);
    EXPECT_THAT(request.error().message, HasSubstr("--sm"));
  }
}

TEST(RunRequest, RefusesWhatIsNoMemory) {
  for (const char* text : {"0", "20 apples", "-1GiB", "GiB"}) {
    const Result<ShareRequest> request = RequestFrom({.memory = text});
    ASSERT_FALSE(request) << text;
    EXPECT_EQ(request.error().code, ErrorCode::kUsage);
    EXPECT_THAT(request.error().message, HasSubstr("--gpu-memory"));
  }
}

TEST(RunRequest, RefusesModesThatAProcessCannotGet) {
  for (const char* text : {"streams", "MPS", "turbo"}) {
    const Result<ShareRequest> request = RequestFrom({.mode = text});
    ASSERT_FALSE(request) << text;
    EXPECT_THAT(request.error().message, HasSubstr("--mode"));
  }
}

TEST(RunRequest, AMigProfileImpliesItsMode) {
  EXPECT_EQ(RequestFrom({.profile = "1g.10gb"})->mode, SharingMode::kMig);
  EXPECT_EQ(RequestFrom({.mode = "mig", .profile = "1g.10gb"})->mode, SharingMode::kMig);
  EXPECT_EQ(RequestFrom({.mode = "mps", .profile = "1g.10gb"}).error().code, ErrorCode::kUsage);
}

TEST(RunRequest, SaysWhatNobodyEnforces) {
  Share share;
  share.name = "sh";
  share.mode = SharingMode::kTimeSlicing;
  share.enforcement = {
      {"memory", "not enforced", false}, {"fault", "process", true}, {"sm", "not enforced", false}};
  EXPECT_EQ(NotEnforcedText(share), "not enforced for sh (time-slicing): memory, sm");
  share.enforcement = {{"memory", "MPS pinned device memory limit", true}};
  EXPECT_THAT(NotEnforcedText(share), IsEmpty());
}

}  // namespace
}  // namespace sublet
