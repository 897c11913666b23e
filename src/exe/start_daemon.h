// exe/start_daemon.h
//
// A node daemon for a user who has none: started beside a verb, and left to itself.
//
//   RETURN_IF_ERROR(StartDaemon(place));
//   HttpClient::ConnectUnix(place.socket, 2)      // Answers.
//
// It gets a session of its own, init as its parent, and an environment without what was meant for
// the verb alone: a share's variables, CUDA's, a service manager's. What it says goes to daemon.log
// in the state folder. It tells that it is ready in the way in which it would tell systemd, so
// nobody sleeps and asks again.
//
// Thread safety: the calling process must have one thread only, since it forks; different processes
// may call at the same time, and one daemon comes of it.
#pragma once

#include <string>
#include <string_view>

#include "base/child_process.h"
#include "base/result.h"
#include "exe/node_place.h"

namespace sublet {

// Returns once a daemon serves the place. Where it ends instead, fails with what it ended with;
// with kUnavailable where it isn't ready after a minute. REQUIRES: place.state isn't empty.
Status StartDaemon(const NodePlace& place);

// Why a daemon ended, from its exit and the lines that it wrote: the last "sublet: ..." and the
// hint below it, else the last line.
Error WhyDaemonEnded(const ChildEnd& end, std::string_view log);

}  // namespace sublet
