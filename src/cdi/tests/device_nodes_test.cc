#include "cdi/device_nodes.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cdi/tests/driver_tree.h"
#include "cdi/tests/sample_node.h"

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> PathsOf(const std::vector<FoundNode>& nodes) {
  std::vector<std::string> paths;
  for (const FoundNode& node : nodes) paths.push_back(node.path);
  return paths;
}

void Capability(const DriverTree& tree, const std::string& path, int number) {
  tree.File("/proc/driver/nvidia/capabilities/" + path,
            fmt::format("DeviceFileMinor: {}\nDeviceFileMode: 292\nDeviceFileModify: 1\n", number));
}

// A host with both GPUs; false where nodes can't be made.
bool MakeHost(const DriverTree& tree) {
  bool made = tree.Device("/dev/nvidiactl", 195, 255) && tree.Device("/dev/nvidia-uvm", 511, 0) &&
              tree.Device("/dev/nvidia-uvm-tools", 511, 1) && tree.Device("/dev/nvidia0", 195, 0) &&
              tree.Device("/dev/nvidia3", 195, 3);
  for (const int number : {66, 67, 69, 129, 130}) {
    made = made && tree.Device(fmt::format("/dev/nvidia-caps/nvidia-cap{}", number), 509,
                               static_cast<unsigned>(number));
  }
  Capability(tree, "gpu3/mig/gi2/access", 66);
  Capability(tree, "gpu3/mig/gi2/ci0/access", 67);
  Capability(tree, "gpu3/mig/gi2/ci2/access", 69);
  Capability(tree, "gpu3/mig/gi9/access", 129);
  Capability(tree, "gpu3/mig/gi9/ci0/access", 130);
  return made;
}

NodePlaces PlacesIn(const DriverTree& tree) {
  return {.dev_root = RootFolder{tree.root(), "/host"},
          .proc = tree.At("/proc"),
          .sys = tree.At("/sys"),
          .simulated = false};
}

#define MAKE_HOST_OR_SKIP(tree) \
  if (!MakeHost(tree)) GTEST_SKIP() << "this user may not make device nodes"

TEST(MigDevices, AreNumberedAsNvmlDoes) {
  const std::vector<MigDeviceName> devices = MigDevicesOf(SampleNode().gpus[1]);
  ASSERT_EQ(devices.size(), 3u);
  EXPECT_EQ(devices[0].uuid, "MIG-first");
  EXPECT_EQ(devices[1].uuid, "MIG-third");
  EXPECT_EQ(devices[2].uuid, "MIG-small");
  EXPECT_EQ(devices[2].index, 2);
}

TEST(DeviceNodes, AreFoundInTheDevRoot) {
  const DriverTree tree;
  MAKE_HOST_OR_SKIP(tree);
  const DeviceNodes nodes = FindDeviceNodes(SampleNode(), PlacesIn(tree), {});
  EXPECT_THAT(PathsOf(nodes.control),
              ElementsAre("/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl"));
  const FoundNode expected{.path = "/dev/nvidia3",
                           .host_path = "/host/dev/nvidia3",
                           .major = 195,
                           .minor = 3,
                           .reserved = true};
  EXPECT_EQ(nodes.gpus.at("GPU-bbbb").node, expected);
  EXPECT_FALSE(nodes.control[0].reserved);  // 511 is whoever's the kernel gives it to.
  EXPECT_EQ(nodes.control[0].major, 511u);
  EXPECT_THAT(nodes.notes, IsEmpty());
}

TEST(DeviceNodes, TakesADevRootThatNamesDevItself) {
  const DriverTree tree;
  MAKE_HOST_OR_SKIP(tree);
  NodePlaces places = PlacesIn(tree);
  places.dev_root = RootFolder{tree.root() + "/dev/", "/host/dev"};
  const DeviceNodes nodes = FindDeviceNodes(SampleNode(), places, {});
  EXPECT_EQ(nodes.gpus.at("GPU-aaaa").node->host_path, "/host/dev/nvidia0");
}

TEST(DeviceNodes, HasTwoCapabilitiesForEachMigDevice) {
  const DriverTree tree;
  MAKE_HOST_OR_SKIP(tree);
  const DeviceNodes nodes = FindDeviceNodes(SampleNode(), PlacesIn(tree), {});
  const std::vector<MigDeviceNodes>& mig = nodes.gpus.at("GPU-bbbb").mig;
  ASSERT_EQ(mig.size(), 3u);
  EXPECT_THAT(PathsOf(mig[0].capabilities),
              ElementsAre("/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67"));
  EXPECT_THAT(PathsOf(mig[1].capabilities),
              ElementsAre("/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap69"));
  EXPECT_THAT(PathsOf(mig[2].capabilities),
              ElementsAre("/dev/nvidia-caps/nvidia-cap129", "/dev/nvidia-caps/nvidia-cap130"));
  EXPECT_EQ(mig[2].uuid, "MIG-small");
}

TEST(DeviceNodes, LeavesOutAMigDeviceWithoutItsCapabilities) {
  const DriverTree tree;
  MAKE_HOST_OR_SKIP(tree);
  std::filesystem::remove(tree.At("/dev/nvidia-caps/nvidia-cap130"));
  tree.File("/proc/driver/nvidia/capabilities/gpu3/mig/gi2/ci2/access", "DeviceFileMinor: x\n");
  const DeviceNodes nodes = FindDeviceNodes(SampleNode(), PlacesIn(tree), {});
  const std::vector<MigDeviceNodes>& mig = nodes.gpus.at("GPU-bbbb").mig;
  ASSERT_EQ(mig.size(), 1u);
  EXPECT_EQ(mig[0].uuid, "MIG-first");
  EXPECT_THAT(nodes.notes, Contains(HasSubstr("MIG device 1:1 is left out")));
  EXPECT_THAT(nodes.notes, Contains(HasSubstr("MIG device 1:2 is left out")));
}

TEST(DeviceNodes, SaysWhichGpusAreLeftOut) {
  const DriverTree tree;
  MAKE_HOST_OR_SKIP(tree);
  std::filesystem::remove(tree.At("/dev/nvidia0"));
  tree.File("/dev/nvidia0", "a file, no device");
  Inventory node = SampleNode();
  node.gpus.resize(4);
  node.gpus[2].index = 2;
  node.gpus[2].uuid = "GPU-cccc";
  node.gpus[3].index = 3;
  node.gpus[3].uuid = "GPU-dddd";
  node.gpus[3].problem = "gpu is lost";
  const DeviceNodes nodes = FindDeviceNodes(node, PlacesIn(tree), {});
  EXPECT_FALSE(nodes.gpus.at("GPU-aaaa").node);
  EXPECT_FALSE(nodes.gpus.at("GPU-cccc").node);
  EXPECT_FALSE(nodes.gpus.contains("GPU-dddd"));
  EXPECT_THAT(nodes.notes, ElementsAre(HasSubstr("GPU 0 is left out: no /dev/nvidia0"),
                                       HasSubstr("GPU 2 is left out: the driver doesn't tell"),
                                       HasSubstr("GPU 3 is left out: gpu is lost")));
}

TEST(DeviceNodes, SaysWhenTheDriversOwnNodesAreMissing) {
  const DriverTree tree;
  const DeviceNodes nodes = FindDeviceNodes({}, PlacesIn(tree), {.imex_channels = {7}});
  EXPECT_THAT(nodes.notes, ElementsAre(HasSubstr("no /dev/nvidia-uvm in the dev root"),
                                       HasSubstr("no /dev/nvidiactl in the dev root"),
                                       HasSubstr("no IMEX channel 7")));
}

TEST(DeviceNodes, FindsTheDrmNodesOfEachGpu) {
  const DriverTree tree;
  MAKE_HOST_OR_SKIP(tree);
  for (const char* path : {"/dev/dri/card0", "/dev/dri/card1", "/dev/dri/renderD128"}) {
    ASSERT_TRUE(tree.Device(path, 226, 0));
  }
  tree.Folder("/sys/bus/pci/devices/0000:1b:00.0/drm/card1");
  tree.Folder("/sys/bus/pci/devices/0000:1b:00.0/drm/renderD128");
  const DeviceNodes nodes = FindDeviceNodes(SampleNode(), PlacesIn(tree), {});
  EXPECT_THAT(PathsOf(nodes.gpus.at("GPU-aaaa").drm),
              ElementsAre("/dev/dri/card1", "/dev/dri/renderD128"));
  EXPECT_THAT(nodes.gpus.at("GPU-bbbb").drm, IsEmpty());
  EXPECT_THAT(
      FindDeviceNodes(SampleNode(), PlacesIn(tree), {.graphics = false}).gpus.at("GPU-aaaa").drm,
      IsEmpty());
}

TEST(DeviceNodes, FindsWhatBelongsToTheGpus) {
  const DriverTree tree;
  if (!tree.Device("/dev/gdrdrv", 1, 3)) GTEST_SKIP() << "this user may not make device nodes";
  for (const char* path :
       {"/dev/nvidia-fs1", "/dev/nvidia-fs0", "/dev/infiniband/uverbs0", "/dev/infiniband/rdma_cm",
        "/dev/infiniband/umad0", "/dev/nvidia-caps-imex-channels/channel0"}) {
    ASSERT_TRUE(tree.Device(path, 1, 3));
  }
  const DeviceNodes nodes = FindDeviceNodes({}, PlacesIn(tree), {.imex_channels = {0}});
  EXPECT_THAT(PathsOf(nodes.gdrcopy), ElementsAre("/dev/gdrdrv"));
  EXPECT_THAT(PathsOf(nodes.gds), ElementsAre("/dev/nvidia-fs0", "/dev/nvidia-fs1"));
  EXPECT_THAT(PathsOf(nodes.mofed),
              ElementsAre("/dev/infiniband/uverbs0", "/dev/infiniband/rdma_cm"));
  EXPECT_EQ(nodes.imex_channels.at(0).path, "/dev/nvidia-caps-imex-channels/channel0");
}

TEST(DeviceNodes, OfASimulatedDriverAreNull) {
  const DriverTree tree;
  NodePlaces places = PlacesIn(tree);
  places.simulated = true;
  const DeviceNodes nodes = FindDeviceNodes(SampleNode(), places, {});
  const FoundNode null{
      .path = "/dev/nvidia3", .host_path = "/dev/null", .major = 1, .minor = 3, .reserved = true};
  EXPECT_EQ(nodes.gpus.at("GPU-bbbb").node, null);
  // As a real driver numbers them: 3 + (3 * 15 + 2) * 9.
  EXPECT_THAT(PathsOf(nodes.gpus.at("GPU-bbbb").mig[0].capabilities),
              ElementsAre("/dev/nvidia-caps/nvidia-cap426", "/dev/nvidia-caps/nvidia-cap427"));
  EXPECT_THAT(nodes.gdrcopy, IsEmpty());
  EXPECT_THAT(nodes.notes, IsEmpty());
  // This machine's own nodes, whatever they are, are not looked at.
  places.dev_root.reset();
  EXPECT_EQ(FindDeviceNodes(SampleNode(), places, {}).gpus.at("GPU-bbbb").node, null);
}

}  // namespace
}  // namespace sublet
