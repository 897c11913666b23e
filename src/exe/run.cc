// `sublet run`: a command with a share of a GPU.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/child_process.h"
#include "base/file_descriptor.h"
#include "base/files.h"
#include "exe/node_client.h"
#include "exe/program.h"
#include "exe/run_request.h"

namespace sublet {
namespace {

// As shells have it.
constexpr int kStatusNotFound = 127;
constexpr int kStatusNotExecutable = 126;

struct Flags {
  RunWords words;
  std::string socket;
  bool detach = false;
  bool json = false;
};

struct Command {
  std::string path;
  std::vector<std::string> argv;
};

// Says why there is no such command; returns the exit status for it.
int RefuseCommand(const std::string& name, int error) {
  fmt::print(stderr, "sublet: {}: {}\n", name,
             error == ENOENT ? "no such command" : std::strerror(error));
  return error == ENOENT ? kStatusNotFound : kStatusNotExecutable;
}

// Looked up as the shell would, before anything is asked for. `error` is an errno where it fails.
std::optional<std::string> FindCommand(const std::string& name, int& error) {
  const char* const path = std::getenv("PATH");
  std::optional<std::string> found = FindProgram(name, path == nullptr ? "/usr/bin:/bin" : path);
  error = ENOENT;
  if (found && ::access(found->c_str(), X_OK) == 0) return found;
  if (name.find('/') != std::string::npos && ::access(name.c_str(), F_OK) == 0) error = EACCES;
  return std::nullopt;
}

ChildEnvironment EnvironmentFor(const GrantedShare& granted, const NodePlace& place) {
  ChildEnvironment environment;
  // Where the node's simulation was found by itself, the command must find it, too.
  if (!place.simulation.empty()) environment.Set("SUBLET_SIM", place.simulation);
  if (!place.simulation_state.empty()) environment.Set("SUBLET_SIM_STATE", place.simulation_state);
  for (const auto& [name, value] : granted.environment) {
    if (value) {
      environment.Set(name, *value);
    } else {
      environment.Unset(name);
    }
  }
  return environment;
}

std::vector<char*> PointersTo(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Becomes the command; the share goes with this process either way. Returns the errno.
int Become(const Command& command, const ChildEnvironment& environment) {
  const std::vector<std::string> lines = environment.Lines();
  const std::vector<char*> argv = PointersTo(command.argv);
  const std::vector<char*> variables = PointersTo(lines);
  // A script without "#!" is run by the shell, as shells do.
  ::execvpe(command.path.c_str(), argv.data(), variables.data());
  return errno;
}

void SayNotEnforced(const Share& share) {
  const std::string text = NotEnforcedText(share);
  if (!text.empty()) fmt::print(stderr, "sublet: {}\n", text);
}

// --- Detached: another process asks for the share, becomes the command, and is nobody's child.

struct Pipe {
  FileDescriptor read;
  FileDescriptor write;
};

void Say(const Pipe& pipe, const nlohmann::ordered_json& what) {
  const std::string line = fmt::format(
      "{}\n", what.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  // Whoever started it may have gone; the command goes on without being announced.
  static_cast<void>(::write(pipe.write.get(), line.data(), line.size()) > 0);
}

// Where the output goes; nowhere if the log can't be written to, which is said.
bool RedirectOutput(const std::string& log) {
  FileDescriptor out;
  if (!log.empty()) {
    out = FileDescriptor(::open(log.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  }
  const bool kept = out.valid();
  const FileDescriptor null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const int to = kept ? out.get() : null.get();
  ::dup2(null.get(), STDIN_FILENO);
  ::dup2(to, STDOUT_FILENO);
  ::dup2(to, STDERR_FILENO);
  return kept;
}

[[noreturn]] void HoldDetached(const Flags& flags, const ShareRequest& request,
                               const Command& command, const Pipe& pipe) {
  Result<NodeClient> node = ConnectToNode(flags.socket, Intent::kStart);
  Result<GrantedShare> granted = Fail(ErrorCode::kInternal, "not asked");
  if (node) {
    granted = node->AskShare(request);
  } else {
    granted = tl::unexpected<Error>(node.error());
  }
  if (!granted) {
    Say(pipe, nlohmann::ordered_json::parse(ErrorBody(granted.error())));
    ::_exit(ExitStatus(granted.error().code));
  }
  const bool kept = RedirectOutput(granted->log);
  Say(pipe, {{"share", ShareToJson(granted->share)},
             {"pid", ::getpid()},
             {"log", kept ? granted->log : ""}});
  const int error = Become(command, EnvironmentFor(*granted, node->place()));
  Say(pipe, {{"exec", error}});
  ::_exit(kStatusNotExecutable);
}

std::string ReadAll(const FileDescriptor& file) {
  std::string text;
  std::array<char, 4096> chunk;
  while (true) {
    const ssize_t got = ::read(file.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(chunk.data(), static_cast<std::size_t>(got));
  }
}

// What the detached process said until it became the command, or ended.
Result<int> Announce(const Flags& flags, const std::string& said) {
  const std::string first = said.substr(0, said.find('\n'));
  const std::string rest = said.substr(std::min(first.size() + 1, said.size()));
  const auto json = nlohmann::ordered_json::parse(first, nullptr, false);
  if (!json.is_object()) {
    return Fail(ErrorCode::kUnavailable, "the detached process ended before it had a share");
  }
  if (json.contains("error")) return tl::unexpected<Error>(ErrorFromBody(500, first));
  const auto failure = nlohmann::ordered_json::parse(rest, nullptr, false);
  if (failure.is_object() && failure.contains("exec")) {
    return RefuseCommand(flags.words.command.front(), failure["exec"].get<int>());
  }
  ASSIGN_OR_RETURN(const Share share, ParseShare(json["share"].dump(), "the detached process"));
  SayNotEnforced(share);
  if (json["log"].get<std::string>().empty()) {
    fmt::print(stderr, "sublet: its output isn't kept: the log can't be written by this user\n");
  }
  if (flags.json) {
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("{}\n", share.id);
  }
  return 0;
}

Result<int> RunDetached(const Flags& flags, const ShareRequest& request, const Command& command) {
  // Beforehand, so that a daemon that can't start is told of by this process.
  ASSIGN_OR_RETURN(const NodeClient node, ConnectToNode(flags.socket, Intent::kStart));
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return FailFromErrno(errno, "making a pipe");
  Pipe pipe{FileDescriptor(fds[0]), FileDescriptor(fds[1])};
  const pid_t middle = ::fork();
  if (middle < 0) return FailFromErrno(errno, "detaching");
  if (middle == 0) {
    // A session's leader could get a terminal again; its child can't.
    ::setsid();
    const pid_t holder = ::fork();
    if (holder == 0) HoldDetached(flags, request, command, pipe);
    ::_exit(holder < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
  }
  pipe.write.Close();
  while (::waitpid(middle, nullptr, 0) < 0 && errno == EINTR) {
  }
  return Announce(flags, ReadAll(pipe.read));
}

Result<int> Run(const Flags& flags) {
  const std::vector<std::string>& words = flags.words.command;
  if (words.empty()) {
    return Fail(ErrorCode::kUsage, "give the command to run after --",
                "sublet run --gpu-memory 20GiB --sm 25% -- python3 train.py");
  }
  if (flags.json && !flags.detach) {
    return Fail(ErrorCode::kUsage, "--json is for --detach: otherwise the output is the command's");
  }
  ASSIGN_OR_RETURN(const ShareRequest request, RequestFrom(flags.words));
  int error = 0;
  const std::optional<std::string> path = FindCommand(words.front(), error);
  if (!path) return RefuseCommand(words.front(), error);
  const Command command{*path, words};
  if (flags.detach) return RunDetached(flags, request, command);
  ASSIGN_OR_RETURN(NodeClient node, ConnectToNode(flags.socket, Intent::kStart));
  ASSIGN_OR_RETURN(const GrantedShare granted, node.AskShare(request));
  SayNotEnforced(granted.share);
  std::fflush(stderr);
  return RefuseCommand(words.front(), Become(command, EnvironmentFor(granted, node.place())));
}

}  // namespace

void AddRunVerb(Program& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = program.app.add_subcommand(
      "run", "Run a command with a share of a GPU: its memory, its SMs, its limits");
  verb->footer("The command comes last: sublet run --gpu-memory 20GiB -- python3 train.py");
  program.before_command.insert("run");
  verb->add_option("--gpu-memory", flags->words.memory,
                   "What it may allocate, as 20GiB (default: no limit)")
      ->type_name("SIZE");
  verb->add_option("--sm", flags->words.sm, "Part of the GPU's SMs, as 25% (default: no cap)")
      ->type_name("PERCENT");
  verb->add_option("--mode", flags->words.mode,
                   "auto, exclusive, mps, time-slicing or mig (default: auto, the first that "
                   "enforces what is asked)")
      ->type_name("MODE");
  verb->add_option("--tenant", flags->words.tenant, "For whom (default: the user's tenant)");
  verb->add_option("--gpu", flags->words.gpu, "UUID of a GPU or MIG device, or an index")
      ->type_name("GPU");
  verb->add_option("--profile", flags->words.profile, "MIG profile, as 1g.10gb")
      ->type_name("PROFILE");
  verb->add_option("--name", flags->words.name, "For people (default: the command's)");
  verb->add_flag("-d,--detach", flags->detach, "Leave it running, and print its share's id");
  verb->add_flag("--json", flags->json, "With --detach: print the share as JSON");
  AddSocketOption(*verb, flags->socket);
  verb->callback([&program, flags] {
    program.chosen = [&program, flags] {
      flags->words.command = program.command;
      return Run(*flags);
    };
  });
}

}  // namespace sublet
