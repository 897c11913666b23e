// kube/pod_cgroup.h
//
// Which pod a process is of: by its cgroup, which a container can't choose, and by the folders that
// kubelet keeps for each pod's logs, which name the pod.
//
//   const std::string uid = PodUidOfCgroup(text);       // Of /proc/PID/cgroup; empty: no pod's.
//   const PodNames names = ReadPodNames("/var/log/pods");
//   names.find(uid)->second.pod
//
// Read alike: cgroup v1 and v2, the drivers systemd and cgroupfs, containerd, CRI-O and docker, and
// paths as a process in a cgroup namespace of its own sees them ("/../../kubepods-pod...").
//
// Thread safety: no shared state.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace sublet {

struct PodName {
  std::string pod_namespace;
  std::string pod;

  friend auto operator<=>(const PodName&, const PodName&) = default;
};
using PodNames = std::map<std::string, PodName, std::less<>>;  // By UID.

inline constexpr std::string_view kPodLogs = "/var/log/pods";

// As Kubernetes writes it: "6f2b41d2-0f5c-4d0e-9d6e-3c1f3a7be001"; of a static pod 32 digits. The
// outermost cgroup decides: what a container makes inside its own changes nothing.
std::string PodUidOfCgroup(std::string_view text);

// A folder's name, "<namespace>_<pod>_<uid>", as one entry; others are left out. A folder that
// can't be read has none.
PodNames ReadPodNames(const std::string& folder);

}  // namespace sublet
