#include "model/device_plugin_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

DevicePluginConfig Parsed(const std::string& text) {
  Result<DevicePluginConfig> config = ParseDevicePluginConfig(text, "c.yaml");
  EXPECT_TRUE(config.has_value()) << config.error().message;
  return config.value_or(DevicePluginConfig());
}

std::string MessageOf(const std::string& text) {
  const Result<DevicePluginConfig> config = ParseDevicePluginConfig(text, "c.yaml");
  if (config) return "parsed";
  EXPECT_EQ(config.error().code, ErrorCode::kInvalid);
  return config.error().message;
}

std::string WithShared(const std::string& resource) {
  return "sharing: {timeSlicing: {resources: [{" + resource + "}]}}";
}

std::string WithShare(const std::string& share) {
  return "sublet: {shares: [{" + share + "}]}";
}

TEST(DevicePluginConfigTest, ReadsEveryFieldOfNvidiasFile) {
  const DevicePluginConfig config = Parsed(R"(version: v1
flags:
  migStrategy: mixed
  failOnInitError: false
  mpsRoot: /run/nvidia/mps
  nvidiaDriverRoot: /run/nvidia/driver
  nvidiaDevRoot: /dev-root
  gdrcopyEnabled: true
  gdsEnabled: true
  mofedEnabled: true
  useNodeFeatureAPI: false
  deviceDiscoveryStrategy: nvml
  plugin:
    passDeviceSpecs: true
    deviceListStrategy: [envvar, cdi-cri]
    deviceIDStrategy: index
    cdiAnnotationPrefix: cdi.example.com/
    nvidiaCTKPath: /opt/nvidia-ctk
    containerDriverRoot: /host
    sharedDevicesAllocationPolicy: packed
  gfd:
    oneshot: true
    noTimestamp: true
    sleepInterval: 1m30s
    outputFile: /out
    machineTypeFile: /type
sharing:
  timeSlicing:
    renameByDefault: true
    resources:
      - {name: gpu, replicas: 4, devices: 2}
      - {name: nvidia.com/mig-1g.5gb, rename: nvidia.com/slow, replicas: 2, devices: ["0:1", 3]}
imex: {channelIDs: [0], required: true}
)");
  EXPECT_EQ(config.flags.mig_strategy, MigStrategy::kMixed);
  EXPECT_FALSE(config.flags.fail_on_init_error);
  EXPECT_EQ(config.flags.driver_root, "/run/nvidia/driver");
  EXPECT_TRUE(config.flags.gdrcopy_enabled && config.flags.gds_enabled);
  EXPECT_TRUE(config.flags.mofed_enabled && !config.flags.use_node_feature_api);
  EXPECT_THAT(config.flags.device_list_strategy,
              ElementsAre(DeviceListStrategy::kEnvvar, DeviceListStrategy::kCdiCri));
  EXPECT_EQ(config.flags.device_id_strategy, DeviceIdStrategy::kIndex);
  EXPECT_EQ(config.flags.allocation_policy, AllocationPolicy::kPacked);
  EXPECT_EQ(config.gfd.sleep_interval, std::chrono::seconds(90));
  ASSERT_TRUE(config.time_slicing);
  EXPECT_FALSE(config.time_slicing->fail_requests_greater_than_one);
  ASSERT_THAT(config.time_slicing->resources, SizeIs(2));
  EXPECT_EQ(
      config.time_slicing->resources[0],
      (ReplicatedResource{"nvidia.com/gpu", "nvidia.com/gpu.shared", {.count = 2, .list = {}}, 4}));
  EXPECT_EQ(config.time_slicing->resources[1].rename, "nvidia.com/slow");
  EXPECT_THAT(config.time_slicing->resources[1].devices.list, ElementsAre("0:1", "3"));
  EXPECT_EQ(config.SharingStrategy(), "time-slicing");
  EXPECT_THAT(config.imex.channel_ids, ElementsAre(0));
  EXPECT_THAT(config.warnings, IsEmpty());
}

// The golden files of src/render: what Sublet writes for NVIDIA's plugin, its own reads, too.
TEST(DevicePluginConfigTest, ReadsWhatRenderWrites) {
  int mps = 0;
  int time_slicing = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           std::string(SUBLET_SOURCE_DIR "/tests/golden/render"))) {
    if (entry.path().parent_path().filename() != "device-plugin-configs") continue;
    std::ifstream in(entry.path());
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const Result<DevicePluginConfig> config = ParseDevicePluginConfig(text, entry.path().string());
    ASSERT_TRUE(config.has_value()) << config.error().message;
    if (config->mps) ++mps;
    if (config->time_slicing) ++time_slicing;
  }
  EXPECT_GE(mps, 2);
  EXPECT_GE(time_slicing, 2);
}

TEST(DevicePluginConfigTest, AnEmptyFileAndAnEmptyVersionMeanTheDefaults) {
  EXPECT_EQ(Parsed(""), DevicePluginConfig());
  EXPECT_EQ(Parsed("\n  # nothing\n\t\n"), DevicePluginConfig());
  EXPECT_EQ(Parsed("version: \"\"\nflags:\n"), DevicePluginConfig());
}

TEST(DevicePluginConfigTest, MpsRefusesRequestsForMoreThanOneUnlessTold) {
  const std::string resources = "resources: [{name: gpu, replicas: 2}]";
  EXPECT_TRUE(Parsed("sharing: {mps: {" + resources + "}}").mps->fail_requests_greater_than_one);
  EXPECT_FALSE(Parsed("sharing: {mps: {failRequestsGreaterThanOne: false, " + resources + "}}")
                   .mps->fail_requests_greater_than_one);
}

TEST(DevicePluginConfigTest, NamesTheLineOfWhatItDoesNotKnow) {
  EXPECT_EQ(MessageOf("version: v2"), "c.yaml:1:10: unknown version: v2");
  EXPECT_EQ(MessageOf("version: v1\nflags:\n  migStrategie: none\n"),
            "c.yaml:3:3: unknown key in flags: 'migStrategie'");
  EXPECT_THAT(MessageOf("flags: {migStrategy: both}"), HasSubstr("unknown MIG strategy: both"));
  EXPECT_THAT(MessageOf("flags: {plugin: {deviceListStrategy: env}}"),
              HasSubstr("invalid strategy: env"));
  EXPECT_THAT(MessageOf("sharing: {timeslicing: {}}"),
              HasSubstr("unknown key in sharing: 'timeslicing'"));
  EXPECT_THAT(MessageOf("imex: {channelIDs: [1]}"), HasSubstr("invalid IMEX channel IDs: [1]"));
  EXPECT_THAT(MessageOf("flags: {gfd: {sleepInterval: soon}}"),
              HasSubstr("not a duration: 'soon'"));
  EXPECT_THAT(MessageOf("flags: {mpsRoot: mps}"), HasSubstr("not an absolute path: 'mps'"));
}

TEST(DevicePluginConfigTest, RefusesSharedResourcesInNvidiasWords) {
  EXPECT_EQ(MessageOf(WithShared("name: gpu, replicas: 2")), "parsed");
  EXPECT_THAT(MessageOf(WithShared("name: gpu, replicas: 1")),
              HasSubstr("number of replicas must be >= 2: 1"));
  EXPECT_THAT(MessageOf(WithShared("name: gpu, replicas: 0")),
              HasSubstr("number of replicas must be >= 2: 0"));
  EXPECT_THAT(MessageOf(WithShared("name: gpu, replicas: 10001")), HasSubstr("more than 10000"));
  EXPECT_THAT(MessageOf(WithShared("name: gpu")), HasSubstr("'replicas'"));
  EXPECT_THAT(MessageOf(WithShared("replicas: 2")), HasSubstr("'name'"));
  EXPECT_THAT(MessageOf(WithShared("name: gpu, replicas: 2, devices: some")),
              HasSubstr("devices set as 'some' but the only valid string input is 'all'"));
  EXPECT_THAT(MessageOf(WithShared("name: gpu, replicas: 2, devices: 0")),
              HasSubstr("devices set as '0' but a count of devices must be > 0"));
  EXPECT_THAT(MessageOf(WithShared("name: gpu, replicas: 2, devices: [x]")),
              HasSubstr("unsupported type for device in devices list: x"));
  EXPECT_THAT(MessageOf(WithShared("name: gpu, replicas: 2, devices: []")),
              HasSubstr("a list of no devices"));
  EXPECT_THAT(MessageOf(WithShared("name: gpu, replicas: 2, devices: [0, 0]")),
              HasSubstr("the same device twice: 0"));
  EXPECT_THAT(MessageOf("sharing: {mps: {resources: []}}"), HasSubstr("no resources specified"));
}

TEST(DevicePluginConfigTest, KnowsDevicesByEveryNameThatNvidiaKnows) {
  const std::string uuid = "b1028956-cfa2-0990-bf4a-5da9abb51763";
  const DevicePluginConfig config =
      Parsed(WithShared("name: gpu, replicas: 2, devices: [0, \"1\", \"1:2\", GPU-" + uuid +
                        ", MIG-" + uuid + ", MIG-GPU-" + uuid + "/3/0]"));
  EXPECT_THAT(config.time_slicing->resources[0].devices.list, SizeIs(6));
  for (const std::string& bad : std::vector<std::string>{
           "GPU-x", "MIG-" + uuid + "/1", "MIG-GPU-" + uuid + "/3", "MIG-GPU-" + uuid, "0:", ":0",
           "0:1:2", "-1", "GPU-" + uuid + "0"}) {
    EXPECT_THAT(MessageOf(WithShared("name: gpu, replicas: 2, devices: [\"" + bad + "\"]")),
                HasSubstr("unsupported type for device"))
        << bad;
  }
}

TEST(DevicePluginConfigTest, ResourcesAreReadAndDroppedWithAWarning) {
  const DevicePluginConfig config =
      Parsed("resources: {gpus: [{pattern: \"*\", name: nvidia.com/gpu}], mig: []}");
  EXPECT_THAT(config.warnings, ElementsAre(HasSubstr("resources has no effect")));
  EXPECT_THAT(MessageOf("resources: {gpus: [{pattern: \"*\"}]}"), HasSubstr("'name'"));
}

TEST(DevicePluginConfigTest, ReadsShares) {
  const DevicePluginConfig config = Parsed(R"(
sublet:
  per_tenant: label
  tenant_label: example.com/team
  limits: process
  fail_closed: false
  plan: /etc/plan.json
  shares:
    - {resource: gpu.small, memory: 10Gi, sm_percent: 15, devices: [0, 1], count: fill}
    - {resource: example.com/gpu.batch, mode: time-slicing, devices: 1, count: 4}
    - {resource: mig.mps, mode: mps, profile: 3g.40gb, count: 3}
    - {resource: gpu.planned, memory: 1GiB, count: plan, fail_requests_greater_than_one: true}
)");
  const SubletSharing& sublet = config.sublet;
  EXPECT_EQ(sublet.tenancy, MpsTenancy::kLabel);
  EXPECT_EQ(sublet.tenant_label, "example.com/team");
  EXPECT_FALSE(sublet.limits_for_pod || sublet.fail_closed);
  ASSERT_THAT(sublet.shares, SizeIs(4));
  EXPECT_EQ(sublet.shares[0].resource, "nvidia.com/gpu.small");
  EXPECT_EQ(sublet.shares[0].size, (ShareSize{10_GiB, 15}));
  EXPECT_EQ(sublet.shares[0].count_how, ShareRule::Count::kFill);
  EXPECT_EQ(sublet.shares[1].resource, "example.com/gpu.batch");
  EXPECT_EQ(sublet.shares[1].count, 4);
  EXPECT_EQ(sublet.shares[2].profile, "3g.40gb");
  EXPECT_EQ(sublet.shares[3].count_how, ShareRule::Count::kPlan);
}

TEST(DevicePluginConfigTest, RefusesSharesThatContradictThemselves) {
  EXPECT_THAT(MessageOf(WithShare("resource: a, mode: time-slicing, memory: 1Gi")),
              HasSubstr("nothing enforces a limit in mode time-slicing"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, mode: exclusive, sm_percent: 5")),
              HasSubstr("nothing enforces a limit in mode exclusive"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, mode: exclusive, count: 2")),
              HasSubstr("handed out once"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, mode: time-slicing, count: fill")),
              HasSubstr("no size to fill"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, count: fill")),
              HasSubstr("nothing says how many fit"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, memory: 1Gi, count: plan")),
              HasSubstr("count: plan without a plan"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, count: 0")),
              HasSubstr("must be from 1 to 10000: 0"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, memory: 10")), HasSubstr("too little memory"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, sm_percent: 101")), HasSubstr("101"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, mode: mig")), HasSubstr("unknown value: 'mig'"));
  EXPECT_THAT(MessageOf(WithShare("resource: a, profile: small")), StartsWith("c.yaml:1:"));
  EXPECT_THAT(MessageOf("sublet: {per_tenant: label}"), HasSubstr("belong together"));
  EXPECT_THAT(MessageOf("sublet: {tenant_label: team}"), HasSubstr("belong together"));
}

TEST(ResourceNameTest, GetsItsPrefixAndIsChecked) {
  EXPECT_EQ(*FullResourceName("gpu"), "nvidia.com/gpu");
  EXPECT_EQ(*FullResourceName("nvidia.com/gpu.shared"), "nvidia.com/gpu.shared");
  EXPECT_EQ(*FullResourceName("a.example/gpu", true), "a.example/gpu");
  const std::string fits(52, 'a');  // nvidia.com/ has 11.
  EXPECT_EQ(FullResourceName(fits)->size(), 63u);
  EXPECT_EQ(
      FullResourceName(fits + "a").error().message,
      "fully-qualified resource name must be 63 characters or less: nvidia.com/" + fits + "a");
  for (const std::string& bad :
       std::vector<std::string>{"", "GPU", "a_b", "-a", "a-", "a..b", ".a", "a.", "example.com/gpu",
                                "nvidia.com/", "a/b", "a b"}) {
    EXPECT_FALSE(FullResourceName(bad).has_value()) << bad;
  }
  for (const std::string& bad :
       std::vector<std::string>{"kubernetes.io/gpu", "x.kubernetes.io/gpu", "/gpu", "a.b/"}) {
    EXPECT_FALSE(FullResourceName(bad, true).has_value()) << bad;
  }
}

TEST(ResourceNameTest, OfAMigProfileHasNoPlus) {
  EXPECT_EQ(MigResourceName("1g.5gb"), "mig-1g.5gb");
  EXPECT_EQ(MigResourceName("1g.24gb+me.all"), "mig-1g.24gb.me.all");
  EXPECT_EQ(MigResourceName("1g.24gb-me"), "mig-1g.24gb-me");
}

TEST(DevicePluginConfigTest, ASharedNameThatGetsTooLongIsRefused) {
  const std::string name(50, 'a');
  EXPECT_THAT(MessageOf("sharing: {mps: {renameByDefault: true, resources: [{name: " + name +
                        ", replicas: 2}]}}"),
              HasSubstr("63 characters or less"));
}

}  // namespace
}  // namespace sublet
