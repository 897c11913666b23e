#include "render/output_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>

#include "child_process.h"
#include "plan_builder.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Rendering RenderingOf(const std::vector<std::pair<std::string, std::string>>& files) {
  Rendering rendering;
  for (const auto& [path, text] : files) {
    rendering.files.push_back(
        {path, "# Written by `sublet render` for the target linux, ...\n" + text, 0644});
  }
  return rendering;
}

std::set<std::string> Listing(const std::string& folder) {
  std::set<std::string> paths;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) paths.insert(fs::relative(entry.path(), folder));
  }
  return paths;
}

TEST(WriteRendering, MakesFoldersAndGivesScriptsTheirMode) {
  const TemporaryFolder folder;
  const Result<Rendering> out = Render(CaseNamed("mps-equal"), Target::kLinux, {});
  ASSERT_TRUE(out);
  ASSERT_TRUE(WriteRendering(*out, Target::kLinux, folder / "new/out", {}));
  EXPECT_EQ(fs::status(folder / "new/out/gpu-a/bin/mps-server").permissions(), fs::perms(0755));
  EXPECT_EQ(fs::status(folder / "new/out/gpu-a/etc/gpus.conf").permissions(), fs::perms(0644));
  EXPECT_EQ(Listing(folder / "new/out").size(), out->files.size() + 1);  // And its list.
}

TEST(WriteRendering, ReplacesItsOwnFilesAndRemovesThoseThatThePlanNoLongerHas) {
  const TemporaryFolder folder;
  ASSERT_TRUE(
      WriteRendering(RenderingOf({{"a", "1"}, {"b/c", "1"}}), Target::kLinux, folder.path(), {}));
  WriteAll(folder / "mine", "precious");
  ASSERT_TRUE(
      WriteRendering(RenderingOf({{"a", "2"}, {"d", "2"}}), Target::kLinux, folder.path(), {}));
  EXPECT_THAT(Listing(folder.path()), ElementsAre(".sublet-render-linux", "a", "d", "mine"));
  EXPECT_THAT(ReadAll(folder / "a"), HasSubstr("\n2"));
}

TEST(WriteRendering, KeepsAFileThatWasItsOwnAndIsNowSomebodysElse) {
  const TemporaryFolder folder;
  ASSERT_TRUE(WriteRendering(RenderingOf({{"a", "1"}}), Target::kLinux, folder.path(), {}));
  WriteAll(folder / "a", "rewritten by hand");
  ASSERT_TRUE(WriteRendering(RenderingOf({{"b", "2"}}), Target::kLinux, folder.path(), {}));
  EXPECT_EQ(ReadAll(folder / "a"), "rewritten by hand");
}

TEST(WriteRendering, LeavesEverythingAsItWasWhereOneFileIsForeign) {
  const TemporaryFolder folder;
  WriteAll(folder / "b", "precious");
  const Rendering rendering = RenderingOf({{"a", "1"}, {"b", "1"}});
  const Status refused = WriteRendering(rendering, Target::kLinux, folder.path(), {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kConflict);
  EXPECT_THAT(refused.error().hint, HasSubstr("--force"));
  EXPECT_THAT(Listing(folder.path()), ElementsAre("b"));
  EXPECT_EQ(ReadAll(folder / "b"), "precious");

  ASSERT_TRUE(WriteRendering(rendering, Target::kLinux, folder.path(), {.force = true}));
  EXPECT_THAT(ReadAll(folder / "b"), HasSubstr("sublet render"));
}

TEST(WriteRendering, TakesAnotherTargetsFileForForeign) {
  const TemporaryFolder folder;
  ASSERT_TRUE(WriteRendering(RenderingOf({{"a", "1"}}), Target::kLinux, folder.path(), {}));
  EXPECT_FALSE(WriteRendering(RenderingOf({{"a", "1"}}), Target::kCompose, folder.path(), {}));
}

TEST(WriteRendering, DoesNotFollowASymbolicLink) {
  const TemporaryFolder folder;
  WriteAll(folder / "elsewhere", "# Written by `sublet render` for the target linux,\n");
  fs::create_directory(folder / "out");
  fs::create_symlink(folder / "elsewhere", folder / "out/a");
  EXPECT_FALSE(WriteRendering(RenderingOf({{"a", "1"}}), Target::kLinux, folder / "out", {}));
}

TEST(WriteRendering, WritesNothingWhereAFileStandsInTheWayOfAFolder) {
  const TemporaryFolder folder;
  WriteAll(folder / "b", "precious");
  EXPECT_FALSE(
      WriteRendering(RenderingOf({{"a", "1"}, {"b/c", "1"}}), Target::kLinux, folder.path(), {}));
  EXPECT_THAT(Listing(folder.path()), ElementsAre("b"));
  const Status in_file =
      WriteRendering(RenderingOf({{"a", "1"}}), Target::kLinux, folder / "b/out", {});
  EXPECT_FALSE(in_file);
}

TEST(WriteRendering, RemovesNothingOutsideItsFolder) {
  const TemporaryFolder folder;
  const std::string head = "# Written by `sublet render` for the target linux,\n";
  WriteAll(folder / "victim", head);
  fs::create_directory(folder / "out");
  WriteAll(folder / "out/.sublet-render-linux",
           head + "../victim\n" + (folder / "victim") + "\nx/../../victim\n");
  ASSERT_TRUE(WriteRendering(RenderingOf({{"a", "1"}}), Target::kLinux, folder / "out", {}));
  EXPECT_TRUE(fs::exists(folder / "victim"));
}

}  // namespace
}  // namespace sublet
