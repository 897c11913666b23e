#include "measure/method.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "measure/tests/h200_measurement.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(Method, StatesTheStoppingRuleOfEachEffort) {
  EXPECT_THAT(DescribeMethod("quick"),
              AllOf(HasSubstr("over 6 to 12 rounds"), HasSubstr("at most 2 %"),
                    HasSubstr("differ by at most 4 %")));
  EXPECT_THAT(DescribeMethod("full"), AllOf(HasSubstr("over 9 to 40 rounds"),
                                            HasSubstr("at most 1 %"), HasSubstr("at most 2 %")));
}

TEST(Method, IsOneParagraph) {
  EXPECT_THAT(DescribeMethod(H200Measurement()), Not(HasSubstr("\n")));
}

TEST(Method, OfAMeasurementSaysWhatItDid) {
  Measurement m = H200Measurement();
  m.runs.resize(4);
  m.runs[1].rounds = 9;
  m.runs[1].settled = false;
  m.runs[2].round_ms = 300;
  EXPECT_THAT(DescribeMethod(m),
              HasSubstr("Here: 4 runs in 58 s, of 6 to 9 rounds of 100 to 300 ms each; 3 of them "
                        "settled. The order of the modes was shuffled with seed 7. At the end the "
                        "workloads alone were at most 0.4 % slower than at the start."));
}

TEST(Method, WarnsOfWhateverMakesTheFiguresWorse) {
  Measurement m = H200Measurement();
  EXPECT_THAT(DescribeMethod(m), AllOf(Not(HasSubstr("simulated")), Not(HasSubstr("err")),
                                       Not(HasSubstr("ended early")), HasSubstr("; all settled")));
  m.simulated = true;
  m.partial = true;
  m.disturbed = true;
  m.disturbed_by = {"1234 python3, 812 MiB", "99 Xorg, 4 MiB"};
  m.drift_percent.reset();
  EXPECT_THAT(DescribeMethod(m), AllOf(HasSubstr("The GPU was simulated"), HasSubstr("ended early"),
                                       HasSubstr("(1234 python3, 812 MiB; 99 Xorg, 4 MiB)"),
                                       HasSubstr("a drift would not have been seen")));
}

TEST(Method, OfNothingAndOfAnUnknownEffortStillSaysSo) {
  Measurement m;
  m.effort = "overnight";
  EXPECT_THAT(DescribeMethod(m), StartsWith("Nothing was run."));
}

}  // namespace
}  // namespace sublet
