#include "replay/replay_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace sublet {
namespace {

using ::testing::HasSubstr;

ReplayReport SampleReport() {
  ReplayReport report{
      .trace = {.name = "day.jsonl",
                .requests = 1200,
                .prompt_tokens = 12'000'000,
                .output_tokens = 120'000,
                .seconds = 3600},
      .options = {.fleet = {{"gpu0/0", "gpu0", 60, 4800, 960}, {"gpu0/1", "gpu0", 40, 3200, 640}}},
      .ceiling = 0.4};
  report.policies.push_back({.policy = "cost",
                             .requests = 1200,
                             .served = 1200,
                             .hit_ratio = 0.3,
                             .ttft_ms_p90 = 1200,
                             .imbalance = 1.1});
  report.policies.push_back({.policy = "round-robin",
                             .requests = 1200,
                             .served = 1197,
                             .rejected = 3,
                             .hit_ratio = 0.1,
                             .ttft_ms_p90 = 4800,
                             .imbalance = 1.7});
  report.policies[0].replicas = {{"gpu0/0", 800, 1000, 250, 4800, 1.0}};
  return report;
}

TEST(ReplayReport, HasWhatScriptsReadInItsJson) {
  const auto json = ReplayToJson(SampleReport());
  EXPECT_EQ(json["version"], "sublet.replay/v1");
  EXPECT_EQ(json["ceiling"], 0.4);
  ASSERT_EQ(json["policies"].size(), 2u);
  EXPECT_EQ(json["policies"][0]["policy"], "cost");
  EXPECT_EQ(json["policies"][0]["hit_ratio"], 0.3);
  EXPECT_EQ(json["policies"][0]["ttft_ms_p90"], 1200.0);
  EXPECT_EQ(json["policies"][1]["rejected"], 3);
  EXPECT_EQ(json["policies"][0]["replicas"][0]["hit_ratio"], 0.25);
  EXPECT_EQ(json["fleet"][1]["kv_blocks"], 640);
  // Time on this machine is left out where it wasn't measured: the rest is the same everywhere.
  EXPECT_FALSE(json["policies"][0].contains("decisions_per_second"));
}

TEST(ReplayReport, ShowsPoliciesSideBySide) {
  const std::string text = ReplayText(SampleReport(), Painter(false), 120);
  EXPECT_THAT(text, HasSubstr("1,200 requests over 60 min, 10,000 tokens in and 100 out each"));
  EXPECT_THAT(text, HasSubstr("2 replicas on 1 GPUs, 640 to 960 blocks of 512 tokens each"));
  EXPECT_THAT(text, HasSubstr("30.0 %"));
  EXPECT_THAT(text, HasSubstr("4.80 s"));
  EXPECT_THAT(text, HasSubstr("Bars of blocks found end at 40.0 %"));
}

TEST(ReplayReport, FitsTheTerminal) {
  for (const int columns : {80, 100, 120, 160}) {
    const std::string text = ReplayText(SampleReport(), Painter(false), columns);
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = text.find('\n', begin);
      EXPECT_LE(ColumnsOf(text.substr(begin, end - begin)), columns);
      begin = end + 1;
    }
  }
}

TEST(ReplayReport, WritesTimesAsPeopleSayThem) {
  EXPECT_EQ(TimeText(830.4), "830 ms");
  EXPECT_EQ(TimeText(4170), "4.17 s");
  EXPECT_EQ(TimeText(123'400), "123 s");
  EXPECT_EQ(TimeText(3'600'000), "60 min");
}

TEST(ReplaySummary, CountsTheTrace) {
  TraceBuilder builder("t", std::nullopt);
  builder.Piece(1, 64);
  const RequestIndex first = builder.Add({.at_ns = 7, .output_tokens = 4});
  builder.Piece(1, 36);
  builder.Add({.at_ns = 5'000'000'000, .output_tokens = 6});
  const auto open = builder.Finish();
  ASSERT_TRUE(open);
  const TraceSummary summary = SummaryOf(*open);
  EXPECT_EQ(summary.requests, 2);
  EXPECT_EQ(summary.prompt_tokens, 100);
  EXPECT_EQ(summary.output_tokens, 10);
  EXPECT_NEAR(summary.seconds, 5, 1e-6);
  EXPECT_FALSE(summary.closed_loop);
  EXPECT_EQ(first, 0u);
}

}  // namespace
}  // namespace sublet
