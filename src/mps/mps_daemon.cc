#include "mps/mps_daemon.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/interrupt.h"
#include "mps/folder_users.h"

namespace sublet {
namespace {

constexpr std::size_t kAnswerBytesMax = 1u << 20;  // Thousands of clients, a line each.

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

PipeFolderUsers UsersOf(const MpsOptions& options) {
  return options.any_user ? PipeFolderUsers::kAll : PipeFolderUsers::kOwner;
}

// A folder of the options' choice, or a private one.
Result<PipeFolder> MakeFolder(const MpsOptions& options) {
  if (options.folder.empty()) return PipeFolder::MakePrivate(options.parent_folder);
  return PipeFolder::MakeNamed(options.folder, options.run_as, UsersOf(options));
}

tl::unexpected<Error> FailForThoseLeft(const std::string& folder) {
  return Fail(ErrorCode::kUnavailable,
              fmt::format("processes of the mps control daemon in {} do not end", folder),
              "a process that the driver holds ends only with the driver's call");
}

std::string ProgramOf(const MpsOptions& options) {
  return options.program.empty() ? FindMpsControl(ChildEnvironment(), OwnFolder())
                                 : options.program;
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

MpsDaemon::MpsDaemon(const MpsOptions& options, PipeFolder folder)
    : options_(options), program_(ProgramOf(options)), folder_(std::move(folder)) {}

MpsDaemon::~MpsDaemon() {
  if (!options_.outlives_owner) {
    static_cast<void>(Stop());
  } else if (child_) {
    static_cast<void>(std::move(*child_).Release());
  }
}

ChildEnvironment MpsDaemon::EnvironmentIn(const MpsOptions& options, const PipeFolder& folder) {
  ChildEnvironment environment;
  // What a user's shell says about limits and devices would become the daemon's defaults.
  environment.UnsetPrefix("CUDA_");
  for (const auto& [name, value] : options.variables) environment.Set(name, value);
  environment.Set("CUDA_VISIBLE_DEVICES", options.gpu_uuid);
  environment.Set("CUDA_MPS_PIPE_DIRECTORY", folder.path());
  environment.Set("CUDA_MPS_LOG_DIRECTORY", folder.log_directory());
  return environment;
}

uid_t MpsDaemon::User() const {
  return options_.run_as ? options_.run_as->uid : ::geteuid();
}

Result<std::unique_ptr<MpsDaemon>> MpsDaemon::Start(const MpsOptions& options) {
  CHECK(!options.folder.empty() ||
        (!options.outlives_owner && !options.run_as && !options.any_user));
  ASSIGN_OR_RETURN(PipeFolder folder, MakeFolder(options));
  std::unique_ptr<MpsDaemon> mps(new MpsDaemon(options, std::move(folder)));
  const int output = mps->folder_.output().get();
  ChildOptions child;
  // In the foreground, so that it is our child.
  child.argv = {mps->program_, "-f"};
  if (options.any_user) child.argv.emplace_back("-M");
  child.environment = EnvironmentIn(options, mps->folder_);
  child.descriptors = {{output, STDOUT_FILENO}, {output, STDERR_FILENO}};
  // On SIGTERM it ends its servers, too.
  child.parent_death_signal = options.outlives_owner ? 0 : SIGTERM;
  child.new_session = options.outlives_owner;
  child.user = options.run_as;
  Result<ChildProcess> started = ChildProcess::Start(child);
  if (!started) {
    mps->stopped_ = true;
    static_cast<void>(mps->folder_.Remove());
    Error error = std::move(started).error();
    error.code = ErrorCode::kUnavailable;
    error.hint =
        "the NVIDIA driver brings nvidia-cuda-mps-control; in a container, its runtime must mount "
        "it (NVIDIA_DRIVER_CAPABILITIES=compute,utility)";
    return tl::unexpected<Error>(std::move(error).Prefixed("starting mps"));
  }
  mps->child_.emplace(std::move(*started));
  // Until it is reaped its number is its own, also where it has ended already.
  Result<ProcessIdentity> identity = ProcessIdentity::Of(mps->child_->pid());
  if (identity) mps->identity_ = *identity;
  Status ready = identity ? mps->AwaitAnswer() : Status(tl::unexpected(identity.error()));
  if (ready) ready = mps->SetLimits();
  if (ready) return mps;
  static_cast<void>(mps->Stop());  // What hasn't begun outlives nobody.
  return tl::unexpected<Error>(std::move(ready).error());
}

Result<std::unique_ptr<MpsDaemon>> MpsDaemon::Adopt(const MpsOptions& options,
                                                    const ProcessIdentity& identity) {
  CHECK(!options.folder.empty() && options.outlives_owner);
  ASSIGN_OR_RETURN(ProcessHandle process, ProcessHandle::Open(identity));
  Result<PipeFolder> folder =
      PipeFolder::OpenNamed(options.folder, options.run_as, UsersOf(options));
  if (!folder) {
    Error error = std::move(folder).error();
    error.code = ErrorCode::kNotFound;
    return tl::unexpected<Error>(std::move(error));
  }
  std::unique_ptr<MpsDaemon> mps(new MpsDaemon(options, std::move(*folder)));
  mps->identity_ = identity;
  mps->adopted_.emplace(std::move(process));
  RETURN_IF_ERROR(mps->Ask("get_server_list"));
  mps->has_answered_ = true;
  RETURN_IF_ERROR(mps->ConfirmLimits());
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
    if (Pause(wait_s)) {
      return Fail(ErrorCode::kUnavailable,
                  fmt::format("the mps control daemon {}{}", DescribeDaemonEnd(), LastWords()));
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

Status MpsDaemon::SetLimits() {
  if (options_.memory_limit) RETURN_IF_ERROR(SetDefaultPinnedLimit(*options_.memory_limit));
  if (options_.sm_percent) RETURN_IF_ERROR(SetDefaultActiveThreadPercentage(*options_.sm_percent));
  return {};
}

bool MpsDaemon::AwaitEnd(double seconds) {
  pollfd ended{pidfd(), POLLIN, 0};
  const Deadline deadline = Deadline::In(seconds);
  int ready = 0;
  do {
    ready = ::poll(&ended, 1, deadline.PollMilliseconds());
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

bool MpsDaemon::Pause(double seconds) {
  std::array<pollfd, 2> fds = {{{pidfd(), POLLIN, 0}, {InterruptFd(), POLLIN, 0}}};
  ::poll(fds.data(), fds.size(), Deadline::In(seconds).PollMilliseconds());
  return AwaitEnd(0);
}

std::string MpsDaemon::DescribeDaemonEnd() {
  const std::optional<ChildEnd> end = child_ ? child_->Wait(Deadline::In(0)) : std::nullopt;
  return end ? DescribeEnd(*end) : "has ended";
}

Result<MpsDaemon::Reply> MpsDaemon::AskOnce(std::string_view command, double timeout_s) {
  ChildOptions child;
  child.argv = {program_};
  child.environment = EnvironmentIn(options_, folder_);
  child.user = options_.run_as;
  ASSIGN_OR_RETURN(const CommandOutcome outcome,
                   RunCommand(std::move(child), fmt::format("{}\n", command),
                              {.timeout_s = timeout_s, .output_bytes_max = kAnswerBytesMax}));
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
  RETURN_IF_ERROR(Ask(fmt::format("start_server -uid {}", User())));
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
  const std::string command = fmt::format("terminate_client {} {}", server, client);
  ASSIGN_OR_RETURN(const std::string text, Ask(command));
  if (text == "0") return {};
  return Fail(ErrorCode::kNotFound, fmt::format("mps answers {}: {}", command, text));
}

Result<MpsServerState> MpsDaemon::ServerState(int server) {
  ASSIGN_OR_RETURN(const std::string text, Ask(fmt::format("get_server_status {}", server)));
  if (text.find("ACTIVE") != std::string::npos) return MpsServerState::kActive;
  if (text.find("INITIALIZING") != std::string::npos) return MpsServerState::kInitialising;
  if (text.find("FAULT") != std::string::npos) return MpsServerState::kFault;
  return MpsServerState::kUnknown;
}

Status MpsDaemon::SetDefaultPinnedLimit(Bytes limit) {
  RETURN_IF_ERROR(Ask(fmt::format("set_default_device_pinned_mem_limit 0 {}M", limit.mib())));
  return ConfirmPinnedLimit(limit);
}

Status MpsDaemon::ConfirmPinnedLimit(Bytes limit) {
  ASSIGN_OR_RETURN(const std::string text, Ask("get_default_device_pinned_mem_limit 0"));
  const std::string expected =
      limit < 1_GiB ? fmt::format("{}M", limit.mib()) : fmt::format("{}G", limit.mib() >> 10);
  if (text == expected || text == fmt::format("{}M", limit.mib())) return {};
  return Fail(ErrorCode::kConflict,
              fmt::format("the mps memory limit was set to {}M and reads: {}", limit.mib(), text));
}

Status MpsDaemon::SetDefaultActiveThreadPercentage(int percent) {
  RETURN_IF_ERROR(Ask(fmt::format("set_default_active_thread_percentage {}", percent)));
  return ConfirmActiveThreadPercentage(percent);
}

Status MpsDaemon::ConfirmActiveThreadPercentage(int percent) {
  ASSIGN_OR_RETURN(const std::string text, Ask("get_default_active_thread_percentage"));
  double read = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), read);
  if (parsed.ec == std::errc() && read == percent) return {};
  return Fail(ErrorCode::kConflict,
              fmt::format("the mps thread percentage was set to {} and reads: {}", percent, text));
}

Status MpsDaemon::ConfirmLimits() {
  if (options_.memory_limit) RETURN_IF_ERROR(ConfirmPinnedLimit(*options_.memory_limit));
  if (options_.sm_percent) {
    RETURN_IF_ERROR(ConfirmActiveThreadPercentage(*options_.sm_percent));
  }
  return {};
}

// Whether it has ended.
bool MpsDaemon::EndDaemon() {
  if (has_answered_ && !AwaitEnd(0)) {
    // With a client that doesn't listen it may not return; then the signals must do. Without the
    // time the daemon would wait for its clients and hear nobody meanwhile.
    const Result<Reply> quit = AskOnce("quit -t 1", kQuitSeconds);
    if (quit && quit->answered) AwaitEnd(kQuitSeconds);
  }
  if (child_) return child_->Stop(kDaemonPatience).has_value();
  static_cast<void>(adopted_->Signal(SIGTERM));
  if (AwaitEnd(kDaemonPatience.after_term_s)) return true;
  static_cast<void>(adopted_->Signal(SIGKILL));
  return AwaitEnd(kDaemonPatience.after_kill_s);
}

Status MpsDaemon::Stop() {
  if (std::exchange(stopped_, true)) return {};
  const bool daemon_ended = EndDaemon();
  const std::string path = folder_.path();
  const bool users_ended = EndFolderUsers(path, kUsersGraceSeconds);
  const Status removed = folder_.Remove();
  if (!daemon_ended || !users_ended) return FailForThoseLeft(path);
  return removed;
}

std::string MpsDaemon::LastWords() const {
  const std::string words = folder_.LastWords();
  return words.empty() ? "" : fmt::format(": {}", words);
}

Status EndLeftovers(const std::string& folder, const std::optional<UserIds>& run_as) {
  ASSIGN_OR_RETURN(std::optional<PipeFolder> left, PipeFolder::FindLeft(folder, run_as));
  constexpr double kGraceSeconds = 0;
  if (!EndFolderUsers(folder, kGraceSeconds)) return FailForThoseLeft(folder);
  return left ? left->Remove() : Status();
}

}  // namespace sublet
