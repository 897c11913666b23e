// The commands that the control daemon answers.
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "base/files.h"
#include "control_daemon.h"
#include "mps_words.h"

namespace sublet::sim {
namespace {

int NumberIn(const std::vector<std::string>& words, std::size_t index) {
  return index < words.size() ? std::atoi(words[index].c_str()) : 0;
}

}  // namespace

std::string ControlDaemon::Answer(const std::vector<std::string>& words) {
  const std::string verb = words.empty() ? "" : words[0];
  if (verb == "get_server_list") {
    std::string list;
    for (const Server& server : servers_) list += fmt::format("{}\n", server.pid);
    return list;
  }
  if (verb == "start_server") {
    return StartServer(::geteuid()) == nullptr ? "Failed to start server\n" : "";
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
    return Terminate(NumberIn(words, 1), NumberIn(words, 2)) ? "0\n" : "Client not found\n";
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
  const std::string device = words.size() > 1 ? words[1] : "";
  if (verb == "set_default_device_pinned_mem_limit") {
    const auto limit = words.size() == 3 ? ParseMpsLimit(words[2]) : std::nullopt;
    if (!limit) return "Invalid memory limit\n";
    SetMemory(defaults_, device, *limit);
    return "";
  }
  if (verb == "get_default_device_pinned_mem_limit") {
    const std::string limit = MemoryOf(defaults_, device);
    if (limit.empty()) log_.Control("No default pinned memory limit set for the device!");
    return limit;
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
  if (verb == "get_server_status") {
    LookForFaults();
    return server->faulted ? "FAULT\n" : "ACTIVE\n";
  }
  if (verb == "get_client_list") {
    std::set<int> pids;  // A process with two contexts is one client.
    for (const Client& client : clients_) {
      if (client.server_pid == server->pid) pids.insert(client.pid);
    }
    std::string list;
    for (const int pid : pids) list += fmt::format("{}\n", pid);
    return list;
  }
  if (verb == "shutdown_server") {
    server->ending = true;
    const bool now = words.size() > 2 && words[2] == "-f";
    if (now) log_.Control(fmt::format("Force shutting down server {}", server->pid));
    if (now || ClientsOf(server->pid) == 0) ::kill(server->pid, SIGKILL);
    return "";
  }
  if (verb == "set_active_thread_percentage") {
    const auto percent = words.size() == 3 ? ParsePercent(words[2]) : std::nullopt;
    if (!percent) return "Invalid percentage value\n";
    server->limits.sm_percent = *percent;
  }
  if (verb.ends_with("percentage")) return fmt::format("{:.1f}\n", server->limits.sm_percent);
  const std::string device = words.size() > 2 ? words[2] : "";
  if (verb == "set_device_pinned_mem_limit") {
    const auto limit = words.size() == 4 ? ParseMpsLimit(words[3]) : std::nullopt;
    if (!limit) return "Invalid memory limit\n";
    SetMemory(server->limits, device, *limit);
    return "";
  }
  return MemoryOf(server->limits, device);
}

// A device's number, or its UUID, of which the beginning is enough.
std::string ControlDaemon::WholeUuid(const std::string& device) const {
  const auto found = std::ranges::find_if(devices_, [&](const SimDevice& one) {
    return !device.empty() && one.uuid.starts_with(device);
  });
  return found == devices_.end() ? device : found->uuid;
}

void ControlDaemon::SetMemory(Defaults& defaults, const std::string& device, Bytes limit) const {
  defaults.memory[WholeUuid(device)] = limit;
}

std::string ControlDaemon::MemoryOf(const Defaults& defaults, const std::string& device) const {
  const auto limit = defaults.memory.find(WholeUuid(device));
  return limit == defaults.memory.end() ? "" : FormatMpsLimit(limit->second) + "\n";
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

// Without -t the daemon waits for its clients, and hears nobody else until they have gone.
std::string ControlDaemon::QuitBy(const std::vector<std::string>& words) {
  quitting_ = true;
  if (words.size() == 3 && words[1] == "-t") quit_by_ms_ = NowMs() + 1000 * NumberIn(words, 2);
  for (const Server& server : servers_) {
    log_.Control(fmt::format("Try shutting down server {}, backoff is disabled", server.pid));
    log_.Server(server.pid, "Server has been notified to shutdown");
    log_.Server(server.pid, "Waiting for current clients to finish");
  }
  return "";
}

}  // namespace sublet::sim
