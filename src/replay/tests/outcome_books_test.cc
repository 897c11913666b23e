#include "replay/outcome_books.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace sublet {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

TEST(NearestRank, IsAValueThatWasThere) {
  std::vector<double> values{5, 1, 4, 2, 3};
  EXPECT_EQ(NearestRank(values, 0.5), 3);
  EXPECT_EQ(NearestRank(values, 0.9), 5);
  EXPECT_EQ(NearestRank(values, 0.2), 1);
  EXPECT_EQ(NearestRank(values, 0.21), 2);
  EXPECT_EQ(NearestRank(values, 0), 1);
  std::vector<double> none;
  EXPECT_EQ(NearestRank(none, 0.5), 0);
}

TEST(OutcomeBooks, CountsHitsInBlocksOfWhichAPartIsOne) {
  OutcomeBooks books({{}, {}}, 512, 1000);
  books.OnAdmitted(0, 1000, 512);
  books.OnAdmitted(1, 512 * 3, 0);
  const PolicyOutcome outcome = std::move(books).Close();
  EXPECT_DOUBLE_EQ(outcome.hit_ratio, 1.0 / 5);
  EXPECT_EQ(outcome.replicas[0].computed_tokens, 488);
}

TEST(OutcomeBooks, WeighsWorkByEachReplicasRate) {
  ReplayReplica fast;
  fast.prefill_tokens_per_second = 3000;
  ReplayReplica slow;
  slow.prefill_tokens_per_second = 1000;
  OutcomeBooks even({fast, slow}, 512, 1000);
  even.OnAdmitted(0, 6000, 0);
  even.OnAdmitted(1, 2000, 0);
  EXPECT_DOUBLE_EQ(std::move(even).Close().imbalance, 1);
  OutcomeBooks herd({fast, slow}, 512, 1000);
  herd.OnAdmitted(1, 2000, 0);
  EXPECT_DOUBLE_EQ(std::move(herd).Close().imbalance, 2);
}

TEST(OutcomeBooks, CountsARejectedRequestAsLate) {
  OutcomeBooks books({{}}, 512, 1000);
  for (int i = 0; i < 4; ++i) books.OnArrived(10 * kSecond);
  books.OnServed({10 * kSecond, 11 * kSecond, 13 * kSecond, 5});
  books.OnServed({10 * kSecond, 12 * kSecond, 12 * kSecond, 1});
  books.OnRejected(2);
  EXPECT_EQ(books.through(), 4);
  const PolicyOutcome outcome = std::move(books).Close();
  EXPECT_EQ(outcome.requests, 4);
  EXPECT_EQ(outcome.served, 2);
  EXPECT_EQ(outcome.rejected, 2);
  EXPECT_DOUBLE_EQ(outcome.in_time, 0.25);
  EXPECT_DOUBLE_EQ(outcome.duration_s, 3);
  EXPECT_DOUBLE_EQ(outcome.goodput_per_second, 1.0 / 3);
  EXPECT_DOUBLE_EQ(outcome.ttft_ms_p50, 1000);
  EXPECT_DOUBLE_EQ(outcome.ttft_ms_mean, 1500);
  EXPECT_DOUBLE_EQ(outcome.tpot_ms_p50, 500);  // One token says nothing of the time between two.
  EXPECT_DOUBLE_EQ(outcome.output_tokens_per_second, 2);
}

}  // namespace
}  // namespace sublet
