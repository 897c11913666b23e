#include "kernel_costs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ptx_entries.h"

namespace sublet::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

CardFacts FactsOfBoard(const char* name) {
  const Result<const Board*> board = BuiltInBoards().Find(name);
  EXPECT_TRUE(board.has_value()) << name;
  return FactsOf(*board, (*board)->sm_count);
}

KernelLaunch Spin(unsigned long long blocks) {
  return {.name = "sublet_spin", .blocks = blocks, .threads = 256, .arguments = {0, 46'000}};
}

double TimeOf(const KernelLaunch& launch, const CardFacts& card, int sms) {
  return WorkOf(CostOf(launch, card), card, sms).full_ns;
}

TEST(KernelCosts, AFewBlocksTakeTheirLatencyOnAnyNumberOfSms) {
  const CardFacts card = FactsOfBoard("h200");
  EXPECT_NEAR(TimeOf(Spin(16), card, 132), 92'900, 100);
  EXPECT_NEAR(TimeOf(Spin(16), card, 16), 92'900, 100);
}

TEST(KernelCosts, ManyBlocksTakeTheirPartOfTheSms) {
  const CardFacts card = FactsOfBoard("h200");
  const double whole = TimeOf(Spin(1056), card, 132);
  EXPECT_NEAR(whole, 411'000, 2'000);
  EXPECT_NEAR(TimeOf(Spin(1056), card, 66), 2 * whole, 1);
  EXPECT_NEAR(TimeOf(Spin(264), card, 33), whole, 1) << "as many blocks an SM";
}

TEST(KernelCosts, FollowTheBoardsBandwidthAndTensorRate) {
  const CardFacts h200 = FactsOfBoard("h200");
  const CardFacts l4 = FactsOfBoard("l4");
  const KernelLaunch stream{
      .name = "sublet_stream", .blocks = 464, .threads = 256, .arguments = {0, 1 << 24}};
  EXPECT_NEAR(TimeOf(stream, l4, l4.sm_count) / TimeOf(stream, h200, 132), 4800.0 / 300, 0.1);
  const KernelLaunch gemm{.name = "sublet_gemm",
                          .blocks = 1024,
                          .threads = 256,
                          .shared_bytes = 96 << 10,
                          .arguments = {0, 0, 0, 4096, 4096}};
  EXPECT_GT(TimeOf(gemm, l4, l4.sm_count), 5 * TimeOf(gemm, h200, 132));
}

TEST(KernelCosts, GiveWhatIsUnknownADefaultFromItsBlocks) {
  const CardFacts card = FactsOfBoard("h200");
  const KernelLaunch few{.name = "mystery", .blocks = 10, .threads = 128, .arguments = {}};
  const KernelLaunch many{.name = "mystery", .blocks = 100'000, .threads = 128, .arguments = {}};
  EXPECT_EQ(TimeOf(few, card, 132), 5'000);
  EXPECT_GT(TimeOf(many, card, 132), 20 * TimeOf(few, card, 132));
  EXPECT_THAT(LayoutOf("mystery"), IsEmpty());
  EXPECT_THAT(LayoutOf("sublet_spin"), ElementsAre(8, 4));
}

TEST(KernelCosts, AddUpInASequence) {
  const CardWork sum =
      Sequence({{.full_ns = 10, .sm_ns = 30, .crowd = 1}, {.full_ns = 20, .sm_ns = 10}}, 2);
  EXPECT_EQ(sum.full_ns, 34);
  EXPECT_EQ(sum.sm_ns, 40);
  EXPECT_EQ(sum.crowd, 0.75);
}

TEST(PtxEntries, FindsTheKernelsAndNothingElse) {
  constexpr const char* kText =
      "// .entry not_this\n.version 8.0\n/* .entry nor_this( */\n.func (.reg .b32 r) helper()\n"
      ".visible .entry first(\n.param .u64 a)\n{ }\n.entry\tsecond$2() {}\n.entry(";
  EXPECT_THAT(PtxEntries(kText), ElementsAre("first", "second$2"));
  EXPECT_THAT(PtxEntries(".entry without_version()"), IsEmpty());
  EXPECT_THAT(PtxEntries(""), IsEmpty());
}

}  // namespace
}  // namespace sublet::sim
