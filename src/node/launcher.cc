#include "node/launcher.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "base/clock.h"
#include "base/files.h"

namespace sublet {
namespace {

// What systemd tells a service about itself. A child that answered in its place would confuse it.
constexpr const char* kServiceVariables[] = {"NOTIFY_SOCKET", "WATCHDOG_PID",   "WATCHDOG_USEC",
                                             "LISTEN_FDS",    "LISTEN_PID",     "LISTEN_FDNAMES",
                                             "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID"};

constexpr std::size_t kNamedMax = 8;  // Of the processes that don't end.

// A link in the log's place would let its maker choose the file that is written to.
Result<FileDescriptor> OpenLog(const std::string& path, const std::optional<UserIds>& user) {
  FileDescriptor log(::open(
      path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600));
  if (!log.valid()) return FailFromErrno(errno, fmt::format("opening log {}", path));
  struct stat status {};
  if (::fstat(log.get(), &status) != 0) {
    return FailFromErrno(errno, fmt::format("opening log {}", path));
  }
  // The user's own, because programs open /dev/stderr once more.
  const bool given = !user || (status.st_uid == user->uid && status.st_gid == user->gid);
  if (!given && ::fchown(log.get(), user->uid, user->gid) != 0) {
    return FailFromErrno(errno, fmt::format("giving log {} to user {}", path, user->uid));
  }
  return log;
}

// The processes of a share that were found so far and haven't ended. They are kept from one search
// to the next: once the first process is gone, not all can be found again.
class ShareProcesses {
 public:
  explicit ShareProcesses(const ProcessEnding& ending) : ending_(ending) {}

  // Looks for more. True where there are any.
  bool Search() {
    std::erase_if(found_, [](const auto& entry) { return entry.second.Ended(); });
    const int leader = ending_.identity.pid;
    if (leader > 0) Add(ending_.identity);
    // As long as the leader has its number, be it as a zombie, the session is the share's.
    const bool known = leader > 0 && ending_.launched;
    if (known && ProcessIdentity::Of(leader).value_or(ProcessIdentity{}) == ending_.identity) {
      for (const ProcessIdentity& member : ProcessesOfSession(leader)) Add(member);
    }
    if (!ending_.share.empty()) {
      for (const auto& [process, share] : ProcessesOfShares(ending_.state)) {
        if (share == ending_.share) Add(process);
      }
    }
    return !found_.empty();
  }

  // Sends it to each that hasn't had it yet.
  void Ask() {
    for (const auto& [identity, process] : found_) {
      if (std::ranges::count(asked_, identity) != 0) continue;
      asked_.push_back(identity);
      static_cast<void>(process.Signal(SIGTERM));
      static_cast<void>(process.Signal(SIGCONT));  // One that is stopped would not hear it.
    }
  }

  void Kill() {
    refused_ = {};
    for (const auto& [identity, process] : found_) {
      const Status sent = process.Signal(SIGKILL);
      if (!sent && sent.error().code == ErrorCode::kPermission) refused_ = sent;
    }
  }

  void AwaitEnd(Deadline deadline) const {
    for (const auto& [identity, process] : found_) {
      pollfd ended{process.fd(), POLLIN, 0};
      while (::poll(&ended, 1, deadline.PollMilliseconds()) < 0 && errno == EINTR) {
      }
    }
  }

  Status Left() const {
    std::vector<int> pids;
    for (const auto& [identity, process] : found_) {
      if (pids.size() < kNamedMax) pids.push_back(identity.pid);
    }
    const std::string message = fmt::format("{} processes of share {} have not ended: {}",
                                            found_.size(), ending_.share, fmt::join(pids, ", "));
    if (!refused_) return Fail(ErrorCode::kPermission, message, refused_.error().message);
    return Fail(ErrorCode::kUnavailable, message, "the driver may hold them: see dmesg");
  }

 private:
  void Add(const ProcessIdentity& identity) {
    if (found_.contains(identity) || identity.pid == ::getpid()) return;
    if (Result<ProcessHandle> process = ProcessHandle::Open(identity); process) {
      found_.emplace(identity, std::move(*process));
    }
  }

  const ProcessEnding& ending_;
  std::map<ProcessIdentity, ProcessHandle> found_;
  std::vector<ProcessIdentity> asked_;
  Status refused_;
};

}  // namespace

ChildEnvironment LaunchEnvironment(const EnvironmentChanges& changes,
                                   const std::optional<UserIds>& user) {
  ChildEnvironment environment;
  for (const std::string& line : environment.Lines()) {
    const std::string name = line.substr(0, line.find('='));
    const bool ours = name.starts_with("SUBLET_") && !name.starts_with("SUBLET_SIM");
    if (ours || name.starts_with("CUDA_")) environment.Unset(name);
  }
  for (const char* name : kServiceVariables) environment.Unset(name);
  if (user && user->uid != CurrentUser().uid) {
    const std::string name = UserName(user->uid);
    environment.Set("HOME", HomeFolder(user->uid)).Set("USER", name).Set("LOGNAME", name);
    environment.Unset("SHELL");
  }
  for (const auto& [name, value] : changes) {
    if (value) {
      environment.Set(name, *value);
    } else {
      environment.Unset(name);
    }
  }
  return environment;
}

Result<ProcessHandle> Launch(const LaunchSpec& spec) {
  ChildOptions options;
  options.argv = spec.argv;
  options.environment = LaunchEnvironment(spec.environment, spec.user);
  options.directory = spec.directory;
  options.user = spec.user;
  options.new_session = true;
  options.parent_death_signal = 0;
  const std::string path = spec.log_path.empty() ? "/dev/null" : spec.log_path;
  ASSIGN_OR_RETURN(const FileDescriptor log,
                   OpenLog(path, spec.log_path.empty() ? std::optional<UserIds>{} : spec.user));
  options.descriptors = {{log.get(), STDOUT_FILENO}, {log.get(), STDERR_FILENO}};
  ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(options));
  return std::move(child).Release();
}

Status EndProcess(const ProcessEnding& ending) {
  ShareProcesses processes(ending);
  if (ending.patience_s > 0) {
    const Deadline patience = Deadline::In(ending.patience_s);
    // Again and again, because a process may be born while others end.
    while (!patience.Passed()) {
      if (!processes.Search()) return {};
      processes.Ask();
      processes.AwaitEnd(patience);
    }
  }
  const Deadline deadline = Deadline::In(ending.after_kill_s);
  while (processes.Search()) {
    if (deadline.Passed()) return processes.Left();
    processes.Kill();
    processes.AwaitEnd(deadline);
  }
  return {};
}

std::map<ProcessIdentity, std::string> ProcessesOfShares(std::string_view state) {
  return ProcessesWithEnvironment(kShareVariable, kStateVariable, state);
}

}  // namespace sublet
