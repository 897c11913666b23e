// node/readiness.h
//
// One try to find out whether a replica can do its work, as its Readiness (model/launch.h) says.
//
//   const ReadinessPlace place{.port = 8102, .environment = spec.environment};
//   const Status ready = ProbeOnce(readiness, place);   // On a worker: it waits for the answer.
//   if (!ready) why = ready.error().message;            // "GET /health on port 8102: status 503"
//
// A try takes as long as place.limit_s at most. How often and for how long one tries is for the
// caller to say.
//
// What may surprise:
// - The port is this machine's own, at 127.0.0.1. A replica that listens elsewhere is never ready.
// - Who answers isn't checked: another process that has the port would be taken for the replica.
// - Only the first line of an answer is waited for, so a page without an end does no harm.
// - Redirections count as success and aren't followed.
//
// Thread safety: no shared state.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "base/user.h"
#include "model/launch.h"
#include "node/launcher.h"

namespace sublet {

struct ReadinessPlace {
  int port = 0;  // Of the replica; 0: it has none, and then only a command can be tried.
  // On top of LaunchEnvironment() (node/launcher.h), as the replica's own; for a command.
  EnvironmentChanges environment = {};
  std::string directory = {};        // Where a command begins; empty: where this process is.
  std::optional<UserIds> user = {};  // As whom a command runs; absent: as this process.
  double limit_s = 2;                // Of one try.
};

// Fails with kUnavailable where it isn't ready yet, which may change; with kNotFound or kPermission
// where the command can't be executed.
Status ProbeOnce(const Readiness& readiness, const ReadinessPlace& place);

}  // namespace sublet
