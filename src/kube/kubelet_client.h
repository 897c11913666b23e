// kube/kubelet_client.h
//
// The calls that a device plugin makes to kubelet: to be registered, and to learn which pod has
// which devices.
//
//   Registration registration{.kubelet_socket = socket, .endpoint = "nvidia-gpu.sock",
//                             .resource = "nvidia.com/gpu"};
//   RETURN_IF_ERROR(RegisterWithKubelet(registration));         // On a pool: it waits.
//   ASSIGN_OR_RETURN(const std::vector<PodDevices> pods, ListPodDevices(pod_resources_socket));
//
// Before it is called, the plugin must serve: kubelet asks for its options before Register
// returns, and may ask for the list before that (observed with 1.34).
//
// Each call has a connection of its own, which goes with it, so that nothing polls in between.
//
// Thread safety: no shared state.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "kube/plugin_server.h"

namespace sublet {

inline constexpr std::string_view kDevicePluginApiVersion = "v1beta1";
inline constexpr std::string_view kPodResourcesSocket =
    "/var/lib/kubelet/pod-resources/kubelet.sock";

struct Registration {
  std::string kubelet_socket;
  std::string endpoint;  // The name of the plugin's socket, in the folder of kubelet's.
  std::string resource;
  OptionalCalls options;
  double timeout_s = 5;  // As NVIDIA's plugin; a kubelet that is busy answers in milliseconds.
};

// Fails with kUnavailable where kubelet isn't there, doesn't answer in time or breaks off, with
// kConflict where it refuses.
Status RegisterWithKubelet(const Registration& registration);

// All devices of one resource that a container has.
struct PodDevices {
  std::string pod_namespace;
  std::string pod;
  std::string container;
  std::string resource;
  std::vector<std::string> ids;  // As the plugin named them, sorted.
};

// In the order in which kubelet tells. Errors as above.
//
// kubelet itself has an entry for each device, or for each device and NUMA node it is near to; what
// is one container's of one resource is put together here.
Result<std::vector<PodDevices>> ListPodDevices(const std::string& socket, double timeout_s = 5);

}  // namespace sublet
