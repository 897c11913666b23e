// tests/kubelet/checkpoint.h
//
// What kubelet remembers across its restarts: which container has which devices, and which
// resources there were. The file is that of the real one in its fields.
//
// Thread safety: no shared state.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "kubelet/kubelet.h"

namespace sublet::kubelet {

inline constexpr const char* kCheckpointName = "kubelet_internal_checkpoint";

struct Checkpoint {
  std::map<std::string, std::vector<ContainerGot>> pods;            // By "namespace/name".
  std::map<std::string, std::vector<std::string>> registered = {};  // Healthy ids, by resource.
};

Status WriteCheckpoint(const std::string& folder, const Checkpoint& checkpoint);
// Empty where there is none. Fails with kInvalid where its checksum doesn't fit.
Result<Checkpoint> ReadCheckpoint(const std::string& folder);

}  // namespace sublet::kubelet
