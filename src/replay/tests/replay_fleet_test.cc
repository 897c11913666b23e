#include "replay/replay_fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr ReplayGpu kGpu{.prefill_tokens_per_second = 10'000, .kv_blocks = 1000};

std::vector<ReplayReplica> Parsed(std::string_view text) {
  const auto fleet = ParseReplayFleet(text, kGpu);
  EXPECT_TRUE(fleet) << fleet.error().message;
  return fleet ? *fleet : std::vector<ReplayReplica>{};
}

TEST(ReplayFleet, ReadsGpusAndTheirShares) {
  EXPECT_THAT(Parsed("60/25:10+100"),
              ElementsAre(ReplayReplica{"gpu0/0", "gpu0", 60, 6000, 600},
                          ReplayReplica{"gpu0/1", "gpu0", 25, 2500, 100},
                          ReplayReplica{"gpu1", "gpu1", 100, 10'000, 1000}));
}

TEST(ReplayFleet, RepeatsGpus) {
  EXPECT_THAT(Parsed("8*100"), SizeIs(8));
  EXPECT_THAT(Parsed("2*50/50"), ElementsAre(ReplayReplica{"gpu0/0", "gpu0", 50, 5000, 500},
                                             ReplayReplica{"gpu0/1", "gpu0", 50, 5000, 500},
                                             ReplayReplica{"gpu1/0", "gpu1", 50, 5000, 500},
                                             ReplayReplica{"gpu1/1", "gpu1", 50, 5000, 500}));
}

TEST(ReplayFleet, HasAnUnevenOne) {
  EXPECT_THAT(Parsed("uneven"), SizeIs(9));
  EXPECT_EQ(Parsed("uneven"), Parsed(kUnevenFleet));
}

TEST(ReplayFleet, RefusesWhatIsNone) {
  for (const char* text :
       {"",       "+",     "100+",  "0",       "101",       "x",        "60/",         "/60",
        "60:",    "60:0",  "0*100", "1.5*100", "*100",      "5000*100", "60:50/60:51", "3*",
        "60:5:5", "60::5", ":",     "1e9*100", "4096*50/50"}) {
    const auto fleet = ParseReplayFleet(text, kGpu);
    ASSERT_FALSE(fleet) << text;
    EXPECT_EQ(fleet.error().code, ErrorCode::kUsage) << text;
  }
  EXPECT_THAT(ParseReplayFleet("60/60", kGpu).error().message, HasSubstr("more than 100 %"));
}

}  // namespace
}  // namespace sublet
