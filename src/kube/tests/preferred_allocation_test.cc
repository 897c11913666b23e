#include "kube/preferred_allocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>

#include "sample_node.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Scene {
  Inventory node;
  AdvertisedNode advertised;

  const AdvertisedResource& resource(const std::string& name) const {
    const AdvertisedResource* found = advertised.Find("nvidia.com/" + name);
    EXPECT_NE(found, nullptr);
    return *found;
  }
};

Scene SceneOf(Inventory node, const std::string& yaml) {
  AdvertisedNode advertised = Advertised(node, ConfigOf(yaml));
  return {std::move(node), std::move(advertised)};
}

std::vector<std::string> AllIds(const AdvertisedResource& resource) {
  std::vector<std::string> ids;
  for (const AdvertisedReplica& replica : resource.replicas) ids.push_back(replica.id);
  return ids;
}

// "1::2" for the third replica on GPU 1: ids without the long part.
std::vector<std::string> Short(const Result<std::vector<std::string>>& ids) {
  EXPECT_TRUE(ids.has_value()) << ids.error().message;
  std::vector<std::string> brief;
  for (const std::string& id : ids.value_or(std::vector<std::string>())) {
    const std::string device(PhysicalId(id));
    brief.push_back(device.substr(device.size() - 1) + id.substr(device.size()));
  }
  return brief;
}

std::string ReplicaOf(int gpu, int n) {
  return fmt::format("{}::{}", SampleUuid(gpu), n);
}

std::string Turns(const std::string& replicas) {
  return "sharing: {timeSlicing: {resources: [{name: gpu, replicas: " + replicas + "}]}}";
}

TEST(PreferDevicesTest, WholeGpusAreTakenAsTheyAreLinked) {
  Inventory node = SampleNode("a100-80gb", 4);
  node.links = {{.a = 1, .b = 3, .pci_path = PciPath::kOneSwitch, .nvlinks = {}, .p2p = {}}};
  const Scene scene = SceneOf(std::move(node), "");
  const ReplicaIndex index(scene.resource("gpu"));
  const std::vector<std::string> all = AllIds(index.resource());
  EXPECT_THAT(Short(PreferDevices(scene.node, index, {.available = all, .size = 2})),
              ElementsAre("1", "3"));
  EXPECT_THAT(Short(PreferDevices(scene.node, index, {.available = all, .size = 1})),
              ElementsAre("0"));
  EXPECT_THAT(Short(PreferDevices(
                  scene.node, index,
                  {.available = {all[3], all[0], all[2]}, .must_include = {all[2]}, .size = 2})),
              ElementsAre("0", "2"));
}

TEST(PreferDevicesTest, DistributedTakesTheDeviceWithTheFewestOut) {
  const Scene scene = SceneOf(SampleNode("a100-80gb", 3), Turns("4"));
  const ReplicaIndex index(scene.resource("gpu"));
  std::vector<std::string> available = AllIds(index.resource());
  std::erase(available, ReplicaOf(0, 0));
  std::erase(available, ReplicaOf(1, 0));
  std::erase(available, ReplicaOf(1, 1));
  PreferenceRequest request{.available = available, .must_include = {}, .size = 1};
  EXPECT_THAT(Short(PreferDevices(scene.node, index, request)), ElementsAre("2::0"));
  request.size = 4;  // 2; 0, less picked than 2; 2 again; and 1, the least picked of three equals.
  EXPECT_THAT(Short(PreferDevices(scene.node, index, request)),
              ElementsAre("0::1", "1::2", "2::0", "2::1"));
  request.policy = AllocationPolicy::kPacked;
  EXPECT_THAT(Short(PreferDevices(scene.node, index, request)),
              ElementsAre("0::1", "0::2", "1::2", "1::3"));
}

TEST(PreferDevicesTest, SharesOfASizeLieTogether) {
  const Scene scene =
      SceneOf(SampleNode("a100-80gb", 3),
              "sublet: {shares: [{resource: gpu.small, memory: 10Gi, sm_percent: 20, count: 4}]}");
  const ReplicaIndex index(scene.resource("gpu.small"));
  std::vector<std::string> available = AllIds(index.resource());
  PreferenceRequest request{.available = available, .must_include = {}, .size = 2};
  EXPECT_THAT(Short(PreferDevices(scene.node, index, request)), ElementsAre("0::0", "0::1"));
  std::erase(request.available, ReplicaOf(0, 0));
  std::erase(request.available, ReplicaOf(1, 0));
  std::erase(request.available, ReplicaOf(1, 1));
  EXPECT_THAT(Short(PreferDevices(scene.node, index, request)), ElementsAre("2::0", "2::1"));
  request.policy = AllocationPolicy::kPacked;
  EXPECT_THAT(Short(PreferDevices(scene.node, index, request)), ElementsAre("1::2", "1::3"));
  request.size = 3;
  EXPECT_THAT(Short(PreferDevices(scene.node, index, request)),
              ElementsAre("0::1", "0::2", "0::3"));
  request.size = 6;
  EXPECT_THAT(Short(PreferDevices(scene.node, index, request)),
              ElementsAre("1::2", "1::3", "2::0", "2::1", "2::2", "2::3"));
  request.must_include = {ReplicaOf(0, 1)};
  request.size = 2;
  EXPECT_THAT(Short(PreferDevices(scene.node, index, request)), ElementsAre("0::1", "0::2"));
}

TEST(PreferDevicesTest, MigDevicesLeaveRoomForLargeOnes) {
  Inventory node = SampleNode("a100-80gb", 1);
  Cut(node, 0, Smalls("1g.10gb", {0, 1, 2, 3, 4, 5, 6}));
  const Scene whole = SceneOf(node, "flags: {migStrategy: mixed}");
  const ReplicaIndex index(whole.resource("mig-1g.10gb"));
  const std::vector<std::string> all = AllIds(index.resource());
  EXPECT_THAT(Short(PreferDevices(whole.node, index, {.available = all, .size = 2})),
              ElementsAre("4", "5"));
  // Shared ones: a device must be begun, and any would do for the policy.
  const Scene shared = SceneOf(node,
                               "flags: {migStrategy: mixed}\nsharing: {timeSlicing: {resources: "
                               "[{name: mig-1g.10gb, replicas: 2}]}}");
  const ReplicaIndex replicas(shared.resource("mig-1g.10gb"));
  PreferenceRequest request{
      .available = AllIds(replicas.resource()), .must_include = {}, .size = 1};
  EXPECT_THAT(Short(PreferDevices(shared.node, replicas, request)), ElementsAre("6::0"));
}

TEST(PreferDevicesTest, RefusesWhatCannotBe) {
  const Scene scene = SceneOf(SampleNode("a100-80gb", 2), "");
  const ReplicaIndex index(scene.resource("gpu"));
  const auto message = [&](PreferenceRequest request) {
    const auto ids = PreferDevices(scene.node, index, request);
    return ids ? "preferred" : ids.error().message;
  };
  const std::string a = SampleUuid(0);
  EXPECT_THAT(message({.available = {"GPU-x"}, .must_include = {}, .size = 1}),
              HasSubstr("unknown device: GPU-x"));
  EXPECT_THAT(message({.available = {a, a}, .must_include = {}, .size = 1}), HasSubstr("twice"));
  EXPECT_THAT(message({.available = {a}, .must_include = {}, .size = 2}),
              HasSubstr("not enough available devices to satisfy allocation: 1 of 2"));
  EXPECT_THAT(message({.available = {a}, .must_include = {a}, .size = 0}),
              HasSubstr("must be included"));
  EXPECT_THAT(message({.available = {a}, .must_include = {}, .size = -1}), HasSubstr("-1"));
  EXPECT_EQ(message({.available = {}, .must_include = {a}, .size = 1}), "preferred");
  EXPECT_EQ(message({.available = {}, .must_include = {}, .size = 0}), "preferred");
}

// Whatever the resource and the request: the answer has the size, contains what must be in it, is
// of what is available, and doesn't depend on the order in which kubelet lists the ids.
RC_GTEST_PROP(PreferDevicesProperty, AnswersARequestInFullAndAlikeInAnyOrder, ()) {
  Inventory node = SampleNode("a100-80gb", *rc::gen::inRange(1, 7));
  for (int a = 0; a < static_cast<int>(node.gpus.size()); ++a) {
    for (int b = a + 1; b < static_cast<int>(node.gpus.size()); ++b) {
      node.links.push_back({.a = a,
                            .b = b,
                            .pci_path = PciPath::kSystem,
                            .nvlinks = *rc::gen::inRange(0, 3),
                            .p2p = {}});
    }
  }
  const std::string yaml = *rc::gen::element<std::string>(
      "", Turns("3"), "sublet: {shares: [{resource: gpu, memory: 10Gi, count: 3}]}",
      "sharing: {timeSlicing: {resources: [{name: gpu, replicas: 3, devices: 1}]}}");
  const Scene scene = SceneOf(std::move(node), yaml);
  const ReplicaIndex index(scene.resource("gpu"));
  PreferenceRequest request;
  for (const std::string& id : AllIds(index.resource())) {
    const int kind = *rc::gen::inRange(0, 6);
    if (kind > 0) request.available.push_back(id);
    if (kind == 1) request.must_include.push_back(id);
  }
  request.size = *rc::gen::inRange(static_cast<int>(request.must_include.size()),
                                   static_cast<int>(request.available.size()) + 1);
  request.policy = *rc::gen::element(AllocationPolicy::kDistributed, AllocationPolicy::kPacked);
  const auto ids = PreferDevices(scene.node, index, request);
  RC_ASSERT(ids.has_value());
  RC_ASSERT(static_cast<int>(ids->size()) == request.size);
  for (const std::string& id : request.must_include) RC_ASSERT(std::ranges::count(*ids, id) == 1);
  for (const std::string& id : *ids) {
    RC_ASSERT(std::ranges::count(*ids, id) == 1);
    RC_ASSERT(std::ranges::count(request.available, id) == 1);
  }
  PreferenceRequest turned = request;
  std::ranges::reverse(turned.available);
  std::ranges::reverse(turned.must_include);
  RC_ASSERT(*PreferDevices(scene.node, index, turned) == *ids);
}

}  // namespace
}  // namespace sublet
