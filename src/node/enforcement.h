// node/enforcement.h
//
// Who makes the limits of a share real on its device, and what nobody does: in the words that a
// plan has for it too.
//
//   share.enforcement = EnforcementOf(request, SharingMode::kMps, device);
//   // memory: MPS pinned device memory limit; sm: not enforced: it may use every SM; ...
//
// Thread safety: pure.
#pragma once

#include <vector>

#include "model/share.h"
#include "node/device_list.h"

namespace sublet {

// One for memory, one for SMs, one for faults.
std::vector<Enforcement> EnforcementOf(const ShareRequest& request, SharingMode mode,
                                       const Device& device);

}  // namespace sublet
