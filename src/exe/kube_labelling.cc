#include "exe/kube_labelling.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <system_error>

#include "exe/this_node.h"
#include "kube/feature_facts.h"

namespace sublet {
namespace {

bool HasFolder(const std::string& file) {
  std::error_code error;
  return std::filesystem::is_directory(std::filesystem::path(file).parent_path(), error);
}

std::string AutoTarget(const KubeApiFlags& api, const DevicePluginConfig& config, bool file_given) {
  const std::string& file = config.gfd.output_file;
  if (!HasKubeApi(api)) return file_given && !file.empty() ? "file" : "stdout";
  if (config.flags.use_node_feature_api) return "node-feature";
  if (file.empty()) return "stdout";  // As gpu-feature-discovery has it.
  return file_given || HasFolder(file) ? "file" : "node";
}

}  // namespace

void AddLabellingFlags(CLI::App& verb, LabellingFlags& flags) {
  flags.to = "auto";
  verb.add_option("--to", flags.to,
                  "Where labels go: file, node-feature, node, stdout; auto: as "
                  "gpu-feature-discovery has it in a cluster, else to standard output")
      ->check(CLI::IsMember({"auto", "file", "node-feature", "node", "stdout"}))
      ->capture_default_str();
  verb.add_option("--nvml", flags.nvml,
                  "NVIDIA's management library (also SUBLET_NVML; default libnvidia-ml.so.1)")
      ->type_name("PATH");
  verb.add_option("--timeout", flags.timeout_s, "Seconds to wait for a driver that hangs")
      ->type_name("S")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
}

Result<std::optional<PublishPlaces>> WhereLabelsGo(const LabellingFlags& flags,
                                                   const KubeApiFlags& api,
                                                   const DevicePluginConfig& config,
                                                   bool file_given) {
  const std::string to = flags.to == "auto" ? AutoTarget(api, config, file_given) : flags.to;
  if (to == "stdout") return std::nullopt;
  PublishPlaces places;
  if (to == "file") {
    places.to = LabelTarget::kFile;
    places.file = config.gfd.output_file;
    if (places.file.empty()) {
      return Fail(ErrorCode::kUsage, "--to file needs --output-file");
    }
    return places;
  }
  ASSIGN_OR_RETURN(const KubeApi found, OpenKubeApi(api));
  if (to == "node") {
    places.to = LabelTarget::kNode;
    return places;
  }
  places.to = LabelTarget::kNodeFeature;
  places.object = {.node = found.node,
                   .name_space = found.place.name_space,
                   .pod_name = VariableOf("POD_NAME").value_or(""),
                   .pod_uid = VariableOf("POD_UID").value_or("")};
  if (places.object.name_space.empty()) {
    return Fail(ErrorCode::kUsage, "in which namespace? --namespace or NAMESPACE says",
                "a NodeFeature object lies in one");
  }
  return places;
}

Result<FeatureLabels> LabelsOfThisNode(const DevicePluginConfig& config,
                                       const LabellingFlags& flags, std::int64_t started_s) {
  ASSIGN_OR_RETURN(const Inventory node,
                   TakeThisNode({.nvml = flags.nvml, .timeout_s = flags.timeout_s}));
  FeatureFacts facts = FindFeatureFacts(node, {.machine_type_file = config.gfd.machine_type_file});
  if (!config.gfd.no_timestamp) facts.started_s = started_s;
  FeatureLabels labels = MakeFeatureLabels(node, config, facts);
  labels.warnings.insert(labels.warnings.begin(), config.warnings.begin(), config.warnings.end());
  return labels;
}

std::int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace sublet
