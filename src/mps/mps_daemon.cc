#include "mps/mps_daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <utility>

#include "base/clock.h"
#include "base/files.h"
#include "base/interrupt.h"
#include "mps/folder_users.h"

namespace sublet {
namespace {

constexpr std::string_view kFolderPrefix = "sublet-mps-";
constexpr std::string_view kLongestSocket = "/control_privileged";
constexpr std::size_t kLogBytesMax = 1u << 20;
constexpr std::size_t kLastWordsMax = 300;

// How the program says that it could not ask. All of it ends with status 0 or 1, as it likes.
constexpr std::string_view kNobodyThere = "Cannot find MPS control daemon process";
// It serves another control program at the moment.
constexpr std::string_view kBusy = "Cannot send command to MPS control daemon process";
constexpr int kBusyTriesMax = 7;  // With waits of 10 ms, doubled: 1.3 s in all.
constexpr double kBusyWaitSeconds = 0.01;

// While the daemon starts, which takes some milliseconds on a quiet machine.
constexpr double kFirstWaitSeconds = 0.002;
constexpr double kLongestWaitSeconds = 0.1;

constexpr double kQuitSeconds = 3;
constexpr StopPatience kDaemonPatience{.after_term_s = 2, .after_kill_s = 5};
constexpr double kUsersGraceSeconds = 2;

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  while (!text.empty() && (text.front() == '\n' || text.front() == ' ')) text.remove_prefix(1);
  return text;
}

std::string_view LastLine(std::string_view text) {
  text = Trim(text);
  const std::size_t end = text.rfind('\n');
  if (end != std::string_view::npos) text.remove_prefix(end + 1);
  return text.substr(0, kLastWordsMax);
}

// The folder of the program that runs.
std::string OwnFolder() {
  const std::string program = OwnProgramPath();
  return program.substr(0, program.rfind('/'));
}

// One process number a line; nothing at all is none.
Result<std::vector<int>> ParseProcesses(std::string_view text, std::string_view command) {
  std::vector<int> processes;
  text = Trim(text);
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = Trim(text.substr(0, end));
    int process = 0;
    const auto parsed = std::from_chars(line.data(), line.data() + line.size(), process);
    if (parsed.ec != std::errc() || parsed.ptr != line.data() + line.size()) {
      return Fail(ErrorCode::kUnavailable,
                  fmt::format("the mps control daemon answers {}: {}", command, line));
    }
    processes.push_back(process);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return processes;
}

Result<FileDescriptor> OpenOutput(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!file.valid()) return FailFromErrno(errno, fmt::format("making {}", path));
  return file;
}

}  // namespace

std::string FindMpsControl(const ChildEnvironment& environment, std::string_view program_folder) {
  const auto given = environment.Get("SUBLET_MPS_CONTROL");
  if (given && !given->empty()) return *given;
  const auto simulated = environment.Get("SUBLET_SIM");
  if (simulated && !simulated->empty()) {
    return fmt::format("{}/../lib/sublet-sim/nvidia-cuda-mps-control", program_folder);
  }
  return "nvidia-cuda-mps-control";
}

MpsDaemon::MpsDaemon(const MpsOptions& options, std::string program, PrivateFolder folder,
                     ChildProcess daemon)
    : options_(options),
      program_(std::move(program)),
      folder_(std::move(folder)),
      daemon_(std::move(daemon)) {}

MpsDaemon::~MpsDaemon() {
  static_cast<void>(Stop());
}

ChildEnvironment MpsDaemon::EnvironmentIn(const MpsOptions& options, const std::string& folder) {
  ChildEnvironment environment;
  // What a user's shell says about limits and devices would become the daemon's defaults.
  environment.UnsetPrefix("CUDA_");
  environment.Set("CUDA_VISIBLE_DEVICES", options.gpu_uuid);
  environment.Set("CUDA_MPS_PIPE_DIRECTORY", folder);
  environment.Set("CUDA_MPS_LOG_DIRECTORY", folder + "/logs");
  return environment;
}

Result<std::unique_ptr<MpsDaemon>> MpsDaemon::Start(const MpsOptions& options) {
  std::string program =
      options.program.empty() ? FindMpsControl(ChildEnvironment(), OwnFolder()) : options.program;
  ASSIGN_OR_RETURN(PrivateFolder folder, PrivateFolder::Make(options.parent_folder, kFolderPrefix));
  if (folder.path().size() + kLongestSocket.size() >= sizeof(sockaddr_un::sun_path)) {
    return Fail(ErrorCode::kUsage,
                fmt::format("too long a path for a socket: {}{}", folder.path(), kLongestSocket),
                "choose a folder with a shorter path");
  }
  const std::string logs = folder.path() + "/logs";
  if (::mkdir(logs.c_str(), 0700) != 0) return FailFromErrno(errno, "making " + logs);
  ASSIGN_OR_RETURN(const FileDescriptor output, OpenOutput(logs + "/output"));
  ChildOptions child;
  // In the foreground, so that it is our child and dies with us.
  child.argv = {program, "-f"};
  child.environment = EnvironmentIn(options, folder.path());
  child.descriptors = {{output.get(), STDOUT_FILENO}, {output.get(), STDERR_FILENO}};
  child.parent_death_signal = SIGTERM;  // On which it ends its servers, too.
  Result<ChildProcess> daemon = ChildProcess::Start(child);
  if (!daemon) {
    Error error = std::move(daemon).error();
    error.code = ErrorCode::kUnavailable;
    error.hint =
        "the NVIDIA driver brings nvidia-cuda-mps-control; in a container, its runtime must mount "
        "it (NVIDIA_DRIVER_CAPABILITIES=compute,utility)";
    return tl::unexpected<Error>(std::move(error).Prefixed("starting mps"));
  }
  std::unique_ptr<MpsDaemon> mps(
      new MpsDaemon(options, std::move(program), std::move(folder), std::move(*daemon)));
  RETURN_IF_ERROR(mps->AwaitAnswer());
  return mps;
}

Status MpsDaemon::AwaitAnswer() {
  const Deadline deadline = Deadline::In(options_.start_timeout_s);
  double wait_s = kFirstWaitSeconds;
  while (true) {
    const double left_s = std::min(options_.answer_timeout_s, deadline.SecondsLeft());
    const Result<Reply> reply = AskOnce("get_server_list", left_s);
    if (reply && reply->answered) {
      has_answered_ = true;
      return {};
    }
    if (const auto end = Pause(wait_s)) {
      return Fail(ErrorCode::kUnavailable,
                  fmt::format("the mps control daemon {}{}", DescribeEnd(*end), LastWords()));
    }
    if (Interrupted()) return Fail(ErrorCode::kUnavailable, "interrupted");
    if (deadline.Passed()) {
      return Fail(ErrorCode::kUnavailable,
                  fmt::format("the mps control daemon does not answer within {:g} s{}",
                              options_.start_timeout_s, LastWords()));
    }
    wait_s = std::min(wait_s * 2, kLongestWaitSeconds);
  }
}

// Waits, but not longer than the daemon lives or the user lets us; the end of the daemon, if it is.
std::optional<ChildEnd> MpsDaemon::Pause(double seconds) {
  std::array<pollfd, 2> fds = {{{daemon_.pidfd(), POLLIN, 0}, {InterruptFd(), POLLIN, 0}}};
  ::poll(fds.data(), fds.size(), Deadline::In(seconds).PollMilliseconds());
  return daemon_.Wait(Deadline::In(0));
}

Result<MpsDaemon::Reply> MpsDaemon::AskOnce(std::string_view command, double timeout_s) {
  ChildOptions child;
  child.argv = {program_};
  child.environment = EnvironmentIn(options_, folder_.path());
  ASSIGN_OR_RETURN(const CommandOutcome outcome,
                   RunCommand(std::move(child), fmt::format("{}\n", command),
                              {.timeout_s = timeout_s, .output_bytes_max = kLogBytesMax}));
  // What it can't do it says on either stream.
  Reply reply{std::string(Trim(outcome.out.empty() ? outcome.err : outcome.out))};
  reply.busy = reply.text.find(kBusy) != std::string::npos;
  reply.answered =
      outcome.end.Succeeded() && !reply.busy && reply.text.find(kNobodyThere) == std::string::npos;
  return reply;
}

Result<std::string> MpsDaemon::Ask(std::string_view command) {
  double wait_s = kBusyWaitSeconds;
  std::string text;
  for (int i = 0; i < kBusyTriesMax && !stopped_; ++i) {
    ASSIGN_OR_RETURN(Reply reply, AskOnce(command, options_.answer_timeout_s));
    if (reply.text.starts_with("Unknown command")) {
      return Fail(ErrorCode::kUnsupported,
                  fmt::format("the mps control daemon does not know {}", command),
                  "the driver is too old for this");
    }
    if (reply.answered) return std::move(reply.text);
    text = std::move(reply.text);
    if (!reply.busy || Interrupted() || Pause(wait_s)) break;
    wait_s *= 2;
  }
  return Fail(
      ErrorCode::kUnavailable,
      fmt::format("the mps control daemon does not answer {}: {}{}", command, text, LastWords()));
}

Result<int> MpsDaemon::StartServer() {
  RETURN_IF_ERROR(Ask(fmt::format("start_server -uid {}", ::geteuid())));
  const Deadline deadline = Deadline::In(options_.start_timeout_s);
  double wait_s = kFirstWaitSeconds;
  while (true) {
    ASSIGN_OR_RETURN(const std::vector<int> servers, Servers());
    if (!servers.empty()) return servers.back();
    if (Pause(wait_s) || Interrupted() || deadline.Passed()) {
      return Fail(ErrorCode::kUnavailable, "no mps server has started" + LastWords());
    }
    wait_s = std::min(wait_s * 2, kLongestWaitSeconds);
  }
}

Result<std::vector<int>> MpsDaemon::Servers() {
  constexpr std::string_view kCommand = "get_server_list";
  ASSIGN_OR_RETURN(const std::string text, Ask(kCommand));
  return ParseProcesses(text, kCommand);
}

Result<std::vector<int>> MpsDaemon::Clients(int server) {
  const std::string command = fmt::format("get_client_list {}", server);
  ASSIGN_OR_RETURN(const std::string text, Ask(command));
  return ParseProcesses(text, command);
}

Result<std::set<int>> MpsDaemon::AllClients() {
  std::set<int> clients;
  ASSIGN_OR_RETURN(const std::vector<int> servers, Servers());
  for (const int server : servers) {
    ASSIGN_OR_RETURN(const std::vector<int> of_server, Clients(server));
    clients.insert(of_server.begin(), of_server.end());
  }
  return clients;
}

Status MpsDaemon::TerminateClient(int server, int client) {
  RETURN_IF_ERROR(Ask(fmt::format("terminate_client {} {}", server, client)));
  return {};
}

Status MpsDaemon::SetDefaultPinnedLimit(Bytes limit) {
  RETURN_IF_ERROR(Ask(fmt::format("set_default_device_pinned_mem_limit 0 {}M", limit.mib())));
  ASSIGN_OR_RETURN(const std::string text, Ask("get_default_device_pinned_mem_limit 0"));
  const std::string expected =
      limit < 1_GiB ? fmt::format("{}M", limit.mib()) : fmt::format("{}G", limit.mib() >> 10);
  if (text == expected || text == fmt::format("{}M", limit.mib())) return {};
  return Fail(ErrorCode::kConflict,
              fmt::format("the mps memory limit was set to {}M and reads: {}", limit.mib(), text));
}

Status MpsDaemon::SetDefaultActiveThreadPercentage(int percent) {
  RETURN_IF_ERROR(Ask(fmt::format("set_default_active_thread_percentage {}", percent)));
  ASSIGN_OR_RETURN(const std::string text, Ask("get_default_active_thread_percentage"));
  double read = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), read);
  if (parsed.ec == std::errc() && read == percent) return {};
  return Fail(ErrorCode::kConflict,
              fmt::format("the mps thread percentage was set to {} and reads: {}", percent, text));
}

Status MpsDaemon::Stop() {
  if (std::exchange(stopped_, true)) return {};
  if (has_answered_ && !daemon_.Wait(Deadline::In(0))) {
    // With a client that doesn't listen it may not return; then the signals must do.
    static_cast<void>(AskOnce("quit", kQuitSeconds));
    static_cast<void>(daemon_.Wait(Deadline::In(kQuitSeconds)));
  }
  const bool daemon_ended = daemon_.Stop(kDaemonPatience).has_value();
  const std::string path = folder_.path();
  const bool users_ended = EndFolderUsers(path, kUsersGraceSeconds);
  folder_.Remove();
  if (daemon_ended && users_ended) return {};
  return Fail(ErrorCode::kUnavailable,
              fmt::format("processes of the mps control daemon in {} do not end", path),
              "a process that the driver holds ends only with the driver's call");
}

std::string MpsDaemon::LastWords() const {
  for (const char* name : {"/logs/control.log", "/logs/output"}) {
    const Result<std::string> log = ReadFile(folder_.path() + name, kLogBytesMax);
    if (!log) continue;
    const std::string_view words = LastLine(*log);
    if (!words.empty()) return fmt::format(": {}", words);
  }
  return "";
}

}  // namespace sublet
