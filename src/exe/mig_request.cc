#include "exe/mig_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/files.h"
#include "base/terminal.h"
#include "exe/node_client.h"
#include "exe/node_place.h"
#include "exe/program.h"
#include "exe/this_node.h"
#include "inventory/nvml_library.h"
#include "mig/mig_apply.h"
#include "mig/mig_picture.h"
#include "model/document.h"

namespace sublet {
namespace {

constexpr std::string_view kMigChangeVersion = "sublet.mig-change/v1";

// A process that has just been told to end is often gone a moment later.
constexpr MigPatience kPatience{.in_use_s = 5};

// What SUBLET_SIM would have to say; empty where it isn't needed, or nothing is up.
Result<NodePlace> SimulatedPlace() {
  if (std::getenv("SUBLET_SIM") != nullptr) return NodePlace{};
  return FindNodePlace("", Intent::kLook);
}

void AddShare(const Share& share, const Inventory& node, NodeMigUse& use) {
  const Gpu* const gpu = node.FindGpu(share.gpu_uuid);
  if (gpu == nullptr) return;
  const std::string who = fmt::format("share {} of tenant {}", share.id, share.tenant);
  MigUse by_share;
  if (share.mig_uuid.empty()) {
    by_share.whole.push_back(who);
  } else {
    for (const GpuInstance& instance : gpu->instances) {
      if (std::ranges::find(instance.compute_instances, share.mig_uuid, &ComputeInstance::uuid) !=
          instance.compute_instances.end()) {
        by_share.instances[instance.id] = {who};
      }
    }
  }
  use[gpu->uuid].Add(by_share);
}

}  // namespace

void AddMigFileFlags(CLI::App& verb, MigFlags& flags) {
  verb.add_option("-f,--config-file", flags.config, "A mig-parted file (- is standard input)")
      ->type_name("FILE")
      ->envname("MIG_PARTED_CONFIG_FILE")
      ->required();
  verb.add_option("-c,--selected-config", flags.label,
                  "The label in it; may be left out where it has only one")
      ->type_name("LABEL")
      ->envname("MIG_PARTED_SELECTED_CONFIG");
  verb.add_flag("-m,--mode-only", flags.mode_only, "Only the MIG mode, not the MIG devices")
      ->envname("MIG_PARTED_MODE_CHANGE_ONLY");
}

void AddMigNodeFlags(CLI::App& verb, MigFlags& flags) {
  verb.add_option("--nvml", flags.nvml,
                  "NVIDIA's management library (also SUBLET_NVML; default libnvidia-ml.so.1)")
      ->type_name("PATH");
  verb.add_option("--timeout", flags.timeout_s, "Seconds to wait for a driver that hangs")
      ->type_name("S")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
}

Result<MigConfigLabel> LoadMigLabel(const MigFlags& flags) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.config, kDocumentBytesMax));
  ASSIGN_OR_RETURN(const MigConfig config, ParseMigConfig(text, flags.config));
  if (flags.label.empty()) {
    if (config.labels.size() == 1) return config.labels[0];
    std::vector<std::string> names;
    for (const MigConfigLabel& label : config.labels) names.push_back(label.name);
    return Fail(ErrorCode::kUsage,
                fmt::format("{} has {} labels: say which with -c", flags.config, names.size()),
                fmt::format("it has {}", fmt::join(names, ", ")));
  }
  const auto found = config.Find(flags.label);
  if (!found) return tl::unexpected<Error>(Error(found.error()).Prefixed(flags.config));
  return **found;
}

Result<MigNode> MigNode::Find(const MigFlags& flags, For what) {
  MigNode node(flags);
  Status looked = node.Look();
  if (looked) return node;
  const bool no_driver = looked.error().code == ErrorCode::kUnavailable && flags.nvml.empty();
  if (what == For::kLook && no_driver) {
    const auto place = SimulatedPlace();
    if (place && !place->simulation.empty()) {
      if (!place->note.empty()) fmt::print(stderr, "{}\n", place->note);
      ::setenv("SUBLET_SIM", place->simulation.c_str(), 1);
      if (!place->simulation_state.empty()) {
        ::setenv("SUBLET_SIM_STATE", place->simulation_state.c_str(), 1);
      }
      looked = node.Look();
    }
  }
  RETURN_IF_ERROR(looked);
  return node;
}

Status MigNode::Look() {
  ASSIGN_OR_RETURN(inventory_, TakeThisNode({.nvml = flags_.nvml, .timeout_s = flags_.timeout_s}));
  return {};
}

Status MigNode::Apply(const MigChange& change) const {
  if (change.steps.empty()) return {};
  if (flags_.nvml.empty()) {
    // The node's daemon knows which instances shares hold, and goes on after a crash.
    ASSIGN_OR_RETURN(NodeClient daemon, ConnectToNode("", Intent::kStart));
    return daemon.PutMig(change.layout.Targets(), [](const OperationStep&) {});
  }
  ASSIGN_OR_RETURN(const NvmlLibrary nvml, NvmlLibrary::Open(NvmlPath(flags_.nvml)));
  NoMigJournal journal;
  return ApplyTargets(nvml.api(), change.steps, change.layout.Targets(), journal, kPatience);
}

NodeMigUse MigNode::Use() const {
  NodeMigUse use;
  for (const Gpu& gpu : inventory_.gpus) use[gpu.uuid] = UseByProcesses(gpu);
  if (!flags_.nvml.empty()) return use;
  // Who isn't there has no shares. One that can't be asked is asked again by Apply().
  const auto place = FindNodePlace("", Intent::kStart);
  if (!place) return use;
  auto daemon = NodeClient::Connect(*place, false);
  if (!daemon) return use;
  const auto status = daemon->ReadStatus();
  if (!status) return use;
  for (const ShareStatus& one : status->shares) AddShare(one.share, inventory_, use);
  return use;
}

Result<MigChange> PlanMigChange(const Inventory& node, const MigConfigLabel& label,
                                const NodeMigUse& use, const LayoutOptions& options) {
  MigChange change;
  ASSIGN_OR_RETURN(change.layout, LayOutNode(BuiltInBoards(), node, label, use, options));
  ASSIGN_OR_RETURN(change.steps, StepsForNode(node, change.layout.Targets(), use));
  return change;
}

std::string MigChangeReport(const Inventory& node, const MigChange& change) {
  const Painter paint(WantsColour());
  std::string text;
  for (const MigLayout& layout : change.layout.gpus) {
    const Gpu* const gpu = node.FindGpu(layout.target.gpu_uuid);
    text += MigChangeText(*gpu, layout.target, change.steps, layout.reasons, paint);
  }
  for (const int index : change.layout.not_matched) {
    text += fmt::format("GPU {}  no entry is meant for it, it is left alone\n", index);
  }
  return text;
}

nlohmann::ordered_json MigChangeJson(const Inventory& node, const std::string& label,
                                     const MigChange& change, bool applied) {
  nlohmann::ordered_json json{
      {"version", kMigChangeVersion}, {"label", label}, {"applied", applied}};
  auto& gpus = json["gpus"] = nlohmann::ordered_json::array();
  for (const MigLayout& layout : change.layout.gpus) {
    auto instances = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < layout.target.instances.size(); ++i) {
      auto instance = MigSeatToJson(layout.target.instances[i]);
      instance["reason"] = layout.reasons[i];
      instances.push_back(std::move(instance));
    }
    gpus.push_back({{"index", node.FindGpu(layout.target.gpu_uuid)->index},
                    {"uuid", layout.target.gpu_uuid},
                    {"entry", layout.entry},
                    {"mig", layout.target.mig},
                    {"instances", std::move(instances)}});
  }
  json["not_matched"] = change.layout.not_matched;
  json["steps"] = MigStepsToJson(change.steps);
  return json;
}

}  // namespace sublet
