// kube/allocation.h
//
// What a container gets with the devices that kubelet chose for it: variables, mounts, device
// nodes, annotations and CDI names.
//
//   AllocationContext context{.flags = config.flags, .imex = config.imex, ...};
//   ASSIGN_OR_RETURN(const ContainerGrant grant,
//                    AllocateContainer(index, {.ids = {"GPU-5c1e...::0"}, .response_id = uuid},
//                                      context));
//   grant.envs               // {"NVIDIA_VISIBLE_DEVICES", "GPU-5c1e..."}, ...
//   grant.limits             // What is limited, by whom, and for whom: for logs and annotations.
//
// With every device-list strategy the result is that of NVIDIA's plugin, so container runtimes need
// no other set-up. Beyond it a client of MPS gets its limits, scaled by the number of replicas
// that it asked for, and sees its own devices only.
//
// A container that names one of these variables itself overrides kubelet's: a variable is a limit
// for who plays by the rules. What holds against others is the server's default (mps_daemon.h),
// which no client can raise, and the driver's own memory limit where it has one; `limits` says
// which it is.
//
// Thread safety: pure functions of values.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "kube/plugin_resources.h"
#include "model/device_plugin_config.h"
#include "model/plan.h"

namespace sublet {

inline constexpr std::string_view kDevicePluginCdiVendor = "k8s.device-plugin.nvidia.com";
// In the container runtime's annotations: what is limited and by whom, in one line.
inline constexpr std::string_view kLimitsAnnotation = "sublet.dev/limits";

struct GrantedMount {
  std::string container_path;
  std::string host_path;
  bool read_only = false;

  friend bool operator==(const GrantedMount&, const GrantedMount&) = default;
};

struct GrantedDeviceNode {
  std::string container_path;
  std::string host_path;
  std::string permissions;  // "rw"

  friend bool operator==(const GrantedDeviceNode&, const GrantedDeviceNode&) = default;
};

using NamedTexts = std::vector<std::pair<std::string, std::string>>;

// What the container may use of its devices together, and who sees to it.
struct GrantedLimits {
  std::optional<Bytes> memory;  // On each of its devices, if several, the least.
  std::optional<int> sm_percent;
  // The memory is the pod's, however many processes it has; false: each process may have as much.
  bool memory_for_pod = false;
  std::vector<Enforcement> enforcement;
  std::string text;  // The same in one line; never empty.
};

struct ContainerGrant {
  NamedTexts envs;  // Ascending name, as are the annotations.
  std::vector<GrantedMount> mounts;
  std::vector<GrantedDeviceNode> device_nodes;
  NamedTexts annotations;
  std::vector<std::string> cdi_devices;  // "k8s.device-plugin.nvidia.com/gpu=GPU-..."

  std::vector<std::string> devices;  // UUIDs, each once, in the order of the request.
  GrantedLimits limits;
};

// The MPS server whose client a container becomes.
struct MpsServerFolder {
  std::string host_pipe_directory;       // On the host.
  std::string container_pipe_directory;  // The same in the container: CUDA_MPS_PIPE_DIRECTORY.
  // What is mounted: the pipe directory itself, or the folder that it is in. With the latter a
  // container also meets a server that has replaced the first one, in a pipe directory made anew.
  std::string host_directory;
  std::string container_directory;
  std::string host_shm_directory;    // Mounted at /dev/shm; empty: the container keeps its own.
  std::vector<std::string> devices;  // UUIDs that it serves.
  // Every client of it has at most this, whatever its own variables say; absent: no such limit.
  ShareSize default_limit;
  // Whose it is, where it is a tenant's own; empty: everybody's.
  std::string tenant;
};

// Where NVIDIA's MPS control daemon, and Sublet's in its place, has the folders of a resource:
// <mps root>/<resource>/pipe and <mps root>/shm on the host, /mps/<resource>/pipe in the container.
MpsServerFolder ResourceMpsFolder(const PluginFlags& flags, const AdvertisedResource& resource);

struct AllocationContext {
  const PluginFlags& flags;
  const ImexConfig& imex;
  // Of the tenant whose container it is. Needed with mode kMps, else absent.
  std::optional<MpsServerFolder> mps = {};
  // UUIDs of GPUs and MIG devices that must not be handed out now.
  std::set<std::string, std::less<>> unhealthy = {};
  // Which of the optional nodes there are under the device root: "/dev/nvidia-modeset".
  std::set<std::string, std::less<>> present_nodes = {};
  // The driver limits the memory of a cgroup (capability "memory-limits"), and this plugin sets it.
  bool pod_memory_limits = false;
  bool limits_for_pod = true;  // sublet.limits
  bool fail_closed = true;     // sublet.fail_closed
};

struct ContainerRequest {
  std::vector<std::string> ids;
  std::string response_id;  // A random UUID, for the name of the CDI annotation.
};

// Fails with
//  - kInvalid "invalid request: unknown device: X", "invalid request: maximum request size for
//    shared resources is 1; found N", the same device twice, no device at all;
//  - kUnavailable for an unhealthy device, and under MPS where there is no server for the devices
//    or it doesn't serve all of them;
//  - kUnsupported where a memory limit would hold for nobody but who keeps to it, neither the
//    server nor the driver having one, and the configuration says fail closed.
Result<ContainerGrant> AllocateContainer(const ReplicaIndex& resource,
                                         const ContainerRequest& request,
                                         const AllocationContext& context);

}  // namespace sublet
