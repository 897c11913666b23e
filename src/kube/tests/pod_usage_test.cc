#include "kube/pod_usage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <tuple>

#include "base/files.h"
#include "kube/kube_metrics.h"
#include "kube/mps_pool.h"
#include "kube/tests/sample_node.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr const char* kUid = "6f2b41d2-0f5c-4d0e-9d6e-3c1f3a7be001";

std::string UidOf(int pod) {
  return fmt::format("6f2b41d2-0f5c-4d0e-9d6e-{:012}", pod);
}

TEST(PodCgroupTest, ReadsEveryDriverAndRuntime) {
  const std::string id(64, 'a');
  const std::string u = kUid;
  const std::string s = "6f2b41d2_0f5c_4d0e_9d6e_3c1f3a7be001";
  for (const std::string& text :
       {"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + s +
            ".slice/cri-containerd-" + id + ".scope\n",
        "0::/kubepods.slice/kubepods-pod" + s + ".slice/crio-" + id + ".scope/container\n",
        "0::/kubepods/besteffort/pod" + u + "/" + id + "\n",
        "12:pids:/user.slice\n4:memory:/kubepods/burstable/pod" + u + "/" + id + "\n0::/\n",
        "0::/../../kubepods-besteffort-pod" + s + ".slice/docker-" + id + ".scope\n",
        "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + s + ".slice/x\n",
        "0::/system.slice/containerd.service/kubepods-burstable-pod" + s +
            ".slice:cri-containerd:" + id + "\n"}) {
    EXPECT_EQ(PodUidOfCgroup(text), u) << text;
  }
  const std::string hash(32, '7');
  EXPECT_EQ(PodUidOfCgroup("0::/kubepods/pod" + hash + "/x"), hash);
}

TEST(PodCgroupTest, TakesNothingElseForAPod) {
  for (const char* text :
       {"", "\n", "0::/", "0::/user.slice/user-0.slice/session-1.scope", "0::/podman/pod1",
        ":::", "0::/machine.slice/libpod-pod6f2b41d2_0f5c_4d0e_9d6e_3c1f3a7be001.slice/x",
        "0::/kubepods/pod6F2B41D2-0f5c-4d0e-9d6e-3c1f3a7be001"}) {
    EXPECT_EQ(PodUidOfCgroup(text), "") << text;
  }
  // A container that makes a cgroup named as another pod's stays its own pod's.
  EXPECT_EQ(PodUidOfCgroup("0::/kubepods/pod" + UidOf(1) + "/c/pod" + UidOf(2)), UidOf(1));
}

TEST(PodCgroupTest, ReadsKubeletsFolders) {
  const std::string folder = ::testing::TempDir() + "pod_logs";
  std::filesystem::remove_all(folder);
  for (const std::string& name : {std::string("shop_web-0_") + kUid, std::string("no-pod"),
                                  std::string("a_b_c"), std::string("a_") + kUid}) {
    std::filesystem::create_directories(folder + "/" + name);
  }
  const PodNames names = ReadPodNames(folder);
  ASSERT_THAT(names, SizeIs(1));
  EXPECT_EQ(names.at(kUid), (PodName{"shop", "web-0"}));
  EXPECT_THAT(ReadPodNames(folder + "/none"), IsEmpty());
}

// ---- the join ----------------------------------------------------------------------------------

struct Scene {
  Inventory node = SampleNode("a100-80gb", 2);
  std::vector<AdvertisedResource> resources = {};
  std::vector<PodDevices> pods = {};
  UsageSample usage = {};
  std::map<int, ProcessPlace> places = {};
  PodNames names = {};

  explicit Scene(const std::string& config = "version: v1\n") {
    resources = Advertised(node, ConfigOf(config)).resources;
    for (const Gpu& gpu : node.gpus) {
      GpuUsage one;
      one.uuid = gpu.uuid;
      one.index = gpu.index;
      one.processes_known = true;
      usage.gpus.push_back(one);
    }
    for (int pod = 0; pod < 10; ++pod) names[UidOf(pod)] = {"ns", fmt::format("p{}", pod)};
  }
  void Hold(int pod, const std::string& container, std::vector<std::string> ids) {
    pods.push_back({"ns", fmt::format("p{}", pod), container, "nvidia.com/gpu", std::move(ids)});
  }
  void Run(int pid, int gpu, Bytes memory, int pod, std::optional<int> instance = {}) {
    ProcessUsage process;
    process.pid = pid;
    process.memory = memory;
    process.gpu_instance = instance;
    usage.gpus[static_cast<std::size_t>(gpu)].processes.push_back(process);
    places[pid] = {.pod_uid = pod < 0 ? "" : UidOf(pod)};
  }
  PodUsage Join(bool kubelet = true) const {
    return JoinPodUsage({node, resources, kubelet ? &pods : nullptr, usage, places, names});
  }
};

constexpr const char* kSliced =
    "version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}\n";
constexpr const char* kMps =
    "version: v1\nsharing: {mps: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}\n";

TEST(PodUsageTest, TwoPodsOnOneGpuAreToldApart) {
  Scene scene(kSliced);
  scene.Hold(1, "main", {SampleUuid(0) + "::0"});
  scene.Hold(2, "main", {SampleUuid(0) + "::3"});
  scene.Run(11, 0, 3_GiB, 1);
  scene.Run(12, 0, 4_GiB, 1);
  scene.Run(21, 0, 5_GiB, 2);
  const PodUsage usage = scene.Join();
  ASSERT_THAT(usage.rows, SizeIs(2));
  EXPECT_EQ(usage.rows[0].memory_used, 7_GiB);
  EXPECT_EQ(usage.rows[0].processes, 2);
  EXPECT_EQ(usage.rows[1].memory_used, 5_GiB);
  EXPECT_FALSE(usage.rows[0].limit.memory) << "nothing limits who takes turns";
  EXPECT_THAT(usage.unattributed, IsEmpty());
  EXPECT_THAT(usage.sole_holders, IsEmpty());
}

TEST(PodUsageTest, LimitsGrowWithReplicasHoweverKubeletListsThem) {
  Scene scene(kMps);
  scene.Hold(1, "main", {SampleUuid(0) + "::0"});
  scene.Hold(1, "main", {SampleUuid(0) + "::1"});  // An entry for each device.
  scene.Hold(2, "main", {SampleUuid(1) + "::0"});
  const PodUsage usage = scene.Join();
  ASSERT_THAT(usage.rows, SizeIs(2));
  EXPECT_EQ(usage.rows[0].limit.sm_percent, 50);
  EXPECT_EQ(usage.rows[1].limit.sm_percent, 25);
  EXPECT_EQ(usage.rows[0].limit.memory->count, 2 * usage.rows[1].limit.memory->count);
  EXPECT_EQ(usage.rows[0].memory_used, Bytes{}) << "nobody runs there";
  EXPECT_EQ(usage.sole_holders.at(SampleUuid(0)).pod, "p1");
}

TEST(PodUsageTest, SaysWhyAProcessIsNobodys) {
  Scene scene;
  scene.Hold(1, "main", {SampleUuid(0)});
  scene.Run(1, 0, 1_GiB, -1);
  scene.Run(2, 0, 2_GiB, -1);
  scene.places[2].mps_server = true;
  scene.Run(3, 0, 3_GiB, 77);  // A pod without a folder.
  scene.Run(4, 0, 4_GiB, 2);   // A pod that sneaked in.
  scene.Run(5, 1, 5_GiB, 1);   // On another GPU than its own.
  std::map<std::pair<int, std::string>, Bytes> seen;
  for (const UnattributedUse& one : scene.Join().unattributed) {
    seen[{one.gpu_index, std::string(one.reason)}] = one.memory;
  }
  const decltype(seen) wanted = {{{0, "outside"}, 1_GiB},
                                 {{0, "mps-server"}, 2_GiB},
                                 {{0, "unknown-pod"}, 3_GiB},
                                 {{0, "no-device"}, 4_GiB},
                                 {{1, "no-device"}, 5_GiB}};
  EXPECT_EQ(seen, wanted);
  const PodUsage without = scene.Join(false);
  EXPECT_THAT(without.rows, IsEmpty());
  EXPECT_EQ(without.unattributed[0].reason, "kubelet");
}

TEST(PodUsageTest, TwoContainersOfOnePodOnOneGpuStayOpen) {
  Scene scene(kSliced);
  scene.Hold(1, "a", {SampleUuid(0) + "::0"});
  scene.Hold(1, "b", {SampleUuid(0) + "::1"});
  scene.Run(11, 0, 3_GiB, 1);
  const PodUsage usage = scene.Join();
  ASSERT_THAT(usage.rows, SizeIs(3));
  EXPECT_EQ(usage.rows[0].container, "");
  EXPECT_EQ(usage.rows[0].memory_used, 3_GiB);
  EXPECT_FALSE(usage.rows[1].memory_used) << "which of them it is isn't known";
}

TEST(PodUsageTest, MigDevicesByTheirInstance) {
  Scene scene;
  Cut(scene.node, 0, Smalls("1g.10gb", {0, 1}));
  const auto& instances = scene.node.gpus[0].instances;
  const std::string first = instances[0].compute_instances[0].uuid;
  const std::string second = instances[1].compute_instances[0].uuid;
  scene.Hold(1, "main", {first});
  scene.Hold(2, "main", {second});
  scene.Run(21, 0, 2_GiB, 2, instances[1].id);
  scene.Run(22, 0, 1_GiB, 2, instances[0].id);  // Not its own.
  const PodUsage usage = scene.Join();
  ASSERT_THAT(usage.rows, SizeIs(2));
  EXPECT_EQ(usage.rows[0].memory_used, Bytes{});
  EXPECT_EQ(usage.rows[1].device, second);
  EXPECT_EQ(usage.rows[1].memory_used, 2_GiB);
  ASSERT_THAT(usage.unattributed, SizeIs(1));
  EXPECT_EQ(usage.unattributed[0].memory, 1_GiB);
}

// An oracle that asks, for each process by itself, whether its pod has its GPU.
RC_GTEST_PROP(PodUsageProperty, MemoryIsNeitherLostNorCountedTwice, ()) {
  Scene scene(kSliced);
  std::set<std::pair<int, int>> held;  // Pod, GPU.
  for (int i = 0, n = *rc::gen::inRange(0, 8); i < n; ++i) {
    const int pod = *rc::gen::inRange(0, 4);
    const int gpu = *rc::gen::inRange(0, 2);
    const int container = *rc::gen::inRange(0, 3);
    scene.Hold(pod, fmt::format("c{}", container), {fmt::format("{}::{}", SampleUuid(gpu), i)});
    held.insert({pod, gpu});
  }
  std::map<std::pair<int, int>, std::int64_t> wanted;
  std::int64_t left = 0;
  for (int i = 0, n = *rc::gen::inRange(0, 30); i < n; ++i) {
    const int pod = *rc::gen::inRange(-1, 12);
    const int gpu = *rc::gen::inRange(0, 2);
    // A pid may be on both GPUs, and is of one pod.
    const int pid = 100 + i / 2 * 2 + (i % 2 == 1 && gpu == 0 ? 1 : 0) + 1000 * (pod + 1);
    const Bytes memory{*rc::gen::inRange(0, 1000)};
    scene.Run(pid, gpu, memory, pod);
    if (held.contains({pod, gpu})) {
      wanted[{pod, gpu}] += memory.count;
    } else {
      left += memory.count;
    }
  }
  const PodUsage usage = scene.Join();
  std::map<std::pair<int, int>, std::int64_t> got;
  std::set<std::tuple<std::string, std::string, std::string>> keys;
  for (const PodDeviceUse& row : usage.rows) {
    RC_ASSERT(keys.insert({row.pod, row.container, row.device}).second);
    if (row.processes == 0) continue;
    got[{std::stoi(row.pod.substr(1)), row.gpu_index}] += row.memory_used->count;
  }
  RC_ASSERT(got == wanted);
  for (const UnattributedUse& one : usage.unattributed) left -= one.memory.count;
  RC_ASSERT(left == 0);
}

// ---- the page ----------------------------------------------------------------------------------

TEST(KubeMetricsTest, SaysWhatIsKnownAndNothingElse) {
  const PluginState empty;
  const std::string nothing = KubeMetricsText(empty, nullptr, 0, 2);
  EXPECT_THAT(nothing, HasSubstr("sublet_kube_driver_up 0\n"));
  EXPECT_THAT(nothing, HasSubstr("sublet_kube_late_looks_total 2\n"));
  EXPECT_THAT(nothing, Not(HasSubstr("sublet_kube_memory")));

  Scene scene;
  scene.Hold(1, "main", {SampleUuid(0)});
  scene.Run(11, 0, 3_GiB, 1);
  PluginState state;
  state.inventory = std::make_shared<Inventory>(scene.node);
  state.resources = scene.resources;
  state.unhealthy.insert(SampleUuid(1));
  state.last_xid[SampleUuid(1)] = 79;
  PodSight sight;
  sight.pods = scene.pods;
  sight.usage = scene.usage;
  sight.places = scene.places;
  sight.names = scene.names;
  sight.meters[SampleUuid(0)].throttle_reasons = nvml::kClocksHwPowerBrake;
  const std::string text = KubeMetricsText(state, &sight, 0, 0);
  EXPECT_THAT(text, HasSubstr("sublet_kube_memory_used_bytes{namespace=\"ns\",pod=\"p1\","
                              "container=\"main\",gpu=\"0\",UUID=\"" +
                              SampleUuid(0) + "\",device=\"" + SampleUuid(0) + "\"} 3221225472\n"));
  EXPECT_THAT(text, HasSubstr("reason=\"power-brake\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("reason=\"power-cap\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("device=\"" + SampleUuid(1) + "\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("namespace=\"ns\",pod=\"p1\",container=\"main\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("namespace=\"\",pod=\"\",container=\"\"} 79\n"));
}

TEST(KubeMetricsTest, NamesTheServerThatAContainerIsAClientOf) {
  Scene scene(kMps);
  const std::string id = SampleUuid(0) + "::0";
  scene.Hold(1, "main", {id});
  PluginState state;
  state.inventory = std::make_shared<Inventory>(scene.node);
  state.resources = scene.resources;
  for (const char* suffix : {"", ".red", ".blue"}) {
    Domain& domain = state.servers.emplace_back().domain;
    domain.gpu_uuid = SampleUuid(0);
    domain.name = SampleUuid(0) + suffix;
  }
  PodSight sight;
  sight.pods = scene.pods;
  const auto server = [&](const std::string& name) {
    return "sublet_kube_mps_client_info{namespace=\"ns\",pod=\"p1\",container=\"main\",server=\"" +
           name + "\",UUID=\"" + SampleUuid(0) + "\",device=\"" + SampleUuid(0) + "\"} 1\n";
  };
  EXPECT_THAT(KubeMetricsText(state, &sight, 0, 0), HasSubstr(server(SampleUuid(0))));
  state.claims[ClaimName(scene.pods.at(0).resource, {id})] = SampleUuid(0) + ".red";
  const std::string text = KubeMetricsText(state, &sight, 0, 0);
  EXPECT_THAT(text, HasSubstr(server(SampleUuid(0) + ".red")));
  EXPECT_THAT(text, Not(HasSubstr(server(SampleUuid(0)))));
}

// Every family that there can be, by name.
std::set<std::string> FamilyNames() {
  Scene scene(kMps);
  scene.Hold(1, "main", {SampleUuid(0) + "::0"});
  scene.Run(11, 0, 3_GiB, 1);
  scene.usage.gpus[0].processes[0].sm_percent = 40;
  scene.Run(12, 0, 3_GiB, -1);
  scene.usage.gpus[0].utilisation_percent = 50;
  PluginState state;
  state.inventory = std::make_shared<Inventory>(scene.node);
  state.resources = scene.resources;
  state.servers.resize(1);
  state.servers[0].domain.name = state.servers[0].domain.gpu_uuid = SampleUuid(0);
  PodSight sight;
  sight.pods = scene.pods;
  sight.usage = scene.usage;
  sight.places = scene.places;
  sight.names = scene.names;
  sight.meters[SampleUuid(0)] = {1410, 300, 40, 0};
  const std::string text = KubeMetricsText(state, &sight, 0, 0);
  std::set<std::string> names;
  constexpr std::string_view kHead = "# TYPE ";
  for (std::size_t at = text.find(kHead); at != std::string::npos; at = text.find(kHead, at + 1)) {
    const std::size_t begin = at + kHead.size();
    names.insert(text.substr(begin, text.find(' ', begin) - begin));
  }
  return names;
}

// Those in a text that begin as ours do.
std::set<std::string> NamesIn(const std::string& text) {
  std::set<std::string> names;
  for (const std::string_view head : {"sublet_kube_", "DCGM_FI_"}) {
    for (std::size_t at = text.find(head); at != std::string::npos; at = text.find(head, at + 1)) {
      constexpr const char* kNameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
      names.insert(text.substr(at, text.find_first_not_of(kNameBytes, at) - at));
    }
  }
  return names;
}

TEST(KubeMetricsTest, TheManualHasEveryNameAndTheDashboardNoOther) {
  const std::set<std::string> names = FamilyNames();
  const std::string root = SUBLET_SOURCE_DIR;
  const auto manual = ReadFile(root + "/docs/operating/kubernetes-metrics.md", 1u << 20);
  const auto dashboard = ReadFile(root + "/deploy/grafana/sublet-kube.json", 1u << 20);
  ASSERT_TRUE(manual);
  ASSERT_TRUE(dashboard);
  std::set<std::string> documented = NamesIn(*manual);
  documented.insert("sublet_build_info");
  EXPECT_EQ(names, documented);
  const std::set<std::string> asked = NamesIn(*dashboard);
  EXPECT_GT(asked.size(), 15u);
  for (const std::string& name : asked) EXPECT_TRUE(names.contains(name)) << name;
}

}  // namespace
}  // namespace sublet
