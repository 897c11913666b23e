#include "mps_client.h"

#include <unistd.h>

namespace sublet::sim {

MpsAnswer JoinMps(CardHost&, int, int, MpsJoining&) {
  return MpsAnswer::kNoServer;
}

void LeaveMps(std::optional<MpsGrant>& grant) {
  if (grant) ::close(grant->connection);
  grant.reset();
}

}  // namespace sublet::sim
