#include "kube/feature_output.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/files.h"
#include "kube/cluster_node.h"

namespace sublet {
namespace {

constexpr std::string_view kFeatureApi = "nfd.k8s-sigs.io/v1alpha1";

std::string NameOf(const NodeFeaturePlace& place) {
  return "nvidia-features-for-" + place.node;
}

std::string PathOf(const NodeFeaturePlace& place) {
  return fmt::format("/apis/{}/namespaces/{}/nodefeatures/{}", kFeatureApi,
                     UrlEncoded(place.name_space), UrlEncoded(NameOf(place)));
}

}  // namespace

std::string FeaturesText(const NodeLabels& labels) {
  std::string text;
  for (const auto& [name, value] : labels) text += fmt::format("{}={}\n", name, value);
  return text;
}

Status WriteFeaturesFile(const std::string& path, const NodeLabels& labels) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (error) return FailFromErrno(error.value(), "making " + folder.string());
  return WriteFileAtomically(path, FeaturesText(labels));
}

ApiRequest NodeFeatureRequest(const NodeFeaturePlace& place, const NodeLabels& labels) {
  nlohmann::json metadata{{"name", NameOf(place)},
                          {"namespace", place.name_space},
                          {"labels", {{"nfd.node.kubernetes.io/node-name", place.node}}}};
  if (!place.pod_name.empty() && !place.pod_uid.empty()) {
    metadata["ownerReferences"] = nlohmann::json::array({{{"apiVersion", "v1"},
                                                          {"kind", "Pod"},
                                                          {"name", place.pod_name},
                                                          {"uid", place.pod_uid}}});
  }
  const nlohmann::json empty = nlohmann::json::object();
  const nlohmann::json object{
      {"apiVersion", kFeatureApi},
      {"kind", "NodeFeature"},
      {"metadata", std::move(metadata)},
      {"spec",
       {{"features", {{"flags", empty}, {"attributes", empty}, {"instances", empty}}},
        {"labels", labels}}}};
  return ApplyRequest(PathOf(place), kLabelsManager, object);
}

ApiRequest NodeFeatureRemoval(const NodeFeaturePlace& place) {
  return {.method = "DELETE", .path = PathOf(place)};
}

}  // namespace sublet
