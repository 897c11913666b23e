// exe/kube_labelling.h
//
// What `sublet kube labels` and `sublet kube agent` have in common: the labels of this node as it
// is now, and where they go.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "exe/kube_api_flags.h"
#include "kube/cluster_node.h"
#include "kube/feature_labels.h"
#include "kube/feature_publisher.h"
#include "model/device_plugin_config.h"

namespace sublet {

struct LabellingFlags {
  std::string to;  // "auto", "stdout", "file", "node-feature", "node"
  std::string nvml;
  double timeout_s = 60;
};

void AddLabellingFlags(CLI::App& verb, LabellingFlags& flags);

// Where labels go; absent: to standard output. As `flags.to` says, else as gpu-feature-discovery
// would have it: in a cluster to its NodeFeature object, or, without use-node-feature-api, to the
// file where its folder is there, else to the node. Outside of a cluster to the file where
// `file_given`, else to standard output.
Result<std::optional<PublishPlaces>> WhereLabelsGo(const LabellingFlags& flags,
                                                   const KubeApiFlags& api,
                                                   const DevicePluginConfig& config,
                                                   bool file_given);

// `started_s`: for gfd.timestamp.
Result<FeatureLabels> LabelsOfThisNode(const DevicePluginConfig& config,
                                       const LabellingFlags& flags, std::int64_t started_s);

// Seconds since 1970.
std::int64_t UnixSeconds();

}  // namespace sublet
