#include "mps/folder_users.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/files.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kEnvironmentBytesMax = 4u << 20;  // The kernel's own limit is 1/4 of a stack.
constexpr double kKillSeconds = 5;

struct FolderUser {
  pid_t pid = 0;
  FileDescriptor pidfd;
};

bool HasLine(std::string_view environment, std::string_view line) {
  while (!environment.empty()) {
    const std::size_t end = std::min(environment.find('\0'), environment.size());
    if (environment.substr(0, end) == line) return true;
    environment.remove_prefix(std::min(end + 1, environment.size()));
  }
  return false;
}

std::vector<FolderUser> Find(const std::string& pipe_directory) {
  const std::string wanted = fmt::format("CUDA_MPS_PIPE_DIRECTORY={}", pipe_directory);
  std::vector<FolderUser> users;
  std::error_code ignored;
  for (fs::directory_iterator it("/proc", ignored), end; it != end; it.increment(ignored)) {
    const std::string name = it->path().filename();
    pid_t pid = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (parsed.ptr != name.data() + name.size() || pid == ::getpid()) continue;
    // Opened before the environment is read, so that what is read is of the process that would be
    // killed, and not of another that got its number. A zombie has no environment.
    FileDescriptor pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    const Result<std::string> environment =
        ReadFile(fmt::format("/proc/{}/environ", pid), kEnvironmentBytesMax);
    if (!pidfd.valid() || !environment || !HasLine(*environment, wanted)) continue;
    users.push_back({pid, std::move(pidfd)});
  }
  return users;
}

// True once all have ended.
bool AwaitEnd(const std::vector<FolderUser>& users, Deadline deadline) {
  return std::ranges::all_of(users, [&](const FolderUser& user) {
    pollfd ended{user.pidfd.get(), POLLIN, 0};
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
  for (const FolderUser& user : Find(pipe_directory)) pids.push_back(user.pid);
  return pids;
}

bool EndFolderUsers(const std::string& pipe_directory, double grace_s) {
  if (AwaitEnd(Find(pipe_directory), Deadline::In(grace_s))) {
    // Somebody may have been born meanwhile.
    if (Find(pipe_directory).empty()) return true;
  }
  const Deadline deadline = Deadline::In(kKillSeconds);
  // Again until nobody is found, because a server may be starting while the daemon is killed.
  while (!deadline.Passed()) {
    const std::vector<FolderUser> left = Find(pipe_directory);
    if (left.empty()) return true;
    for (const FolderUser& user : left) {
      ::syscall(SYS_pidfd_send_signal, user.pidfd.get(), SIGKILL, nullptr, 0);
    }
    AwaitEnd(left, deadline);
  }
  return Find(pipe_directory).empty();
}

}  // namespace sublet
