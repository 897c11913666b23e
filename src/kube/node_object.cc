#include "kube/node_object.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kube/api_json.h"

namespace sublet {
namespace {

Status ReadTexts(const nlohmann::json& object, std::string_view member,
                 std::map<std::string, std::string>& out) {
  const nlohmann::json* const texts = ValueAt(object, {"metadata", member});
  if (texts == nullptr || texts->is_null()) return {};
  if (!texts->is_object()) {
    return Fail(ErrorCode::kInvalid, fmt::format("a node's metadata.{} is no object", member));
  }
  for (const auto& [name, value] : texts->items()) {
    if (!value.is_string()) {
      return Fail(ErrorCode::kInvalid, fmt::format("a node's metadata.{} has a value that is no "
                                                   "text: {}",
                                                   member, name.substr(0, 64)));
    }
    out.emplace(name, value.get_ref<const std::string&>());
  }
  return {};
}

std::string_view TextOf(const std::map<std::string, std::string>& texts, std::string_view name) {
  const auto found = texts.find(std::string(name));
  return found == texts.end() ? std::string_view() : std::string_view(found->second);
}

nlohmann::json ChangesJson(const std::map<std::string, std::optional<std::string>>& changes) {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [name, value] : changes) {
    json[name] = value ? nlohmann::json(*value) : nlohmann::json(nullptr);
  }
  return json;
}

void ChangeTexts(std::map<std::string, std::string>& texts,
                 const std::map<std::string, std::optional<std::string>>& changes) {
  for (const auto& [name, value] : changes) {
    if (value) {
      texts.insert_or_assign(name, *value);
    } else {
      texts.erase(name);
    }
  }
}

}  // namespace

std::string_view NodeObject::Label(std::string_view label) const {
  return TextOf(labels, label);
}

std::string_view NodeObject::Annotation(std::string_view annotation) const {
  return TextOf(annotations, annotation);
}

Result<NodeObject> ReadNodeObject(const nlohmann::json& object) {
  NodeObject node;
  node.name = TextAt(object, {"metadata", "name"});
  if (node.name.empty()) return Fail(ErrorCode::kInvalid, "a node has no metadata.name");
  node.uid = TextAt(object, {"metadata", "uid"});
  node.resource_version = TextAt(object, {"metadata", "resourceVersion"});
  RETURN_IF_ERROR(ReadTexts(object, "labels", node.labels));
  RETURN_IF_ERROR(ReadTexts(object, "annotations", node.annotations));
  return node;
}

nlohmann::json NodePatchJson(const NodePatch& patch) {
  nlohmann::json metadata = nlohmann::json::object();
  if (!patch.resource_version.empty()) metadata["resourceVersion"] = patch.resource_version;
  if (!patch.labels.empty()) metadata["labels"] = ChangesJson(patch.labels);
  if (!patch.annotations.empty()) metadata["annotations"] = ChangesJson(patch.annotations);
  return {{"metadata", std::move(metadata)}};
}

nlohmann::json NodeLabelsJson(std::string_view name, std::string_view uid,
                              const NodeLabels& labels) {
  nlohmann::json metadata{{"name", name}, {"labels", labels}};
  if (!uid.empty()) metadata["uid"] = uid;
  return {{"apiVersion", "v1"}, {"kind", "Node"}, {"metadata", std::move(metadata)}};
}

NodeObject Patched(NodeObject node, const NodePatch& patch) {
  ChangeTexts(node.labels, patch.labels);
  ChangeTexts(node.annotations, patch.annotations);
  return node;
}

}  // namespace sublet
