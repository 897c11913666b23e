// exe/kube_api_flags.h
//
// Where the API server is and which node this is: the flags of all verbs that talk to it.
//
//   AddKubeApiFlags(*verb, flags->api);
//   ...
//   ASSIGN_OR_RETURN(const KubeApi api, OpenKubeApi(flags.api));
//   ApiServerNode node(api.Client(), api.node);
//
// In a pod nothing need be said but the node's name, which NODE_NAME has.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "kube/api_client.h"
#include "kube/api_transport.h"

namespace sublet {

struct KubeApiFlags {
  std::string server;
  std::string token_file;
  std::string ca_file;
  std::string node;
  std::string name_space;
};

void AddKubeApiFlags(CLI::App& verb, KubeApiFlags& flags);
// Only where the server is: for who asks about other things than the node.
void AddKubeApiPlaceFlags(CLI::App& verb, KubeApiFlags& flags);

struct KubeApi {
  ApiPlace place;
  std::string node;

  ApiTransport Transport() const { return ApiTransport(place, {}); }
  ApiPatience Patience() const { return {.who = node}; }
  ApiClient Client() const { return ApiClient(Transport(), Patience()); }
};

// Whether there is an API server to talk to: one was named, or this is a pod.
bool HasKubeApi(const KubeApiFlags& flags);

// Fails with kNotFound outside of a cluster.
Result<ApiPlace> KubeApiPlace(const KubeApiFlags& flags);
// And with kUsage without a node's name.
Result<KubeApi> OpenKubeApi(const KubeApiFlags& flags);

// A variable of this process; absent where it isn't set.
std::optional<std::string> VariableOf(const char* name);

}  // namespace sublet
