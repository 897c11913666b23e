#include "cdi/driver_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "cdi/tests/driver_tree.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kVersion = "580.159.04";
const std::string kFolder = "/usr/lib/x86_64-linux-gnu";

std::vector<std::string> PathsOf(const std::vector<DriverLibrary>& libraries) {
  std::vector<std::string> paths;
  for (const DriverLibrary& library : libraries) paths.push_back(library.path);
  return paths;
}

void AddLibraries(const DriverTree& tree, const std::string& folder) {
  tree.Library(folder + "/libcuda.so." + kVersion, "libcuda.so.1");
  tree.Library(folder + "/libnvidia-ml.so." + kVersion, "libnvidia-ml.so.1");
  tree.Link(folder + "/libcuda.so.1", "libcuda.so." + kVersion);
  tree.Link(folder + "/libcuda.so", "libcuda.so.1");
}

DriverFiles Find(const DriverTree& tree, bool graphics = true) {
  auto files = FindDriverFiles(
      {.root = tree.root(), .version = kVersion, .kernel = "6.1.0-18-amd64", .graphics = graphics});
  EXPECT_TRUE(files) << files.error().message;
  return files ? *files : DriverFiles{};
}

TEST(DriverFiles, TakesTheLibrariesOfTheVersion) {
  const DriverTree tree;
  AddLibraries(tree, kFolder);
  tree.Library(kFolder + "/libnvidia-glcore.so." + kVersion, "libnvidia-glcore.so." + kVersion);
  tree.Library(kFolder + "/libcuda.so.570.1", "libcuda.so.1");  // Left from an update.
  tree.Library(kFolder + "/libc.so.6", "libc.so.6");
  tree.File(kFolder + "/libnvidia-text.so." + kVersion, "no library");
  const DriverFiles files = Find(tree);
  EXPECT_THAT(PathsOf(files.libraries), ElementsAre(kFolder + "/libcuda.so." + kVersion,
                                                    kFolder + "/libnvidia-glcore.so." + kVersion,
                                                    kFolder + "/libnvidia-ml.so." + kVersion));
  EXPECT_EQ(files.libraries[0].soname, "libcuda.so.1");
  EXPECT_EQ(files.libraries[1].soname, "libnvidia-glcore.so." + kVersion);
  EXPECT_EQ(files.libraries[0].folder, kFolder);
  EXPECT_FALSE(files.from_cache);
}

TEST(DriverFiles, FindsTheFoldersOfTheCache) {
  const DriverTree tree;
  AddLibraries(tree, "/opt/driver/lib");
  tree.Link("/lib", "opt/driver/lib");
  tree.File("/etc/ld.so.cache", LdCacheBytes({{"libc.so.6", "/usr/lib/libc.so.6"},
                                              {"libcuda.so.1", "/lib/libcuda.so.1"}}));
  const DriverFiles files = Find(tree);
  EXPECT_THAT(PathsOf(files.libraries), ElementsAre("/opt/driver/lib/libcuda.so." + kVersion,
                                                    "/opt/driver/lib/libnvidia-ml.so." + kVersion));
  EXPECT_TRUE(files.from_cache);
}

TEST(DriverFiles, DoesWithoutACacheThatCantBeRead) {
  const DriverTree tree;
  AddLibraries(tree, kFolder);
  tree.File("/etc/ld.so.cache", "glibc-ld.so.cache1.1 and no more");
  EXPECT_EQ(Find(tree).libraries.size(), 2u);
}

TEST(DriverFiles, ReadsWhatLdconfigWrites) {
  const DriverTree tree;
  AddLibraries(tree, "/opt/driver/lib");
  tree.File("/etc/ld.so.conf", "/opt/driver/lib\n");
  const auto outcome = std::system(("/sbin/ldconfig -r " + tree.root() + " 2>/dev/null").c_str());
  if (outcome != 0) GTEST_SKIP() << "no ldconfig that can write a cache for another root";
  EXPECT_TRUE(Find(tree).from_cache);
}

TEST(DriverFiles, FollowsAlternativesInsideTheRoot) {
  // As Debian packages the driver.
  const DriverTree tree;
  const std::string real = kFolder + "/nvidia/current";
  AddLibraries(tree, real);
  tree.Link("/etc/alternatives/glx--libcuda.so.1", real + "/libcuda.so.1");
  tree.Link(kFolder + "/libcuda.so.1", "/etc/alternatives/glx--libcuda.so.1");
  tree.Program("/usr/lib/nvidia/current/nvidia-smi");
  tree.Link("/etc/alternatives/nvidia-smi", "/usr/lib/nvidia/current/nvidia-smi");
  tree.Link("/usr/bin/nvidia-smi", "/etc/alternatives/nvidia-smi");
  const DriverFiles files = Find(tree);
  EXPECT_EQ(files.FindLibrary("libcuda.so.1")->path, real + "/libcuda.so." + kVersion);
  EXPECT_THAT(files.programs,
              ElementsAre(DriverFile{"/usr/lib/nvidia/current/nvidia-smi", "/usr/bin/nvidia-smi"}));
}

TEST(DriverFiles, TakesALibraryOnceFromTheBestFolder) {
  const DriverTree tree;
  AddLibraries(tree, kFolder);
  AddLibraries(tree, "/usr/lib64");
  EXPECT_THAT(PathsOf(Find(tree).libraries), ElementsAre(kFolder + "/libcuda.so." + kVersion,
                                                         kFolder + "/libnvidia-ml.so." + kVersion));
}

TEST(DriverFiles, LeavesOutNarrowLibraries) {
  const DriverTree tree;
  std::string narrow = ElfBytes("libcuda.so.1");
  narrow[EI_CLASS] = ELFCLASS32;
  tree.File("/usr/lib/libcuda.so." + kVersion, narrow);
  AddLibraries(tree, "/usr/lib64");
  EXPECT_THAT(PathsOf(Find(tree).libraries), ElementsAre("/usr/lib64/libcuda.so." + kVersion,
                                                         "/usr/lib64/libnvidia-ml.so." + kVersion));
}

TEST(DriverFiles, KeepsTheSubfolderOfVdpau) {
  const DriverTree tree;
  AddLibraries(tree, kFolder);
  tree.Library(kFolder + "/vdpau/libvdpau_nvidia.so." + kVersion, "libvdpau_nvidia.so.1");
  const DriverFiles files = Find(tree);
  const DriverLibrary* const vdpau = files.FindLibrary("libvdpau_nvidia.so.1");
  ASSERT_NE(vdpau, nullptr);
  EXPECT_EQ(vdpau->subfolder, "vdpau");
  EXPECT_EQ(vdpau->folder, kFolder + "/vdpau");
  // Also where the cache names that folder itself.
  tree.File("/etc/ld.so.cache",
            LdCacheBytes({{"libvdpau_nvidia.so.1", vdpau->path}, {"libc.so.6", "/lib/libc.so.6"}}));
  EXPECT_EQ(Find(tree).libraries, files.libraries);
}

TEST(DriverFiles, TakesLibrariesWithVersionsOfTheirOwn) {
  const DriverTree tree;
  AddLibraries(tree, kFolder);
  tree.Library(kFolder + "/libnvidia-nvvm70.so.4", "libnvidia-nvvm70.so.4");
  tree.Library(kFolder + "/libnvidia-egl-gbm.so.1.1.2", "libnvidia-egl-gbm.so.1");
  tree.Link(kFolder + "/libnvidia-egl-gbm.so.1", "libnvidia-egl-gbm.so.1.1.2");
  EXPECT_THAT(
      PathsOf(Find(tree).libraries),
      ElementsAre(kFolder + "/libcuda.so." + kVersion, kFolder + "/libnvidia-egl-gbm.so.1.1.2",
                  kFolder + "/libnvidia-ml.so." + kVersion, kFolder + "/libnvidia-nvvm70.so.4"));
  EXPECT_EQ(Find(tree, false).FindLibrary("libnvidia-egl-gbm.so.1"), nullptr);
}

TEST(DriverFiles, FindsProgramsFirmwareSocketsAndConfigs) {
  const DriverTree tree;
  AddLibraries(tree, kFolder);
  tree.Program("/usr/bin/nvidia-smi");
  tree.Program("/usr/sbin/nvidia-persistenced");
  tree.File("/usr/bin/nvidia-debugdump");  // Not executable.
  tree.File("/lib/firmware/nvidia/" + kVersion + "/gsp_tu10x.bin");
  tree.File("/lib/firmware/nvidia/" + kVersion + "/gsp_ga10x.bin");
  tree.File("/lib/firmware/nvidia/" + kVersion + "/other.bin");
  tree.Socket("/run/nvidia-persistenced/socket");
  tree.File("/run/nvidia-fabricmanager/socket");  // No socket.
  tree.File("/usr/share/vulkan/icd.d/nvidia_icd.json");
  tree.File("/usr/share/glvnd/egl_vendor.d/10_nvidia.json");
  tree.File("/etc/cufile.json");
  tree.Folder("/run/udev");
  const DriverFiles files = Find(tree);
  EXPECT_THAT(files.programs, ElementsAre(DriverFile{"/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"},
                                          DriverFile{"/usr/sbin/nvidia-persistenced",
                                                     "/usr/sbin/nvidia-persistenced"}));
  const std::string firmware = "/lib/firmware/nvidia/" + kVersion;
  EXPECT_THAT(files.firmware,
              ElementsAre(DriverFile{firmware + "/gsp_ga10x.bin", firmware + "/gsp_ga10x.bin"},
                          DriverFile{firmware + "/gsp_tu10x.bin", firmware + "/gsp_tu10x.bin"}));
  EXPECT_THAT(files.sockets, ElementsAre(DriverFile{"/run/nvidia-persistenced/socket",
                                                    "/run/nvidia-persistenced/socket"}));
  EXPECT_THAT(files.configs,
              ElementsAre(DriverFile{"/usr/share/vulkan/icd.d/nvidia_icd.json",
                                     "/etc/vulkan/icd.d/nvidia_icd.json"},
                          DriverFile{"/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
                                     "/usr/share/glvnd/egl_vendor.d/10_nvidia.json"}));
  EXPECT_THAT(files.storage, ElementsAre(DriverFile{"/etc/cufile.json", "/etc/cufile.json"},
                                         DriverFile{"/run/udev", "/run/udev"}));
  EXPECT_THAT(Find(tree, false).configs, IsEmpty());
}

TEST(DriverFiles, PrefersTheFirmwareThatTheKernelDoes) {
  const DriverTree tree;
  AddLibraries(tree, kFolder);
  const std::string updated = "/lib/firmware/updates/6.1.0-18-amd64/nvidia/" + kVersion;
  tree.File("/lib/firmware/nvidia/" + kVersion + "/gsp_ga10x.bin");
  tree.File(updated + "/gsp_ga10x.bin");
  EXPECT_THAT(Find(tree).firmware,
              ElementsAre(DriverFile{updated + "/gsp_ga10x.bin", updated + "/gsp_ga10x.bin"}));
}

TEST(DriverFiles, SaysWhereItLookedInVain) {
  const DriverTree tree;
  tree.Library(kFolder + "/libcuda.so.570.1", "libcuda.so.1");
  const auto files = FindDriverFiles({.root = tree.root(), .version = kVersion});
  ASSERT_FALSE(files);
  EXPECT_EQ(files.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(files.error().message, HasSubstr(kVersion));
  EXPECT_THAT(files.error().message, HasSubstr(tree.root()));
  EXPECT_EQ(FindDriverFiles({.root = tree.root()}).error().code, ErrorCode::kUnavailable);
}

TEST(SimulatedFiles, AreAllOfOneFolder) {
  const DriverTree tree;
  tree.Library("/sim/libnvidia-ml.so.1", "libnvidia-ml.so.1");
  tree.Link("/sim/libnvidia-ml.so", "libnvidia-ml.so.1");
  tree.Program("/sim/nvidia-cuda-mps-control");
  tree.File("/sim/notes.txt");
  const auto files = FindSimulatedFiles(tree.At("/sim"), kVersion);
  ASSERT_TRUE(files) << files.error().message;
  EXPECT_THAT(PathsOf(files->libraries), ElementsAre(tree.At("/sim/libnvidia-ml.so.1")));
  EXPECT_THAT(files->programs, ElementsAre(DriverFile{tree.At("/sim/nvidia-cuda-mps-control"),
                                                      "/usr/bin/nvidia-cuda-mps-control"}));
  EXPECT_EQ(FindSimulatedFiles(tree.At("/none"), kVersion).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace sublet
