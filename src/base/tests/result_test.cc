#include "base/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

#include "base/check.h"

namespace sublet {
namespace {

const std::vector<ErrorCode> kCodes = {
    ErrorCode::kInfeasible,  ErrorCode::kUsage,       ErrorCode::kInvalid,  ErrorCode::kNotFound,
    ErrorCode::kUnavailable, ErrorCode::kUnsupported, ErrorCode::kConflict, ErrorCode::kIo,
    ErrorCode::kPermission,  ErrorCode::kInternal};

Result<int> Half(int number) {
  if (number % 2 != 0) {
    return Fail(ErrorCode::kInvalid, "odd number: " + std::to_string(number), "give an even one");
  }
  return number / 2;
}

Result<int> Quarter(int number) {
  ASSIGN_OR_RETURN(const int half, Half(number));
  ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

Status Check(int number, int& checked) {
  RETURN_IF_ERROR(Half(number));
  ++checked;
  return {};
}

TEST(ResultTest, EveryErrorCodeHasANameAndAnExitStatusOfItsOwn) {
  std::set<std::string_view> names;
  std::set<int> statuses;
  for (const ErrorCode code : kCodes) {
    names.insert(ErrorCodeName(code));
    statuses.insert(ExitStatus(code));
  }
  EXPECT_EQ(names.size(), kCodes.size());
  EXPECT_EQ(statuses.size(), kCodes.size());
  EXPECT_FALSE(statuses.contains(0));
}

TEST(ResultTest, ExitStatusesAreTheDocumentedOnes) {
  EXPECT_EQ(ExitStatus(ErrorCode::kInfeasible), 1);
  EXPECT_EQ(ExitStatus(ErrorCode::kUsage), 2);
  EXPECT_EQ(ExitStatus(ErrorCode::kInvalid), 3);
  EXPECT_EQ(ExitStatus(ErrorCode::kNotFound), 4);
  EXPECT_EQ(ExitStatus(ErrorCode::kUnavailable), 5);
  EXPECT_EQ(ExitStatus(ErrorCode::kUnsupported), 6);
  EXPECT_EQ(ExitStatus(ErrorCode::kConflict), 7);
  EXPECT_EQ(ExitStatus(ErrorCode::kIo), 8);
  EXPECT_EQ(ExitStatus(ErrorCode::kPermission), 9);
  EXPECT_EQ(ExitStatus(ErrorCode::kInternal), 70);
}

TEST(ResultTest, AssignOrReturnGivesTheValueOrPassesTheErrorOn) {
  EXPECT_EQ(*Quarter(12), 3);
  const Result<int> failed = Quarter(6);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kInvalid);
  EXPECT_EQ(failed.error().message, "odd number: 3");
  EXPECT_EQ(failed.error().hint, "give an even one");
}

TEST(ResultTest, ReturnIfErrorStopsAtTheError) {
  int checked = 0;
  EXPECT_TRUE(Check(2, checked));
  EXPECT_EQ(checked, 1);
  EXPECT_FALSE(Check(3, checked));
  EXPECT_EQ(checked, 1);
}

TEST(ResultTest, AssignOrReturnMovesWhatCantBeCopied) {
  const auto make = []() -> Result<std::unique_ptr<int>> { return std::make_unique<int>(7); };
  const auto use = [&]() -> Result<int> {
    ASSIGN_OR_RETURN(const std::unique_ptr<int> made, make());
    return *made;
  };
  EXPECT_EQ(*use(), 7);
}

TEST(ResultTest, PrefixedPutsTheContextInFrontAndKeepsTheRest) {
  const Error error =
      Error{ErrorCode::kIo, "disk full", "free some space"}.Prefixed("writing plan.json");
  EXPECT_EQ(error.message, "writing plan.json: disk full");
  EXPECT_EQ(error.code, ErrorCode::kIo);
  EXPECT_EQ(error.hint, "free some space");
}

TEST(CheckDeathTest, AWrongPromiseEndsTheProgramAndNamesIt) {
  const int free_units = 1;
  EXPECT_DEATH(CHECK(free_units == 2), "result_test.cc:[0-9]+: check failed: free_units == 2");
  CHECK(free_units == 1);
}

}  // namespace
}  // namespace sublet
