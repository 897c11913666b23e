// The simulated nvidia-cuda-mps-control: without options it hands the commands on its standard
// input to the control daemon of CUDA_MPS_PIPE_DIRECTORY, with -d or -f it becomes that daemon.
// Under the name nvidia-cuda-mps-server it is one of the daemon's servers.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "card_host.h"
#include "control_daemon.h"
#include "driver.h"
#include "mps_wire.h"

namespace sublet::sim {
namespace {

constexpr int kAnswerMs = 30'000;

void Say(int file, const std::string& text) {
  static_cast<void>(::write(file, text.data(), text.size()) + 1);
}

// Ends with the daemon, or when it is killed. Its clients end with it: where the daemon lives, that
// sees to it (ControlDaemon::EndServer); where it doesn't, nobody else can.
int Server(int daemon) {
  sigset_t term;
  ::sigemptyset(&term);
  ::sigaddset(&term, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &term, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  int signal = 0;
  if (::getppid() == daemon) ::sigwait(&term, &signal);
  const Result<std::unique_ptr<Driver>> driver = Driver::Start();
  if (!driver) return 1;
  const Result<std::unique_ptr<CardHost>> host =
      CardHost::Open((*driver)->folder(), (*driver)->node());
  if (!host) return 1;
  constexpr int kRpcFailure = 806;
  const CardHost::Locked lock(**host);
  (*host)->BreakClientsOf(::getpid(), kRpcFailure);
  (*host)->Advance();
  return 0;
}

void BlockSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT}) ::sigaddset(&signals, signal);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
}

// `ready` is closed once clients may come. In the foreground, without it, what is logged is
// printed.
int Daemon(const std::string& program, int ready) {
  BlockSignals();
  const std::string logs = ready >= 0 ? MpsLogDirectory() : "";
  if (!logs.empty()) ::mkdir(logs.c_str(), 0755);
  Result<std::unique_ptr<ControlDaemon>> daemon =
      ControlDaemon::Open(MpsPipeDirectory(), MpsLog(logs), program);
  if (!daemon) {
    Say(STDERR_FILENO, daemon.error().message + "\n");
    return 1;
  }
  if (ready >= 0) {
    Say(ready, "r");
    ::close(ready);
  }
  return (*daemon)->Serve() ? 0 : 1;
}

int Background(const std::string& program) {
  std::array<int, 2> ready{};
  if (::pipe2(ready.data(), O_CLOEXEC) != 0) return 1;
  const int child = ::fork();
  if (child < 0) return 1;
  if (child > 0) {
    ::close(ready[1]);
    char byte = 0;
    return ::read(ready[0], &byte, 1) == 1 ? 0 : 1;
  }
  ::close(ready[0]);
  ::setsid();
  const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (const int file : {STDIN_FILENO, STDOUT_FILENO}) ::dup2(nowhere, file);
  return Daemon(program, ready[1]);
}

// Every command's exit status is 0, known or not, as with the real one.
int Ask() {
  std::string input;
  std::array<char, 4096> buffer{};
  for (ssize_t count = 0; (count = ::read(STDIN_FILENO, buffer.data(), buffer.size())) > 0;) {
    input.append(buffer.data(), static_cast<std::size_t>(count));
  }
  std::string_view rest = input;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const int socket = ConnectTo(MpsPipeDirectory() + "/control");
    const bool sent = socket >= 0 && SendText(socket, fmt::format("command {}\n", line));
    const std::optional<std::string> answer = sent ? ReadAll(socket, kAnswerMs) : std::nullopt;
    if (socket >= 0) ::close(socket);
    if (!answer) {
      Say(STDERR_FILENO, "Cannot find MPS control daemon process\n");
      return 1;
    }
    Say(STDOUT_FILENO, *answer);
  }
  return 0;
}

int Run(int argc, char** argv) {
  if (std::string_view(argv[0]) == "nvidia-cuda-mps-server") return Server(::getppid());
  std::array<char, 4096> path{};
  const ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  const std::string program(path.data(), static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
  bool background = false;
  bool foreground = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    background = background || option == "-d";
    foreground = foreground || option == "-f";
    // -M (several users on one server) and -q make no difference here.
    if (option != "-d" && option != "-f" && option != "-M" && option != "-q") {
      Say(STDERR_FILENO, fmt::format("Unknown option \"{}\"\n", option));
      return 1;
    }
  }
  if (foreground) return Daemon(program, -1);
  return background ? Background(program) : Ask();
}

}  // namespace
}  // namespace sublet::sim

int main(int argc, char** argv) {
  return sublet::sim::Run(argc, argv);
}
