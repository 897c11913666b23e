#include "kube/feature_labels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>

#include "kube/feature_facts.h"
#include "kube/feature_output.h"
#include "kube/tests/sample_node.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr std::string_view kProduct = "nvidia.com/gpu.product";

// Of a board, with the figures of a driver; nothing of it is simulated.
Inventory NodeOf(const std::string& board, int gpus) {
  Inventory node = SampleNode(board, gpus);
  node.driver.version = "580.159.04";
  node.driver.cuda_version = 13'000;
  for (Gpu& gpu : node.gpus) {
    for (ReportedProfile& profile : gpu.profiles) profile.sm_count = 14 * profile.compute_slices;
  }
  return node;
}

FeatureLabels LabelsOf(const Inventory& node, const std::string& config,
                       const FeatureFacts& facts = {}) {
  return MakeFeatureLabels(node, ConfigOf(config), facts);
}

std::string ValueOf(const FeatureLabels& found, std::string_view name) {
  const auto label = found.labels.find(std::string(name));
  return label == found.labels.end() ? "-" : label->second;
}

std::string GpuLabel(const FeatureLabels& found, std::string_view name) {
  return ValueOf(found, "nvidia.com/gpu." + std::string(name));
}

TEST(FeatureLabels, OfWholeGpusAreThoseOfGpuFeatureDiscovery) {
  const FeatureLabels found = LabelsOf(NodeOf("a100-80gb", 2), "version: v1",
                                       {.machine_type = "PowerEdge XE8545",
                                        .pci_classes = {"0x030200", "0x030200"},
                                        .started_s = 1'790'000'000});
  EXPECT_EQ(FeaturesText(found.labels),
            "nvidia.com/cuda.driver-version.full=580.159.04\n"
            "nvidia.com/cuda.driver-version.major=580\n"
            "nvidia.com/cuda.driver-version.minor=159\n"
            "nvidia.com/cuda.driver-version.revision=04\n"
            "nvidia.com/cuda.driver.major=580\n"
            "nvidia.com/cuda.driver.minor=159\n"
            "nvidia.com/cuda.driver.rev=04\n"
            "nvidia.com/cuda.runtime-version.full=13.0\n"
            "nvidia.com/cuda.runtime-version.major=13\n"
            "nvidia.com/cuda.runtime-version.minor=0\n"
            "nvidia.com/cuda.runtime.major=13\n"
            "nvidia.com/cuda.runtime.minor=0\n"
            "nvidia.com/gfd.timestamp=1790000000\n"
            "nvidia.com/gpu.compute.major=8\n"
            "nvidia.com/gpu.compute.minor=0\n"
            "nvidia.com/gpu.count=2\n"
            "nvidia.com/gpu.family=ampere\n"
            "nvidia.com/gpu.machine=PowerEdge-XE8545\n"
            "nvidia.com/gpu.memory=81920\n"
            "nvidia.com/gpu.mode=compute\n"
            "nvidia.com/gpu.product=NVIDIA-A100-SXM4-80GB\n"
            "nvidia.com/gpu.replicas=1\n"
            "nvidia.com/gpu.sharing-strategy=none\n"
            "nvidia.com/mig.capable=true\n"
            "nvidia.com/mps.capable=false\n");
  EXPECT_THAT(found.warnings, IsEmpty());
}

TEST(FeatureLabels, ANodeWithoutGpusHasTheTimestampOnly) {
  EXPECT_EQ(FeaturesText(LabelsOf({}, "version: v1", {.started_s = 7}).labels),
            "nvidia.com/gfd.timestamp=7\n");
  EXPECT_THAT(LabelsOf({}, "version: v1").labels, IsEmpty());
}

TEST(FeatureLabels, OfTimeSlicedGpus) {
  const FeatureLabels found = LabelsOf(NodeOf("h100-80gb", 1), R"(
sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 4}]}})");
  EXPECT_EQ(ValueOf(found, kProduct), "NVIDIA-H100-80GB-HBM3-SHARED");
  EXPECT_EQ(GpuLabel(found, "replicas"), "4");
  EXPECT_EQ(GpuLabel(found, "count"), "1");
  EXPECT_EQ(GpuLabel(found, "sharing-strategy"), "time-slicing");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mps.capable"), "false");
}

TEST(FeatureLabels, WhatIsRenamedHasNoEnding) {
  const FeatureLabels found = LabelsOf(NodeOf("h100-80gb", 1), R"(
sharing:
  timeSlicing: {renameByDefault: true, resources: [{name: nvidia.com/gpu, replicas: 4}]})");
  EXPECT_EQ(ValueOf(found, kProduct), "NVIDIA-H100-80GB-HBM3");
  EXPECT_EQ(GpuLabel(found, "replicas"), "4");
}

TEST(FeatureLabels, OfGpusUnderMps) {
  const std::string config = R"(
flags: {mpsRoot: /run/mps}
sharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 10}]}})";
  const FeatureLabels found = LabelsOf(NodeOf("h100-80gb", 1), config);
  EXPECT_EQ(ValueOf(found, kProduct), "NVIDIA-H100-80GB-HBM3-SHARED");
  EXPECT_EQ(GpuLabel(found, "sharing-strategy"), "mps");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mps.capable"), "true");

  Inventory cut = NodeOf("h100-80gb", 2);
  Cut(cut, 1, Smalls("1g.10gb", {0}));
  const FeatureLabels beside = LabelsOf(cut, config);
  EXPECT_EQ(ValueOf(beside, "nvidia.com/mps.capable"), "false");
  EXPECT_THAT(beside.warnings, ElementsAre(HasSubstr("MIG mode")));
}

TEST(FeatureLabels, SharesOfMpsAreMpsToo) {
  const FeatureLabels found = LabelsOf(NodeOf("h100-80gb", 1), R"(
flags: {mpsRoot: /run/mps}
sublet: {shares: [{resource: nvidia.com/gpu.small, memory: 10Gi, count: 4}]})");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mps.capable"), "true");
  EXPECT_EQ(GpuLabel(found, "sharing-strategy"), "none");
}

TEST(FeatureLabels, UnderSingleAreThoseOfTheMigDevices) {
  Inventory node = NodeOf("a100-80gb", 2);
  Cut(node, 0, Smalls("1g.10gb", {0, 1, 2}));
  Cut(node, 1, Smalls("1g.10gb", {6}));
  const FeatureLabels found = LabelsOf(node, "flags: {migStrategy: single}");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mig.strategy"), "single");
  EXPECT_EQ(ValueOf(found, kProduct), "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb");
  EXPECT_EQ(GpuLabel(found, "count"), "4");
  EXPECT_EQ(GpuLabel(found, "replicas"), "1");
  EXPECT_EQ(GpuLabel(found, "sharing-strategy"), "none");
  EXPECT_EQ(GpuLabel(found, "multiprocessors"), "14");
  EXPECT_EQ(GpuLabel(found, "slices.gi"), "1");
  EXPECT_EQ(GpuLabel(found, "slices.ci"), "1");
  EXPECT_EQ(GpuLabel(found, "engines.copy"), "1");
  EXPECT_EQ(GpuLabel(found, "engines.decoder"), "0");
  EXPECT_EQ(GpuLabel(found, "engines.encoder"), "0");
  EXPECT_EQ(GpuLabel(found, "engines.jpeg"), "0");
  EXPECT_EQ(GpuLabel(found, "engines.ofa"), "0");
  EXPECT_EQ(GpuLabel(found, "family"), "ampere");
}

TEST(FeatureLabels, UnderSingleWithoutMigAreThoseOfWholeGpus) {
  const FeatureLabels found = LabelsOf(NodeOf("a100-80gb", 1), "flags: {migStrategy: single}");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mig.strategy"), "single");
  EXPECT_EQ(ValueOf(found, kProduct), "NVIDIA-A100-SXM4-80GB");
}

TEST(FeatureLabels, WhatDoesntFitSingleIsInvalid) {
  Inventory mixed = NodeOf("a100-80gb", 1);
  Cut(mixed, 0, {{.profile = "3g.40gb", .start = 0}, {.profile = "1g.10gb", .start = 4}});
  Inventory half = NodeOf("a100-80gb", 2);
  Cut(half, 0, Smalls("1g.10gb", {0}));
  Inventory hollow = NodeOf("a100-80gb", 1);
  Cut(hollow, 0, {});
  for (const Inventory& node : {mixed, half, hollow}) {
    const FeatureLabels found = LabelsOf(node, "flags: {migStrategy: single}");
    EXPECT_EQ(ValueOf(found, kProduct), "NVIDIA-A100-SXM4-80GB-MIG-INVALID");
    EXPECT_EQ(GpuLabel(found, "count"), "0");
    EXPECT_EQ(GpuLabel(found, "replicas"), "0");
    EXPECT_EQ(GpuLabel(found, "memory"), "0");
    EXPECT_EQ(GpuLabel(found, "sharing-strategy"), "");
    EXPECT_THAT(found.warnings, ElementsAre(HasSubstr("doesn't fit MIG strategy single")));
  }
}

TEST(FeatureLabels, UnderMixedEachProfileHasItsOwn) {
  Inventory node = NodeOf("a100-80gb", 2);
  Cut(node, 1,
      {{.profile = "3g.40gb", .start = 0},
       {.profile = "1g.10gb+me", .start = 4},
       {.profile = "1g.10gb", .start = 5}});
  const FeatureLabels found = LabelsOf(node, R"(
flags: {migStrategy: mixed}
sharing: {timeSlicing: {resources: [{name: nvidia.com/mig-3g.40gb, replicas: 2}]}})");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mig-3g.40gb.product"),
            "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb-SHARED");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mig-3g.40gb.replicas"), "2");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mig-3g.40gb.sharing-strategy"), "time-slicing");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mig-3g.40gb.count"), "1");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mig-3g.40gb.multiprocessors"), "42");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mig-1g.10gb.product"), "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb");
  EXPECT_EQ(ValueOf(found, "nvidia.com/mig-1g.10gb.me.product"),
            "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb.me");
  // The GPU outside MIG mode is the one that is shown; both are counted.
  EXPECT_EQ(ValueOf(found, kProduct), "NVIDIA-A100-SXM4-80GB");
  EXPECT_EQ(GpuLabel(found, "count"), "2");
  EXPECT_EQ(GpuLabel(found, "replicas"), "1");
}

TEST(FeatureLabels, AWholeGpuInMigModeHasNoReplicas) {
  Inventory node = NodeOf("a100-80gb", 1);
  Cut(node, 0, Smalls("1g.10gb", {0}));
  for (const std::string strategy : {"none", "mixed"}) {
    const FeatureLabels found = LabelsOf(node, "flags: {migStrategy: " + strategy + R"(}
sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 4}]}})");
    EXPECT_EQ(ValueOf(found, kProduct), "NVIDIA-A100-SXM4-80GB");
    EXPECT_EQ(GpuLabel(found, "replicas"), "0");
    EXPECT_EQ(GpuLabel(found, "sharing-strategy"), "none");
  }
}

TEST(FeatureLabels, OfSeveralModelsTheFirstIsShown) {
  Inventory node = NodeOf("a100-80gb", 2);
  Gpu other = NodeOf("l4", 1).gpus[0];
  other.index = 2;
  other.uuid = SampleUuid(2);
  node.gpus.push_back(other);
  const FeatureLabels found = LabelsOf(node, "version: v1");
  EXPECT_EQ(ValueOf(found, kProduct), "NVIDIA-A100-SXM4-80GB");
  EXPECT_EQ(GpuLabel(found, "count"), "2");
  EXPECT_THAT(found.warnings, ElementsAre(HasSubstr("2 models")));
}

TEST(FeatureLabels, FamiliesAreNvidias) {
  const std::pair<std::pair<int, int>, std::string> families[] = {
      {{7, 0}, "volta"},      {{7, 5}, "turing"},
      {{8, 0}, "ampere"},     {{8, 9}, "ada-lovelace"},
      {{9, 0}, "hopper"},     {{10, 0}, "blackwell"},
      {{12, 0}, "blackwell"}, {{13, 0}, "rubin"},
      {{99, 0}, "undefined"}, {{0, 0}, "-"}};
  for (const auto& [capability, family] : families) {
    Inventory node = NodeOf("l4", 1);
    node.gpus[0].compute_capability_major = capability.first;
    node.gpus[0].compute_capability_minor = capability.second;
    EXPECT_EQ(GpuLabel(LabelsOf(node, "version: v1"), "family"), family);
  }
}

TEST(FeatureLabels, OfAVgpuAndAFabric) {
  Inventory node = NodeOf("h100-80gb", 3);
  for (const std::size_t i : {0, 2}) node.gpus[i].fabric = FabricPlace{"b6a1-cluster", 4};
  const FeatureFacts facts{.vgpus = {{"580.95.02", "r580_00"}}};
  const FeatureLabels found = LabelsOf(node, "version: v1", facts);
  EXPECT_EQ(ValueOf(found, "nvidia.com/vgpu.present"), "true");
  EXPECT_EQ(ValueOf(found, "nvidia.com/vgpu.host-driver-version"), "580.95.02");
  EXPECT_EQ(ValueOf(found, "nvidia.com/vgpu.host-driver-branch"), "r580_00");
  EXPECT_EQ(GpuLabel(found, "clique"), "b6a1-cluster.4");
  node.gpus[2].fabric->clique_id = 5;
  const FeatureLabels several = LabelsOf(node, "version: v1", facts);
  EXPECT_EQ(GpuLabel(several, "clique"), "-");
  EXPECT_THAT(several.warnings, ElementsAre(HasSubstr("several cliques")));
}

TEST(FeatureLabels, TheModeIsThatOfThePciClass) {
  const Inventory node = NodeOf("l4", 2);
  const auto mode = [&](std::vector<std::string> classes) {
    return GpuLabel(LabelsOf(node, "version: v1", {.pci_classes = std::move(classes)}), "mode");
  };
  EXPECT_EQ(mode({"0x030000", "0x030000"}), "graphics");
  EXPECT_EQ(mode({"0x030200", "0x030000"}), "compute");
  EXPECT_EQ(mode({"", "0x030200"}), "compute");
  EXPECT_EQ(mode({"0x088000"}), "unknown");
  EXPECT_EQ(mode({}), "unknown");
}

TEST(FeatureLabels, AnUnreadableDriverVersionGivesNoLabelsOfIt) {
  Inventory node = NodeOf("l4", 1);
  node.driver.version = "R580";
  const FeatureLabels found = LabelsOf(node, "version: v1");
  EXPECT_EQ(ValueOf(found, "nvidia.com/cuda.driver-version.full"), "-");
  EXPECT_THAT(found.warnings, ElementsAre(HasSubstr("R580")));
  node.driver.version = "570.86";
  EXPECT_EQ(ValueOf(LabelsOf(node, "version: v1"), "nvidia.com/cuda.driver.rev"), "");
}

TEST(LabelValue, DropsWhatMayNotBe) {
  EXPECT_EQ(LabelValue("NVIDIA A100-SXM4-80GB"), "NVIDIA-A100-SXM4-80GB");
  EXPECT_EQ(LabelValue("Standard PC (Q35 + ICH9, 2009)"), "Standard-PC-Q35-ICH9-2009");
  EXPECT_EQ(LabelValue("  a  b "), "a-b");
  EXPECT_EQ(LabelValue("-x-"), "x");
  EXPECT_EQ(LabelValue("\xc3\xa4"), "");
  EXPECT_EQ(LabelValue(std::string(62, 'a') + "-b"), std::string(62, 'a'));
}

RC_GTEST_PROP(LabelValue, IsAlwaysLegal, (const std::string& text)) {
  const std::string value = LabelValue(text);
  RC_ASSERT(IsLabelValue(value));
  RC_ASSERT(LabelValue(value) == value);
}

RC_GTEST_PROP(FeatureLabels, AreLegalWhateverTheDriverAndTheFirmwareSay,
              (const std::string& product, const std::string& machine, const std::string& version,
               const std::string& cluster)) {
  Inventory node = NodeOf("a100-80gb", 2);
  for (Gpu& gpu : node.gpus) {
    gpu.product = product + "-" + std::string(60, 'x');
    gpu.fabric = FabricPlace{cluster, 7};
  }
  node.driver.version = version;
  Cut(node, 0, Smalls("1g.10gb", {0}));
  const FeatureFacts facts{.machine_type = machine, .vgpus = {{version, machine}}, .started_s = 1};
  for (const std::string strategy : {"none", "single", "mixed"}) {
    const FeatureLabels found = LabelsOf(node, "flags: {migStrategy: " + strategy + R"(}
sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 4}]}})",
                                         facts);
    for (const auto& [name, value] : found.labels) {
      RC_ASSERT(IsLabelValue(value));
      RC_ASSERT(name.starts_with("nvidia.com/"));
      RC_ASSERT(IsLabelValue(name.substr(11)));
    }
  }
}

// A device's configuration space with a capability at 0x40, one of another kind before it.
std::string ConfigSpace(const std::string& vendor_capability) {
  std::string space(256, '\0');
  space[0x06] = 0x10;
  space[0x34] = 0x40;
  space.replace(0x40, 2, std::string("\x10\x50", 2));
  space.replace(0x50, vendor_capability.size(), vendor_capability);
  return space;
}

std::string Padded(std::string text) {
  text.resize(10, '\0');
  return text;
}

TEST(VgpuHost, IsReadFromTheVendorsCapability) {
  std::string capability("\x09\x00\x00VF", 5);
  capability += std::string("\x01\x03x", 3);  // Another record.
  capability += std::string("\x00\x16", 2) + Padded("580.95.02") + Padded("r580_00");
  capability[2] = static_cast<char>(capability.size());
  const auto host = VgpuHostIn(ConfigSpace(capability));
  ASSERT_TRUE(host);
  EXPECT_EQ(*host, (VgpuHost{"580.95.02", "r580_00"}));
  EXPECT_FALSE(VgpuHostIn(ConfigSpace(capability).substr(0, 64)));

  std::string other = capability;
  other[3] = 'X';
  EXPECT_FALSE(VgpuHostIn(ConfigSpace(other)));
  std::string endless = capability;
  endless[6] = 0;  // A record of no length.
  EXPECT_FALSE(VgpuHostIn(ConfigSpace(endless)));
  std::string circle = ConfigSpace(capability);
  circle[0x50] = 0x10;
  circle[0x51] = 0x40;
  EXPECT_FALSE(VgpuHostIn(circle));
}

RC_GTEST_PROP(VgpuHost, ReadsAnyBytes, (std::vector<char> bytes)) {
  bytes.resize(256);
  bytes[0x06] |= 0x10;
  VgpuHostIn(std::string(bytes.begin(), bytes.end()));
}

}  // namespace
}  // namespace sublet
