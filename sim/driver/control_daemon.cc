#include "control_daemon.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "base/files.h"
#include "mps_wire.h"
#include "mps_words.h"
#include "process_rules.h"

namespace sublet::sim {
namespace {

constexpr int kDeviceUnavailable = 46;
constexpr int kNoDevice = 100;
constexpr int kRpcFailure = 806;
constexpr int kServerNotReady = 807;
constexpr int kRequestMs = 1'000;  // A client that says nothing for so long holds nobody else up.

std::int64_t NowMs() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

int NumberIn(const std::vector<std::string>& words, std::size_t index) {
  return index < words.size() ? std::atoi(words[index].c_str()) : 0;
}

void AppendTo(const std::string& path, const std::string& text) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) return;  // Without a log the daemon still works.
  static_cast<void>(::write(file, text.data(), text.size()) + 1);
  ::close(file);
}

}  // namespace

ControlDaemon::ControlDaemon(std::string folder, std::string logs, std::string program)
    : folder_(std::move(folder)), logs_(std::move(logs)), program_(std::move(program)) {}

Result<std::unique_ptr<ControlDaemon>> ControlDaemon::Open(const std::string& pipe_directory,
                                                           const std::string& log_directory,
                                                           const std::string& program) {
  std::unique_ptr<ControlDaemon> daemon(new ControlDaemon(pipe_directory, log_directory, program));
  RETURN_IF_ERROR(daemon->Prepare());
  RETURN_IF_ERROR(daemon->EnterTable());
  daemon->Log("control.log", "Control",
              fmt::format("Starting control daemon using socket {}/control", pipe_directory));
  return daemon;
}

Status ControlDaemon::Prepare() {
  for (const std::string& path : {folder_, logs_}) {
    if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
      return FailFromErrno(errno, fmt::format("making {}", path));
    }
  }
  const std::string lock = folder_ + "/control_lock";
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) return FailFromErrno(errno, fmt::format("opening {}", lock));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    return Fail(ErrorCode::kConflict, "An instance of this daemon is already running");
  }
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT}) ::sigaddset(&signals, signal);
  signals_ = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  control_ = ListenAt(folder_ + "/control", 0666);
  privileged_ = ListenAt(folder_ + "/control_privileged", 0755);
  if (control_ < 0 || privileged_ < 0 || signals_ < 0) {
    return FailFromErrno(errno, fmt::format("listening in {}", folder_));
  }
  const std::string fifo = folder_ + "/log";
  if (::mkfifo(fifo.c_str(), 0644) != 0 && errno != EEXIST) {
    return FailFromErrno(errno, fmt::format("making {}", fifo));
  }
  return {};
}

// Lets clients find us, and find that we are of the simulation.
Status ControlDaemon::EnterTable() {
  ASSIGN_OR_RETURN(driver_, Driver::Start());
  devices_ = VisibleDevices(*driver_, std::getenv("CUDA_VISIBLE_DEVICES"));
  ASSIGN_OR_RETURN(host_, CardHost::Open(driver_->folder(), driver_->node()));
  struct stat status {};
  if (::stat(folder_.c_str(), &status) != 0) {
    return FailFromErrno(errno, fmt::format("looking at {}", folder_));
  }
  const CardHost::Locked lock(*host_);
  for (int i = 0; i < kMpsServersMax && entry_ < 0; ++i) {
    MpsDaemonEntry& entry = host_->table().daemons[i];
    if (entry.pid != 0 && StartTimeOf(entry.pid) == entry.started) continue;
    entry = {::getpid(), StartTimeOf(::getpid()), status.st_dev, status.st_ino};
    entry_ = i;
  }
  if (entry_ < 0) return Fail(ErrorCode::kConflict, "too many control daemons");
  // Last, so that who finds it finds all the rest.
  return WriteFileAtomically(folder_ + "/nvidia-cuda-mps-control.pid",
                             fmt::format("{}\n", ::getpid()));
}

// As the real one: the sockets stay, the number and the pipe go.
ControlDaemon::~ControlDaemon() {
  for (Server& server : servers_) EndServer(server);
  for (const int file : {control_, privileged_, signals_}) {
    if (file >= 0) ::close(file);
  }
  for (const Client& client : clients_) ::close(client.socket);
  if (entry_ >= 0) {
    ::unlink((folder_ + "/nvidia-cuda-mps-control.pid").c_str());
    ::unlink((folder_ + "/log").c_str());
    const CardHost::Locked lock(*host_);
    host_->table().daemons[entry_] = {};
  }
  if (lock_ >= 0) ::close(lock_);
}

void ControlDaemon::Log(const char* file, const char* who, std::string_view text) const {
  const std::time_t now = std::time(nullptr);
  AppendTo(fmt::format("{}/{}", logs_, file),
           fmt::format("[{:%Y-%m-%d %H:%M:%S}.000 {} {}] {}\n", fmt::localtime(now), who,
                       ::getpid(), text));
}

// ---- the loop -----------------------------------------------------------------------------------

Status ControlDaemon::Serve() {
  std::vector<pollfd> sockets;
  while (!done_) {
    Wait(sockets);
    for (const pollfd& one : sockets) {
      if (one.revents == 0) continue;
      if (one.fd == control_ || one.fd == privileged_) {
        Accept(one.fd);
        continue;
      }
      if (one.fd == signals_) {
        signalfd_siginfo signal{};
        while (::read(signals_, &signal, sizeof signal) == sizeof signal) {
          if (signal.ssi_signo != SIGCHLD) done_ = true;
        }
        ServersThatEnded();
        continue;
      }
      // A client says nothing more; what comes is its end.
      const auto client = std::ranges::find(clients_, one.fd, &Client::socket);
      if (client != clients_.end()) Leave(static_cast<std::size_t>(client - clients_.begin()));
    }
    if (quitting_ && clients_.empty()) done_ = true;
    if (quit_by_ms_ && NowMs() >= *quit_by_ms_) {
      while (!clients_.empty()) Terminate(clients_.back().server_pid, clients_.back().pid);
      done_ = true;
    }
  }
  Log("control.log", "Control", "Exiting");
  return {};
}

void ControlDaemon::Wait(std::vector<pollfd>& sockets) {
  sockets.clear();
  for (const int file : {control_, privileged_, signals_}) sockets.push_back({file, POLLIN, 0});
  for (const Client& client : clients_) sockets.push_back({client.socket, POLLIN, 0});
  int timeout_ms = -1;
  if (quit_by_ms_) timeout_ms = static_cast<int>(std::max<std::int64_t>(0, *quit_by_ms_ - NowMs()));
  if (::poll(sockets.data(), sockets.size(), timeout_ms) < 0) {
    for (pollfd& one : sockets) one.revents = 0;
  }
}

void ControlDaemon::Accept(int listener) {
  const int socket = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (socket < 0) return;
  std::vector<std::string> words = Words(ReadLine(socket, kRequestMs));
  if (words.empty()) {
    ::close(socket);
    return;
  }
  const std::string kind = words.front();
  words.erase(words.begin());
  if (kind == "client") {
    const std::string answer = Join(socket, words);
    SendText(socket, answer + "\n");
    if (answer.starts_with("joined")) return;
  } else {
    SendText(socket, Answer(words));
  }
  ::close(socket);
}

// ---- commands -----------------------------------------------------------------------------------

std::string ControlDaemon::Answer(const std::vector<std::string>& words) {
  const std::string verb = words.empty() ? "" : words[0];
  Log("control.log", "Control", fmt::format("Accepting command {}", verb));
  if (verb == "get_server_list") {
    std::string list;
    for (const Server& server : servers_) list += fmt::format("{}\n", server.pid);
    return list;
  }
  if (verb == "start_server") {
    return StartServer() == nullptr ? "Failed to start server\n" : "";
  }
  if (verb == "ps") return Ps(words);
  if (verb == "quit") return QuitBy(words);
  if (verb == "get_device_client_list") {
    std::string list;
    for (const SimDevice& device : devices_) {
      for (const Client& client : clients_) {
        const bool here = &device == &devices_[static_cast<std::size_t>(client.device)];
        if (here) list += fmt::format("{} {}\n", device.uuid, client.pid);
      }
    }
    return list;
  }
  if (verb == "terminate_client") {
    return Terminate(NumberIn(words, 1), NumberIn(words, 2)) ? "" : "Client not found\n";
  }
  if (verb.find("_default_") != std::string::npos) return SetDefault(verb, words);
  return AnswerAboutServer(verb, words);
}

std::string ControlDaemon::SetDefault(const std::string& verb,
                                      const std::vector<std::string>& words) {
  if (verb == "set_default_active_thread_percentage") {
    const auto percent = words.size() == 2 ? ParsePercent(words[1]) : std::nullopt;
    if (!percent) return "Invalid percentage value\n";
    defaults_.sm_percent = *percent;
    return fmt::format("{:.1f}\n", *percent);
  }
  if (verb == "get_default_active_thread_percentage") {
    return fmt::format("{:.1f}\n", defaults_.sm_percent);
  }
  const int device = NumberIn(words, 1);
  if (verb == "set_default_device_pinned_mem_limit") {
    const auto limit = words.size() == 3 ? ParseMpsLimit(words[2]) : std::nullopt;
    if (!limit) return "Invalid memory limit\n";
    defaults_.memory[device] = *limit;
    return "";
  }
  if (verb == "get_default_device_pinned_mem_limit") {
    const auto limit = defaults_.memory.find(device);
    return limit == defaults_.memory.end() ? "" : FormatMpsLimit(limit->second) + "\n";
  }
  return fmt::format("Unknown command \"{}\"\n", verb);
}

std::string ControlDaemon::AnswerAboutServer(const std::string& verb,
                                             const std::vector<std::string>& words) {
  constexpr std::string_view kVerbs[] = {"get_server_status",
                                         "get_client_list",
                                         "shutdown_server",
                                         "get_device_pinned_mem_limit",
                                         "set_device_pinned_mem_limit",
                                         "set_active_thread_percentage",
                                         "get_active_thread_percentage"};
  if (std::ranges::find(kVerbs, verb) == std::end(kVerbs)) {
    return fmt::format("Unknown command \"{}\"\n", verb);
  }
  Server* const server = FindServer(NumberIn(words, 1));
  if (server == nullptr) return "Server not found\n";
  if (verb == "get_server_status") return "ACTIVE\n";
  if (verb == "get_client_list") {
    std::string list;
    for (const Client& client : clients_) {
      if (client.server_pid == server->pid) list += fmt::format("{}\n", client.pid);
    }
    return list;
  }
  if (verb == "shutdown_server") {
    server->ending = true;
    const bool now = words.size() > 2 && words[2] == "-f";
    if (now || ClientsOf(server->pid) == 0) ::kill(server->pid, SIGKILL);
    return "";
  }
  if (verb == "set_active_thread_percentage") {
    const auto percent = words.size() == 3 ? ParsePercent(words[2]) : std::nullopt;
    if (!percent) return "Invalid percentage value\n";
    server->limits.sm_percent = *percent;
  }
  if (verb.ends_with("percentage")) return fmt::format("{:.1f}\n", server->limits.sm_percent);
  const int device = NumberIn(words, 2);
  if (verb == "set_device_pinned_mem_limit") {
    const auto limit = words.size() == 4 ? ParseMpsLimit(words[3]) : std::nullopt;
    if (!limit) return "Invalid memory limit\n";
    server->limits.memory[device] = *limit;
    return "";
  }
  const auto limit = server->limits.memory.find(device);
  return limit == server->limits.memory.end() ? "" : FormatMpsLimit(limit->second) + "\n";
}

std::string ControlDaemon::Ps(const std::vector<std::string>& words) const {
  const int only = words.size() == 3 && words[1] == "-p" ? NumberIn(words, 2) : 0;
  std::string list = "PID       ID    SERVER    DEVICE             NAMESPACE      COMMAND\n";
  for (const Client& client : clients_) {
    if (only != 0 && client.pid != only) continue;
    struct stat space {};
    ::stat(fmt::format("/proc/{}/ns/pid", client.pid).c_str(), &space);
    Result<std::string> command = ReadFile(fmt::format("/proc/{}/cmdline", client.pid), 1 << 20);
    const std::string name = command ? std::string(command->c_str()) : "";
    const std::string& uuid = devices_[static_cast<std::size_t>(client.device)].uuid;
    list += fmt::format("{:<9} {:<5} {:<9} {:<18} {:<14} {}\n", client.pid, client.number,
                        client.server_pid, uuid.substr(0, 16), space.st_ino, name);
  }
  return list;
}

// Without -t the daemon ends when its clients have gone.
std::string ControlDaemon::QuitBy(const std::vector<std::string>& words) {
  quitting_ = true;
  if (words.size() == 3 && words[1] == "-t") quit_by_ms_ = NowMs() + 1000 * NumberIn(words, 2);
  return "";
}

// ---- servers ------------------------------------------------------------------------------------

ControlDaemon::Server* ControlDaemon::FindServer(int pid) {
  const auto it = std::ranges::find(servers_, pid, &Server::pid);
  return it == servers_.end() ? nullptr : &*it;
}

ControlDaemon::Server* ControlDaemon::StartServer() {
  for (Server& server : servers_) {
    if (!server.ending) return &server;
  }
  Server server;
  server.limits = defaults_;
  std::string name = "nvidia-cuda-mps-server";
  char* const arguments[] = {name.data(), nullptr};
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  const int code =
      ::posix_spawn(&server.pid, program_.c_str(), nullptr, &attributes, arguments, environ);
  ::posix_spawnattr_destroy(&attributes);
  if (code != 0) return nullptr;
  {
    const CardHost::Locked lock(*host_);
    const auto place = std::ranges::find_if(host_->table().servers, [](const auto& entry) {
      return entry.pid == 0 || StartTimeOf(entry.pid) != entry.started;
    });
    if (place == std::end(host_->table().servers)) {
      ::kill(server.pid, SIGKILL);
      return nullptr;
    }
    *place = {server.pid, StartTimeOf(server.pid)};
    server.index = static_cast<int>(place - host_->table().servers);
  }
  Log("server.log", "Server", fmt::format("Started server {}", server.pid));
  servers_.push_back(std::move(server));
  return &servers_.back();
}

// The process is gone or goes; what its clients do from now on fails.
void ControlDaemon::EndServer(Server& server) {
  ::kill(server.pid, SIGKILL);
  ::waitpid(server.pid, nullptr, 0);
  const CardHost::Locked lock(*host_);
  host_->clock().ForEachProcess([&](CardProcess& process) {
    for (const CardContext& context : process.contexts) {
      if (!context.used || context.server_pid != server.pid || context.error != 0) continue;
      host_->clock().Break(context, kRpcFailure, 0);
    }
  });
  host_->table().servers[server.index] = {};
  host_->Advance();
}

void ControlDaemon::ServersThatEnded() {
  for (std::size_t i = servers_.size(); i-- > 0;) {
    siginfo_t end{};
    const int id = servers_[i].pid;
    if (::waitid(P_PID, static_cast<id_t>(id), &end, WEXITED | WNOHANG | WNOWAIT) != 0) continue;
    if (end.si_pid != id) continue;
    Log("server.log", "Server", fmt::format("Server {} exited", id));
    EndServer(servers_[i]);
    servers_.erase(servers_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

// The server's own memory on a GPU, from its first client there on.
bool ControlDaemon::TakeMemory(const Server& server, int device) {
  const Target& target = devices_[static_cast<std::size_t>(device)].target;
  ProcessState process;
  process.pid = server.pid;
  process.started = StartTimeOf(server.pid);
  process.gpu = target.gpu;
  process.gpu_instance = target.gpu_instance;
  process.compute_instance = target.compute_instance;
  process.memory = kMpsServerMemory;
  return driver_->Update([&](SimState& state) {
    const bool there = std::ranges::any_of(state.processes, [&](const ProcessState& other) {
      return other.pid == process.pid && other.gpu == process.gpu &&
             other.gpu_instance == process.gpu_instance;
    });
    if (there) return nvml::kSuccess;
    const nvml::Return code = Admit(driver_->node(), state, process);
    if (code == nvml::kSuccess) state.processes.push_back(process);
    return code;
  }) == nvml::kSuccess;
}

// ---- clients ------------------------------------------------------------------------------------

int ControlDaemon::ClientsOf(int server_pid) const {
  return static_cast<int>(std::ranges::count(clients_, server_pid, &Client::server_pid));
}

std::string ControlDaemon::Join(int socket, const std::vector<std::string>& words) {
  const auto refuse = [&](int code) {
    Log("control.log", "Control", fmt::format("Refused a client with {}", code));
    return fmt::format("refused {}", code);
  };
  if (quitting_ || words.size() != 2) return refuse(kServerNotReady);
  const auto device = std::ranges::find(devices_, words[1], &SimDevice::uuid);
  if (device == devices_.end()) return refuse(kNoDevice);
  Server* const server = StartServer();
  if (server == nullptr) return refuse(kServerNotReady);
  const int number = static_cast<int>(device - devices_.begin());
  if (ClientsOf(server->pid) >= kMpsClientsMax || !TakeMemory(*server, number)) {
    return refuse(kDeviceUnavailable);
  }
  clients_.push_back({socket, NumberIn(words, 0), next_number_++, server->pid, number});
  Log("server.log", "Server", fmt::format("New client {} connected", words[0]));
  const auto limit = server->limits.memory.find(number);
  return fmt::format("joined {} {} {} {}", server->index, server->pid, server->limits.sm_percent,
                     limit == server->limits.memory.end() ? -1 : limit->second.count);
}

void ControlDaemon::Leave(std::size_t client) {
  const Client gone = clients_[client];
  ::close(gone.socket);
  clients_.erase(clients_.begin() + static_cast<std::ptrdiff_t>(client));
  Log("server.log", "Server", fmt::format("Client {} disconnected", gone.pid));
  Server* const server = FindServer(gone.server_pid);
  if (server == nullptr || !server->ending || ClientsOf(server->pid) > 0) return;
  ::kill(server->pid, SIGKILL);
}

// The client's contexts fail; its neighbours stand still for a moment.
bool ControlDaemon::Terminate(int server_pid, int client_pid) {
  constexpr int kClientTerminated = 810;
  const auto it = std::ranges::find_if(clients_, [&](const Client& client) {
    return client.pid == client_pid && client.server_pid == server_pid;
  });
  if (it == clients_.end()) return false;
  {
    const CardHost::Locked lock(*host_);
    CardProcess* const process = host_->FindProcess(client_pid);
    for (int i = 0; process != nullptr && i < kCardContextsMax; ++i) {
      if (process->contexts[i].used && process->contexts[i].server_pid == server_pid) {
        host_->clock().BreakOne(*process, i, kClientTerminated, kTerminatePauseNs);
      }
    }
    host_->Advance();
  }
  Leave(static_cast<std::size_t>(it - clients_.begin()));
  return true;
}

}  // namespace sublet::sim
