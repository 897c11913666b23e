// model/name.h
//
// Names of fleets, workloads and tenants: fit for Kubernetes objects, systemd units and folders.
//
//   in.Required("name", tenant.name, ReadName);
//
// Thread safety: pure.
#pragma once

#include <cstddef>
#include <string>

#include "base/result.h"

namespace sublet {

struct Node;  // model/document.h

inline constexpr std::size_t kNameMax = 63;  // A label of a DNS name.

// At most kNameMax of a-z, 0-9, '-' and '.', with a letter or digit at both ends and beside every
// dot; anything else fails with kInvalid at its place.
Result<std::string> ReadName(const Node& node);

}  // namespace sublet
