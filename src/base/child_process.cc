#include "base/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/files.h"

namespace sublet {
namespace {

constexpr std::size_t kDescriptorsMax = 64;  // More than any child is given.
// Where descriptors are kept while they are put in place: above all numbers that a child asks for.
constexpr int kParkingFrom = 256;

std::vector<char*> PointersTo(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// What the child was doing when it failed, for the message.
enum class Step : int { kPrepare, kUser, kDirectory, kExecute };

struct Failure {
  int reason = 0;  // An errno; 0: none.
  Step step = Step::kPrepare;
};

// All that the child needs between fork and exec, made before the fork: in the child of a process
// with threads, only async-signal-safe functions may be called, so nothing may be allocated.
struct Launch {
  const char* path;
  char* const* argv;
  char* const* environment;
  const ChildOptions* options;
  const std::vector<gid_t>* groups;  // Of options->user.
  pid_t parent;
  int failure_pipe;
};

// Signals are as in a fresh program: a handler of ours is gone after exec, but what is ignored or
// blocked would stay so.
void ResetSignals() {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  // SIGKILL, SIGSTOP and those that the C library keeps refuse.
  for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &action, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// A second number for the pipe, above all that the child asks for: it may have been given one of
// those, and what is put there would close it, or would get what is meant for us. The first where
// there is none left.
int ParkFailurePipe(const Launch& launch) {
  int above = STDERR_FILENO;
  for (const ChildDescriptor& descriptor : launch.options->descriptors) {
    above = std::max(above, descriptor.theirs);
  }
  const int fd = ::fcntl(launch.failure_pipe, F_DUPFD_CLOEXEC, above + 1);
  return fd < 0 ? launch.failure_pipe : fd;
}

bool PlaceDescriptors(const Launch& launch) {
  std::array<int, kDescriptorsMax> parked{};
  std::size_t count = 0;
  for (const ChildDescriptor& descriptor : launch.options->descriptors) {
    const int fd = ::fcntl(descriptor.ours, F_DUPFD_CLOEXEC, kParkingFrom);
    if (fd < 0) return false;
    parked[count++] = fd;
  }
  // Libraries open descriptors without close-on-exec. A kernel before 5.11 doesn't know the flag;
  // there the child inherits those, as it would from any other program.
  ::syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || ::dup2(null, STDIN_FILENO) < 0) return false;
  count = 0;
  for (const ChildDescriptor& descriptor : launch.options->descriptors) {
    if (::dup2(parked[count++], descriptor.theirs) < 0) return false;
  }
  return true;
}

// By system calls, and not by the C library's functions of these names: those make all threads
// follow, and wait for a lock that a thread of the parent may have held.
bool BecomeUser(const Launch& launch) {
  const std::optional<UserIds>& user = launch.options->user;
  if (!user) return true;
  // Groups first: after setuid nothing of this is permitted any more.
  if (::geteuid() != user->uid || ::geteuid() == 0) {
    if (::syscall(SYS_setgroups, launch.groups->size(), launch.groups->data()) != 0) return false;
  }
  return ::syscall(SYS_setresgid, user->gid, user->gid, user->gid) == 0 &&
         ::syscall(SYS_setresuid, user->uid, user->uid, user->uid) == 0;
}

// Does all in the order in which it must be done, and returns at which step it failed.
Step Prepare(const Launch& launch) {
  if (!BecomeUser(launch)) return Step::kUser;
  const std::string& directory = launch.options->directory;
  if (!directory.empty() && ::chdir(directory.c_str()) != 0) return Step::kDirectory;
  // After the change of user, which would make the kernel forget it.
  const int death_signal = launch.options->parent_death_signal;
  if (death_signal != 0 && ::prctl(PR_SET_PDEATHSIG, death_signal) != 0) return Step::kPrepare;
  ResetSignals();
  return PlaceDescriptors(launch) ? Step::kExecute : Step::kPrepare;
}

[[noreturn]] void BecomeProgram(const Launch& launch) {
  // Neither can fail in a process that has just been born. A leader of a group can't make a session
  // any more, so it is one or the other.
  if (launch.options->new_session) {
    ::setsid();
  } else {
    ::setpgid(0, 0);
  }
  const int failure_pipe = ParkFailurePipe(launch);
  Failure failure;
  if (failure_pipe != launch.failure_pipe) failure.step = Prepare(launch);
  if (failure.step == Step::kExecute) {
    // The parent may have died before the kernel knew of the wish; then this process has another
    // parent by now, and nobody would ever end it.
    if (::getppid() != launch.parent) ::_Exit(EXIT_FAILURE);
    ::execve(launch.path, launch.argv, launch.environment);
  }
  failure.reason = errno;
  static_cast<void>(::write(failure_pipe, &failure, sizeof failure) == sizeof failure);
  ::_Exit(EXIT_FAILURE);  // There is nobody here to return a Result to.
}

struct Pipe {
  FileDescriptor read;
  FileDescriptor write;
};

Result<Pipe> MakePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return FailFromErrno(errno, "making a pipe");
  return Pipe{FileDescriptor(fds[0]), FileDescriptor(fds[1])};
}

// Why the child failed to execute the program. Nothing where it succeeded, because then exec closed
// the pipe.
Failure ReadFailure(const FileDescriptor& pipe) {
  Failure failure;
  ssize_t got = 0;
  do {
    got = ::read(pipe.get(), &failure, sizeof failure);
  } while (got < 0 && errno == EINTR);
  return got == static_cast<ssize_t>(sizeof failure) ? failure : Failure{};
}

Error DescribeFailure(const Failure& failure, const std::string& path,
                      const ChildOptions& options) {
  std::string what = fmt::format("starting {}", path);
  std::string hint;
  if (failure.step == Step::kUser) {
    what = fmt::format("starting {} as user {}", path, options.user->uid);
    hint = "only root starts processes of other users";
  }
  if (failure.step == Step::kDirectory) {
    what = fmt::format("starting {} in {}", path, options.directory);
  }
  Error error = FailFromErrno(failure.reason, what).value();
  if (error.code == ErrorCode::kIo) error.code = ErrorCode::kUnavailable;
  error.hint = std::move(hint);
  return error;
}

// All groups of a user, the primary one among them.
std::vector<gid_t> GroupsOf(const UserIds& user) {
  const std::string name = UserName(user.uid);
  int count = 64;
  std::vector<gid_t> groups(static_cast<std::size_t>(count));
  // Where they are too many, `count` says how many there are. They may become more meanwhile.
  while (::getgrouplist(name.c_str(), user.gid, groups.data(), &count) < 0) {
    groups.resize(std::max(static_cast<std::size_t>(count), 2 * groups.size()));
    count = static_cast<int>(groups.size());
  }
  groups.resize(static_cast<std::size_t>(count));
  return groups;
}

ChildEnd EndOf(int wait_status) {
  ChildEnd end;
  if (WIFSIGNALED(wait_status)) end.signal = WTERMSIG(wait_status);
  if (WIFEXITED(wait_status)) end.status = WEXITSTATUS(wait_status);
  return end;
}

bool IsProgram(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
         ::access(path.c_str(), X_OK) == 0;
}

}  // namespace

ChildEnvironment::ChildEnvironment() {
  for (char** line = ::environ; line != nullptr && *line != nullptr; ++line) {
    const std::string_view text = *line;
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    variables_.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
}

ChildEnvironment ChildEnvironment::Empty() {
  ChildEnvironment environment;
  environment.variables_.clear();
  return environment;
}

ChildEnvironment& ChildEnvironment::Set(std::string_view name, std::string_view value) {
  variables_.insert_or_assign(std::string(name), std::string(value));
  return *this;
}

ChildEnvironment& ChildEnvironment::Unset(std::string_view name) {
  if (const auto it = variables_.find(name); it != variables_.end()) variables_.erase(it);
  return *this;
}

ChildEnvironment& ChildEnvironment::UnsetPrefix(std::string_view prefix) {
  std::erase_if(variables_, [&](const auto& entry) { return entry.first.starts_with(prefix); });
  return *this;
}

std::optional<std::string> ChildEnvironment::Get(std::string_view name) const {
  const auto it = variables_.find(name);
  if (it == variables_.end()) return std::nullopt;
  return it->second;
}

std::vector<std::string> ChildEnvironment::Lines() const {
  std::vector<std::string> lines;
  for (const auto& [name, value] : variables_) lines.push_back(fmt::format("{}={}", name, value));
  return lines;
}

std::string DescribeEnd(const ChildEnd& end) {
  if (end.signal != 0) {
    return fmt::format("was killed by signal {} ({})", end.signal, ::strsignal(end.signal));
  }
  return fmt::format("exited with status {}", end.status);
}

Result<ChildProcess> ChildProcess::Start(const ChildOptions& options) {
  CHECK(!options.argv.empty() && options.descriptors.size() <= kDescriptorsMax);
  for (const ChildDescriptor& descriptor : options.descriptors) {
    CHECK(descriptor.theirs >= 0 && descriptor.theirs < kParkingFrom);
  }
  const char* const own = std::getenv("PATH");
  const std::string search_path =
      options.environment.Get("PATH").value_or(own == nullptr ? "/usr/bin:/bin" : own);
  const std::optional<std::string> path = FindProgram(options.argv[0], search_path);
  if (!path) return Fail(ErrorCode::kNotFound, fmt::format("no such program: {}", options.argv[0]));
  const std::vector<std::string> lines = options.environment.Lines();
  const std::vector<char*> argv = PointersTo(options.argv);
  const std::vector<char*> environment = PointersTo(lines);
  const std::vector<gid_t> groups = options.user ? GroupsOf(*options.user) : std::vector<gid_t>{};
  ASSIGN_OR_RETURN(Pipe failure, MakePipe());
  const Launch launch{path->c_str(), argv.data(), environment.data(), &options,
                      &groups,       ::getpid(),  failure.write.get()};
  const pid_t pid = ::fork();
  if (pid < 0) {
    return Fail(ErrorCode::kUnavailable,
                fmt::format("starting {}: {}", *path, std::strerror(errno)),
                "the limit on processes may be reached: see ulimit -u");
  }
  if (pid == 0) BecomeProgram(launch);
  failure.write.Close();
  // Until somebody reaps it the child's number stays its own, so this can't name another process.
  ChildProcess child(pid, FileDescriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))));
  if (!child.pidfd_.valid()) {
    return Fail(ErrorCode::kUnsupported, fmt::format("watching {}: {}", *path, ::strerror(errno)),
                "Linux 5.3 or newer is needed");
  }
  if (const Failure why = ReadFailure(failure.read); why.reason != 0) {
    return tl::unexpected<Error>(DescribeFailure(why, *path, options));
  }
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)), end_(other.end_) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(pidfd_, other.pidfd_);
  std::swap(end_, other.end_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0 && !end_) static_cast<void>(Stop({.after_term_s = 0}));
}

std::optional<ChildEnd> ChildProcess::Wait(Deadline deadline) {
  while (!end_) {
    if (pidfd_.valid()) {
      pollfd ended{pidfd_.get(), POLLIN, 0};
      const int ready = ::poll(&ended, 1, deadline.PollMilliseconds());
      if (ready < 0 && errno == EINTR) continue;
      if (ready == 0) return std::nullopt;
    }
    int status = 0;
    const pid_t reaped = ::waitpid(pid_, &status, 0);
    if (reaped < 0 && errno == EINTR) continue;
    // Where SIGCHLD is ignored the kernel reaps, and how the child ended is lost.
    end_ = reaped == pid_ ? EndOf(status) : ChildEnd{};
  }
  return end_;
}

void ChildProcess::Signal(int signal) {
  if (pid_ > 0 && !end_) ::kill(pid_, signal);
}

void ChildProcess::SignalGroup(int signal) {
  // The group's number is taken as long as the child is not reaped.
  if (pid_ > 0 && !end_) ::kill(-pid_, signal);
}

std::optional<ChildEnd> ChildProcess::Stop(const StopPatience& patience) {
  if (end_) return end_;
  if (patience.after_term_s > 0) {
    SignalGroup(SIGTERM);
    // Not reaped yet, so that the rest of the group can still be reached below.
    pollfd ended{pidfd_.get(), POLLIN, 0};
    const Deadline deadline = Deadline::In(patience.after_term_s);
    while (::poll(&ended, 1, deadline.PollMilliseconds()) < 0 && errno == EINTR) {
    }
  }
  SignalGroup(SIGKILL);
  Signal(SIGKILL);  // It may not have made its group yet, or have left it.
  return Wait(Deadline::In(patience.after_kill_s));
}

ProcessHandle ChildProcess::Release() && {
  CHECK(pid_ > 0);
  // Not reaped yet, so the number is the child's. One whose start can't be read, where /proc is
  // hidden, gets an identity that no process has: found again by nobody, mistaken for nobody.
  ProcessIdentity identity{pid_, 0};
  if (const Result<ProcessIdentity> now = ProcessIdentity::Of(pid_); now && !end_) identity = *now;
  pid_ = -1;
  return ProcessHandle(identity, std::move(pidfd_));
}

std::optional<ChildEnd> ReapIfEnded(pid_t pid) {
  CHECK(pid > 0);  // Zero and less would reap any child.
  int status = 0;
  pid_t reaped = 0;
  do {
    reaped = ::waitpid(pid, &status, WNOHANG);
  } while (reaped < 0 && errno == EINTR);
  if (reaped != pid) return std::nullopt;
  return EndOf(status);
}

namespace {

// Appends what can be read without waiting; false once the other end is closed.
bool Drain(int fd, std::size_t bytes_max, std::string& out) {
  std::array<char, 16384> chunk;
  while (true) {
    const ssize_t got = ::read(fd, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    const std::size_t room = bytes_max - std::min(bytes_max, out.size());
    out.append(chunk.data(), std::min(room, static_cast<std::size_t>(got)));
  }
}

// A program that reads nothing must not end this one by SIGPIPE.
class IgnoredPipeSignal {
 public:
  IgnoredPipeSignal() {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~IgnoredPipeSignal() {
    const timespec now{};
    if (::sigismember(&before_, SIGPIPE) == 0) {
      while (::sigtimedwait(&pipe_, nullptr, &now) < 0 && errno == EINTR) {
      }
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  IgnoredPipeSignal(const IgnoredPipeSignal&) = delete;
  IgnoredPipeSignal& operator=(const IgnoredPipeSignal&) = delete;

 private:
  sigset_t pipe_;
  sigset_t before_;
};

// Writes what fits; false when nothing is left to write or nobody reads.
bool Feed(int fd, std::string_view& input) {
  while (!input.empty()) {
    const ssize_t written = ::write(fd, input.data(), input.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno == EAGAIN;
    input.remove_prefix(static_cast<std::size_t>(written));
  }
  return false;
}

struct Conversation {
  FileDescriptor in;
  FileDescriptor out;
  FileDescriptor err;
};

// True once the child has ended and what it printed is read; false at the deadline.
bool Converse(Conversation& pipes, std::string_view input, const CommandLimits& limits, int pidfd,
              Deadline deadline, CommandOutcome& outcome) {
  for (const FileDescriptor* pipe : {&pipes.in, &pipes.out, &pipes.err}) {
    ::fcntl(pipe->get(), F_SETFL, ::fcntl(pipe->get(), F_GETFL) | O_NONBLOCK);
  }
  const IgnoredPipeSignal ignored;
  while (true) {
    std::array<pollfd, 4> fds = {{{pipes.in.get(), POLLOUT, 0},
                                  {pipes.out.get(), POLLIN, 0},
                                  {pipes.err.get(), POLLIN, 0},
                                  {pidfd, POLLIN, 0}}};
    const int ready = ::poll(fds.data(), fds.size(), deadline.PollMilliseconds());
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    if (fds[0].revents != 0 && !Feed(pipes.in.get(), input)) pipes.in.Close();
    // The order matters: what was printed before the end is in the pipes when the end is seen.
    const bool ended = fds[3].revents != 0;
    if (pipes.out.valid() && !Drain(pipes.out.get(), limits.output_bytes_max, outcome.out)) {
      pipes.out.Close();
    }
    if (pipes.err.valid() && !Drain(pipes.err.get(), limits.output_bytes_max, outcome.err)) {
      pipes.err.Close();
    }
    if (ended) return true;
  }
}

}  // namespace

Result<CommandOutcome> RunCommand(ChildOptions options, std::string_view input,
                                  const CommandLimits& limits) {
  ASSIGN_OR_RETURN(Pipe in, MakePipe());
  ASSIGN_OR_RETURN(Pipe out, MakePipe());
  ASSIGN_OR_RETURN(Pipe err, MakePipe());
  options.descriptors.push_back({in.read.get(), STDIN_FILENO});
  options.descriptors.push_back({out.write.get(), STDOUT_FILENO});
  options.descriptors.push_back({err.write.get(), STDERR_FILENO});
  ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(options));
  in.read.Close();
  out.write.Close();
  err.write.Close();
  Conversation pipes{std::move(in.write), std::move(out.read), std::move(err.read)};
  CommandOutcome outcome;
  const Deadline deadline = Deadline::In(limits.timeout_s);
  if (!Converse(pipes, input, limits, child.pidfd(), deadline, outcome)) {
    return Fail(ErrorCode::kUnavailable,
                fmt::format("{} did not end within {:g} s", options.argv[0], limits.timeout_s));
  }
  outcome.end = child.Wait(Deadline::Never()).value_or(ChildEnd{});
  return outcome;
}

std::optional<std::string> FindProgram(std::string_view program, std::string_view search_path) {
  // Whether it can be executed is for exec to say: its reason is better than ours.
  if (program.find('/') != std::string_view::npos) return std::string(program);
  while (!program.empty()) {
    const std::size_t end = std::min(search_path.find(':'), search_path.size());
    const std::string_view folder = search_path.substr(0, end);
    const std::string path = fmt::format("{}/{}", folder.empty() ? "." : folder, program);
    if (IsProgram(path)) return path;
    if (end == search_path.size()) break;
    search_path.remove_prefix(end + 1);
  }
  return std::nullopt;
}

}  // namespace sublet
