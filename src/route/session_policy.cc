// A session keeps its replica for as long as that is there, whatever the load: for engines that
// keep something of a session, and for clients who want to know where they are. Who names no
// session goes by what the prompt begins with. When a replica goes, only its sessions move.
#include "route/policy.h"
#include "route/ranking.h"

namespace sublet {

PolicyChoice ChooseBySession(const FleetView& fleet, const PolicyQuery& query) {
  const std::uint64_t key = query.session != 0 ? query.session : TieKey(query);
  std::size_t best = 0;
  for (std::size_t r = 1; r < fleet.replicas.size(); ++r) {
    if (Rather(key, fleet.replicas[r], fleet.replicas[best])) best = r;
  }
  return {.index = best, .rule = query.session != 0 ? "its session's" : "no session is named"};
}

}  // namespace sublet
