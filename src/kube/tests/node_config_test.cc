#include "kube/node_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/child_process.h"
#include "base/files.h"

namespace sublet {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

namespace fs = std::filesystem;

constexpr const char* kGood = "version: v1\nflags: {migStrategy: none}\n";
constexpr const char* kOther = "version: v1\nflags: {migStrategy: mixed}\n";
constexpr const char* kBad = "version: v1\nflags: {migStrategie: none}\n";

TEST(ChooseNodeConfig, IsAsNvidiasConfigManagerHasIt) {
  NodeConfigPlaces places;
  const auto choose = [&](std::string_view label, std::vector<std::string> files) -> std::string {
    const auto choice = ChooseNodeConfig(places, label, files);
    return !choice ? "error" : choice->value_or("empty");
  };
  EXPECT_EQ(choose("b", {"a", "b"}), "b");
  EXPECT_EQ(choose("c", {"a", "b"}), "error");
  EXPECT_EQ(choose("", {"a", "default"}), "default");
  EXPECT_EQ(choose("", {"a"}), "a");
  EXPECT_EQ(choose("", {"a", "b"}), "error");
  places.fallbacks = {ConfigFallback::kSingle, ConfigFallback::kEmpty};
  EXPECT_EQ(choose("", {"a", "b"}), "empty");
  EXPECT_EQ(choose("", {"default", "b"}), "empty");
  places.default_name = "b";
  EXPECT_EQ(choose("", {"a", "b"}), "b");
  EXPECT_EQ(choose("", {"a"}), "error");
}

TEST(ConfigFallbacks, AreThreeWords) {
  const auto fallbacks = ParseConfigFallbacks({"named", "single", "empty"});
  ASSERT_TRUE(fallbacks);
  EXPECT_EQ(fallbacks->size(), 3u);
  EXPECT_FALSE(ParseConfigFallbacks({"double"}));
}

class NodeConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "sublet-config-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    fs::create_directory(root_ / "available");
    places_.folder = root_ / "available";
    places_.target = root_ / "config.yaml";
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(places_.folder + "/" + name, text));
  }
  std::string Target() const { return ReadFile(places_.target, 1 << 20).value_or("nothing"); }

  fs::path root_;
  NodeConfigPlaces places_;
};

TEST_F(NodeConfigTest, LinksWhatTheLabelNames) {
  Write("a", kGood);
  Write("b", kOther);
  NodeConfig config(places_);
  NodeConfigLook look = config.Look("b");
  EXPECT_TRUE(look.changed);
  EXPECT_EQ(look.name, "b");
  EXPECT_THAT(look.problem, IsEmpty());
  EXPECT_EQ(fs::read_symlink(places_.target), places_.folder + "/b");
  EXPECT_EQ(Target(), kOther);
  EXPECT_FALSE(config.Look("b").changed);
  EXPECT_TRUE(config.Look("a").changed);
  EXPECT_EQ(Target(), kGood);
}

TEST_F(NodeConfigTest, WhatCantBeLeavesTheLastGoodOne) {
  Write("a", kGood);
  Write("bad", kBad);
  NodeConfig config(places_);
  NodeConfigLook look = config.Look("none");
  EXPECT_THAT(look.problem, AllOf(HasSubstr("none"), HasSubstr("no configuration is in effect")));
  EXPECT_FALSE(config.chosen());
  ASSERT_TRUE(config.Look("a").changed);
  for (const std::string label : {"none", "bad", "../config.yaml", "..", ""}) {
    if (label.empty()) Write("c", kGood);
    look = config.Look(label);
    EXPECT_FALSE(look.changed);
    EXPECT_EQ(look.name, "a");
    EXPECT_THAT(look.problem, HasSubstr("a stays in effect"));
    EXPECT_EQ(Target(), kGood);
  }
  EXPECT_THAT(config.Look("bad").problem, HasSubstr("migStrategie"));
  EXPECT_THAT(config.Look("a").problem, IsEmpty());
}

TEST_F(NodeConfigTest, AFileThatChangesIsAChange) {
  Write("a", kGood);
  NodeConfig config(places_);
  ASSERT_TRUE(config.Look("a").changed);
  Write("a", kOther);
  EXPECT_TRUE(config.Look("a").changed);
  Write("a", kBad);
  const NodeConfigLook look = config.Look("a");
  EXPECT_FALSE(look.changed);
  EXPECT_THAT(look.problem, HasSubstr("migStrategie"));
}

TEST_F(NodeConfigTest, AConfigMapsOwnLinksAreNoConfigurations) {
  // As kubelet mounts one: files are links into ..data, which is a link to a dated folder.
  const fs::path dated = fs::path(places_.folder) / "..2026_11_21";
  fs::create_directory(dated);
  ASSERT_TRUE(WriteFileAtomically(dated / "only", kGood));
  fs::create_symlink("..2026_11_21", fs::path(places_.folder) / "..data");
  fs::create_symlink("..data/only", fs::path(places_.folder) / "only");
  NodeConfig config(places_);
  EXPECT_EQ(config.Look("").name, "only");
  EXPECT_EQ(Target(), kGood);
}

TEST_F(NodeConfigTest, TheEmptyOneDoesntOverwriteAFile) {
  Write("a", kGood);
  Write("b", kOther);
  places_.fallbacks = {ConfigFallback::kEmpty};
  NodeConfig config(places_);
  ASSERT_TRUE(config.Look("a").changed);
  NodeConfigLook look = config.Look("");
  EXPECT_TRUE(look.changed);
  EXPECT_THAT(look.name, IsEmpty());
  EXPECT_EQ(Target(), "version: v1\n");
  EXPECT_EQ(*ReadFile(places_.folder + "/a", 1000), kGood);
}

TEST_F(NodeConfigTest, ARestartKeepsWhatIsInEffect) {
  Write("a", kGood);
  ASSERT_TRUE(NodeConfig(places_).Look("a").changed);
  NodeConfig again(places_);
  const NodeConfigLook look = again.Look("none");
  EXPECT_EQ(look.name, "a");
  EXPECT_THAT(look.problem, HasSubstr("a stays in effect"));
  EXPECT_FALSE(again.Look("a").changed);
}

TEST_F(NodeConfigTest, AFolderThatIsntThereIsAProblem) {
  places_.folder = root_ / "nowhere";
  EXPECT_THAT(NodeConfig(places_).Look("a").problem, HasSubstr("nowhere"));
}

TEST_F(NodeConfigTest, SignalsTheProgramOfThatName) {
  // A program of a name that nobody else has.
  const fs::path program = root_ / "sublet-signalled";
  fs::create_symlink("/bin/sleep", program);
  auto child = ChildProcess::Start({.argv = {program, "600"}});
  ASSERT_TRUE(child);
  EXPECT_EQ(SignalByName("sublet-unknown", SIGTERM), 0);
  EXPECT_EQ(SignalByName("sublet-signalled", SIGTERM), 1);
  const auto end = child->Wait(Deadline::In(30));
  ASSERT_TRUE(end);
  EXPECT_EQ(end->signal, SIGTERM);
}

}  // namespace
}  // namespace sublet
