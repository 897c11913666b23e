// node/launcher.h
//
// Processes of shares: started so that they outlive this program, ended so that nothing of them is
// left.
//
//   LaunchSpec spec;
//   spec.argv = {"python3", "server.py"};
//   spec.environment = {{"SUBLET_SHARE", "s17"}, {"CUDA_MPS_PIPE_DIRECTORY", folder}};
//   spec.user = tenant;
//   spec.log_path = log.path();
//   ASSIGN_OR_RETURN(ProcessHandle process, Launch(spec));
//   store.Book(share, process.identity());
//   ...
//   const Status ended = EndProcess({.identity = process.identity(),
//                                    .share = "s17",
//                                    .state = state_directory,
//                                    .patience_s = 10});
//   ReapIfEnded(process.identity().pid);          // base/child_process.h: how it ended.
//
// A launched process leads a session of its own, reads from /dev/null and prints to its log. Which
// processes belong to a share is known in two ways: by the session that its first process leads,
// and by SUBLET_SHARE and SUBLET_STATE in the environment with which each was started. The second
// finds who left the session, and those whose first process is gone.
//
// What may surprise:
// - As long as this program lives, a launched process is its child: once it has ended, call
//   ReapIfEnded(), and after EndProcess() rather than before. While it isn't reaped its session's
//   number can't become another's, so that members without a mark are ended too.
// - Who has left the session *and* cleared its environment is not found.
//
// Thread safety: no shared state. Each call blocks: Launch() for about a millisecond, EndProcess()
// for as long as the patience given.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/child_process.h"
#include "base/process_handle.h"
#include "base/result.h"
#include "base/user.h"

namespace sublet {

// In the environment of every process of a share: its id, and the daemon's state directory.
inline constexpr std::string_view kShareVariable = "SUBLET_SHARE";
inline constexpr std::string_view kStateVariable = "SUBLET_STATE";

// A variable and its value; absent: to be unset.
using EnvironmentChanges = std::vector<std::pair<std::string, std::optional<std::string>>>;

struct LaunchSpec {
  // The program and its arguments. Without a slash it is looked up in the PATH of the environment
  // below; a relative path with one begins at `directory`.
  std::vector<std::string> argv;
  EnvironmentChanges environment = {};  // In this order, on top of what LaunchEnvironment() says.
  std::string directory = {};           // Empty: where this process is.
  std::optional<UserIds> user = {};     // Absent: as this process.
  // Appended to; made with mode 0600 for the user where it isn't there. Its folder must exist.
  // Empty: the output is dropped.
  std::string log_path = {};
};

// This program's own environment, with the spec's changes on top, but without
// - CUDA_* and SUBLET_*: they would give the share what was meant for this program. SUBLET_SIM*
//   stays, because it says which GPUs there are;
// - what systemd gives to a service alone (NOTIFY_SOCKET and the like);
// - HOME, USER, LOGNAME and SHELL where it is for another user, who gets their own.
ChildEnvironment LaunchEnvironment(const EnvironmentChanges& changes,
                                   const std::optional<UserIds>& user);

// Returns once the program is executed. An error means that no process is left: kNotFound,
// kPermission, kUnavailable of ChildProcess::Start(), or what kept the log from being opened.
Result<ProcessHandle> Launch(const LaunchSpec& spec);

struct ProcessEnding {
  ProcessIdentity identity = {};  // The share's first process; pid 0: unknown.
  // It was started by Launch(). False for one that was there already, as a shell's child: who else
  // is in its session is none of ours, and only those with the mark are ended.
  bool launched = true;
  std::string share;         // Its id.
  std::string state;         // The state directory whose share it is.
  double patience_s = 10;    // From SIGTERM to SIGKILL; 0: SIGKILL at once.
  double after_kill_s = 10;  // A process in the driver's hands can take its time, or never end.
};

// Asks all processes of a share to end (SIGTERM), then kills those that are left, until none is.
// Fails with kUnavailable where some don't go, with kPermission where they aren't ours to signal,
// and names them. Without any it returns at once.
Status EndProcess(const ProcessEnding& ending);

// All processes of a state directory's shares, and the id of the share of each.
std::map<ProcessIdentity, std::string> ProcessesOfShares(std::string_view state);

}  // namespace sublet
