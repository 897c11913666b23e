// kube/cluster_node.h
//
// What Sublet does to its node at the API server, and what it asks about it.
//
//   ApiServerNode api(ApiClient(transport, patience), "gpu-1");
//   ASSIGN_OR_RETURN(const NodeObject node, api.Read());
//   ASSIGN_OR_RETURN(const NodeObject after, api.Patch({.labels = {{"nvidia.com/x", "y"}}}));
//
// An interface, so that what decides can be tested without a server.
//
// Thread safety: one thread at a time.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kube/api_client.h"
#include "kube/feature_labels.h"
#include "kube/feature_output.h"
#include "kube/node_object.h"

namespace sublet {

// Who owns which fields, in their metadata.managedFields.
inline constexpr std::string_view kLabelsManager = "sublet-labels";
inline constexpr std::string_view kAgentManager = "sublet-agent";

// An Event about the node, as `kubectl describe node` shows it.
struct NodeNote {
  bool warning = false;
  std::string reason;   // "MigChangeFailed"
  std::string message;  // At most 1 KiB is kept.
};

class ClusterNode {
 public:
  virtual ~ClusterNode() = default;

  virtual Result<NodeObject> Read() = 0;
  // Fails with kConflict where the patch names a version that is no longer the node's.
  virtual Result<NodeObject> Patch(const NodePatch& patch) = 0;
  // These are our labels: further ones that we had set go, those of others stay.
  virtual Status ApplyLabels(const NodeLabels& labels, std::string_view uid) = 0;
  // "namespace/name" of the pods on this node whose label `app` is one of these; in one namespace,
  // or in all where it is empty.
  virtual Result<std::vector<std::string>> PodsHere(std::string_view name_space,
                                                    const std::vector<std::string>& apps) = 0;
  // `utc`: now, "2026-11-21T10:00:00Z".
  virtual Status Tell(const NodeNote& note, std::string_view utc) = 0;
};

class ApiServerNode final : public ClusterNode {
 public:
  ApiServerNode(ApiClient client, std::string name)
      : client_(std::move(client)), name_(std::move(name)) {}

  Result<NodeObject> Read() override;
  Result<NodeObject> Patch(const NodePatch& patch) override;
  Status ApplyLabels(const NodeLabels& labels, std::string_view uid) override;
  Result<std::vector<std::string>> PodsHere(std::string_view name_space,
                                            const std::vector<std::string>& apps) override;
  Status Tell(const NodeNote& note, std::string_view utc) override;

  // NFD's object with the labels instead of the node's own. Fails with kNotFound where the cluster
  // has no such kind of object.
  Status ApplyNodeFeature(const NodeFeaturePlace& place, const NodeLabels& labels);
  Status RemoveNodeFeature(const NodeFeaturePlace& place);

  const std::string& name() const { return name_; }
  ApiClient& client() { return client_; }

 private:
  std::string Path() const;

  ApiClient client_;
  std::string name_;
};

}  // namespace sublet
