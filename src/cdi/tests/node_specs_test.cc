#include "cdi/node_specs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "cdi/tests/driver_tree.h"
#include "cdi/tests/sample_node.h"

namespace sublet {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// A driver root at another place for the container runtime, as in a pod that mounts the host.
class NodeSpecsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = "/usr/lib/x86_64-linux-gnu";
    tree_.Library(folder + "/libcuda.so.580.159.04", "libcuda.so.1");
    if (!tree_.Device("/dev/nvidiactl", 195, 255) || !tree_.Device("/dev/nvidia-uvm", 511, 0) ||
        !tree_.Device("/dev/nvidia0", 195, 0)) {
      GTEST_SKIP() << "this user may not make device nodes";
    }
    node_ = SampleNode();
    node_.gpus.pop_back();
    request_.driver_root = {tree_.root(), "/"};
    request_.proc = tree_.At("/proc");
    request_.sys = tree_.At("/sys");
  }

  CdiDescription Describe() {
    auto found = DescribeNode(node_, request_);
    EXPECT_TRUE(found) << found.error().message;
    return found ? *found : CdiDescription{};
  }

  DriverTree tree_;
  Inventory node_;
  CdiRequest request_;
};

TEST_F(NodeSpecsTest, NamesPathsAsTheRuntimeSeesThem) {
  const CdiDescription found = Describe();
  ASSERT_EQ(found.specs.size(), 1u);
  const std::string text = CdiSpecText(found.specs[0]);
  EXPECT_THAT(text, Not(HasSubstr(tree_.root())));
  EXPECT_THAT(text, HasSubstr("\"hostPath\": \"/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04\""));
  request_.driver_root.host = "/run/nvidia/driver";
  EXPECT_THAT(CdiSpecText(Describe().specs[0]),
              HasSubstr("\"hostPath\": \"/run/nvidia/driver/dev/nvidia0\""));
}

TEST_F(NodeSpecsTest, IsTheSameEachTime) {
  EXPECT_EQ(Describe().specs, Describe().specs);
}

TEST_F(NodeSpecsTest, UsesTheHookProgramThatIsThere) {
  EXPECT_EQ(Describe().hook_path, "");
  EXPECT_THAT(Describe().notes, ElementsAre(HasSubstr("no hooks: /usr/bin/nvidia-cdi-hook or")));
  tree_.Program("/usr/bin/nvidia-ctk");
  EXPECT_EQ(Describe().hook_path, "/usr/bin/nvidia-ctk");
  tree_.Program("/usr/bin/nvidia-cdi-hook");
  EXPECT_EQ(Describe().hook_path, "/usr/bin/nvidia-cdi-hook");
  EXPECT_THAT(Describe().notes, IsEmpty());
  request_.hook_path = "/opt/nvidia-cdi-hook";
  EXPECT_EQ(Describe().hook_path, "");
  tree_.File("/opt/nvidia-cdi-hook", "not executable");
  EXPECT_EQ(Describe().hook_path, "");
}

TEST_F(NodeSpecsTest, DoesNotTakeAProgramOfItsOwnContainerForTheHosts) {
  // The driver root is a driver's container; the host itself isn't seen.
  tree_.Program("/usr/bin/nvidia-ctk");
  request_.driver_root.host = "/run/nvidia/driver";
  EXPECT_EQ(Describe().hook_path, "");
}

TEST_F(NodeSpecsTest, NamesTheDevRootOfTheHost) {
  request_.dev_root = "/other";
  EXPECT_EQ(Describe().specs.at(0).devices.at(0).edits.device_nodes.at(0).host_path,
            "/other/dev/nvidia0");
}

TEST_F(NodeSpecsTest, LooksIntoTheNamedDevRootOnTheHostItself) {
  request_.driver_root.host = tree_.root();
  request_.dev_root = tree_.At("/else");
  EXPECT_EQ(DescribeNode(node_, request_).error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(tree_.Device("/else/dev/nvidia0", 195, 0));
  EXPECT_EQ(Describe().specs.at(0).devices.at(0).edits.device_nodes.at(0).host_path,
            tree_.At("/else/dev/nvidia0"));
}

TEST_F(NodeSpecsTest, SaysWhichClassesAreMissing) {
  request_.config.gdrcopy = true;
  EXPECT_THAT(Describe().notes, Contains(HasSubstr("no class gdrcopy: /dev/gdrdrv")));
}

TEST_F(NodeSpecsTest, FailsWhereNoGpuCanBeGivenOut) {
  std::filesystem::remove(tree_.At("/dev/nvidia0"));
  const auto found = DescribeNode(node_, request_);
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(found.error().hint, HasSubstr("/dev/nvidia0"));
}

TEST_F(NodeSpecsTest, RefusesWsl) {
  node_.host.wsl2 = true;
  EXPECT_EQ(DescribeNode(node_, request_).error().code, ErrorCode::kUnsupported);
}

TEST_F(NodeSpecsTest, RefusesNamesThatNoRuntimeWouldTake) {
  node_.gpus[0].uuid = "GPU aaaa";
  const auto found = DescribeNode(node_, request_);
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, ErrorCode::kInvalid);
}

TEST_F(NodeSpecsTest, GivesNoRealDeviceToASimulatedGpu) {
  node_.driver.simulated = true;
  tree_.Library("/sim/libnvidia-ml.so.1", "libnvidia-ml.so.1");
  request_.simulation = {.node = "a100-80gb:1", .folder = tree_.At("/sim")};
  const auto host_path = [this] {
    const CdiDescription found = Describe();
    return found.specs.at(0).devices.at(0).edits.device_nodes.at(0).host_path;
  };
  EXPECT_EQ(host_path(), "/dev/null");
  // Whoever names a place means it.
  request_.driver_root_named = true;
  request_.driver_root.host = "/driver";
  EXPECT_EQ(host_path(), "/driver/dev/nvidia0");
}

TEST(SimulatedNodeSpecs, ShowTheSimulatedLibrariesAndNoRealDevice) {
  const DriverTree tree;
  tree.Library("/sim/libnvidia-ml.so.1", "libnvidia-ml.so.1");
  Inventory node = SampleNode();
  node.driver.simulated = true;
  CdiRequest request;
  request.simulation = {.node = "a100-80gb:1", .folder = tree.At("/sim")};
  const auto found = DescribeNode(node, request);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_TRUE(found->simulated);
  EXPECT_THAT(found->notes, IsEmpty());
  const CdiSpec& spec = found->specs.at(0);
  EXPECT_THAT(spec.edits.env, Contains("SUBLET_SIM=a100-80gb:1"));
  ASSERT_FALSE(spec.edits.mounts.empty());
  EXPECT_EQ(spec.edits.mounts[0].host_path, tree.At("/sim/libnvidia-ml.so.1"));
  for (const CdiDevice& device : spec.devices) {
    for (const CdiDeviceNode& each : device.edits.device_nodes) {
      EXPECT_EQ(each.host_path, "/dev/null");
      EXPECT_EQ(each.major, 1);
    }
  }
}

}  // namespace
}  // namespace sublet
