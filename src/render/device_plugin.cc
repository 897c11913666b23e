// Target nvidia-device-plugin: configuration files (version v1) of NVIDIA's device plugin.
//
// The plugin reads one number of replicas a resource and node: it drops `devices` and `rename`. MIG
// devices are advertised by strategy "mixed", one resource a profile, because "single" refuses
// nodes that have anything else. Under MPS the plugin gives each client total/replicas of the
// memory and 100/replicas of the SMs.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "render/quoting.h"
#include "render/targets.h"

namespace sublet {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kConfigLabel = "nvidia.com/device-plugin.config";

struct Use {
  std::string resource;
  int replicas = 0;  // The most on any one device.
};

std::vector<Use> UsesOf(const NodeGroup& group) {
  std::vector<Use> uses;
  for (const PlannedGpu* gpu : group.gpus) {
    for (const PlannedPartition& partition : gpu->partitions) {
      const std::string resource = PluginResource(partition);
      auto use = std::find_if(uses.begin(), uses.end(),
                              [&](const Use& other) { return other.resource == resource; });
      if (use == uses.end()) use = uses.insert(use, {resource, 0});
      use->replicas = std::max(use->replicas, static_cast<int>(partition.replicas.size()));
    }
  }
  return uses;
}

bool HasMig(const NodeGroup& group) {
  return std::any_of(group.gpus.begin(), group.gpus.end(),
                     [](const PlannedGpu* gpu) { return gpu->mig; });
}

// The plugin refuses MPS on a node with MIG devices.
bool UsesMps(const NodeGroup& group) {
  if (HasMig(group)) return false;
  return std::any_of(group.seats.begin(), group.seats.end(),
                     [](const Seat& seat) { return seat.server != nullptr; });
}

std::string ConfigNameOf(const NodeGroup& group, const std::vector<Use>& shared) {
  std::vector<std::string> parts;
  if (HasMig(group)) parts.emplace_back("mig");
  if (!shared.empty()) {
    parts.emplace_back(UsesMps(group) ? "mps" : "time-slicing");
    if (shared.size() == 1) parts.push_back(std::to_string(shared.front().replicas));
  }
  return parts.empty() ? "exclusive" : fmt::format("{}", fmt::join(parts, "-"));
}

ordered_json ConfigOf(const NodeGroup& group, const std::vector<Use>& shared) {
  ordered_json config;
  config["version"] = "v1";
  config["flags"]["migStrategy"] = HasMig(group) ? "mixed" : "none";
  if (shared.empty()) return config;
  ordered_json resources = ordered_json::array();
  for (const Use& use : shared) {
    ordered_json resource;
    resource["name"] = use.resource;
    resource["replicas"] = use.replicas;
    resources.push_back(std::move(resource));
  }
  ordered_json sharing;
  // Two replicas of one GPU give a pod nothing that one doesn't.
  sharing["failRequestsGreaterThanOne"] = true;
  sharing["resources"] = std::move(resources);
  config["sharing"][UsesMps(group) ? "mps" : "timeSlicing"] = std::move(sharing);
  return config;
}

}  // namespace

std::string_view PluginSharing(const NodeGroup& group, const PlannedPartition& partition) {
  const std::string resource = PluginResource(partition);
  for (const Use& use : UsesOf(group)) {
    if (use.resource != resource || use.replicas < 2) continue;
    return UsesMps(group) ? "mps" : "time-slicing";
  }
  return "none";
}

std::vector<PluginConfig> PluginConfigs(const Deployment& deployment) {
  std::vector<PluginConfig> configs;
  UniqueNames names;
  for (std::size_t i = 0; i < deployment.groups.size(); ++i) {
    const NodeGroup& group = deployment.groups[i];
    std::vector<Use> shared = UsesOf(group);
    std::erase_if(shared, [](const Use& use) { return use.replicas < 2; });
    std::string text = YamlText(ConfigOf(group, shared));
    auto config = std::find_if(configs.begin(), configs.end(),
                               [&](const PluginConfig& other) { return other.text == text; });
    if (config == configs.end()) {
      config =
          configs.insert(config, {names.Name(ConfigNameOf(group, shared)), std::move(text), {}});
    }
    config->groups.push_back(i);
  }
  return configs;
}

std::string LabelScript(const NodeLabels& labels) {
  std::string out = "#!/bin/sh\nset -eu\n\n";
  for (const auto& [node, value] : labels.of_nodes) {
    out += fmt::format("kubectl label node {} --overwrite {}\n", ShellQuote(node),
                       ShellQuote(fmt::format("{}={}", labels.label, value)));
  }
  if (labels.to_pick.empty()) return out;
  std::vector<std::string> quoted;
  for (const std::string& value : labels.to_pick) quoted.push_back(ShellQuote(value));
  out += fmt::format(R"(
if [ "$#" -lt 2 ]; then
  echo "usage: $0 CONFIGURATION NODE..." >&2
  echo "configurations:" {0} >&2
  exit 2
fi
configuration=$1
shift
case $configuration in
  {1}) ;;
  *)
    echo "$0: unknown configuration: $configuration" >&2
    exit 2
    ;;
esac
for node in "$@"; do
  kubectl label node "$node" --overwrite "{2}=$configuration"
done
)",
                     fmt::join(quoted, " "), fmt::join(quoted, " | "), labels.label);
  return out;
}

TargetFiles RenderDevicePlugin(const Deployment& deployment) {
  const std::vector<PluginConfig> configs = PluginConfigs(deployment);
  ordered_json data;
  TargetFiles files;
  NodeLabels labels{std::string(kConfigLabel), {}, {}};
  for (const PluginConfig& config : configs) {
    // A lone configuration is the one that nodes without a label get.
    data[configs.size() == 1 ? "default" : config.name] = config.text;
    files.push_back({fmt::format("device-plugin-configs/{}.yaml", config.name),
                     {"A configuration file of NVIDIA's device plugin, for its option "
                      "--config-file. The ConfigMap holds the same."},
                     config.text});
    bool to_pick = false;
    for (const std::size_t group : config.groups) {
      const std::string& node = deployment.groups[group].node;
      to_pick = to_pick || node.empty();
      if (!node.empty()) labels.of_nodes.emplace_back(node, config.name);
    }
    if (to_pick) labels.to_pick.push_back(config.name);
  }
  ordered_json map;
  map["apiVersion"] = "v1";
  map["kind"] = "ConfigMap";
  map["metadata"]["name"] = "sublet-device-plugin";
  map["data"] = std::move(data);
  files.push_back(
      {"device-plugin-configmap.yaml",
       {"Apply it to the device plugin's namespace (kubectl apply -n NAMESPACE -f "
        "device-plugin-configmap.yaml) "
        "and name it to the plugin: Helm value config.name of the plugin's chart, "
        "devicePlugin.config.name of the GPU operator's.",
        "Under MPS the plugin gives each client of a GPU an equal part of its memory and SMs. A "
        "smaller limit stands in the environment of the pods that the target kubernetes renders."},
       YamlText(map)});
  if (configs.size() > 1) {
    files.push_back({"device-plugin-label-nodes.sh",
                     {fmt::format("Tells each node's device plugin, by the label {}, which of the "
                                  "configurations in the ConfigMap it takes.",
                                  kConfigLabel)},
                     LabelScript(labels),
                     0755});
  }
  return files;
}

}  // namespace sublet
