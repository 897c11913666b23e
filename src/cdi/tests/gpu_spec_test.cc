#include "cdi/gpu_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cdi/elf_library.h"
#include "cdi/spec_check.h"
#include "cdi/tests/sample_node.h"

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Not;

FoundNode NodeAt(const std::string& path, unsigned major, unsigned minor) {
  return {
      .path = path, .host_path = path, .major = major, .minor = minor, .reserved = major == 195};
}

DeviceNodes SampleNodes() {
  DeviceNodes nodes;
  nodes.control = {NodeAt("/dev/nvidia-uvm", 511, 0), NodeAt("/dev/nvidiactl", 195, 255)};
  nodes.gpus["GPU-aaaa"] = {.index = 0, .node = NodeAt("/dev/nvidia0", 195, 0)};
  nodes.gpus["GPU-bbbb"] = {
      .index = 1,
      .node = NodeAt("/dev/nvidia3", 195, 3),
      .drm = {},
      .mig = {{.index = 0,
               .uuid = "MIG-first",
               .capabilities = {NodeAt("/dev/nvidia-caps/nvidia-cap66", 509, 66),
                                NodeAt("/dev/nvidia-caps/nvidia-cap67", 509, 67)}},
              {.index = 1,
               .uuid = "MIG-second",
               .capabilities = {NodeAt("/dev/nvidia-caps/nvidia-cap66", 509, 66),
                                NodeAt("/dev/nvidia-caps/nvidia-cap68", 509, 68)}}}};
  return nodes;
}

DriverLibrary Library(const std::string& name, const std::string& soname) {
  return {.path = "/usr/lib64/" + name,
          .name = name,
          .soname = soname,
          .folder = "/usr/lib64",
          .subfolder = {},
          .machine = kElfMachineX86};
}

DriverFiles SampleFiles() {
  DriverFiles files;
  files.version = "580.1";
  files.libraries = {Library("libcuda.so.580.1", "libcuda.so.1"),
                     Library("libnvidia-glcore.so.580.1", "libnvidia-glcore.so.580.1")};
  files.programs = {{"/opt/nvidia-smi", "/usr/bin/nvidia-smi"}};
  files.sockets = {{"/run/nvidia-persistenced/socket", "/run/nvidia-persistenced/socket"}};
  return files;
}

std::vector<std::string> NamesOf(const CdiSpec& spec) {
  std::vector<std::string> names;
  for (const CdiDevice& device : spec.devices) names.push_back(device.name);
  return names;
}

std::vector<std::string> NodesOf(const CdiSpec& spec, const std::string& name) {
  std::vector<std::string> paths;
  for (const CdiDevice& device : spec.devices) {
    if (device.name != name) continue;
    for (const CdiDeviceNode& node : device.edits.device_nodes) paths.push_back(node.path);
  }
  return paths;
}

std::vector<std::string> MountsOf(const CdiEdits& edits) {
  std::vector<std::string> mounts;
  for (const CdiMount& mount : edits.mounts) {
    mounts.push_back(mount.host_path + " -> " + mount.container_path);
  }
  return mounts;
}

CdiSpec GpuSpec(const CdiConfig& config = {}) {
  const std::vector<CdiSpec> specs = GpuSpecs(SampleNode(), SampleFiles(), SampleNodes(), config);
  EXPECT_EQ(specs.size(), 1u);
  const Status checked = CheckCdiSpec(specs.at(0));
  EXPECT_TRUE(checked) << checked.error().message;
  return specs.at(0);
}

TEST(GpuSpec, NamesEachDeviceByIndexAndByUuid) {
  const CdiSpec spec = GpuSpec();
  EXPECT_EQ(spec.kind(), "k8s.device-plugin.nvidia.com/gpu");
  EXPECT_EQ(spec.version, "0.5.0");
  EXPECT_THAT(NamesOf(spec), ElementsAre("0", "GPU-aaaa", "1", "GPU-bbbb", "1:0", "MIG-first",
                                         "1:1", "MIG-second", "all"));
}

TEST(GpuSpec, GivesADeviceItsOwnNodesOnly) {
  const CdiSpec spec = GpuSpec();
  EXPECT_THAT(NodesOf(spec, "GPU-aaaa"), ElementsAre("/dev/nvidia0"));
  EXPECT_THAT(NodesOf(spec, "1"), ElementsAre("/dev/nvidia3"));
  EXPECT_THAT(NodesOf(spec, "MIG-second"),
              ElementsAre("/dev/nvidia3", "/dev/nvidia-caps/nvidia-cap66",
                          "/dev/nvidia-caps/nvidia-cap68"));
  EXPECT_EQ(NodesOf(spec, "1:1"), NodesOf(spec, "MIG-second"));
  EXPECT_THAT(NodesOf(spec, "all"),
              ElementsAre("/dev/nvidia0", "/dev/nvidia3", "/dev/nvidia-caps/nvidia-cap66",
                          "/dev/nvidia-caps/nvidia-cap67", "/dev/nvidia-caps/nvidia-cap68"));
}

TEST(GpuSpec, WritesOnlyNumbersThatHoldOverAReload) {
  const CdiSpec spec = GpuSpec();
  ASSERT_EQ(spec.edits.device_nodes.size(), 2u);
  EXPECT_EQ(spec.edits.device_nodes[0],
            (CdiDeviceNode{.path = "/dev/nvidia-uvm", .permissions = "rw"}));
  EXPECT_EQ(
      spec.edits.device_nodes[1],
      (CdiDeviceNode{
          .path = "/dev/nvidiactl", .type = "c", .major = 195, .minor = 255, .permissions = "rw"}));
}

TEST(GpuSpec, NamesTheNodeOfAnotherDevRoot) {
  DeviceNodes nodes = SampleNodes();
  nodes.gpus["GPU-aaaa"].node->host_path = "/driver/dev/nvidia0";
  const auto specs = GpuSpecs(SampleNode(), SampleFiles(), nodes, {});
  EXPECT_EQ(specs.at(0).devices.at(0).edits.device_nodes.at(0).host_path, "/driver/dev/nvidia0");
}

TEST(GpuSpec, LeavesOutAGpuWithoutANode) {
  DeviceNodes nodes = SampleNodes();
  nodes.gpus["GPU-bbbb"].node.reset();
  EXPECT_THAT(NamesOf(GpuSpecs(SampleNode(), SampleFiles(), nodes, {}).at(0)),
              ElementsAre("0", "GPU-aaaa", "all"));
  nodes.gpus.erase("GPU-aaaa");
  EXPECT_THAT(GpuSpecs(SampleNode(), SampleFiles(), nodes, {}), IsEmpty());
}

TEST(GpuSpec, MountsLibrariesUnderTheirSonamesWithoutAHook) {
  const CdiSpec spec = GpuSpec({.host_driver_root = "/run/nvidia/driver"});
  const std::string root = "/run/nvidia/driver";
  const std::string glcore = "libnvidia-glcore.so.580.1";
  EXPECT_THAT(
      MountsOf(spec.edits),
      ElementsAre(root + "/run/nvidia-persistenced/socket -> /run/nvidia-persistenced/socket",
                  root + "/opt/nvidia-smi -> /usr/bin/nvidia-smi",
                  root + "/usr/lib64/libcuda.so.580.1 -> /usr/lib/x86_64-linux-gnu/libcuda.so",
                  root + "/usr/lib64/libcuda.so.580.1 -> /usr/lib/x86_64-linux-gnu/libcuda.so.1",
                  root + "/usr/lib64/" + glcore + " -> /usr/lib/x86_64-linux-gnu/" + glcore,
                  root + "/usr/lib64/libcuda.so.580.1 -> /usr/lib64/libcuda.so",
                  root + "/usr/lib64/libcuda.so.580.1 -> /usr/lib64/libcuda.so.1",
                  root + "/usr/lib64/" + glcore + " -> /usr/lib64/" + glcore));
  EXPECT_THAT(spec.edits.hooks, IsEmpty());
  for (const CdiMount& mount : spec.edits.mounts) {
    EXPECT_THAT(mount.options, IsSupersetOf({"ro", "nosuid", "nodev"}));
  }
  EXPECT_THAT(spec.edits.mounts[0].options, Contains("noexec"));
}

TEST(GpuSpec, LeavesLinksAndCacheToTheHook) {
  const CdiSpec spec = GpuSpec({.hook_path = "/usr/bin/nvidia-ctk"});
  EXPECT_THAT(MountsOf(spec.edits), Contains("/usr/lib64/libcuda.so.580.1 -> "
                                             "/usr/lib64/libcuda.so.580.1"));
  EXPECT_THAT(MountsOf(spec.edits),
              Not(Contains("/usr/lib64/libcuda.so.580.1 -> /usr/lib64/libcuda.so.1")));
  ASSERT_EQ(spec.edits.hooks.size(), 2u);
  EXPECT_THAT(spec.edits.hooks[0].args,
              ElementsAre("nvidia-ctk", "hook", "create-symlinks", "--link",
                          "libcuda.so.1::/usr/lib64/libcuda.so"));
  EXPECT_THAT(spec.edits.hooks[1].args,
              ElementsAre("nvidia-ctk", "hook", "update-ldcache", "--folder", "/usr/lib64"));
  EXPECT_EQ(spec.edits.hooks[1].path, "/usr/bin/nvidia-ctk");
  EXPECT_EQ(spec.edits.hooks[1].hook_name, "createContainer");
}

TEST(GpuSpec, CallsTheNewerHookProgramDirectly) {
  const CdiSpec spec = GpuSpec({.hook_path = "/usr/bin/nvidia-cdi-hook"});
  ASSERT_EQ(spec.edits.hooks.size(), 2u);
  EXPECT_THAT(spec.edits.hooks[1].args,
              ElementsAre("nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib64"));
}

TEST(GpuSpec, MountsUnderSonamesWhereTheHookForTheCacheIsDisabled) {
  const std::string soname = "/usr/lib64/libcuda.so.580.1 -> /usr/lib64/libcuda.so.1";
  for (const char* disabled : {"all", "update-ldcache"}) {
    const CdiSpec spec =
        GpuSpec({.hook_path = "/usr/bin/nvidia-ctk", .disabled_hooks = {disabled}});
    EXPECT_THAT(MountsOf(spec.edits), Contains(soname)) << disabled;
    EXPECT_THAT(spec.edits.hooks, IsEmpty()) << disabled;
  }
  const CdiSpec spec =
      GpuSpec({.hook_path = "/usr/bin/nvidia-ctk", .disabled_hooks = {"create-symlinks"}});
  EXPECT_THAT(MountsOf(spec.edits), Not(Contains(soname)));
  EXPECT_EQ(spec.edits.hooks.size(), 1u);
}

TEST(GpuSpec, KeepsNvidiasRuntimeOutAndTellsASimulatedDriver) {
  const CdiSpec spec = GpuSpec(
      {.simulation_env = {"SUBLET_SIM=/a/node.json"}, .simulation_files = {"/a/node.json"}});
  EXPECT_THAT(spec.edits.env,
              ElementsAre("NVIDIA_VISIBLE_DEVICES=void", "SUBLET_SIM=/a/node.json"));
  EXPECT_THAT(MountsOf(spec.edits), Contains("/a/node.json -> /a/node.json"));
}

TEST(GpuSpec, HasAClassForEachFurtherKindOfDevice) {
  DeviceNodes nodes = SampleNodes();
  nodes.imex_channels = {{0, NodeAt("/dev/nvidia-caps-imex-channels/channel0", 508, 0)}};
  nodes.gdrcopy = {NodeAt("/dev/gdrdrv", 507, 0)};
  nodes.gds = {NodeAt("/dev/nvidia-fs0", 506, 0)};
  nodes.mofed = {NodeAt("/dev/infiniband/uverbs0", 231, 192)};
  DriverFiles files = SampleFiles();
  files.storage = {{"/etc/cufile.json", "/etc/cufile.json"}};
  const CdiConfig config{.gdrcopy = true, .gds = true, .mofed = true};
  std::vector<std::string> kinds;
  for (const CdiSpec& spec : GpuSpecs(SampleNode(), files, nodes, config)) {
    const Status checked = CheckCdiSpec(spec);
    EXPECT_TRUE(checked) << checked.error().message;
    kinds.push_back(QualifiedCdiName("v", spec.class_name, spec.devices[0].name));
  }
  EXPECT_THAT(kinds, ElementsAre("v/gpu=0", "v/imex-channel=0", "v/gdrcopy=all", "v/gds=all",
                                 "v/mofed=all"));
  // Not asked for, and not there.
  EXPECT_EQ(GpuSpecs(SampleNode(), files, nodes, {}).size(), 2u);
  EXPECT_EQ(GpuSpecs(SampleNode(), files, SampleNodes(), config).size(), 1u);
}

}  // namespace
}  // namespace sublet
