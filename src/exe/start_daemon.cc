#include "exe/start_daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/files.h"
#include "http/http_client.h"
#include "http/http_message.h"

namespace sublet {
namespace {

// The driver of a machine with many GPUs, without persistence mode, takes some ten seconds to come
// up; what ran before is taken over first.
constexpr double kReadySeconds = 60;
// One that goes because it had nothing to do still holds the state folder while it ends.
constexpr double kPredecessorSeconds = 10;
constexpr int kPredecessorLookMs = 50;
constexpr double kConnectSeconds = 2;
constexpr off_t kLogBytesMax = 1 << 20;    // Then a new one is begun; one old one is kept.
constexpr std::size_t kLogTailMax = 8192;  // Enough for the last words.

std::string LogPath(const NodePlace& place) {
  return fmt::format("{}/daemon.log", place.state);
}

Status MakePrivateFolders(const std::string& path) {
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) {
      // One that is there may also be refused, on a file system that is read-only.
      struct stat status {};
      const int error = errno;
      if (::stat(part.c_str(), &status) != 0) return FailFromErrno(error, "making " + part);
    }
    if (end == std::string::npos) return {};
  }
}

// Where a program looks from elsewhere than here.
void MakeAbsolute(ChildEnvironment& environment, const char* name) {
  const std::optional<std::string> value = environment.Get(name);
  if (!value || value->find('/') == std::string::npos) return;
  environment.Set(name, std::filesystem::absolute(*value).string());
}

ChildEnvironment DaemonEnvironment(const NodePlace& place, const std::string& notify) {
  ChildEnvironment environment;
  environment.UnsetPrefix("CUDA_").UnsetPrefix("LISTEN_").UnsetPrefix("WATCHDOG_");
  for (const char* name : {"SUBLET_SOCKET", "SUBLET_SHARE", "SUBLET_STATE"}) {
    environment.Unset(name);
  }
  if (!place.simulation.empty()) environment.Set("SUBLET_SIM", place.simulation);
  if (!place.simulation_state.empty()) environment.Set("SUBLET_SIM_STATE", place.simulation_state);
  for (const char* name : {"SUBLET_NVML", "SUBLET_CUDA", "SUBLET_MPS_CONTROL"}) {
    MakeAbsolute(environment, name);
  }
  environment.Set("NOTIFY_SOCKET", notify);
  return environment;
}

// Hears what a daemon tells its service manager.
class ReadyEar {
 public:
  static Result<ReadyEar> Open() {
    ReadyEar ear;
    ear.socket_ = FileDescriptor(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    // The kernel chooses a name that is free.
    if (!ear.socket_.valid() || ::bind(ear.socket_.get(), generic, sizeof(sa_family_t)) != 0) {
      return FailFromErrno(errno, "making a socket for the daemon's word");
    }
    socklen_t size = sizeof address;
    if (::getsockname(ear.socket_.get(), generic, &size) != 0) {
      return FailFromErrno(errno, "naming a socket for the daemon's word");
    }
    const std::size_t name = size - offsetof(sockaddr_un, sun_path);
    // Abstract: a zero byte, which an environment writes as '@'.
    ear.name_ = fmt::format("@{}", std::string(address.sun_path + 1, name - 1));
    return ear;
  }

  const std::string& name() const { return name_; }

  // Whether it became ready before it ended or the deadline passed.
  bool WaitForReady(const ChildProcess& daemon, Deadline deadline) {
    while (true) {
      if (HeardReady()) return true;
      pollfd fds[] = {{socket_.get(), POLLIN, 0}, {daemon.pidfd(), POLLIN, 0}};
      const int ready = ::poll(fds, std::size(fds), deadline.PollMilliseconds());
      if (ready < 0 && errno != EINTR) return false;
      // Its last word may have come together with its end.
      if (fds[0].revents == 0 && (ready == 0 || fds[1].revents != 0)) return false;
    }
  }

 private:
  bool HeardReady() {
    std::array<char, 4096> text;
    ssize_t got = 0;
    while ((got = ::recv(socket_.get(), text.data(), text.size(), 0)) >= 0) {
      const std::string lines =
          fmt::format("\n{}\n", std::string_view(text.data(), static_cast<std::size_t>(got)));
      if (lines.find("\nREADY=1\n") != std::string::npos) return true;
    }
    return false;
  }

  FileDescriptor socket_;
  std::string name_;
};

struct DaemonLog {
  FileDescriptor file;
  off_t begin = 0;  // Of what this daemon writes.
};

Result<DaemonLog> OpenLog(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && status.st_size > kLogBytesMax) {
    static_cast<void>(::rename(path.c_str(), fmt::format("{}.1", path).c_str()));
  }
  DaemonLog log;
  log.file = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log.file.valid()) return FailFromErrno(errno, fmt::format("opening {}", path));
  log.begin = ::lseek(log.file.get(), 0, SEEK_END);
  return log;
}

std::string TailOf(const DaemonLog& log) {
  const off_t end = ::lseek(log.file.get(), 0, SEEK_END);
  const off_t begin = std::max(log.begin, end - static_cast<off_t>(kLogTailMax));
  std::string text(static_cast<std::size_t>(std::max<off_t>(end - begin, 0)), '\0');
  const ssize_t got = ::pread(log.file.get(), text.data(), text.size(), begin);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return text;
}

// Whether one answers. A connection alone says little: one that is being killed still takes them.
bool Serves(const NodePlace& place) {
  Result<HttpClient> http = HttpClient::ConnectUnix(place.socket, kConnectSeconds);
  return http && http->Send({.target = "/v1/health", .timeout_s = kConnectSeconds}).has_value();
}

// Its path, which says more to people who list processes; the link where the program was replaced
// while it runs.
std::string ThisProgram() {
  const std::string path = OwnProgramPath();
  return ::access(path.c_str(), X_OK) == 0 ? path : "/proc/self/exe";
}

// One attempt; how it ended where it did.
Result<std::optional<ChildEnd>> Attempt(const NodePlace& place, const DaemonLog& log,
                                        Deadline deadline) {
  ASSIGN_OR_RETURN(ReadyEar ear, ReadyEar::Open());
  ChildOptions options;
  options.argv = {ThisProgram(), "daemon",  "--embedded", "--socket",
                  place.socket,  "--state", place.state};
  options.environment = DaemonEnvironment(place, ear.name());
  options.descriptors = {{log.file.get(), STDOUT_FILENO}, {log.file.get(), STDERR_FILENO}};
  options.parent_death_signal = 0;
  options.new_session = true;
  options.directory = place.state;
  ASSIGN_OR_RETURN(ChildProcess daemon, ChildProcess::Start(options));
  if (ear.WaitForReady(daemon, deadline)) {
    static_cast<void>(std::move(daemon).Release());
    return std::optional<ChildEnd>();
  }
  const std::optional<ChildEnd> end = daemon.Wait(Deadline::In(0));
  if (end) return end;
  return Fail(ErrorCode::kUnavailable,
              fmt::format("the node daemon isn't ready after {:.0f} s", kReadySeconds),
              fmt::format("its log: {}", LogPath(place)));
}

Status StartAndWait(const NodePlace& place) {
  RETURN_IF_ERROR(MakePrivateFolders(place.state));
  const std::string lock_path = fmt::format("{}/start.lock", place.state);
  const FileDescriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.valid()) return FailFromErrno(errno, fmt::format("opening {}", lock_path));
  // Another verb may be starting one this moment; it lets go within kReadySeconds.
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return FailFromErrno(errno, fmt::format("locking {}", lock_path));
  }
  const Deadline deadline = Deadline::In(kReadySeconds);
  const Deadline predecessor = Deadline::In(kPredecessorSeconds);
  while (!Serves(place)) {
    ASSIGN_OR_RETURN(const DaemonLog log, OpenLog(LogPath(place)));
    ASSIGN_OR_RETURN(const std::optional<ChildEnd> end, Attempt(place, log, deadline));
    if (!end) return {};
    Error why = WhyDaemonEnded(*end, TailOf(log));
    if (why.code != ErrorCode::kConflict || predecessor.Passed()) {
      if (why.hint.empty()) why.hint = fmt::format("its log: {}", LogPath(place));
      return tl::unexpected<Error>(std::move(why));
    }
    // Nothing tells when another process lets go of the folder.
    static_cast<void>(::poll(nullptr, 0, kPredecessorLookMs));
  }
  return {};
}

std::string ReadAll(int file) {
  std::string text;
  std::array<char, 4096> chunk;
  while (true) {
    const ssize_t got = ::read(file, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(chunk.data(), static_cast<std::size_t>(got));
  }
}

ErrorCode CodeOfExit(int status) {
  for (int code = 0; code <= static_cast<int>(ErrorCode::kInternal); ++code) {
    if (ExitStatus(static_cast<ErrorCode>(code)) == status) return static_cast<ErrorCode>(code);
  }
  return ErrorCode::kUnavailable;
}

}  // namespace

Error WhyDaemonEnded(const ChildEnd& end, std::string_view log) {
  constexpr std::string_view kMessage = "sublet: ";
  constexpr std::string_view kHint = "  hint: ";
  Error why;
  why.code = end.signal != 0 ? ErrorCode::kUnavailable : CodeOfExit(end.status);
  std::string last;
  bool error_seen = false;
  while (!log.empty()) {
    const std::string_view line = log.substr(0, log.find('\n'));
    log.remove_prefix(std::min(line.size() + 1, log.size()));
    if (line.starts_with(kMessage)) {
      last = line.substr(kMessage.size());
      why.hint.clear();
      error_seen = true;
    } else if (line.starts_with(kHint)) {
      why.hint = line.substr(kHint.size());
    } else if (!line.empty() && !error_seen) {
      last = line;
    }
  }
  if (last.empty() || end.signal != 0) {
    const std::string how = DescribeEnd(end);
    last = last.empty() ? how : fmt::format("it {}, after: {}", how, last);
  }
  why.message = fmt::format("the node daemon didn't start: {}", last);
  return why;
}

Status StartDaemon(const NodePlace& place) {
  CHECK(!place.state.empty());
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return FailFromErrno(errno, "making a pipe");
  const FileDescriptor read(fds[0]);
  FileDescriptor write(fds[1]);
  // A process between this one and the daemon, which ends: else a command that this process
  // executes later would find that it has a child.
  const pid_t middle = ::fork();
  if (middle < 0) return FailFromErrno(errno, "starting the node daemon");
  if (middle == 0) {
    const Status started = StartAndWait(place);
    const std::string body = started ? "" : ErrorBody(started.error());
    const bool said =
        ::write(write.get(), body.data(), body.size()) == static_cast<ssize_t>(body.size());
    ::_exit(started && said ? EXIT_SUCCESS : EXIT_FAILURE);
  }
  write.Close();
  const std::string body = ReadAll(read.get());
  int status = 0;
  while (::waitpid(middle, &status, 0) < 0 && errno == EINTR) {
  }
  if (!body.empty()) return tl::unexpected<Error>(ErrorFromBody(500, body));
  if (status != 0) return Fail(ErrorCode::kUnavailable, "starting the node daemon was broken off");
  return {};
}

}  // namespace sublet
