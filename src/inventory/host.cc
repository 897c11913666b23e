#include "inventory/host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <map>
#include <optional>
#include <string_view>

#include "base/files.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kProcFileBytesMax = 4 << 20;  // mountinfo of a busy node has 200 KB.
constexpr std::string_view kControlProgram = "nvidia-cuda-mps-control";
constexpr std::string_view kDefaultPipeDirectory = "/tmp/nvidia-mps";

std::string ReadOr(const std::string& path, std::string_view otherwise) {
  Result<std::string> text = ReadFile(path, kProcFileBytesMax);
  if (!text) return std::string(otherwise);
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return std::move(*text);
}

bool Exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    if (end == std::string_view::npos) break;
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  if (!text.empty()) parts.push_back(text);
  return parts;
}

std::optional<int> ParsePid(std::string_view text) {
  int pid = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (ec != std::errc() || end != text.data() + text.size() || pid <= 0) return std::nullopt;
  return pid;
}

int CoresOfThisProcess() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));  // More cores than cpu_set_t holds.
}

// A container's root is an overlay, or its first process's control group or a marker file names the
// runtime. No single sign holds for all runtimes.
bool InContainer(const std::string& root, const Environment& environment) {
  if (environment("KUBERNETES_SERVICE_HOST") || environment("container")) return true;
  if (Exists(root + "/.dockerenv") || Exists(root + "/run/.containerenv")) return true;
  const std::string cgroup = ReadOr(root + "/proc/1/cgroup", "");
  for (const std::string_view sign : {"docker", "kubepods", "containerd", "libpod", "lxc"}) {
    if (cgroup.find(sign) != std::string::npos) return true;
  }
  const std::string mounts = ReadOr(root + "/proc/self/mountinfo", "");
  for (const std::string_view line : Split(mounts, '\n')) {
    const std::vector<std::string_view> words = Split(line, ' ');
    if (words.size() > 4 && words[4] == "/" && line.find(" - overlay ") != std::string_view::npos) {
      return true;
    }
  }
  return false;
}

bool HasSysAdmin(const std::string& root) {
  constexpr int kCapSysAdmin = 21;
  const std::string status = ReadOr(root + "/proc/self/status", "");
  for (const std::string_view line : Split(status, '\n')) {
    if (!line.starts_with("CapEff:")) continue;
    const std::size_t digits = line.find_first_not_of(" \t", 7);
    if (digits == std::string_view::npos) return false;
    unsigned long long capabilities = 0;
    std::from_chars(line.data() + digits, line.data() + line.size(), capabilities, 16);
    return (capabilities >> kCapSysAdmin & 1) != 0;
  }
  return false;
}

bool IsWsl(const std::string& root, std::string_view kernel) {
  return kernel.find("microsoft") != std::string_view::npos ||
         kernel.find("WSL") != std::string_view::npos || Exists(root + "/dev/dxg");
}

std::string FindProgram(std::string_view name, const Environment& environment) {
  const std::string path = environment("PATH").value_or("/usr/local/bin:/usr/bin:/bin");
  for (const std::string_view folder : Split(path, ':')) {
    std::string candidate = fmt::format("{}/{}", folder, name);
    if (!folder.empty() && ::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

// A client must be able to enter the folder; a daemon makes it where it isn't there yet.
bool PipeUsable(const std::string& directory) {
  if (Exists(directory)) return ::access(directory.c_str(), X_OK) == 0;
  const std::string parent = fs::path(directory).parent_path().string();
  return ::access(parent.c_str(), W_OK | X_OK) == 0;
}

// Runs `program` with `question` on its standard input and returns what it prints. Absent when it
// can't be started, prints more than 16 KiB, or stays silent for two seconds.
std::optional<std::string> Ask(const std::string& program, const std::string& pipe_directory,
                               std::string_view question) {
  std::array<int, 2> in{-1, -1};
  std::array<int, 2> out{-1, -1};
  if (::pipe2(in.data(), O_CLOEXEC) != 0) return std::nullopt;
  if (::pipe2(out.data(), O_CLOEXEC) != 0) {
    ::close(in[0]);
    ::close(in[1]);
    return std::nullopt;
  }
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, out[1], STDERR_FILENO);
  std::string program_copy = program;
  std::string variable = "CUDA_MPS_PIPE_DIRECTORY=" + pipe_directory;
  std::array<char*, 2> arguments{program_copy.data(), nullptr};
  std::array<char*, 2> variables{variable.data(), nullptr};
  pid_t child = -1;
  const int failed =
      ::posix_spawn(&child, program.c_str(), &actions, nullptr, arguments.data(), variables.data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(in[0]);
  ::close(out[1]);
  std::optional<std::string> answer;
  if (failed == 0) {
    // The question is far below a pipe's capacity, so this never blocks; the reader may be gone.
    struct sigaction ignore {};
    struct sigaction before {};
    ignore.sa_handler = SIG_IGN;
    ::sigaction(SIGPIPE, &ignore, &before);
    const bool asked =
        ::write(in[1], question.data(), question.size()) == static_cast<ssize_t>(question.size());
    ::sigaction(SIGPIPE, &before, nullptr);
    ::close(std::exchange(in[1], -1));
    std::string text;
    std::array<char, 4096> buffer;
    constexpr int kSilenceMs = 2000;
    constexpr std::size_t kAnswerBytesMax = 16 << 10;
    pollfd readable{.fd = out[0], .events = POLLIN, .revents = 0};
    while (asked && text.size() <= kAnswerBytesMax && ::poll(&readable, 1, kSilenceMs) > 0) {
      const ssize_t got = ::read(out[0], buffer.data(), buffer.size());
      if (got == 0) answer = text;
      if (got <= 0) break;
      text.append(buffer.data(), static_cast<std::size_t>(got));
    }
    if (!answer) ::kill(child, SIGKILL);
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  if (in[1] >= 0) ::close(in[1]);
  ::close(out[0]);
  return answer;
}

// The daemon answers with one pid a line, or nothing; anything else is a complaint.
void AskDaemon(const Host& host, FoundMpsDaemon& daemon) {
  if (host.mps_control.empty()) return;
  const auto text = Ask(host.mps_control, daemon.pipe_directory, "get_server_list\n");
  if (!text) return;
  std::vector<int> servers;
  for (const std::string_view line : Split(*text, '\n')) {
    if (line.empty()) continue;
    const auto pid = ParsePid(line);
    if (!pid) return;
    servers.push_back(*pid);
  }
  std::ranges::sort(servers);
  daemon.servers = std::move(servers);
  daemon.answers = true;
}

// The pipe directory of a control daemon's process; absent where `pid` isn't one.
std::optional<std::string> PipeDirectoryOf(const std::string& process_folder) {
  // The kernel keeps 15 characters of a name: those that control and server have in common.
  if (ReadOr(process_folder + "/comm", "") != kControlProgram.substr(0, 15)) return std::nullopt;
  const std::string command = ReadOr(process_folder + "/cmdline", "");
  const std::vector<std::string_view> words = Split(command, '\0');
  if (words.empty() || fs::path(words[0]).filename() != kControlProgram) return std::nullopt;
  const bool daemon = std::ranges::any_of(
      words, [](std::string_view word) { return word == "-d" || word == "-f"; });
  if (!daemon) return std::nullopt;  // Someone's interactive session.
  const std::string variables = ReadOr(process_folder + "/environ", "");
  constexpr std::string_view kName = "CUDA_MPS_PIPE_DIRECTORY=";
  for (const std::string_view variable : Split(variables, '\0')) {
    if (variable.starts_with(kName)) return std::string(variable.substr(kName.size()));
  }
  return std::string(kDefaultPipeDirectory);
}

// Folders in which NVIDIA's device plugin and its DRA driver keep theirs, and the default one.
std::vector<std::string> WellKnownPipeDirectories(const std::string& root, const Host& host) {
  std::vector<std::string> folders{host.mps_pipe_directory, std::string(kDefaultPipeDirectory)};
  std::error_code ignored;
  for (const auto& domain : fs::directory_iterator(root + "/run/nvidia/mps", ignored)) {
    for (const auto& resource : fs::directory_iterator(domain.path(), ignored)) {
      folders.push_back((resource.path() / "pipe").string().substr(root.size()));
    }
  }
  return folders;
}

}  // namespace

Host ReadHost(const HostPaths& paths, const Environment& environment) {
  const std::string& root = paths.root;
  Host host;
  host.hostname = ReadOr(root + "/proc/sys/kernel/hostname", "");
  host.kernel = ReadOr(root + "/proc/sys/kernel/osrelease", "");
  host.cpu_cores = CoresOfThisProcess();
  host.wsl2 = IsWsl(root, host.kernel);
  host.container = InContainer(root, environment);
  host.admin = HasSysAdmin(root);
  host.cgroup2 = Exists(root + "/sys/fs/cgroup/cgroup.controllers");
  host.shm_usable = ::access((root + "/dev/shm").c_str(), W_OK | X_OK) == 0;
  host.mps_control = FindProgram(kControlProgram, environment);
  host.mps_pipe_directory =
      environment("CUDA_MPS_PIPE_DIRECTORY").value_or(std::string(kDefaultPipeDirectory));
  host.mps_pipe_usable = PipeUsable(root + host.mps_pipe_directory);
  return host;
}

std::vector<FoundMpsDaemon> FindMpsDaemons(const HostPaths& paths, const Host& host) {
  std::map<std::string, std::optional<int>> found;  // Pipe directory to pid.
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(paths.root + "/proc", ignored)) {
    const auto pid = ParsePid(entry.path().filename().string());
    if (!pid) continue;
    if (const auto directory = PipeDirectoryOf(entry.path().string())) found[*directory] = *pid;
  }
  for (const std::string& directory : WellKnownPipeDirectories(paths.root, host)) {
    // `quit` removes the pid file and leaves the sockets, so the file is the sign of life.
    const std::string pid_file = fmt::format("{}{}/{}.pid", paths.root, directory, kControlProgram);
    if (Exists(pid_file)) found.try_emplace(directory, ParsePid(ReadOr(pid_file, "")));
  }
  std::vector<FoundMpsDaemon> daemons;
  for (const auto& [directory, pid] : found) {
    FoundMpsDaemon daemon{.pipe_directory = directory, .pid = pid, .answers = false, .servers = {}};
    AskDaemon(host, daemon);
    daemons.push_back(std::move(daemon));
  }
  return daemons;
}

}  // namespace sublet
