// kube/pod_label.h
//
// A label of somebody's pod, as the API server has it.
//
//   ASSIGN_OR_RETURN(const std::string team, ReadPodLabel(api, {"shop", "web-7d4b9"}, "team"));
//
// Thread safety: the client's, one thread at a time.
#pragma once

#include <string>

#include "base/result.h"
#include "kube/api_client.h"
#include "kube/pod_cgroup.h"

namespace sublet {

// Empty where the pod has no such label. Fails as ApiClient does: kNotFound without the pod,
// kPermission where reading pods isn't allowed.
Result<std::string> ReadPodLabel(ApiClient& client, const PodName& pod, const std::string& label);

}  // namespace sublet
