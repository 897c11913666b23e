#include "kube/plugin_resources.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <fstream>
#include <iterator>
#include <set>

#include "sample_node.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// "nvidia.com/gpu=8": a resource and its number of replicas.
std::vector<std::string> Summary(const AdvertisedNode& node) {
  std::vector<std::string> lines;
  for (const AdvertisedResource& resource : node.resources) {
    lines.push_back(fmt::format("{}={}", resource.name, resource.replicas.size()));
  }
  return lines;
}

std::vector<std::string> Offered(const Inventory& node, const std::string& yaml) {
  return Summary(Advertised(node, ConfigOf(yaml)));
}

std::string Refused(const Inventory& node, const std::string& yaml, ErrorCode code) {
  const DevicePluginConfig config = ConfigOf(yaml);
  const Result<AdvertisedNode> advertised = AdvertiseNode({.inventory = node, .config = config});
  if (advertised) return "advertised";
  EXPECT_EQ(advertised.error().code, code);
  return advertised.error().message;
}

std::string Single() {
  return "flags: {migStrategy: single}\n";
}

std::string Mixed() {
  return "flags: {migStrategy: mixed}\n";
}

TEST(PluginResources, AWholeGpuIsNamedByItsUuid) {
  const AdvertisedNode node = Advertised(SampleNode("a100-80gb", 2), ConfigOf(""));
  ASSERT_THAT(node.resources, SizeIs(1));
  const AdvertisedResource& gpus = node.resources[0];
  EXPECT_EQ(gpus.name, "nvidia.com/gpu");
  EXPECT_EQ(gpus.mode, SharingMode::kExclusive);
  ASSERT_THAT(gpus.replicas, SizeIs(2));
  EXPECT_EQ(gpus.replicas[1].id, SampleUuid(1));
  EXPECT_EQ(gpus.devices[1].index, "1");
  EXPECT_THAT(gpus.devices[1].paths, ElementsAre("/dev/nvidia1"));
  EXPECT_EQ(gpus.devices[1].numa_node, 0);
}

TEST(PluginResources, ReplicasAreNumberedAsNvidiaDoes) {
  const AdvertisedNode node = Advertised(
      SampleNode("a100-80gb", 2),
      ConfigOf("sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}"));
  ASSERT_THAT(Summary(node), ElementsAre("nvidia.com/gpu=8"));
  const AdvertisedResource& gpus = node.resources[0];
  EXPECT_EQ(gpus.replicas[0].id, SampleUuid(0) + "::0");
  EXPECT_EQ(gpus.replicas[7].id, SampleUuid(1) + "::3");
  EXPECT_EQ(gpus.replicas[7].device, 1u);
  EXPECT_EQ(PhysicalId(gpus.replicas[7].id), SampleUuid(1));
  EXPECT_FALSE(gpus.fail_requests_greater_than_one);
  EXPECT_EQ(gpus.devices[0].size, ShareSize());
  const ReplicaIndex index(gpus);
  EXPECT_EQ(index.Find(SampleUuid(1) + "::3"), &gpus.replicas[7]);
  EXPECT_EQ(index.Find(SampleUuid(1)), nullptr);
}

TEST(PluginResources, MpsDividesAsNvidiasControlDaemonDoes) {
  Inventory node = SampleNode("a100-80gb", 1);
  node.gpus[0].memory = Bytes::FromMib(81'920);
  const AdvertisedNode advertised = Advertised(
      node,
      ConfigOf("sharing: {mps: {renameByDefault: true, resources: [{name: gpu, replicas: 3}]}}"));
  ASSERT_THAT(Summary(advertised), ElementsAre("nvidia.com/gpu.shared=3"));
  const AdvertisedResource& gpus = advertised.resources[0];
  EXPECT_EQ(gpus.mode, SharingMode::kMps);
  EXPECT_TRUE(gpus.fail_requests_greater_than_one);
  EXPECT_FALSE(gpus.sized);
  EXPECT_EQ(gpus.devices[0].size, (ShareSize{Bytes::FromMib(27'306), 33}));
}

TEST(PluginResources, RenameAndDevicesWork) {
  const Inventory node = SampleNode("a100-80gb", 4);
  EXPECT_THAT(Offered(node, R"(sharing:
  timeSlicing:
    resources:
      - {name: gpu, replicas: 4, devices: [0]}
      - {name: gpu, replicas: 8, devices: [1], rename: gpu.slow}
)"),
              ElementsAre("nvidia.com/gpu=6", "nvidia.com/gpu.slow=8"));
  EXPECT_THAT(Offered(node,
                      "sharing: {timeSlicing: {resources: [{name: gpu, replicas: 5, "
                      "devices: 2, rename: gpu.slow}]}}"),
              ElementsAre("nvidia.com/gpu=2", "nvidia.com/gpu.slow=10"));
  EXPECT_THAT(Offered(node, R"(sharing:
  timeSlicing: {resources: [{name: gpu, replicas: 2, devices: [0], rename: gpu.turns}]}
  mps: {resources: [{name: gpu, replicas: 2, devices: [1], rename: gpu.mps}]}
)"),
              ElementsAre("nvidia.com/gpu=2", "nvidia.com/gpu.mps=2", "nvidia.com/gpu.turns=2"));
}

TEST(PluginResources, RefusesRulesThatClaimOneDeviceTwice) {
  const Inventory node = SampleNode("a100-80gb", 2);
  EXPECT_THAT(Refused(node, R"(sharing:
  timeSlicing: {resources: [{name: gpu, replicas: 2}]}
  mps: {resources: [{name: gpu, replicas: 2}]}
)",
                      ErrorCode::kInvalid),
              HasSubstr("GPU 0 is shared by another rule already, in mode mps"));
  EXPECT_THAT(Refused(node, R"(sharing:
  timeSlicing: {resources: [{name: gpu, replicas: 2, devices: [0]}]}
  mps: {resources: [{name: gpu, replicas: 2, devices: [1]}]}
)",
                      ErrorCode::kInvalid),
              HasSubstr("contradictory modes: nvidia.com/gpu"));
}

TEST(PluginResources, SaysWhichDeviceIsMissing) {
  const Inventory node = SampleNode("a100-80gb", 2);
  const auto shared = [](const std::string& devices) {
    return "sharing: {timeSlicing: {resources: [{name: gpu, replicas: 2, devices: " + devices +
           "}]}}";
  };
  EXPECT_THAT(Refused(node, shared("[7]"), ErrorCode::kNotFound),
              HasSubstr("no matching device at index: 7"));
  EXPECT_THAT(Refused(node, shared("[" + SampleUuid(9) + "]"), ErrorCode::kNotFound),
              HasSubstr("no matching device with UUID: " + SampleUuid(9)));
  EXPECT_THAT(Refused(node, shared("3"), ErrorCode::kNotFound),
              HasSubstr("requested 3 devices to be replicated, but only 2 devices available"));
  EXPECT_THAT(Refused(node, shared("[0, " + SampleUuid(0) + "]"), ErrorCode::kInvalid),
              HasSubstr("twice"));
}

TEST(PluginResources, MoreClientsThanAnMpsServerTakesAreRefused) {
  Inventory node = SampleNode("a100-80gb", 1);
  const std::string yaml = "sharing: {mps: {resources: [{name: gpu, replicas: 49}]}}";
  EXPECT_THAT(Refused(node, yaml, ErrorCode::kUnsupported),
              HasSubstr("49 replicas, but an MPS server takes 48 clients"));
  node.gpus[0].compute_capability_major = 7;
  EXPECT_THAT(Refused(node, yaml, ErrorCode::kUnsupported), HasSubstr("takes 16 clients"));
}

TEST(PluginResources, StrategyNoneOffersWholeGpusOnly) {
  Inventory node = SampleNode("a100-80gb", 2);
  Cut(node, 1, Smalls("1g.10gb", {0, 1}));
  const AdvertisedNode advertised = Advertised(node, ConfigOf(""));
  EXPECT_THAT(Summary(advertised), ElementsAre("nvidia.com/gpu=2"));
  EXPECT_THAT(advertised.warnings, ElementsAre(HasSubstr("GPU 1 is in MIG mode")));
}

TEST(PluginResources, StrategySingleOffersMigDevicesAsGpus) {
  Inventory node = SampleNode("a100-80gb", 2);
  Cut(node, 0, Smalls("1g.10gb", {0, 1}));
  EXPECT_THAT(
      Refused(node, Single(), ErrorCode::kConflict),
      HasSubstr("all devices on the node must be configured with the same migEnabled value"));
  Cut(node, 1, Smalls("2g.20gb", {0}));
  EXPECT_THAT(Refused(node, Single(), ErrorCode::kConflict),
              HasSubstr("more than one MIG device type present on node"));
  Cut(node, 1, {});
  EXPECT_THAT(Refused(node, Single(), ErrorCode::kConflict),
              HasSubstr("at least one device with migEnabled=true was not configured correctly"));
  Cut(node, 1, Smalls("1g.10gb", {3}));
  const AdvertisedNode advertised = Advertised(node, ConfigOf(Single()));
  ASSERT_THAT(Summary(advertised), ElementsAre("nvidia.com/gpu=3"));
  EXPECT_EQ(advertised.resources[0].devices[2].index, "1:0");
  EXPECT_EQ(advertised.resources[0].replicas[0].id, SampleMigUuid(0, 0));
}

TEST(PluginResources, StrategyMixedOffersEachProfile) {
  Inventory node = SampleNode("a100-80gb", 3);
  Cut(node, 0,
      {{.profile = "1g.10gb+me", .start = 0},
       {.profile = "1g.10gb", .start = 1},
       {.profile = "3g.40gb", .start = 4, .compute_slices = std::vector{2, 1}}});
  Cut(node, 1, {});
  const AdvertisedNode advertised = Advertised(node, ConfigOf(Mixed()));
  EXPECT_THAT(
      Summary(advertised),
      ElementsAre("nvidia.com/gpu=1", "nvidia.com/mig-1c.3g.40gb=1", "nvidia.com/mig-1g.10gb=1",
                  "nvidia.com/mig-1g.10gb.me=1", "nvidia.com/mig-2c.3g.40gb=1"));
  EXPECT_THAT(advertised.warnings, ElementsAre(HasSubstr("GPU 1 isn't advertised")));
}

TEST(PluginResources, AMigDeviceHasItsCapabilityNodes) {
  Inventory node = SampleNode("a100-80gb", 1);
  Cut(node, 0, Smalls("1g.10gb", {0}));
  const DevicePluginConfig config = ConfigOf(Mixed());
  const auto advertised = AdvertiseNode(
      {.inventory = node,
       .config = config,
       .mig_nodes = {{SampleMigUuid(0, 0),
                      {"/dev/nvidia-caps/nvidia-cap66", "/dev/nvidia-caps/nvidia-cap67"}}}});
  ASSERT_TRUE(advertised.has_value());
  EXPECT_THAT(advertised->resources[0].devices[0].paths,
              ElementsAre("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap66",
                          "/dev/nvidia-caps/nvidia-cap67"));
}

TEST(PluginResources, SharesFillADeviceAndTakeItFromTheRest) {
  Inventory node = SampleNode("a100-80gb", 3);
  const AdvertisedNode advertised = Advertised(node, ConfigOf(R"(
sharing: {timeSlicing: {resources: [{name: gpu, replicas: 2}]}}
sublet:
  shares:
    - {resource: gpu.small, devices: [0], memory: 10Gi, sm_percent: 15, count: fill}
    - {resource: gpu.half, devices: [0], memory: 40Gi, sm_percent: 50}
    - {resource: gpu.note, mode: time-slicing, devices: [1], count: 8}
)"));
  ASSERT_THAT(Summary(advertised), ElementsAre("nvidia.com/gpu=2", "nvidia.com/gpu.half=1",
                                               "nvidia.com/gpu.note=8", "nvidia.com/gpu.small=3"));
  EXPECT_EQ(advertised.resources[0].devices[0].uuid, SampleUuid(2));
  const AdvertisedResource& small = advertised.resources[3];
  EXPECT_TRUE(small.sized);
  EXPECT_EQ(small.devices[0].size, (ShareSize{10_GiB, 15}));
  EXPECT_FALSE(advertised.resources[2].sized);
}

TEST(PluginResources, MpsInsideMigDevices) {
  Inventory node = SampleNode("a100-80gb", 1);
  Cut(node, 0, {{.profile = "3g.40gb", .start = 4}, {.profile = "1g.10gb", .start = 0}});
  const std::string shares = "sublet: {shares: [{resource: gpu.part, profile: 3g.40gb, count: 4}]}";
  const AdvertisedNode advertised = Advertised(node, ConfigOf(Mixed() + shares));
  ASSERT_THAT(Summary(advertised),
              ElementsAre("nvidia.com/gpu.part=4", "nvidia.com/mig-1g.10gb=1"));
  const AdvertisedDevice& device = advertised.resources[0].devices[0];
  EXPECT_EQ(device.size, (ShareSize{Bytes::FromMib(device.memory.mib() / 4), 25}));
  // Without a strategy the GPU isn't offered beside its own part.
  EXPECT_THAT(Offered(node, shares), ElementsAre("nvidia.com/gpu.part=4"));
  EXPECT_THAT(Refused(node,
                      "flags: {migStrategy: mixed}\nsharing: {mps: {resources: [{name: "
                      "mig-3g.40gb, replicas: 2}]}}",
                      ErrorCode::kUnsupported),
              HasSubstr("sharing.mps doesn't share MIG devices: MIG device 0:"));
}

TEST(PluginResources, ContradictoryShares) {
  const Inventory node = SampleNode("a100-80gb", 2);
  EXPECT_THAT(Refused(node, R"(sublet:
  shares:
    - {resource: a, memory: 1Gi}
    - {resource: b, mode: time-slicing, count: 2}
)",
                      ErrorCode::kInvalid),
              HasSubstr("contradictory modes for GPU 0: nvidia.com/a (mps)"));
  EXPECT_THAT(Refused(node,
                      "sublet: {shares: [{resource: a, memory: 1Gi}, {resource: a, memory: "
                      "2Gi}]}",
                      ErrorCode::kInvalid),
              HasSubstr("two rules for nvidia.com/a on GPU 0"));
  EXPECT_THAT(Refused(node, "sublet: {shares: [{resource: gpu, memory: 1Gi, devices: [0]}]}",
                      ErrorCode::kInvalid),
              HasSubstr("contradictory modes: nvidia.com/gpu"));
}

TEST(PluginResources, AGpuThatTellsNothingIsLeftOutWithAWarning) {
  Inventory node = SampleNode("a100-80gb", 2);
  node.gpus[0] = Gpu{};
  node.gpus[0].problem = "gpu is lost";
  const AdvertisedNode advertised = Advertised(node, ConfigOf(""));
  EXPECT_THAT(Summary(advertised), ElementsAre("nvidia.com/gpu=1"));
  EXPECT_THAT(advertised.warnings, ElementsAre(HasSubstr("gpu is lost")));
}

TEST(PluginResources, ANodeWithoutGpusOffersNothing) {
  EXPECT_THAT(Offered(Inventory(), Single()), IsEmpty());
}

TEST(PluginResources, TheExamplesAreWhatTheySayTheyAre) {
  Inventory cut = SampleNode("a100-80gb", 2);
  Cut(cut, 1, {{.profile = "3g.40gb", .start = 4}, {.profile = "1g.10gb", .start = 0}});
  const auto example = [](const std::string& name) {
    std::ifstream in(std::string(SUBLET_SOURCE_DIR "/examples/07_kube/") + name);
    return std::string{std::istreambuf_iterator<char>(in), {}};
  };
  const Inventory two = SampleNode("a100-80gb", 2);
  EXPECT_THAT(Offered(two, example("time-slicing.yaml")), ElementsAre("nvidia.com/gpu=8"));
  EXPECT_THAT(Offered(two, example("mps.yaml")), ElementsAre("nvidia.com/gpu=8"));
  EXPECT_THAT(
      Offered(two, example("sizes.yaml")),
      ElementsAre("nvidia.com/gpu.half=1", "nvidia.com/gpu.notebook=8", "nvidia.com/gpu.small=3"));
  EXPECT_THAT(Offered(cut, example("mig-mixed.yaml")),
              ElementsAre("nvidia.com/gpu=1", "nvidia.com/mig-1g.10gb=1",
                          "nvidia.com/mig-3g.40gb.quarter=4"));
}

// Whatever is shared how: ids are unique, every device of the node is handed out in one mode only,
// and the order is that of the indices.
RC_GTEST_PROP(PluginResourcesProperty, IdsAreUniqueAndInOrder, ()) {
  const int gpus = *rc::gen::inRange(1, 9);
  const Inventory node = SampleNode("a100-80gb", gpus);
  DevicePluginConfig config;
  config.time_slicing.emplace();
  for (int i = 0; i < gpus; ++i) {
    if (!*rc::gen::arbitrary<bool>()) continue;
    config.time_slicing->resources.push_back(
        {.name = "nvidia.com/gpu",
         .rename = *rc::gen::element<std::string>("", "nvidia.com/a", "nvidia.com/b"),
         .devices = {.count = {}, .list = {std::to_string(i)}},
         .replicas = *rc::gen::inRange(2, 40)});
  }
  const AdvertisedNode advertised = Advertised(node, config);
  std::set<std::string> devices;
  for (const AdvertisedResource& resource : advertised.resources) {
    std::set<std::string> ids;
    int before = -1;
    for (const AdvertisedReplica& replica : resource.replicas) {
      RC_ASSERT(ids.insert(replica.id).second);
      RC_ASSERT(resource.devices[replica.device].gpu_index >= before);
      before = resource.devices[replica.device].gpu_index;
      RC_ASSERT(PhysicalId(replica.id) == resource.devices[replica.device].uuid);
    }
    for (const AdvertisedDevice& device : resource.devices) {
      RC_ASSERT(devices.insert(device.uuid).second);
    }
  }
  RC_ASSERT(devices.size() == static_cast<std::size_t>(gpus));
}

}  // namespace
}  // namespace sublet
