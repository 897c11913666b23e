#include "kube/pod_label.h"

#include <fmt/format.h>

#include "kube/api_json.h"
#include "kube/api_transport.h"

namespace sublet {

Result<std::string> ReadPodLabel(ApiClient& client, const PodName& pod, const std::string& label) {
  ASSIGN_OR_RETURN(
      const nlohmann::json object,
      client.Send({.path = fmt::format("/api/v1/namespaces/{}/pods/{}",
                                       UrlEncoded(pod.pod_namespace), UrlEncoded(pod.pod))}));
  return TextAt(object, {"metadata", "labels", label});
}

}  // namespace sublet
