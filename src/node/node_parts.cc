#include "node/node_parts.h"

namespace sublet {

Process RowOf(const ProcessIdentity& identity, const std::optional<UserIds>& user) {
  return {.pid = identity.pid,
          .start_ticks = static_cast<std::int64_t>(identity.start_ticks),
          .uid = user.value_or(CurrentUser()).uid};
}

ProcessIdentity IdentityOf(const Process& process) {
  return {.pid = process.pid, .start_ticks = static_cast<std::uint64_t>(process.start_ticks)};
}

}  // namespace sublet
