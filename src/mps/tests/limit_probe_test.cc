// What the probe's figures are taken to mean.

#include "mps/limit_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sublet {
namespace {

using ::testing::HasSubstr;

ProbeRequest Asked(Bytes limit, int percent) {
  ProbeRequest request;
  request.memory_limit = limit;
  request.sm_percent = percent;
  request.device_sm_count = 132;
  return request;
}

// As on an H200 with 10 GiB and 25 %.
ProbeReport Seen() {
  ProbeReport report;
  report.pid = 4711;
  report.was_client = true;
  report.sight.granted = 10_GiB - 144_MiB;
  report.sight.refused = true;
  report.sight.free = 10_GiB - 144_MiB;
  report.sight.total = 143155_MiB;
  report.sight.sm_count = 32;
  report.sight.mps = true;
  return report;
}

std::string Verdict(const ProbeRequest& request, const ProbeReport& report) {
  const Status judged = JudgeProbe(request, report);
  if (judged) return "";
  EXPECT_EQ(judged.error().code, ErrorCode::kConflict);
  return judged.error().message;
}

TEST(LimitProbe, BelievesALimitThatWasMet) {
  EXPECT_EQ(Verdict(Asked(10_GiB, 25), Seen()), "");
  ProbeReport whole = Seen();
  whole.sight.granted = 10_GiB;
  EXPECT_EQ(Verdict(Asked(10_GiB, 25), whole), "") << "a driver that doesn't count the context";
}

TEST(LimitProbe, SeesAMemoryLimitThatDoesNotHold) {
  ProbeReport report = Seen();
  report.sight.granted = 10_GiB + kProbeBeyondLimit;
  report.sight.refused = false;
  EXPECT_THAT(Verdict(Asked(10_GiB, 25), report),
              HasSubstr("the memory limit does not hold: limit 10240 MiB, granted 10304 MiB"));
  report.sight.granted = 10_GiB + 4_MiB;
  report.sight.refused = true;
  EXPECT_THAT(Verdict(Asked(10_GiB, 25), report), HasSubstr("does not hold"));
  report.sight.granted = 8_GiB;
  EXPECT_THAT(Verdict(Asked(10_GiB, 25), report), HasSubstr("less memory is granted"));
}

TEST(LimitProbe, SeesACapThatDoesNotHold) {
  ProbeReport report = Seen();
  for (const int sms : {32, 33, 34}) {
    report.sight.sm_count = sms;
    EXPECT_EQ(Verdict(Asked(10_GiB, 25), report), "") << sms;
  }
  report.sight.sm_count = 36;
  EXPECT_THAT(Verdict(Asked(10_GiB, 25), report),
              HasSubstr("25 % of 132 SMs are 34, the probe has 36"));
  report.sight.sm_count = 8;
  EXPECT_EQ(Verdict(Asked(10_GiB, 1), report), "") << "fewer are never handed out";
  ProbeRequest unknown = Asked(10_GiB, 25);
  unknown.device_sm_count = 0;
  report.sight.sm_count = 132;
  EXPECT_EQ(Verdict(unknown, report), "") << "nothing to compare it with";
}

TEST(LimitProbe, SeesAClientThatIsNone) {
  ProbeReport report = Seen();
  report.was_client = false;
  EXPECT_THAT(Verdict(Asked(10_GiB, 25), report), HasSubstr("without MPS"));
  report = Seen();
  report.sight.mps = false;
  EXPECT_THAT(Verdict(Asked(10_GiB, 25), report), HasSubstr("without MPS"));
  report.sight.mps.reset();
  EXPECT_EQ(Verdict(Asked(10_GiB, 25), report), "") << "a driver that can't say";
}

TEST(LimitProbe, ReadsItsOwnLine) {
  const ProbeSight sight = Seen().sight;
  const auto read = ParseProbeSight(ProbeSightToJson(sight).dump());
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->granted, sight.granted);
  EXPECT_EQ(read->free, sight.free);
  EXPECT_EQ(read->sm_count, 32);
  EXPECT_EQ(read->mps, true);
  for (const char* bad :
       {"", "{}", "sublet: making a context: out of memory", "[1]", R"({"granted_bytes":"x"})"}) {
    EXPECT_FALSE(ParseProbeSight(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace sublet
