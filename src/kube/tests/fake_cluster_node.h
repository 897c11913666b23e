// kube/tests/fake_cluster_node.h
//
// A node at an API server, for tests of what decides: it keeps versions, and may be away.
//
//   FakeClusterNode api;
//   api.Label("nvidia.com/mig.config", "all-balanced");
//   api.away = true;                                  // From now on every request fails.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kube/cluster_node.h"
#include "kube/mig_manager.h"

namespace sublet {

class FakeClusterNode final : public ClusterNode {
 public:
  FakeClusterNode() { node.name = "gpu-1"; }

  Result<NodeObject> Read() override {
    if (away) return Away();
    return node;
  }
  Result<NodeObject> Patch(const NodePatch& patch) override {
    if (away) return Away();
    if (!patch.resource_version.empty() && patch.resource_version != node.resource_version) {
      return Fail(ErrorCode::kConflict, "the node has been modified");
    }
    Set(patch);
    return node;
  }
  Status ApplyLabels(const NodeLabels& /*labels*/, std::string_view /*uid*/) override { return {}; }
  Result<std::vector<std::string>> PodsHere(std::string_view name_space,
                                            const std::vector<std::string>& apps) override {
    if (away) return Away();
    asked_namespace = name_space;
    asked_apps = apps;
    return pods;
  }
  Status Tell(const NodeNote& note, std::string_view /*utc*/) override {
    notes.push_back(note);
    return {};
  }

  void Set(const NodePatch& patch) {
    node = Patched(std::move(node), patch);
    node.resource_version = std::to_string(++version);
    states.push_back(std::string(node.Label(kMigStateLabel)));
  }
  void Label(const std::string& name, const std::string& value) {
    Set({.labels = {{name, value}}});
  }

  static tl::unexpected<Error> Away() {
    return Fail(ErrorCode::kUnavailable, "the API server is away");
  }

  NodeObject node;
  int version = 1;
  bool away = false;
  std::vector<std::string> pods;
  std::string asked_namespace;
  std::vector<std::string> asked_apps;
  std::vector<NodeNote> notes;
  std::vector<std::string> states;
};

}  // namespace sublet
