// model/device_plugin_config.h
//
// The configuration of NVIDIA's device plugin and of gpu-feature-discovery, version v1, read as it
// is, and what Sublet adds to it under `sublet:`. docs/formats/device-plugin.md.
//
//   version: v1
//   flags: {migStrategy: none}
//   sharing:
//     timeSlicing:
//       resources: [{name: nvidia.com/gpu, replicas: 4}]
//   sublet:
//     shares:
//       - {resource: gpu.small, mode: mps, devices: [1], memory: 10Gi, sm_percent: 15, count: fill}
//
//   DevicePluginSources sources;
//   sources.program = PluginProgram::kDevicePlugin;
//   sources.flags = {{"mig-strategy", "mixed"}};          // The command line.
//   sources.environment = {{"PASS_DEVICE_SPECS", "true"}};
//   sources.file = text;
//   sources.file_name = "config.yaml";
//   ASSIGN_OR_RETURN(const DevicePluginConfig config, ResolveDevicePluginConfig(sources));
//   for (const std::string& warning : config.warnings) ...
//
// Precedence: command line, environment, file, default. A variable that is set to nothing counts as
// not set, but for KUBELET_SOCKET, where nothing means: don't register.
//
// What NVIDIA's plugin reads and then drops, `rename` and `devices` of a shared resource, is kept
// and works. `resources` is dropped here as there, with a warning.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/plan.h"

namespace sublet {

inline constexpr std::string_view kDevicePluginVersion = "v1";
inline constexpr std::string_view kNvidiaResourcePrefix = "nvidia.com";
inline constexpr std::size_t kResourceNameMax = 63;  // With its prefix: as NVIDIA's plugin has it.
// One GPU's replicas; kubelet takes gRPC messages of at most 4 MiB, some 70 bytes a device.
inline constexpr int kReplicasMax = 10'000;

enum class MigStrategy { kNone, kSingle, kMixed };
const EnumWords<MigStrategy>& MigStrategyWords();
std::string_view MigStrategyName(MigStrategy strategy);

enum class DeviceListStrategy { kEnvvar, kVolumeMounts, kCdiAnnotations, kCdiCri };
const EnumWords<DeviceListStrategy>& DeviceListStrategyWords();
std::string_view DeviceListStrategyName(DeviceListStrategy strategy);

enum class DeviceIdStrategy { kUuid, kIndex };
const EnumWords<DeviceIdStrategy>& DeviceIdStrategyWords();

// Of the replicas of shared devices: on the device with the fewest in use first, or the most.
enum class AllocationPolicy { kDistributed, kPacked };
const EnumWords<AllocationPolicy>& AllocationPolicyWords();

enum class DeviceDiscovery { kAuto, kNvml, kTegra, kVfio };
const EnumWords<DeviceDiscovery>& DeviceDiscoveryWords();

// Which devices a rule is about: all of its resource, the first `count` of them by index, or those
// of the list.
struct DeviceSelection {
  std::optional<int> count;       // > 0
  std::vector<std::string> list;  // "0", "0:1", "GPU-...", "MIG-...", "MIG-GPU-.../7/0".

  bool All() const { return !count && list.empty(); }
  friend bool operator==(const DeviceSelection&, const DeviceSelection&) = default;
};

// A resource whose devices are each handed out several times.
struct ReplicatedResource {
  std::string name;    // "nvidia.com/gpu"
  std::string rename;  // What they are advertised as; empty: as `name`.
  DeviceSelection devices;
  int replicas = 0;  // Of each device; 2 and more.

  friend bool operator==(const ReplicatedResource&, const ReplicatedResource&) = default;
};

// sharing.timeSlicing and sharing.mps.
struct ReplicatedResources {
  bool rename_by_default = false;  // Already done: `rename` holds "<name>.shared".
  bool fail_requests_greater_than_one = false;
  std::vector<ReplicatedResource> resources;  // At least one.

  friend bool operator==(const ReplicatedResources&, const ReplicatedResources&) = default;
};

// What a share of one resource may use of its device.
struct ShareSize {
  std::optional<Bytes> memory;    // Its CUDA contexts included; absent: no limit.
  std::optional<int> sm_percent;  // Of the device's SMs, 1..100; absent: no cap.

  friend bool operator==(const ShareSize&, const ShareSize&) = default;
};

// sublet.shares: one resource, and what of which devices it hands out. The devices that such a rule
// takes are advertised by no other part of the file.
struct ShareRule {
  enum class Count { kFixed, kFill, kPlan };

  std::string resource;                  // "nvidia.com/gpu.small": with its prefix.
  SharingMode mode = SharingMode::kMps;  // kExclusive, kTimeSlicing or kMps.
  DeviceSelection devices;               // Of whole GPUs, or with `profile` of its MIG devices.
  std::string profile;                   // "3g.40gb": on MIG devices of it; empty: whole GPUs.
  ShareSize size;                        // Only with mode mps.
  Count count_how = Count::kFixed;       // kFill: as many as fit. kPlan: as the plan says.
  int count = 1;                         // On each device, where kFixed.
  bool fail_requests_greater_than_one = false;

  friend bool operator==(const ShareRule&, const ShareRule&) = default;
};

// Who shares an MPS server.
enum class MpsTenancy {
  kResource,   // All clients of a device.
  kNamespace,  // The pods of a namespace.
  kLabel,      // The pods with the same value of a label, in one namespace.
};

struct SubletSharing {
  std::vector<ShareRule> shares;
  MpsTenancy tenancy = MpsTenancy::kResource;  // per_tenant: namespace, or label
  std::string tenant_label;                    // With kLabel.
  // A limit is for the pod's processes together, where the driver can; else for each.
  bool limits_for_pod = true;
  // What can't be limited as the file says isn't handed out.
  bool fail_closed = true;
  std::string plan;  // Path of a plan: for count: plan. Absolute; may be empty.

  friend bool operator==(const SubletSharing&, const SubletSharing&) = default;
};

struct ImexConfig {
  std::vector<int> channel_ids;  // Empty, or 0 alone.
  bool required = false;

  friend bool operator==(const ImexConfig&, const ImexConfig&) = default;
};

// flags, but for flags.gfd.
struct PluginFlags {
  MigStrategy mig_strategy = MigStrategy::kNone;
  bool fail_on_init_error = true;
  std::string mps_root;           // "" or absolute: where MPS servers have their folders.
  std::string driver_root = "/";  // On the host.
  std::string dev_root;           // On the host; never empty once resolved.
  bool gdrcopy_enabled = false;
  bool gds_enabled = false;
  bool mofed_enabled = false;
  bool use_node_feature_api = true;
  DeviceDiscovery discovery = DeviceDiscovery::kAuto;

  bool pass_device_specs = false;
  std::vector<DeviceListStrategy> device_list_strategy{DeviceListStrategy::kEnvvar};
  DeviceIdStrategy device_id_strategy = DeviceIdStrategy::kUuid;
  std::string cdi_annotation_prefix = "cdi.k8s.io/";
  std::string cdi_hook_path = "/usr/bin/nvidia-ctk";
  std::string container_driver_root = "/driver-root";
  AllocationPolicy allocation_policy = AllocationPolicy::kDistributed;
  std::vector<std::string> cdi_feature_flags;
  std::vector<std::string> cdi_disable_hooks;
  // Empty: don't register.
  std::string kubelet_socket = "/var/lib/kubelet/device-plugins/kubelet.sock";

  bool Uses(DeviceListStrategy strategy) const;
  // Nothing is left to an environment variable or a mount.
  bool UsesCdiOnly() const;

  friend bool operator==(const PluginFlags&, const PluginFlags&) = default;
};

// flags.gfd
struct FeatureDiscoveryFlags {
  bool oneshot = false;
  bool no_timestamp = false;
  std::chrono::nanoseconds sleep_interval = std::chrono::seconds(60);  // max(): for ever.
  std::string output_file = "/etc/kubernetes/node-feature-discovery/features.d/gfd";
  std::string machine_type_file = "/sys/class/dmi/id/product_name";

  friend bool operator==(const FeatureDiscoveryFlags&, const FeatureDiscoveryFlags&) = default;
};

struct DevicePluginConfig {
  PluginFlags flags;
  FeatureDiscoveryFlags gfd;
  std::optional<ReplicatedResources> time_slicing;
  std::optional<ReplicatedResources> mps;
  ImexConfig imex;
  SubletSharing sublet;
  // DP_DISABLE_HEALTHCHECKS and DP_ENABLE_HEALTHCHECKS as they are: "all", "xids", "13,31".
  std::string health_checks_disabled;
  std::string health_checks_enabled;
  std::vector<std::string> warnings;  // What was read and has no effect, in sentences.

  // "none", "time-slicing" or "mps": what NVIDIA's label nvidia.com/gpu.sharing-strategy says.
  // Of two sections mps wins.
  std::string_view SharingStrategy() const;

  friend bool operator==(const DevicePluginConfig&, const DevicePluginConfig&) = default;
};

// Whose options and variables: some differ in name.
enum class PluginProgram { kDevicePlugin, kFeatureDiscovery };

// An option of the command line, and the variables that stand for it.
struct PluginOption {
  std::vector<std::string_view> names;      // Without "--"; the first is the one to print.
  std::vector<std::string_view> variables;  // The first that is set counts.
  bool flag = false;                        // May stand without a value: true.
  bool list = false;                        // May be given several times.
  std::string_view help;
};

// Of one program, in the order of its manual; --config-file is the first.
std::vector<PluginOption> PluginOptions(PluginProgram program);

struct DevicePluginSources {
  PluginProgram program = PluginProgram::kDevicePlugin;
  // In the order of the command line, names without "--". A flag without a value has "".
  std::vector<std::pair<std::string, std::string>> flags;
  std::map<std::string, std::string> environment;
  std::optional<std::string> file;  // The file's text.
  std::string file_name;            // In messages.
};

// The path of the configuration file by flag or variable; empty: there is none.
std::string ConfigFileOf(const DevicePluginSources& sources);

// Fails with kUsage for an option or variable that is unknown or has a bad value, or options that
// contradict each other, and with kInvalid, line and column for the file.
Result<DevicePluginConfig> ResolveDevicePluginConfig(const DevicePluginSources& sources);

// A file alone: defaults, then what it says. Not validated against the options as a whole.
Result<DevicePluginConfig> ParseDevicePluginConfig(std::string_view text, std::string_view source);

// "gpu" → "nvidia.com/gpu". Fails with kInvalid where the name is longer than kResourceNameMax or
// no DNS subdomain. Only `any_prefix` takes another domain than NVIDIA's.
Result<std::string> FullResourceName(std::string_view name, bool any_prefix = false);

// "1g.10gb+me" → "mig-1g.10gb.me": a MIG profile as the name of a resource.
std::string MigResourceName(std::string_view profile);

}  // namespace sublet
