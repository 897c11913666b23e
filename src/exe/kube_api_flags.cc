#include "exe/kube_api_flags.h"

#include <cstdlib>

namespace sublet {

std::optional<std::string> VariableOf(const char* name) {
  const char* const value = std::getenv(name);
  if (value == nullptr) return std::nullopt;
  return value;
}

void AddKubeApiPlaceFlags(CLI::App& verb, KubeApiFlags& flags) {
  verb.add_option("--api-server", flags.server,
                  "The API server's address (default: the cluster's that this pod is in)")
      ->envname("SUBLET_API_SERVER")
      ->type_name("URL");
  verb.add_option("--token-file", flags.token_file,
                  "The token to show it (default: the service account's)")
      ->type_name("FILE");
  verb.add_option("--ca-file", flags.ca_file,
                  "Whose certificates it may show (default: the service account's; with "
                  "--api-server the system's)")
      ->type_name("FILE");
}

void AddKubeApiFlags(CLI::App& verb, KubeApiFlags& flags) {
  AddKubeApiPlaceFlags(verb, flags);
  verb.add_option("--node-name", flags.node, "This node's name in the cluster")
      ->envname("NODE_NAME")
      ->type_name("NAME");
  verb.add_option("--namespace", flags.name_space, "The namespace of objects that are made")
      ->envname("NAMESPACE")
      ->type_name("NAME");
}

bool HasKubeApi(const KubeApiFlags& flags) {
  return !flags.server.empty() || InClusterApi(VariableOf).has_value();
}

Result<ApiPlace> KubeApiPlace(const KubeApiFlags& flags) {
  ApiPlace place;
  if (flags.server.empty()) {
    ASSIGN_OR_RETURN(place, InClusterApi(VariableOf));
  } else {
    place.server = flags.server;
  }
  if (!flags.token_file.empty()) place.token_file = flags.token_file;
  if (!flags.ca_file.empty()) place.ca_file = flags.ca_file;
  if (!flags.name_space.empty()) place.name_space = flags.name_space;
  RETURN_IF_ERROR(CheckApiPlace(place));
  return place;
}

Result<KubeApi> OpenKubeApi(const KubeApiFlags& flags) {
  KubeApi api;
  ASSIGN_OR_RETURN(api.place, KubeApiPlace(flags));
  if (flags.node.empty()) {
    return Fail(ErrorCode::kUsage, "which node is this? --node-name or NODE_NAME says",
                "in a pod's specification: valueFrom: {fieldRef: {fieldPath: spec.nodeName}}");
  }
  api.node = flags.node;
  return api;
}

}  // namespace sublet
