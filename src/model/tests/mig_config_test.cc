#include "model/mig_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string WithEntry(const std::string& entry) {
  return "version: v1\nmig-configs:\n  one:\n    - {" + entry + "}\n";
}

std::string MessageOf(const std::string& text) {
  const auto parsed = ParseMigConfig(text, "mig.yaml");
  if (parsed.has_value()) return "parsed";
  EXPECT_EQ(parsed.error().code, ErrorCode::kInvalid);
  return parsed.error().message;
}

constexpr char kWhole[] = R"(version: v1
mig-configs:
  all-disabled:
    - devices: all
      mig-enabled: false

  all-balanced:
    - device-filter: ["0x20B210DE", "0x20B510DE:0x153310DE"]
      devices: all
      mig-enabled: true
      mig-devices:
        "1g.10gb": 2
        "2g.20gb": 1
        "3g.40gb": 1
    - device-filter: "0x20B710DE"
      devices: [0, 3]
      mig-enabled: true
      mig-devices: {}
)";

TEST(ParseMigConfigTest, ReadsLabelsInTheirOrderWithAllTheirFields) {
  const auto config = ParseMigConfig(kWhole, "mig.yaml");
  ASSERT_TRUE(config.has_value()) << config.error().message;
  ASSERT_EQ(config->labels.size(), 2u);
  EXPECT_EQ(config->labels[0].name, "all-disabled");
  const MigConfigEntry& off = config->labels[0].entries.at(0);
  EXPECT_FALSE(off.mig_enabled);
  EXPECT_FALSE(off.devices.has_value());

  const auto& entries = config->labels[1].entries;
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_THAT(entries[0].device_filter, ElementsAre(MigDeviceFilter{0x20B210DE, std::nullopt},
                                                    MigDeviceFilter{0x20B510DE, 0x153310DE}));
  EXPECT_THAT(entries[0].mig_devices,
              ElementsAre(Pair("1g.10gb", 2), Pair("2g.20gb", 1), Pair("3g.40gb", 1)));
  EXPECT_THAT(*entries[1].devices, ElementsAre(0, 3));
  EXPECT_TRUE(entries[1].mig_devices.empty());
}

TEST(ParseMigConfigTest, ReadsJsonToo) {
  const auto config = ParseMigConfig(
      R"({"version": "v1", "mig-configs": {"x": [{"devices": [1], "mig-enabled": true,
          "mig-devices": {"1c.3g.40gb": 2}}]}})",
      "mig.json");
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_THAT(config->labels.at(0).entries.at(0).mig_devices, ElementsAre(Pair("1c.3g.40gb", 2)));
}

TEST(ParseMigConfigTest, WritesWhatItReadsBackAsTheSame) {
  auto config = ParseMigConfig(kWhole, "mig.yaml");
  ASSERT_TRUE(config.has_value());
  config->labels.push_back({"no", config->labels[0].entries});
  config->labels.push_back({"a \"quoted\" \\ label: #1", config->labels[0].entries});
  const auto again = ParseMigConfig(MigConfigToYaml(*config), "written");
  ASSERT_TRUE(again.has_value()) << again.error().message << MigConfigToYaml(*config);
  EXPECT_EQ(*again, *config);
}

TEST(ParseMigConfigTest, WantsVersion1) {
  EXPECT_THAT(MessageOf("version: v2\nmig-configs: {}\n"), HasSubstr("v2"));
  EXPECT_THAT(MessageOf("mig-configs: {}\n"), HasSubstr("version"));
}

TEST(ParseMigConfigTest, RefusesUnknownFieldsWithTheirPlace) {
  EXPECT_THAT(MessageOf(WithEntry("devices: all, mig-enabled: false, mig-device: {}")),
              HasSubstr("mig.yaml:4:"));
  EXPECT_THAT(MessageOf("version: v1\nhooks: {}\nmig-configs:\n  a: [{devices: all, "
                        "mig-enabled: false}]\n"),
              HasSubstr("hooks"));
}

TEST(ParseMigConfigTest, WantsAtLeastOneLabelAndOneEntry) {
  EXPECT_THAT(MessageOf("version: v1\nmig-configs: {}\n"), HasSubstr("at least one label"));
  EXPECT_THAT(MessageOf("version: v1\nmig-configs: {a: []}\n"), HasSubstr("at label 'a'"));
}

TEST(ParseMigConfigTest, WantsDevicesAndTheMode) {
  EXPECT_THAT(MessageOf(WithEntry("mig-enabled: false")), HasSubstr("devices"));
  EXPECT_THAT(MessageOf(WithEntry("devices: all")), HasSubstr("mig-enabled"));
  EXPECT_THAT(MessageOf(WithEntry("devices: some, mig-enabled: false")), HasSubstr("all"));
  EXPECT_THAT(MessageOf(WithEntry("devices: [-1], mig-enabled: false")), HasSubstr("-1"));
}

TEST(ParseMigConfigTest, WantsMigDevicesExactlyWhereMigIsEnabled) {
  EXPECT_THAT(MessageOf(WithEntry("devices: all, mig-enabled: true")), HasSubstr("mig-devices"));
  EXPECT_THAT(MessageOf(WithEntry("devices: all, mig-enabled: true, mig-devices: ~")),
              HasSubstr("mig-devices is required"));
  EXPECT_THAT(MessageOf(WithEntry("devices: all, mig-enabled: false, mig-devices: {1g.5gb: 1}")),
              HasSubstr("although"));
  EXPECT_EQ(MessageOf(WithEntry("devices: all, mig-enabled: false, mig-devices: {}")), "parsed");
}

TEST(ParseMigConfigTest, WantsCountsThatMeanSomething) {
  const auto with = [](const std::string& devices) {
    return MessageOf(WithEntry("devices: all, mig-enabled: true, mig-devices: " + devices));
  };
  EXPECT_EQ(with("{1g.5gb: 0, 2g.10gb: 1}"), "parsed");
  EXPECT_THAT(with("{1g.5gb: 0}"), HasSubstr("all counts are 0"));
  EXPECT_THAT(with("{1g.5gb: -1}"), HasSubstr("-1"));
  EXPECT_THAT(with("{1g.5gb: 1.5}"), HasSubstr("1.5"));
  EXPECT_THAT(with("{5gb: 1}"), HasSubstr("not a MIG profile: '5gb'"));
  EXPECT_THAT(with("[1g.5gb]"), HasSubstr("map"));
}

TEST(ParseMigConfigTest, RefusesAFilterThatIsNoPackedPciId) {
  for (const std::string filter : {"20B210DE", "0x20B2", "0x20B210DG", "0x20B210DE:1", "nvidia"}) {
    EXPECT_THAT(
        MessageOf(WithEntry("device-filter: \"" + filter + "\", devices: all, mig-enabled: false")),
        HasSubstr("not a device filter"));
  }
}

TEST(MigConfigTest, FindsALabelOrProposesOne) {
  const auto config = ParseMigConfig(kWhole, "mig.yaml");
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ((*config->Find("all-balanced"))->entries.size(), 2u);
  const auto missing = config->Find("all-balancd");
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(missing.error().hint, HasSubstr("all-balanced"));
}

TEST(MigConfigTest, MatchesGpusByFilterAndIndex) {
  const auto config = ParseMigConfig(kWhole, "mig.yaml");
  ASSERT_TRUE(config.has_value());
  const MigConfigEntry& any_index = config->labels[1].entries[0];
  EXPECT_TRUE(any_index.Matches(7, 0x20B210DE, 0x1));
  EXPECT_TRUE(any_index.Matches(7, 0x20B510DE, 0x153310DE));
  EXPECT_FALSE(any_index.Matches(7, 0x20B510DE, 0x1));
  EXPECT_FALSE(any_index.Matches(7, 0x20B710DE, 0x1));
  const MigConfigEntry& two = config->labels[1].entries[1];
  EXPECT_TRUE(two.Matches(3, 0x20B710DE, 0));
  EXPECT_FALSE(two.Matches(1, 0x20B710DE, 0));
}

TEST(ParseMigProfileNameTest, TakesNamesApart) {
  const auto plain = ParseMigProfileName("3g.40gb+me.all");
  ASSERT_TRUE(plain.has_value());
  EXPECT_EQ(plain->gpu_instance, "3g.40gb+me.all");
  EXPECT_EQ(plain->gpu_instance_slices, 3);
  EXPECT_EQ(plain->compute_instance_slices, 3);
  const auto part = ParseMigProfileName("1c.3g.40gb");
  ASSERT_TRUE(part.has_value());
  EXPECT_EQ(part->gpu_instance, "3g.40gb");
  EXPECT_EQ(part->compute_instance_slices, 1);
  for (const std::string_view good : {"1g.0gb+gfx", "1g.24gb-me", "1g.5gb+me,gfx"}) {
    EXPECT_TRUE(ParseMigProfileName(good).has_value()) << good;
  }
  for (const std::string_view bad :
       {"", "g.5gb", "1g.5", "1g5gb", "-1g.5gb", "4c.3g.40gb", "0g.5gb", "1g.5gb+", "1g.5gb+,me",
        "1g.5gb me", "1g.5gb+me.", "1G.5GB", "1c.", "99999999999g.5gb"}) {
    EXPECT_FALSE(ParseMigProfileName(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace sublet
