#include "control_daemon.h"

#include <fcntl.h>
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
#include <ctime>

#include "base/files.h"
#include "mps_wire.h"
#include "mps_words.h"
#include "process_rules.h"

namespace sublet::sim {
namespace {

// CUDA's codes.
constexpr int kDeviceUnavailable = 46;
constexpr int kNoDevice = 100;
constexpr int kConnectionFailed = 805;
constexpr int kServerNotReady = 807;
constexpr int kMaxClientsReached = 808;

constexpr int kRequestMs = 1'000;  // A client that says nothing for so long holds nobody else up.

int NumberIn(const std::vector<std::string>& words, std::size_t index) {
  return index < words.size() ? std::atoi(words[index].c_str()) : 0;
}

}  // namespace

std::int64_t ControlDaemon::NowMs() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

ControlDaemon::ControlDaemon(std::string folder, MpsLog log, std::string program)
    : folder_(std::move(folder)), log_(std::move(log)), program_(std::move(program)) {}

Result<std::unique_ptr<ControlDaemon>> ControlDaemon::Open(const std::string& pipe_directory,
                                                           MpsLog log, const std::string& program) {
  std::unique_ptr<ControlDaemon> daemon(new ControlDaemon(pipe_directory, std::move(log), program));
  RETURN_IF_ERROR(daemon->Prepare());
  RETURN_IF_ERROR(daemon->EnterTable());
  daemon->log_.Control(
      fmt::format("Starting control daemon using socket {}/control", pipe_directory));
  daemon->log_.Control(
      fmt::format("To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={}",
                  pipe_directory));
  daemon->log_.Control("CUDA MPS Control binary version: 13000");
  return daemon;
}

Status ControlDaemon::Prepare() {
  if (::mkdir(folder_.c_str(), 0755) != 0 && errno != EEXIST) {
    return FailFromErrno(errno, fmt::format("making {}", folder_));
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

// As the real one: the sockets stay, the number and the pipe go; those stay, too, where a signal
// ended it.
ControlDaemon::~ControlDaemon() {
  for (Server& server : servers_) EndServer(server);
  for (const int file : {control_, privileged_, signals_}) {
    if (file >= 0) ::close(file);
  }
  for (const Client& client : clients_) ::close(client.socket);
  for (const int socket : held_) ::close(socket);
  if (entry_ >= 0) {
    if (quitting_) {
      ::unlink((folder_ + "/nvidia-cuda-mps-control.pid").c_str());
      ::unlink((folder_ + "/log").c_str());
    }
    const CardHost::Locked lock(*host_);
    host_->table().daemons[entry_] = {};
  }
  if (lock_ >= 0) ::close(lock_);
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
    if (!clients_.empty()) LookForFaults();
    if (quitting_) EndQuitting();
  }
  if (quitting_) log_.Control("Exit with status 0");
  return {};
}

void ControlDaemon::EndQuitting() {
  if (clients_.empty()) {
    for (const Server& server : servers_) {
      log_.Server(server.pid, "Exiting");
      log_.Control(fmt::format("Server {} exited with status 0", server.pid));
    }
    done_ = true;
  } else if (quit_by_ms_ && NowMs() >= *quit_by_ms_) {
    for (const Server& server : servers_) {
      log_.Control(fmt::format("Force shutting down server {}", server.pid));
    }
    done_ = true;
  }
}

void ControlDaemon::Wait(std::vector<pollfd>& sockets) {
  sockets.clear();
  for (const int file : {control_, privileged_, signals_}) sockets.push_back({file, POLLIN, 0});
  for (const Client& client : clients_) sockets.push_back({client.socket, POLLIN, 0});
  int timeout_ms = clients_.empty() ? -1 : kLookMs;
  if (quit_by_ms_) {
    timeout_ms = static_cast<int>(std::clamp<std::int64_t>(*quit_by_ms_ - NowMs(), 0, kLookMs));
  }
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
  log_.Control("Accepting connection...");
  if (kind == "client" && words.size() == 3) {
    ucred peer{};
    socklen_t size = sizeof peer;
    ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    const std::string answer =
        Join(socket, {NumberIn(words, 0), words[1], NumberIn(words, 2), peer.uid});
    SendText(socket, answer + "\n");
    if (!answer.starts_with("joined")) ::close(socket);
    return;
  }
  log_.Control("NEW UI");
  static_cast<void>(driver_->Meet("mpsCommand"));
  // It serves one at a time, and `quit` waits.
  const bool waits = quitting_ && !quit_by_ms_;
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + word;
  if (!waits) log_.Control("Cmd:" + line);
  const std::string answer = waits ? "" : Answer(words);
  if (quitting_ && !quit_by_ms_ && !clients_.empty()) {
    held_.push_back(socket);
    return;
  }
  if (!answer.empty()) log_.Control(answer.substr(0, answer.size() - 1));
  SendText(socket, answer);
  log_.Control("UI closed");
  ::close(socket);
}

// ---- clients ------------------------------------------------------------------------------------

int ControlDaemon::ClientsOf(int server_pid) const {
  return static_cast<int>(std::ranges::count(clients_, server_pid, &Client::server_pid));
}

// CUDA's code, or 0.
int ControlDaemon::RefusalOf(const Request& request) {
  if (quitting_) return kConnectionFailed;
  if (request.uid != ::geteuid() && ::geteuid() != 0) {
    log_.Control(fmt::format("Failed to start server using uid {}, error: Operation not permitted",
                             request.uid));
    return kConnectionFailed;
  }
  if (const nvml::Return code = driver_->Meet("mpsConnect"); code != nvml::kSuccess) return code;
  const bool served = std::ranges::count(devices_, request.device, &SimDevice::uuid) > 0;
  return served ? 0 : kNoDevice;
}

int ControlDaemon::RefusalBy(const Server& server, const Request& request) const {
  if (server.faulted) {
    const std::string client = fmt::format("{{PID: {}, Context ID: 0}}", request.pid);
    log_.Server(server.pid,
                fmt::format("Server teardown in progress. Refusing to accept new client "
                            "{}",
                            client));
    log_.Server(server.pid,
                fmt::format("Failed to accept client {} with status {}", client, kServerNotReady));
    return kServerNotReady;
  }
  if (ClientsOf(server.pid) >= kMpsClientsMax) {
    log_.Server(server.pid, fmt::format("Failed to accept new client. Maximum number of clients "
                                        "({}) reached.",
                                        kMpsClientsMax));
    return kMaxClientsReached;
  }
  return 0;
}

std::string ControlDaemon::Join(int socket, const Request& request) {
  log_.Control("User did not send valid credentials");
  if (const int code = RefusalOf(request); code != 0) return fmt::format("refused {}", code);
  const bool fresh = std::ranges::all_of(servers_, &Server::ending);
  log_.Control(fmt::format(
      "NEW CLIENT {} from user {}: {}", request.pid, request.uid,
      fresh ? "Server is not ready, push client to pending list" : "Server already exists"));
  Server* const server = StartServer(request.uid);
  if (server == nullptr) return fmt::format("refused {}", kServerNotReady);
  LookForFaults();
  if (const int code = RefusalBy(*server, request); code != 0) {
    return fmt::format("refused {}", code);
  }
  const auto found = std::ranges::find(devices_, request.device, &SimDevice::uuid);
  const int device = static_cast<int>(found - devices_.begin());
  if (!TakeMemory(*server, device)) return fmt::format("refused {}", kDeviceUnavailable);
  clients_.push_back({socket, request.pid, next_number_++, server->pid, device, false});
  LogJoin(clients_.back());
  // A number counts among the devices that the client sees, whichever the daemon has there.
  std::int64_t limit = -1;
  for (const std::string& key : {std::to_string(request.index), request.device}) {
    const auto one = server->limits.memory.find(key);
    if (one == server->limits.memory.end()) continue;
    limit = limit < 0 ? one->second.count : std::min(limit, one->second.count);
  }
  return fmt::format("joined {} {} {} {}", server->index, server->pid, server->limits.sm_percent,
                     limit);
}

// The first context is that of cuInit.
void ControlDaemon::LogJoin(const Client& client) const {
  const SimDevice& device = devices_[static_cast<std::size_t>(client.device)];
  for (const int context : {0, 1}) {
    const std::string name = fmt::format("{{PID: {}, Context ID: {}}}", client.pid, context);
    log_.Server(client.server_pid, fmt::format("Client {} connected", name));
    log_.Server(client.server_pid, fmt::format("Creating worker thread for client {}", name));
  }
  log_.Server(client.server_pid,
              fmt::format("Device {} (uuid {}) is associated", device.name, device.uuid));
  log_.Server(client.server_pid,
              fmt::format("Status of client {{PID: {}, Context ID: 1}} is ACTIVE", client.pid));
}

void ControlDaemon::Leave(std::size_t client) {
  const Client gone = clients_[client];
  ::close(gone.socket);
  clients_.erase(clients_.begin() + static_cast<std::ptrdiff_t>(client));
  {
    // Killed within a kernel, it takes the others along.
    const CardHost::Locked lock(*host_);
    host_->MournClient(gone.pid);
    host_->Advance();
  }
  const auto failed = [&](int context) {
    log_.Server(gone.server_pid,
                fmt::format("Server failed to recevie command with status 806, assuming client "
                            "{{PID: {}, Context ID: {}}} exit",
                            gone.pid, context));
  };
  failed(1);
  log_.Server(
      gone.server_pid,
      fmt::format("Client {{PID: {}, Context ID: 1}} exiting. {}Number of active client "
                  "contexts is {}.",
                  gone.pid, gone.lost ? "Worker is in reset. " : "", ClientsOf(gone.server_pid)));
  failed(0);
  log_.Server(gone.server_pid, fmt::format("Client process {} disconnected", gone.pid));
  Server* const server = FindServer(gone.server_pid);
  if (server == nullptr) return;
  const bool still_lost = std::ranges::any_of(
      clients_, [&](const Client& one) { return one.lost && one.server_pid == server->pid; });
  if (server->faulted && !still_lost) {
    server->faulted = false;
    log_.Server(server->pid, fmt::format("Destroy server context on device {} ({})", gone.device,
                                         DeviceName(gone.device)));
  }
  if (server->ending && ClientsOf(server->pid) == 0) ::kill(server->pid, SIGKILL);
}

// The client's contexts fail; its neighbours stand still for a moment. It stays a client until its
// process ends.
bool ControlDaemon::Terminate(int server_pid, int client_pid) {
  constexpr int kClientTerminated = 810;
  const auto it = std::ranges::find_if(clients_, [&](const Client& client) {
    return client.pid == client_pid && client.server_pid == server_pid;
  });
  if (it == clients_.end()) return false;
  const CardHost::Locked lock(*host_);
  CardProcess* const process = host_->FindProcess(client_pid);
  for (int i = 0; process != nullptr && i < kCardContextsMax; ++i) {
    const CardContext& context = process->contexts[i];
    if (context.used && context.server_pid == server_pid && context.error == 0) {
      host_->clock().BreakOne(*process, i, kClientTerminated, kTerminatePauseNs);
    }
  }
  host_->Advance();
  log_.Server(server_pid, fmt::format("MPS server requesting client {{PID: {}, Context ID: 1}} to "
                                      "exit",
                                      client_pid));
  log_.Server(server_pid, "Client termination succeeded.");
  return true;
}

}  // namespace sublet::sim
