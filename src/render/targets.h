// render/targets.h
//
// One function a target, each in a file of its own: device_plugin.cc, mig.cc, kubernetes.cc,
// dra.cc, linux.cc, compose.cc. render.cc has already found that the target can express the
// deployment, or that it is to render what it can; so they have no errors.
//
// Files are returned without the header that says where they come from; render.cc puts it in.
//
// Thread safety: no shared state.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "render/deployment.h"
#include "render/render.h"

namespace sublet {

// A file as a target makes it. `notes` are sentences for its head, what it is and how it is used.
struct TargetFile {
  std::string path;
  std::vector<std::string> notes;
  std::string body;
  unsigned mode = 0644;
};
using TargetFiles = std::vector<TargetFile>;

TargetFiles RenderDevicePlugin(const Deployment& deployment);
TargetFiles RenderMig(const Deployment& deployment);
TargetFiles RenderKubernetes(const Deployment& deployment);
TargetFiles RenderDra(const Deployment& deployment);
TargetFiles RenderLinux(const Deployment& deployment);
TargetFiles RenderCompose(const Deployment& deployment);

// --- what several of them share ---

// The device plugin's configurations: which one each group of the deployment gets.
struct PluginConfig {
  std::string name;                 // "mps-4": key in the ConfigMap and value of the node label.
  std::string text;                 // Configuration file, version v1.
  std::vector<std::size_t> groups;  // Indices into Deployment::groups.
};
std::vector<PluginConfig> PluginConfigs(const Deployment& deployment);

// "mps", "time-slicing" or "none": how the plugin shares this partition's resource in this group.
std::string_view PluginSharing(const NodeGroup& group, const PlannedPartition& partition);

// A script that sets `label` on nodes: on those in `of_nodes` (node, value) at once, and with
// arguments VALUE NODE... for the values in `to_pick`, whose nodes the plan doesn't name.
struct NodeLabels {
  std::string label;
  std::vector<std::pair<std::string, std::string>> of_nodes;
  std::vector<std::string> to_pick;
};
std::string LabelScript(const NodeLabels& labels);

// A Deployment object; `pod` holds what the target adds to the pod's spec (nodeSelector,
// resourceClaims), `resources` is the container's.
struct PodPlan {
  std::string name;
  const Seat* seat = nullptr;  // One of its replicas; all have the same workload and limits.
  int replicas = 0;
  nlohmann::ordered_json* pod = nullptr;
  nlohmann::ordered_json* resources = nullptr;
};
nlohmann::ordered_json DeploymentObject(const Plan& plan, const PodPlan& pod);

// The image, or where the plan has none a name that no registry serves.
std::string ImageOf(const PlannedWorkload& workload);

// Documents of one YAML file.
std::string YamlDocuments(const std::vector<nlohmann::ordered_json>& documents);

// Host name, or "node" for the machine that the plan doesn't name.
std::string MachineName(const NodeGroup& machine);

// The scripts and settings that run MPS servers and confine replicas: the folder `base` of the
// target files gets bin/ and etc/ (render/shell/README.md).
void AddMachineFiles(const NodeGroup& machine, const std::string& base, TargetFiles& files);

}  // namespace sublet
