// kube/node_object.h
//
// A Kubernetes Node as far as Sublet looks at it, and changes of it.
//
//   ASSIGN_OR_RETURN(const NodeObject node, ReadNodeObject(json));
//   if (node.Label("nvidia.com/mig.config") == "all-balanced") ...
//
// Thread safety: values and pure functions.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "kube/feature_labels.h"

namespace sublet {

struct NodeObject {
  std::string name;
  std::string uid;
  std::string resource_version;
  NodeLabels labels;
  std::map<std::string, std::string> annotations;

  // Empty where there is none.
  std::string_view Label(std::string_view label) const;
  std::string_view Annotation(std::string_view annotation) const;

  friend bool operator==(const NodeObject&, const NodeObject&) = default;
};

// Fails with kInvalid where there is no name, or a label or annotation is no text.
Result<NodeObject> ReadNodeObject(const nlohmann::json& object);

// Labels and annotations to set, or, where the value is absent, to remove.
struct NodePatch {
  std::map<std::string, std::optional<std::string>> labels = {};
  std::map<std::string, std::optional<std::string>> annotations = {};
  // Only where the node is still the one of that version; empty: whatever it is now.
  std::string resource_version = {};

  bool Empty() const { return labels.empty() && annotations.empty(); }
  friend bool operator==(const NodePatch&, const NodePatch&) = default;
};

nlohmann::json NodePatchJson(const NodePatch& patch);

// Those labels, for server-side apply. With a uid, only where the node is still that one: a node
// that was deleted isn't made again by a label.
nlohmann::json NodeLabelsJson(std::string_view name, std::string_view uid,
                              const NodeLabels& labels);

// What the node would be after the patch.
NodeObject Patched(NodeObject node, const NodePatch& patch);

}  // namespace sublet
