#include "plan/mig_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const Board& BoardNamed(std::string_view name) {
  return **BuiltInBoards().Find(name);
}

MigCheck CheckOf(std::string_view board, const std::vector<std::string>& names) {
  auto check = CheckProfiles(BuiltInBoards(), BoardNamed(board), names);
  EXPECT_TRUE(check.has_value()) << check.error().message;
  return *check;
}

Error ErrorOf(std::string_view board, const std::vector<std::string>& names) {
  const auto check = CheckProfiles(BuiltInBoards(), BoardNamed(board), names);
  EXPECT_FALSE(check.has_value());
  return check.has_value() ? Error{} : check.error();
}

Result<MigCheck> CheckFile(std::string_view board, const std::string& labels,
                           const std::optional<std::string>& label = std::nullopt) {
  const auto config = ParseMigConfig("version: v1\nmig-configs:\n" + labels, "mig.yaml");
  EXPECT_TRUE(config.has_value()) << config.error().message;
  return CheckConfig(BuiltInBoards(), BoardNamed(board), *config, label);
}

TEST(MigCheckTest, DrawsThePlacementsToScale) {
  const MigCheck check = CheckOf("a100-80gb", {"3g.40gb", "1g.10gb", "1g.10gb", "2g.20gb"});
  EXPECT_TRUE(check.placeable());
  const std::string text = MigCheckToText(check);
  EXPECT_THAT(text, HasSubstr("a100-80gb: 2x 1g.10gb + 2g.20gb + 3g.40gb can be placed\n"));
  EXPECT_THAT(text, HasSubstr("  unit  0       1       2       3       4       5       6       7\n"
                              "        |1g.10gb|1g.10gb|2g.20gb        |3g.40gb"
                              "                        |\n"));
  EXPECT_THAT(text, HasSubstr("fits beside it: nothing\n"));
  EXPECT_THAT(text, HasSubstr("create with: nvidia-smi mig -cgi 19:0,19:1,14:2,9:4 -C\n"));
}

TEST(MigCheckTest, ShowsWhatIsFreeAndWhatWouldFitThere) {
  const std::string text = MigCheckToText(CheckOf("rtx-pro-6000", {"4g.96gb"}));
  EXPECT_THAT(text, HasSubstr("0   1   2   3   4   5   6   7   8   9   10  11"));
  const std::string half = MigCheckToText(CheckOf("a30", {"2g.12gb"}));
  EXPECT_THAT(half, HasSubstr("|2g.12gb| - | - |  (- is free)"));
  EXPECT_THAT(
      half, HasSubstr("fits beside it: 2x 1g.6gb or 1x 1g.6gb+me or 1x 2g.12gb or 1x 2g.12gb+me"));
}

TEST(MigCheckTest, SaysWhyNotAndWhatWouldStillFit) {
  const MigCheck check =
      CheckOf("a100-80gb", {"1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb", "2g.20gb", "2g.20gb"});
  EXPECT_FALSE(check.placeable());
  const std::string text = MigCheckToText(check);
  EXPECT_THAT(text, HasSubstr("can't be placed"));
  EXPECT_THAT(text, HasSubstr("need 8 compute slices, a100-80gb has 7"));
  EXPECT_THAT(text, HasSubstr("largest part that fits: 3x 1g.10gb + 2x 2g.20gb"));
}

TEST(MigCheckTest, SaysOnWhichBoardsAForeignProfileExists) {
  const Error error = ErrorOf("a100-80gb", {"1g.10gb", "1g.5gb"});
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_THAT(error.message, HasSubstr("'1g.5gb'"));
  EXPECT_THAT(error.hint, HasSubstr("1g.5gb is a profile of a100-40gb; a100-80gb has 1g.10gb,"));
}

TEST(MigCheckTest, ProposesTheProfileThatWasProbablyMeant) {
  const Error error = ErrorOf("a100-80gb", {"1g.10gb.me"});
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_THAT(error.hint, HasSubstr("1g.10gb+me"));
}

TEST(MigCheckTest, PointsFromAComputeInstanceToItsGpuInstance) {
  const Error error = ErrorOf("a100-80gb", {"1c.3g.40gb"});
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_THAT(error.hint, HasSubstr("check 3g.40gb: up to 3"));
}

TEST(MigCheckTest, RefusesABoardWithoutMigAndAFloodOfNames) {
  EXPECT_EQ(ErrorOf("l4", {"1g.5gb"}).code, ErrorCode::kUnsupported);
  EXPECT_EQ(ErrorOf("a30", std::vector<std::string>(5000, "1g.6gb")).code, ErrorCode::kInvalid);
}

TEST(MigCheckTest, PrintsPlacementsAsJson) {
  const auto json = MigCheckToJson(CheckOf("a30", {"2g.12gb", "1g.6gb"}));
  EXPECT_EQ(json["version"], "sublet.mig-check/v1");
  EXPECT_EQ(json["placeable"], true);
  ASSERT_EQ(json["placements"].size(), 2u);
  EXPECT_EQ(json["placements"][0]["profile"], "1g.6gb");
  EXPECT_EQ(json["placements"][1]["start"], 2);
  EXPECT_EQ(json["placements"][1]["size"], 2);
  EXPECT_EQ(json["room"]["1g.6gb"], 1);

  const auto no = MigCheckToJson(CheckOf("a30", {"4g.24gb", "1g.6gb"}));
  EXPECT_EQ(no["placeable"], false);
  EXPECT_THAT(no["reason"].get<std::string>(), HasSubstr("compute slices"));
  EXPECT_FALSE(no.contains("placements"));
}

TEST(MigCheckTest, ChecksTheEntriesOfAFileThatAreForTheBoard) {
  const auto check = CheckFile("a100-80gb", R"(
  good:
    - {device-filter: "0x20B210DE", devices: all, mig-enabled: true, mig-devices: {1g.10gb: 7}}
    - {device-filter: "0x20B710DE", devices: all, mig-enabled: true, mig-devices: {1g.6gb: 4}}
  bad:
    - {devices: all, mig-enabled: true, mig-devices: {1g.10gb: 8}}
  small:
    - {devices: all, mig-enabled: true, mig-devices: {1g.5gb: 7}}
)");
  ASSERT_TRUE(check.has_value()) << check.error().message;
  ASSERT_EQ(check->questions.size(), 2u);
  EXPECT_EQ(check->questions[0].label, "good");
  EXPECT_TRUE(check->questions[0].where.has_value());
  EXPECT_EQ(check->questions[1].label, "bad");
  EXPECT_FALSE(check->questions[1].where.has_value());
  EXPECT_FALSE(check->placeable());
  EXPECT_THAT(check->skipped, ElementsAre("good, entry 1: its filter names other boards",
                                          "small, entry 0: 1g.5gb is a profile of a100-40gb"));
  const auto json = MigCheckToJson(*check);
  EXPECT_EQ(json["placeable"], false);
  EXPECT_EQ(json["labels"][0]["placeable"], true);
  EXPECT_EQ(json["skipped"].size(), 2u);
}

TEST(MigCheckTest, FailsForAChosenLabelWhoseProfilesAreForeign) {
  const auto check = CheckFile("a100-80gb", R"(
  small: [{devices: all, mig-enabled: true, mig-devices: {1g.5gb: 7}}]
)",
                               "small");
  ASSERT_FALSE(check.has_value());
  EXPECT_EQ(check.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(check.error().message, HasSubstr("small, entry 0"));
}

TEST(MigCheckTest, FailsForAProfileThatNoBoardHasWhateverTheLabel) {
  const auto check = CheckFile("a100-80gb", R"(
  typo: [{devices: all, mig-enabled: true, mig-devices: {1g.11gb: 7}}]
)");
  ASSERT_FALSE(check.has_value());
  EXPECT_THAT(check.error().message, HasSubstr("1g.11gb"));
}

TEST(MigCheckTest, FindsNothingWrongWithDisabledMigButNothingToCheckForOtherBoards) {
  const auto off = CheckFile("a30", "  off: [{devices: all, mig-enabled: false}]\n", "off");
  ASSERT_TRUE(off.has_value());
  EXPECT_TRUE(off->placeable());
  EXPECT_EQ(MigCheckToText(*off), "a30: off: no MIG instances are asked for\n");
  EXPECT_THAT(MigCheckToJson(*off)["labels"][0]["placements"], IsEmpty());

  const auto other = CheckFile(
      "a30", "  x: [{device-filter: \"0x20B210DE\", devices: all, mig-enabled: false}]\n");
  ASSERT_FALSE(other.has_value());
  EXPECT_EQ(other.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace sublet
