#include "model/share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sublet {
namespace {

using ::testing::HasSubstr;

ShareRequest FullRequest() {
  return {.name = "python3",
          .tenant = "search",
          .mode = SharingMode::kMig,
          .memory = 10_GiB,
          .sm_percent = 20,
          .gpu = "GPU-1",
          .profile = "1g.10gb"};
}

Share FullShare() {
  return {.id = "s17",
          .name = "chat/0",
          .tenant = "search",
          .mode = SharingMode::kMps,
          .gpu_uuid = "GPU-1",
          .mig_uuid = "MIG-1",
          .memory = 10_GiB + 150_MiB,
          .memory_limit = 10_GiB,
          .sm_percent = 20,
          .domain = "gpu0-search",
          .enforcement = {{"memory", "MPS pinned device memory limit", true},
                          {"fault", "not enforced", false}},
          .reason = "the only GPU with room"};
}

Domain FullDomain() {
  return {.name = "gpu0-search",
          .tenant = "search",
          .gpu_uuid = "GPU-1",
          .mig_uuid = "MIG-1",
          .uid = 20001,
          .memory_limit = 10_GiB,
          .sm_percent = 20,
          .planned = true};
}

std::string Wrong(std::string_view request) {
  const Result<ShareRequest> read = ParseShareRequest(request, "request");
  return read ? "" : read.error().message;
}

TEST(ShareRequest, ReadsBackWhatItWrote) {
  const std::string text = ShareRequestToJson(FullRequest()).dump();
  const Result<ShareRequest> read = ParseShareRequest(text, "request");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(ShareRequestToJson(*read).dump(), text);
  EXPECT_EQ(read->name, "python3");
  EXPECT_EQ(read->tenant, "search");
  EXPECT_EQ(read->mode, SharingMode::kMig);
  EXPECT_EQ(read->memory, 10_GiB);
  EXPECT_EQ(read->sm_percent, 20);
  EXPECT_EQ(read->gpu, "GPU-1");
  EXPECT_EQ(read->profile, "1g.10gb");
}

TEST(ShareRequest, OfNothingAsksForAWholeGpu) {
  EXPECT_EQ(ShareRequestToJson({}).dump(), "{}");
  const Result<ShareRequest> read = ParseShareRequest("{}", "request");
  ASSERT_TRUE(read);
  EXPECT_FALSE(read->mode || read->memory || read->sm_percent);
}

TEST(ShareRequest, SaysWhatIsWrong) {
  EXPECT_THAT(Wrong(R"({"memory_mib": 0})"), HasSubstr("a limit of 0 MiB"));
  EXPECT_THAT(Wrong(R"({"sm_percent": 101})"), HasSubstr("request:1:16:"));
  EXPECT_NE(Wrong(R"({"sm_percent": 0})"), "");
  EXPECT_THAT(Wrong(R"({"mode": "streams"})"), HasSubstr("inside one process"));
  EXPECT_THAT(Wrong(R"({"mode": "mps", "profile": "1g.10gb"})"),
              HasSubstr("a profile is for mode mig: '1g.10gb'"));
  EXPECT_THAT(Wrong(R"({"profile": "1g.10gb"})"), HasSubstr("a profile is for mode mig"));
  const Result<ShareRequest> mistyped = ParseShareRequest(R"({"tennant": "a"})", "request");
  ASSERT_FALSE(mistyped);
  EXPECT_EQ(mistyped.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(mistyped.error().hint, HasSubstr("tenant"));
}

TEST(Share, ReadsBackWhatItWrote) {
  const std::string text = ShareToJson(FullShare()).dump();
  const Result<Share> read = ParseShare(text, "share");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(ShareToJson(*read).dump(), text);
  EXPECT_EQ(read->memory, 10_GiB + 150_MiB);
  EXPECT_EQ(read->memory_limit, 10_GiB);
  EXPECT_EQ(read->enforcement.size(), 2u);
  EXPECT_EQ(read->device_uuid(), "MIG-1");
}

TEST(Share, LeavesOutWhatItHasNot) {
  Share share;
  share.id = "s1";
  share.tenant = "default";
  share.gpu_uuid = "GPU-1";
  const auto json = ShareToJson(share);
  for (const char* key : {"mig_uuid", "memory_limit_mib", "sm_percent", "domain", "reason"}) {
    EXPECT_FALSE(json.contains(key)) << key;
  }
  const Result<Share> read = ParseShare(json.dump(), "share");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->device_uuid(), "GPU-1");
}

TEST(Share, IsRefusedWithoutWhatItMustHave) {
  const auto full = ShareToJson(FullShare());
  for (const char* key :
       {"id", "name", "tenant", "mode", "gpu_uuid", "memory_mib", "enforcement", "domain"}) {
    auto less = full;
    less.erase(key);
    EXPECT_FALSE(ParseShare(less.dump(), "share")) << key;
  }
  for (const auto& [key, value] : std::vector<std::pair<std::string, nlohmann::ordered_json>>{
           {"tenant", ""}, {"mode", "turns"}, {"mode", "exclusive"}, {"colour", 1}}) {
    auto wrong = full;
    wrong[key] = value;
    EXPECT_FALSE(ParseShare(wrong.dump(), "share")) << key;
  }
}

TEST(Domain, ReadsBackWhatItWrote) {
  const Result<Domain> read = ParseDomain(DomainToJson(FullDomain()).dump(), "domain");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(*read, FullDomain());
  Domain bare;
  bare.name = "gpu1";
  bare.gpu_uuid = "GPU-2";
  const Result<Domain> again = ParseDomain(DomainToJson(bare).dump(), "domain");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, bare);
}

}  // namespace
}  // namespace sublet
