// node/tenancy.h
//
// For whom a user acts: the tenant of a request.
//
//   ASSIGN_OR_RETURN(const std::string tenant, TenantFor(config.tenants, requester, "lab"));
//
// With tenants in the configuration, a user acts for those that list him by name or number, the
// daemon's own user and root for every one. Without any, each user is the tenant of his name; the
// daemon's own user and root are "default", and may name any.
//
// Thread safety: pure.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "model/daemon_config.h"

namespace sublet {

struct Requester {
  uid_t uid = 0;
  std::string user{};       // Name of that user; empty: it has none.
  bool own_daemon = false;  // The daemon's own user, or root: may act for every tenant.
  // Whether this node can run an MPS server as this user. A client of another user's server would
  // not find it, and run on the whole GPU.
  bool mps = true;
};

// `asked` empty: the only one that the user has. Fails with kNotFound for a tenant that isn't
// there, kPermission for one that isn't the user's, kInvalid where he has several and names none.
Result<std::string> TenantFor(const std::vector<TenantConfig>& tenants, const Requester& requester,
                              const std::string& asked);

}  // namespace sublet
