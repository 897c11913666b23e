#include "mps/folder_users.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "base/clock.h"
#include "base/process_handle.h"

namespace sublet {
namespace {

constexpr double kKillSeconds = 5;

std::vector<ProcessIdentity> Find(const std::string& pipe_directory) {
  return ProcessesWithEnvironment("CUDA_MPS_PIPE_DIRECTORY", pipe_directory);
}

// Those that live still. Held by their descriptors, so that none is taken for another that got its
// number meanwhile.
std::vector<ProcessHandle> FindAndHold(const std::string& pipe_directory) {
  std::vector<ProcessHandle> users;
  for (const ProcessIdentity& identity : Find(pipe_directory)) {
    Result<ProcessHandle> user = ProcessHandle::Open(identity);
    if (user) users.push_back(std::move(*user));
  }
  return users;
}

// True once all have ended.
bool AwaitEnd(const std::vector<ProcessHandle>& users, Deadline deadline) {
  return std::ranges::all_of(users, [&](const ProcessHandle& user) {
    pollfd ended{user.fd(), POLLIN, 0};
    int ready = 0;
    do {
      ready = ::poll(&ended, 1, deadline.PollMilliseconds());
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
  });
}

}  // namespace

std::vector<pid_t> FolderUsers(const std::string& pipe_directory) {
  std::vector<pid_t> pids;
  for (const ProcessIdentity& user : Find(pipe_directory)) pids.push_back(user.pid);
  return pids;
}

bool EndFolderUsers(const std::string& pipe_directory, double grace_s) {
  if (AwaitEnd(FindAndHold(pipe_directory), Deadline::In(grace_s))) {
    // Somebody may have been born meanwhile.
    if (Find(pipe_directory).empty()) return true;
  }
  const Deadline deadline = Deadline::In(kKillSeconds);
  // Again until nobody is found, because a server may be starting while the daemon is killed.
  while (!deadline.Passed()) {
    const std::vector<ProcessHandle> left = FindAndHold(pipe_directory);
    if (left.empty()) return true;
    // One that isn't ours to kill, or has just ended, shows in what is found next.
    for (const ProcessHandle& user : left) static_cast<void>(user.Signal(SIGKILL));
    AwaitEnd(left, deadline);
  }
  return Find(pipe_directory).empty();
}

}  // namespace sublet
