// The control daemon's servers: their start, their end, and the faults of their clients.
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "control_daemon.h"
#include "process_rules.h"

namespace sublet::sim {
namespace {

// CUDA's codes.
constexpr int kIllegalAddress = 700;
constexpr int kMisalignedAddress = 716;
constexpr int kLaunchFailed = 719;
constexpr int kRpcFailure = 806;

bool IsFault(int code) {
  return code == kIllegalAddress || code == kMisalignedAddress || code == kLaunchFailed;
}

}  // namespace

ControlDaemon::Server* ControlDaemon::FindServer(int pid) {
  const auto it = std::ranges::find(servers_, pid, &Server::pid);
  return it == servers_.end() ? nullptr : &*it;
}

ControlDaemon::Server* ControlDaemon::StartServer(unsigned uid) {
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
  // A test may ask for one that dies; that it has, shows when the kernel tells.
  if (driver_->Meet("mpsServer") != nvml::kSuccess) ::kill(server.pid, SIGKILL);
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
  LogServerStart(server, uid);
  servers_.push_back(std::move(server));
  return &servers_.back();
}

void ControlDaemon::LogServerStart(const Server& server, unsigned uid) const {
  const int pid = server.pid;
  log_.Control(fmt::format("Starting new server {} for user {}", pid, uid));
  log_.Starting(pid, "Startup");
  log_.Starting(pid, fmt::format("Connecting to control daemon on socket: {}/control", folder_));
  log_.Starting(pid, "Initializing server process");
  log_.Server(pid, fmt::format("Creating server context on device 0 ({})", DeviceName(0)));
  log_.Control(fmt::format("NEW SERVER {}: Ready", pid));
  log_.Server(pid,
              fmt::format("Active Threads Percentage set to {:.1f}", server.limits.sm_percent));
  for (const auto& [device, limit] : server.limits.memory) {
    log_.Server(pid, fmt::format("Device pinned memory limit for device {} set to {:#x} bytes",
                                 device, limit.count));
  }
  log_.Server(pid, "Server Priority set to 0");
  log_.Server(pid, "Server has started");
}

std::string ControlDaemon::DeviceName(int device) const {
  const auto index = static_cast<std::size_t>(device);
  return index < devices_.size() ? devices_[index].name : "no device";
}

// The process is gone or goes; what its clients do from now on fails.
void ControlDaemon::EndServer(Server& server) {
  ::kill(server.pid, SIGKILL);
  ::waitpid(server.pid, nullptr, 0);
  const CardHost::Locked lock(*host_);
  host_->BreakClientsOf(server.pid, kRpcFailure);
  host_->table().servers[server.index] = {};
  host_->Advance();
}

void ControlDaemon::ServersThatEnded() {
  for (std::size_t i = servers_.size(); i-- > 0;) {
    siginfo_t end{};
    const int id = servers_[i].pid;
    if (::waitid(P_PID, static_cast<id_t>(id), &end, WEXITED | WNOHANG | WNOWAIT) != 0) continue;
    if (end.si_pid != id) continue;
    // First the clients' end, then the word of it: who reads it finds them as it says.
    EndServer(servers_[i]);
    log_.Control(fmt::format("Server {} exited with status 0", id));
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

// ---- faults -------------------------------------------------------------------------------------

void ControlDaemon::LookForFaults() {
  std::map<int, int> codes;  // Of a server's fault.
  {
    const CardHost::Locked lock(*host_);
    host_->clock().ForEachProcess([&](const CardProcess& process) {
      for (const CardContext& context : process.contexts) {
        if (!context.used || context.server_pid == 0 || !IsFault(context.error)) continue;
        for (Client& client : clients_) {
          const bool hit = client.pid == process.pid && client.server_pid == context.server_pid;
          if (!hit || client.lost) continue;
          client.lost = true;
          codes[client.server_pid] = context.error;
        }
      }
    });
  }
  for (const auto& [pid, code] : codes) {
    if (Server* const server = FindServer(pid)) TellFault(*server, code);
  }
}

// The names in it are the first's that came, whoever did it: as observed.
void ControlDaemon::TellFault(Server& server, int code) {
  std::vector<const Client*> lost;
  for (const Client& client : clients_) {
    if (client.lost && client.server_pid == server.pid) lost.push_back(&client);
  }
  if (std::exchange(server.faulted, true) || lost.empty()) return;
  const Client& first = *lost.front();
  const auto say = [&](std::string_view text) { log_.Server(server.pid, text); };
  if (code == kIllegalAddress) {
    say(fmt::format("Client {{PID: {}, Context: 1}} encountered a fatal GPU error.", first.pid));
  }
  say("Server is handling a fatal GPU error.");
  for (const Client* client : lost) {
    say(fmt::format("Client {{PID: {}, Context ID: 1}} on device {} to be torn down", client->pid,
                    client->device));
  }
  say(fmt::format("All clients belonging to error trigging process {} will be torn down",
                  first.pid));
  say("The following devices will be reset:");
  say(std::to_string(first.device));
  say("The following client process have a sticky error set:");
  for (const Client* client : lost) say(std::to_string(client->pid));
  const Target& target = devices_[static_cast<std::size_t>(first.device)].target;
  driver_->Update([&](SimState& state) {
    // A store gone astray, or whatever else a kernel ends itself by.
    PushEvent(state, {.gpu = target.gpu,
                      .xid = code == kIllegalAddress ? 31 : 43,
                      .gpu_instance = target.gpu_instance,
                      .compute_instance = target.compute_instance});
    return nvml::kSuccess;
  });
}

}  // namespace sublet::sim
