#include "base/bytes.h"

#include <gtest/gtest.h>

namespace sublet {
namespace {

TEST(BytesTest, ReadsBinaryAndDecimalUnits) {
  EXPECT_EQ(ParseBytes("20GiB")->count, 20LL << 30);
  EXPECT_EQ(ParseBytes("20Gi")->count, 20LL << 30);
  EXPECT_EQ(ParseBytes("512 MiB")->count, 512LL << 20);
  EXPECT_EQ(ParseBytes("1.5GiB")->count, 3LL << 29);
  EXPECT_EQ(ParseBytes("16GB")->count, 16'000'000'000LL);
  EXPECT_EQ(ParseBytes("3KiB")->count, 3072);
  EXPECT_EQ(ParseBytes("2TiB")->count, 2LL << 40);
  EXPECT_EQ(ParseBytes("1048576")->count, 1 << 20);
  EXPECT_EQ(ParseBytes("17B")->count, 17);
  EXPECT_EQ(ParseBytes("0")->count, 0);
  EXPECT_EQ(ParseBytes("1e9")->count, 1'000'000'000LL);
}

TEST(BytesTest, RefusesWhatIsNotAnAmount) {
  for (const char* text : {"", "GiB", "-1GiB", "20G", "20gib", "20GiB ", " 20GiB", "0x10", "1,5GiB",
                           "nan", "inf", "infGiB", "1e30", "1152921504606846976", "20 GiB x"}) {
    const Result<Bytes> bytes = ParseBytes(text);
    ASSERT_FALSE(bytes) << text;
    EXPECT_EQ(bytes.error().code, ErrorCode::kInvalid);
    EXPECT_EQ(bytes.error().hint, "write it like 20GiB, 512MiB or 16GB");
  }
  EXPECT_TRUE(ParseBytes("1152921504606846000")) << "just below 2^60";
}

TEST(BytesTest, ALongTextIsQuotedOnlyInPart) {
  const Result<Bytes> bytes = ParseBytes(std::string(10'000, 'x'));
  ASSERT_FALSE(bytes);
  EXPECT_LT(bytes.error().message.size(), 120u);
}

TEST(BytesTest, PrintsBinaryUnits) {
  EXPECT_EQ(FormatBytes({17}), "17 B");
  EXPECT_EQ(FormatBytes({2048}), "2 KiB");
  EXPECT_EQ(FormatBytes(512_MiB), "512 MiB");
  EXPECT_EQ(FormatBytes(20_GiB), "20.0 GiB");
  EXPECT_EQ(FormatBytes(Bytes::FromMib(143771)), "140.4 GiB");
  EXPECT_EQ(FormatBytes(2048_GiB), "2.0 TiB");
}

TEST(BytesTest, MibRoundsDownUnlessAskedTheOtherWay) {
  const Bytes bytes{(1 << 20) + 1};
  EXPECT_EQ(bytes.mib(), 1);
  EXPECT_EQ(bytes.mib_rounded_up(), 2);
  EXPECT_EQ((1_MiB).mib_rounded_up(), 1);
}

TEST(BytesTest, AddsAndCompares) {
  Bytes sum = 1_GiB + 512_MiB;
  EXPECT_EQ(sum.mib(), 1536);
  sum -= 512_MiB;
  EXPECT_EQ(sum, 1_GiB);
  sum += 1_MiB;
  EXPECT_GT(sum, 1_GiB);
  EXPECT_EQ(3_MiB * 4, 12_MiB);
  EXPECT_LT(1_MiB - 2_MiB, Bytes{0});
}

}  // namespace
}  // namespace sublet
