// One after the other, by slot: the baseline that everybody has. The requests for one model are
// counted by themselves, so that two models whose requests alternate still visit all replicas.
#include "route/policy.h"

namespace sublet {

PolicyChoice ChooseRoundRobin(const FleetView& fleet, const PolicyQuery& query) {
  return {.index = static_cast<std::size_t>(query.ordinal % fleet.replicas.size()),
          .rule = "its turn"};
}

}  // namespace sublet
