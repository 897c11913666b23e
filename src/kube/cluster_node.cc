#include "kube/cluster_node.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kube/api_json.h"

namespace sublet {
namespace {

constexpr std::size_t kNoteMax = 1024;  // Kubernetes refuses events with longer messages.
constexpr std::string_view kEventNamespace = "default";  // Nodes are in no namespace.

}  // namespace

std::string ApiServerNode::Path() const {
  return "/api/v1/nodes/" + UrlEncoded(name_);
}

Result<NodeObject> ApiServerNode::Read() {
  ASSIGN_OR_RETURN(const nlohmann::json node, client_.Send({.path = Path()}));
  return ReadNodeObject(node);
}

Result<NodeObject> ApiServerNode::Patch(const NodePatch& patch) {
  ASSIGN_OR_RETURN(const nlohmann::json node,
                   client_.Send(MergeRequest(Path(), kAgentManager, NodePatchJson(patch))));
  return ReadNodeObject(node);
}

Status ApiServerNode::ApplyLabels(const NodeLabels& labels, std::string_view uid) {
  RETURN_IF_ERROR(
      client_.Send(ApplyRequest(Path(), kLabelsManager, NodeLabelsJson(name_, uid, labels))));
  return {};
}

Result<std::vector<std::string>> ApiServerNode::PodsHere(std::string_view name_space,
                                                         const std::vector<std::string>& apps) {
  const std::string base = name_space.empty()
                               ? "/api/v1/pods"
                               : fmt::format("/api/v1/namespaces/{}/pods", UrlEncoded(name_space));
  const std::string on_node = "spec.nodeName=" + name_;
  const std::string by_app = fmt::format("app in ({})", fmt::join(apps, ","));
  ASSIGN_OR_RETURN(const nlohmann::json list,
                   client_.Send({.path = fmt::format("{}?fieldSelector={}&labelSelector={}", base,
                                                     UrlEncoded(on_node), UrlEncoded(by_app))}));
  const nlohmann::json* const items = ValueAt(list, {"items"});
  if (items == nullptr || !items->is_array()) {
    return Fail(ErrorCode::kInvalid, "GET " + base + ": a list without items");
  }
  std::vector<std::string> pods;
  for (const nlohmann::json& item : *items) {
    pods.push_back(TextAt(item, {"metadata", "namespace"}) + "/" +
                   TextAt(item, {"metadata", "name"}));
  }
  std::ranges::sort(pods);
  return pods;
}

Status ApiServerNode::Tell(const NodeNote& note, std::string_view utc) {
  const nlohmann::json event{
      {"apiVersion", "v1"},
      {"kind", "Event"},
      {"metadata", {{"generateName", name_ + "."}, {"namespace", kEventNamespace}}},
      // kubelet, too, gives a node's name for its uid; `kubectl describe` looks for that.
      {"involvedObject", {{"kind", "Node"}, {"name", name_}, {"uid", name_}}},
      {"reason", note.reason},
      {"message", note.message.substr(0, kNoteMax)},
      {"type", note.warning ? "Warning" : "Normal"},
      {"source", {{"component", "sublet"}, {"host", name_}}},
      {"firstTimestamp", utc},
      {"lastTimestamp", utc},
      {"count", 1}};
  RETURN_IF_ERROR(
      client_.Send({.method = "POST",
                    .path = fmt::format("/api/v1/namespaces/{}/events", kEventNamespace),
                    .body = ApiJsonText(event)}));
  return {};
}

Status ApiServerNode::ApplyNodeFeature(const NodeFeaturePlace& place, const NodeLabels& labels) {
  RETURN_IF_ERROR(client_.Send(NodeFeatureRequest(place, labels)));
  return {};
}

Status ApiServerNode::RemoveNodeFeature(const NodeFeaturePlace& place) {
  const Result<nlohmann::json> answer = client_.Send(NodeFeatureRemoval(place));
  if (answer || answer.error().code == ErrorCode::kNotFound) return {};
  return tl::unexpected<Error>(answer.error());
}

}  // namespace sublet
