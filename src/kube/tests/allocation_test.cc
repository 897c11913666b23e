#include "kube/allocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sample_node.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr char kMpsTwo[] =
    "flags: {mpsRoot: /run/nvidia/mps}\n"
    "sharing: {mps: {failRequestsGreaterThanOne: false, resources: [{name: gpu, replicas: 4}]}}";
constexpr char kSmall[] =
    "flags: {mpsRoot: /run/nvidia/mps}\n"
    "sublet: {shares: [{resource: gpu.small, memory: 10Gi, sm_percent: 15, count: 4}]}";

// A node of two A100, one resource of it, and a context for allocations.
class AllocationTest : public testing::Test {
 protected:
  void Configure(const std::string& yaml, const std::string& resource = "gpu") {
    config_ = ConfigOf(yaml);
    config_.flags.dev_root = "/";
    node_ = Advertised(inventory_, config_);
    const AdvertisedResource* found = node_.Find("nvidia.com/" + resource);
    ASSERT_NE(found, nullptr);
    index_.emplace(*found);
    context_.emplace(AllocationContext{.flags = config_.flags, .imex = config_.imex});
    context_->fail_closed = config_.sublet.fail_closed;
  }

  void StartMps(ShareSize wall) {
    context_->mps = ResourceMpsFolder(config_.flags, index_->resource());
    context_->mps->default_limit = wall;
  }

  ContainerGrant Granted(const std::vector<std::string>& ids) {
    const auto grant = AllocateContainer(*index_, {ids, "5d1f"}, *context_);
    EXPECT_TRUE(grant.has_value()) << grant.error().message;
    return grant.value_or(ContainerGrant());
  }

  std::string Refused(const std::vector<std::string>& ids, ErrorCode code) {
    const auto grant = AllocateContainer(*index_, {ids, "5d1f"}, *context_);
    if (grant) return "granted";
    EXPECT_EQ(grant.error().code, code);
    return grant.error().message;
  }

  static std::string Id(int gpu, int replica) {
    return fmt::format("{}::{}", SampleUuid(gpu), replica);
  }

  Inventory inventory_ = SampleNode("a100-80gb", 2);
  DevicePluginConfig config_;
  AdvertisedNode node_;
  std::optional<ReplicaIndex> index_;
  std::optional<AllocationContext> context_;
};

TEST_F(AllocationTest, EnvvarNamesTheDevicesAndNothingElse) {
  Configure("");
  const ContainerGrant grant = Granted({SampleUuid(1), SampleUuid(0)});
  EXPECT_THAT(grant.envs,
              ElementsAre(Pair("NVIDIA_VISIBLE_DEVICES", SampleUuid(1) + "," + SampleUuid(0))));
  EXPECT_THAT(grant.mounts, IsEmpty());
  EXPECT_THAT(grant.device_nodes, IsEmpty());
  EXPECT_THAT(grant.annotations, IsEmpty());
  EXPECT_THAT(grant.cdi_devices, IsEmpty());
  EXPECT_THAT(grant.devices, ElementsAre(SampleUuid(1), SampleUuid(0)));
  EXPECT_EQ(grant.limits.text, "memory: whole GPU; sm: whole GPU");
}

TEST_F(AllocationTest, ReplicasOfADeviceAreOneDevice) {
  Configure("sharing: {timeSlicing: {resources: [{name: gpu, replicas: 4}]}}");
  const ContainerGrant grant = Granted({Id(0, 3), Id(1, 0), Id(0, 1)});
  EXPECT_THAT(grant.envs,
              ElementsAre(Pair("NVIDIA_VISIBLE_DEVICES", SampleUuid(0) + "," + SampleUuid(1))));
  EXPECT_THAT(grant.limits.text, HasSubstr("memory: not enforced"));
}

TEST_F(AllocationTest, IndicesWhereTheStrategySaysSo) {
  Configure("flags: {plugin: {deviceIDStrategy: index, deviceListStrategy: \"envvar,cdi-cri\"}}");
  const ContainerGrant grant = Granted({SampleUuid(1)});
  EXPECT_THAT(grant.envs, ElementsAre(Pair("NVIDIA_VISIBLE_DEVICES", "1")));
  EXPECT_THAT(grant.cdi_devices, ElementsAre("k8s.device-plugin.nvidia.com/gpu=1"));
}

TEST_F(AllocationTest, VolumeMountsNameTheDevicesByTheirMounts) {
  Configure(
      "flags: {plugin: {deviceListStrategy: [envvar, volume-mounts]}}\n"
      "imex: {channelIDs: [0]}");
  const ContainerGrant grant = Granted({SampleUuid(0)});
  EXPECT_THAT(grant.envs,
              ElementsAre(Pair("NVIDIA_IMEX_CHANNELS", "0"),
                          Pair("NVIDIA_VISIBLE_DEVICES", "/var/run/nvidia-container-devices")));
  EXPECT_THAT(
      grant.mounts,
      ElementsAre(GrantedMount{"/var/run/nvidia-container-devices/" + SampleUuid(0), "/dev/null"},
                  GrantedMount{"/var/run/nvidia-container-devices/imex/0", "/dev/null"}));
}

TEST_F(AllocationTest, CdiAnnotationsAndNamesAreTheSameDevices) {
  Configure(
      "flags: {gdrcopyEnabled: true, gdsEnabled: true, mofedEnabled: true, plugin: "
      "{passDeviceSpecs: true, deviceListStrategy: [cdi-annotations, cdi-cri]}}\n"
      "imex: {channelIDs: [0]}");
  const ContainerGrant grant = Granted({SampleUuid(0)});
  const std::string vendor = "k8s.device-plugin.nvidia.com/";
  EXPECT_THAT(grant.cdi_devices,
              ElementsAre(vendor + "gpu=" + SampleUuid(0), vendor + "imex-channel=0",
                          vendor + "gdrcopy=all", vendor + "gds=all", vendor + "mofed=all"));
  EXPECT_THAT(grant.annotations,
              ElementsAre(Pair("cdi.k8s.io/nvidia-device-plugin_5d1f",
                               fmt::format("{}", fmt::join(grant.cdi_devices, ",")))));
  // CDI alone: it has them all, so nothing is said twice.
  EXPECT_THAT(grant.envs, IsEmpty());
  EXPECT_THAT(grant.device_nodes, IsEmpty());
}

TEST_F(AllocationTest, DeviceNodesLieBelowTheDeviceRoot) {
  Configure("flags: {gdsEnabled: true, plugin: {passDeviceSpecs: true}}\nimex: {channelIDs: [0]}");
  config_.flags.dev_root = "/run/nvidia/driver/";
  context_->present_nodes = {"/dev/nvidiactl", "/dev/nvidia-uvm"};
  const ContainerGrant grant = Granted({SampleUuid(1)});
  EXPECT_THAT(
      grant.device_nodes,
      ElementsAre(
          GrantedDeviceNode{"/dev/nvidiactl", "/run/nvidia/driver/dev/nvidiactl", "rw"},
          GrantedDeviceNode{"/dev/nvidia-uvm", "/run/nvidia/driver/dev/nvidia-uvm", "rw"},
          GrantedDeviceNode{"/dev/nvidia1", "/run/nvidia/driver/dev/nvidia1", "rw"},
          GrantedDeviceNode{"/dev/nvidia-caps-imex-channels/channel0",
                            "/run/nvidia/driver/dev/nvidia-caps-imex-channels/channel0", "rw"}));
  EXPECT_THAT(grant.envs, testing::Contains(Pair("NVIDIA_GDS", "enabled")));
}

TEST_F(AllocationTest, RefusesInNvidiasWords) {
  Configure(
      "sharing: {timeSlicing: {failRequestsGreaterThanOne: true, resources: [{name: gpu, "
      "replicas: 4}]}}");
  EXPECT_EQ(Refused({"GPU-x::0"}, ErrorCode::kInvalid),
            "invalid request: unknown device: GPU-x::0");
  EXPECT_EQ(Refused({SampleUuid(0)}, ErrorCode::kInvalid),
            "invalid request: unknown device: " + SampleUuid(0));
  EXPECT_EQ(Refused({Id(0, 0), Id(0, 1), Id(1, 0)}, ErrorCode::kInvalid),
            "invalid request: maximum request size for shared resources is 1; found 3");
  EXPECT_THAT(Refused({Id(0, 0), Id(0, 0)}, ErrorCode::kInvalid), HasSubstr("twice"));
  EXPECT_THAT(Refused({}, ErrorCode::kInvalid), HasSubstr("no device"));
  context_->unhealthy = {SampleUuid(1)};
  EXPECT_EQ(Refused({Id(1, 2)}, ErrorCode::kUnavailable),
            "invalid request: unhealthy device: " + Id(1, 2));
  EXPECT_EQ(Refused({Id(0, 2)}, ErrorCode::kUnavailable), "granted");
}

TEST_F(AllocationTest, AnMpsClientGetsItsServerAndItsLimits) {
  Configure(kMpsTwo);
  const ShareSize part = index_->resource().devices[0].size;
  StartMps(part);
  const ContainerGrant grant = Granted({Id(0, 0)});
  EXPECT_THAT(grant.envs, ElementsAre(Pair("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "25"),
                                      Pair("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
                                           fmt::format("0={}M", part.memory->mib())),
                                      Pair("CUDA_MPS_PIPE_DIRECTORY", "/mps/nvidia.com/gpu/pipe"),
                                      Pair("CUDA_VISIBLE_DEVICES", SampleUuid(0)),
                                      Pair("NVIDIA_VISIBLE_DEVICES", SampleUuid(0))));
  EXPECT_THAT(grant.mounts, ElementsAre(GrantedMount{"/mps/nvidia.com/gpu/pipe",
                                                     "/run/nvidia/mps/nvidia.com/gpu/pipe"},
                                        GrantedMount{"/dev/shm", "/run/nvidia/mps/shm"}));
  EXPECT_TRUE(grant.limits.enforcement[0].enforced && grant.limits.enforcement[1].enforced);
  EXPECT_THAT(grant.annotations,
              ElementsAre(Pair("sublet.dev/limits", HasSubstr("for each process (nothing "
                                                              "limits the pod)"))));
}

TEST_F(AllocationTest, LimitsGrowWithTheNumberOfReplicas) {
  Configure(kSmall, "gpu.small");
  StartMps({40_GiB, {}});
  const ContainerGrant grant = Granted({Id(0, 0), Id(0, 3), Id(1, 1)});
  EXPECT_THAT(grant.envs, testing::IsSupersetOf(NamedTexts{
                              {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "0=20480M,1=10240M"},
                              {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "15"},
                              {"CUDA_VISIBLE_DEVICES", SampleUuid(0) + "," + SampleUuid(1)},
                          }));
  EXPECT_THAT(Granted({Id(0, 0), Id(0, 3)}).envs,
              testing::Contains(Pair("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "30")));
  // The server would let a client have more that changes its own variable, and that is said.
  EXPECT_FALSE(grant.limits.enforcement[0].enforced);
  EXPECT_THAT(grant.limits.text, HasSubstr("by its variables, 40.0 GiB by the server"));
}

TEST_F(AllocationTest, NoClientIsPromisedMoreThanItsServerGives) {
  Configure(kSmall, "gpu.small");
  StartMps({10_GiB, 15});
  const ContainerGrant grant = Granted({Id(0, 0), Id(0, 1)});
  EXPECT_EQ(grant.limits.memory, 10_GiB);
  EXPECT_EQ(grant.limits.sm_percent, 15);
}

TEST_F(AllocationTest, ThePodIsLimitedWhereTheDriverCan) {
  Configure(kSmall, "gpu.small");
  StartMps({});
  EXPECT_THAT(Refused({Id(0, 0)}, ErrorCode::kUnsupported),
              HasSubstr("neither the MPS server nor the driver limits memory"));
  context_->pod_memory_limits = true;
  const ContainerGrant grant = Granted({Id(0, 0)});
  EXPECT_TRUE(grant.limits.memory_for_pod);
  EXPECT_TRUE(grant.limits.enforcement[0].enforced);
  EXPECT_EQ(grant.limits.text, "memory: 10.0 GiB for the pod; sm: 15 % for each process");
  context_->pod_memory_limits = false;
  context_->fail_closed = false;
  EXPECT_FALSE(Granted({Id(0, 0)}).limits.enforcement[0].enforced);
}

TEST_F(AllocationTest, WithoutItsServerNoClientStarts) {
  Configure(kSmall, "gpu.small");
  EXPECT_THAT(Refused({Id(0, 0)}, ErrorCode::kUnavailable),
              HasSubstr("no MPS server for nvidia.com/gpu.small"));
  StartMps({10_GiB, 15});
  context_->mps->devices = {SampleUuid(0)};
  EXPECT_THAT(Refused({Id(0, 0), Id(1, 0)}, ErrorCode::kUnavailable),
              HasSubstr("doesn't serve device " + SampleUuid(1)));
}

TEST_F(AllocationTest, ATenantsServerIsSaidToBeOne) {
  Configure(kSmall, "gpu.small");
  StartMps({10_GiB, 15});
  context_->mps->tenant = "search";
  const ContainerGrant grant = Granted({Id(0, 0)});
  ASSERT_EQ(grant.limits.enforcement.size(), 3u);
  EXPECT_EQ(grant.limits.enforcement[2].what, "fault");
}

}  // namespace
}  // namespace sublet
