#include "cdi/spec_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <vector>

#include "base/files.h"
#include "cdi/gpu_spec.h"
#include "cdi/tests/driver_tree.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

CdiSpec SpecOf(const std::string& class_name, const std::string& device) {
  CdiSpec spec{.version = "0.5.0", .vendor = std::string(kCdiVendor), .class_name = class_name};
  spec.devices.push_back({.name = device, .edits = {.env = {"A=b"}}});
  return spec;
}

std::vector<std::string> Write(const std::string& folder, const std::vector<CdiSpec>& specs) {
  const auto changes = WriteCdiSpecs(folder, kCdiVendor, specs);
  EXPECT_TRUE(changes) << changes.error().message;
  std::vector<std::string> texts;
  for (const CdiFileChange& change : *changes) {
    texts.push_back(std::string(1, "=+-"[static_cast<int>(change.kind)]) +
                    LastNameOf(change.path).substr(kCdiVendor.size() + 1));
  }
  return texts;
}

TEST(SpecFiles, AreWrittenOnceAndOnlyWhereTheyChange) {
  const DriverTree tree;
  const std::string folder = tree.At("/var/run/cdi");
  EXPECT_THAT(Write(folder, {SpecOf("gpu", "0")}), ElementsAre("+gpu.json"));
  const std::string path = folder + "/k8s.device-plugin.nvidia.com-gpu.json";
  EXPECT_EQ(*ReadFile(path, 1 << 20), CdiSpecText(SpecOf("gpu", "0")));
  struct stat before {};
  ASSERT_EQ(::stat(path.c_str(), &before), 0);
  EXPECT_EQ(before.st_mode & 0777, 0644u);
  EXPECT_THAT(Write(folder, {SpecOf("gpu", "0")}), ElementsAre("=gpu.json"));
  struct stat after {};
  ASSERT_EQ(::stat(path.c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_THAT(Write(folder, {SpecOf("gpu", "1")}), ElementsAre("+gpu.json"));
}

TEST(SpecFiles, OfAClassThatIsGoneAreRemoved) {
  const DriverTree tree;
  const std::string folder = tree.At("/cdi");
  Write(folder, {SpecOf("gpu", "0"), SpecOf("gds", "all")});
  tree.File("/cdi/nvidia.yaml", "somebody else's");
  tree.File("/cdi/k8s.device-plugin.nvidia.com-other.json", "{}");
  EXPECT_THAT(Write(folder, {SpecOf("gpu", "0")}), ElementsAre("=gpu.json", "-gds.json"));
  tree.File("/cdi/k8s.device-plugin.nvidia.com-gpu.json.aB3dE6", "half");
  EXPECT_THAT(Write(folder, {}), ElementsAre("-gpu.json"));
  EXPECT_THAT(NamesInRoot("/", folder),
              ElementsAre("k8s.device-plugin.nvidia.com-other.json", "nvidia.yaml"));
  EXPECT_THAT(Write(tree.At("/none"), {}), IsEmpty());
}

TEST(SpecFiles, SayWhoElseDescribesTheDevice) {
  const DriverTree tree;
  const std::string folder = tree.At("/cdi");
  Write(folder, {SpecOf("gpu", "0")});
  tree.File("/etc/broken.json", "{");
  tree.File("/etc/note.txt", "kind: k8s.device-plugin.nvidia.com/gpu");
  tree.File("/etc/nvidia.yaml", "kind: nvidia.com/gpu\ndevices: [{name: '0'}]\n");
  tree.File("/etc/apart.yaml", "kind: k8s.device-plugin.nvidia.com/gpu\ndevices: [{name: '7'}]\n");
  const std::vector<std::string> folders = {folder, tree.At("/etc"), tree.At("/none")};
  EXPECT_THAT(CdiConflicts(folders, {SpecOf("gpu", "0")}), IsEmpty());
  tree.File("/etc/same.yaml", "kind: k8s.device-plugin.nvidia.com/gpu\ndevices: [{name: '0'}]\n");
  EXPECT_THAT(CdiConflicts(folders, {SpecOf("gpu", "0")}),
              ElementsAre(tree.At("/etc/same.yaml") + ": gpu=0 too"));
}

TEST(SpecFiles, SayWhereTheyCantBeWritten) {
  const DriverTree tree;
  tree.File("/cdi", "a file");
  const auto changes = WriteCdiSpecs(tree.At("/cdi"), kCdiVendor, {SpecOf("gpu", "0")});
  ASSERT_FALSE(changes);
  EXPECT_THAT(changes.error().message, HasSubstr(tree.At("/cdi")));
}

}  // namespace
}  // namespace sublet
