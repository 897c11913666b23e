// Target mig: configuration files (version v1) of mig-parted, and the GPU operator's ConfigMap.
//
// mig-parted takes numbers of profiles, not placements: it lets the driver place them, clearing the
// GPU first. The plan's multiset of profiles is placeable, so it finds a place for each; which one
// is not what the plan says, which matters to nobody but to what is to be created later.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "model/board.h"
#include "render/quoting.h"
#include "render/targets.h"

namespace sublet {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kMigLabel = "nvidia.com/mig.config";

ordered_json ProfilesOf(const PlannedGpu& gpu) {
  ordered_json counts = ordered_json::object();
  for (const PlannedPartition& partition : gpu.partitions) {
    counts[partition.profile] = counts.value(partition.profile, 0) + 1;
  }
  return counts;
}

// Packed PCI device and vendor id, as mig-parted's device-filter takes it.
ordered_json FilterOf(const PlannedGpu& gpu) {
  ordered_json filter = ordered_json::array();
  const Result<const Board*> board = BuiltInBoards().Find(gpu.board);
  if (!board) return filter;
  for (const std::uint32_t id : (*board)->pci_ids) {
    filter.push_back(fmt::format("0x{:04X}10DE", id));
  }
  return filter;
}

ordered_json EntryOf(const PlannedGpu& gpu, ordered_json devices) {
  ordered_json entry;
  entry["devices"] = std::move(devices);
  entry["mig-enabled"] = gpu.mig;
  if (gpu.mig) entry["mig-devices"] = ProfilesOf(gpu);
  return entry;
}

// One entry for each layout; GPUs are told apart by index where the node is known.
ordered_json EntriesOf(const NodeGroup& group) {
  ordered_json entries = ordered_json::array();
  const bool indexed =
      !group.node.empty() && std::all_of(group.gpus.begin(), group.gpus.end(),
                                         [](const PlannedGpu* gpu) { return gpu->index >= 0; });
  for (const PlannedGpu* gpu : group.gpus) {
    ordered_json entry;
    if (indexed) {
      entry = EntryOf(*gpu, ordered_json::array({gpu->index}));
    } else {
      const ordered_json filter = group.node.empty() ? FilterOf(*gpu) : ordered_json::array();
      if (!filter.empty()) entry["device-filter"] = filter;
      entry.update(EntryOf(*gpu, "all"));
    }
    const auto same = [&](const ordered_json& other) {
      return other.value("device-filter", ordered_json()) ==
                 entry.value("device-filter", ordered_json()) &&
             other["mig-enabled"] == entry["mig-enabled"] &&
             other.value("mig-devices", ordered_json()) ==
                 entry.value("mig-devices", ordered_json());
    };
    const auto known = std::find_if(entries.begin(), entries.end(), same);
    if (known == entries.end()) {
      entries.push_back(std::move(entry));
    } else if (indexed) {
      (*known)["devices"].push_back(gpu->index);
    }
  }
  return entries;
}

struct MigLayout {
  ordered_json entries;
  std::vector<std::string> nodes;
  bool to_pick = false;
};

std::vector<MigLayout> LayoutsOf(const Deployment& deployment) {
  std::vector<MigLayout> layouts;
  for (const NodeGroup& group : deployment.groups) {
    ordered_json entries = EntriesOf(group);
    auto layout = std::find_if(layouts.begin(), layouts.end(),
                               [&](const MigLayout& other) { return other.entries == entries; });
    if (layout == layouts.end()) layout = layouts.insert(layout, {std::move(entries), {}, false});
    if (group.node.empty()) {
      layout->to_pick = true;
    } else {
      layout->nodes.push_back(group.node);
    }
  }
  return layouts;
}

}  // namespace

TargetFiles RenderMig(const Deployment& deployment) {
  const std::vector<MigLayout> layouts = LayoutsOf(deployment);
  ordered_json config;
  config["version"] = "v1";
  // The MIG manager's default label must exist in every file that it is given.
  ordered_json off;
  off["devices"] = "all";
  off["mig-enabled"] = false;
  config["mig-configs"]["all-disabled"] = ordered_json::array({off});
  NodeLabels labels{std::string(kMigLabel), {}, {}};
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    const std::string name =
        layouts.size() == 1 ? std::string("sublet") : fmt::format("sublet-{}", i + 1);
    config["mig-configs"][name] = layouts[i].entries;
    for (const std::string& node : layouts[i].nodes) labels.of_nodes.emplace_back(node, name);
    if (layouts[i].to_pick) labels.to_pick.push_back(name);
  }
  const std::string text = YamlText(config);
  ordered_json map;
  map["apiVersion"] = "v1";
  map["kind"] = "ConfigMap";
  map["metadata"]["name"] = "sublet-mig-parted";
  map["data"]["config.yaml"] = text;

  const std::string placement =
      "Placements are the driver's choice: mig-parted takes numbers of profiles. It clears every "
      "GPU whose instances differ, also those in use.";
  return {{"mig-parted.yaml",
           {"Apply one of these on a node with: nvidia-mig-parted apply -f mig-parted.yaml -c NAME",
            placement},
           text},
          {"mig-configmap.yaml",
           {"Apply it to the GPU operator's namespace and name it in the operator's "
            "migManager.config.name. The MIG manager then acts on the node label "
            "nvidia.com/mig.config.",
            placement},
           YamlText(map)},
          {"mig-label-nodes.sh",
           {"Tells each node's MIG manager which configuration of the ConfigMap it applies."},
           LabelScript(labels),
           0755}};
}

}  // namespace sublet
