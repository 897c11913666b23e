#include "fault_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet::sim {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(FaultRules, ReadsEveryKind) {
  const auto rules = ParseFaults(
      "fail=nvmlDeviceGetName:999;fail=nvmlDeviceGetUUID:4:3;hang=nvmlInit_v2;hang=nvmlInit_v2:2;"
      "lost=1;xid=0:79;xid=2:31:7:0;ecc=1:3;remap=2;");
  ASSERT_TRUE(rules) << rules.error().message;
  ASSERT_THAT(*rules, SizeIs(9));
  EXPECT_EQ((*rules)[0].kind, FaultRule::Kind::kFail);
  EXPECT_EQ((*rules)[0].function, "nvmlDeviceGetName");
  EXPECT_EQ((*rules)[0].code, 999);
  EXPECT_EQ((*rules)[0].nth, 0);
  EXPECT_EQ((*rules)[1].nth, 3);
  EXPECT_EQ((*rules)[2].kind, FaultRule::Kind::kHang);
  EXPECT_EQ((*rules)[3].nth, 2);
  EXPECT_EQ((*rules)[4].kind, FaultRule::Kind::kLost);
  EXPECT_EQ((*rules)[4].gpu, 1);
  EXPECT_EQ((*rules)[5].xid, 79);
  EXPECT_EQ((*rules)[5].gpu_instance, -1);
  EXPECT_EQ((*rules)[6].gpu, 2);
  EXPECT_EQ((*rules)[6].gpu_instance, 7);
  EXPECT_EQ((*rules)[6].compute_instance, 0);
  EXPECT_EQ((*rules)[7].kind, FaultRule::Kind::kEcc);
  EXPECT_EQ((*rules)[7].gpu, 1);
  EXPECT_EQ((*rules)[7].errors, 3);
  EXPECT_EQ((*rules)[8].kind, FaultRule::Kind::kRemap);
  EXPECT_EQ((*rules)[8].gpu, 2);
}

TEST(FaultRules, NoTextIsNoFault) {
  EXPECT_THAT(*ParseFaults(""), SizeIs(0));
}

TEST(FaultRules, RefusesEverythingElse) {
  for (const char* text : {"fail",
                           "fail=",
                           "fail=nvmlInit_v2",
                           "fail=nvmlInit_v2:x",
                           "fail=open:1",
                           "fail=nvmlInit_v2:1:2:3",
                           "hang=",
                           "hang=nvmlInit_v2:1:2",
                           "lost=",
                           "lost=x",
                           "lost=-1",
                           "lost=1:2",
                           "ecc=1",
                           "ecc=1:x",
                           "remap=",
                           "remap=0:1",
                           "xid=0",
                           "xid=0:79:7",
                           "slow=nvmlInit_v2",
                           "=1"}) {
    const auto rules = ParseFaults(text);
    ASSERT_FALSE(rules) << text;
    EXPECT_THAT(rules.error().message, HasSubstr(text));
  }
}

}  // namespace
}  // namespace sublet::sim
