// kube/feature_output.h
//
// Labels as Node Feature Discovery takes them: the file of its features.d folder, and its
// NodeFeature object.
//
//   RETURN_IF_ERROR(WriteFeaturesFile("/etc/kubernetes/.../features.d/gfd", labels));
//   RETURN_IF_ERROR(api.Send(NodeFeatureRequest(place, labels)));
//
// Thread safety: no shared state.
#pragma once

#include <string>

#include "base/result.h"
#include "kube/api_client.h"
#include "kube/feature_labels.h"

namespace sublet {

// "name=value" lines by name. The time of NFD's reading isn't known, so the file is replaced whole.
std::string FeaturesText(const NodeLabels& labels);
Status WriteFeaturesFile(const std::string& path, const NodeLabels& labels);

struct NodeFeaturePlace {
  std::string node;
  std::string name_space;
  // The pod whose end takes the object with it; both empty: it stays until somebody removes it.
  std::string pod_name = {};
  std::string pod_uid = {};
};

// The object "nvidia-features-for-<node>", as gpu-feature-discovery names it, to be applied.
ApiRequest NodeFeatureRequest(const NodeFeaturePlace& place, const NodeLabels& labels);
ApiRequest NodeFeatureRemoval(const NodeFeaturePlace& place);

}  // namespace sublet
