// base/child_process.h
//
// Programs that this one starts: with exactly the environment and descriptors they are given, and
// with an end that is certain.
//
//   ChildOptions options{.argv = {"nvidia-cuda-mps-control", "-f"}};
//   options.environment.Set("CUDA_MPS_PIPE_DIRECTORY", folder);
//   ASSIGN_OR_RETURN(ChildProcess daemon, ChildProcess::Start(options));
//   ...
//   daemon.Stop({.after_term_s = 2});          // SIGTERM, and SIGKILL two seconds later
//
// Or all at once, for a program that answers:
//
//   ASSIGN_OR_RETURN(const CommandOutcome outcome,
//                    RunCommand({.argv = {"nvidia-cuda-mps-control"}}, "get_server_list\n",
//                               {.timeout_s = 5}));
//
// Or one that is to outlive this program, as another user where this one is root:
//
//   options.parent_death_signal = 0;
//   options.new_session = true;
//   options.user = tenant;
//   ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(options));
//   const ProcessHandle process = std::move(child).Release();
//   ... once process.Ended():  ReapIfEnded(process.identity().pid)   // How it ended.
//
// What may surprise:
// - A child is in a process group of its own, so a Ctrl-C at the terminal doesn't reach it.
// - It dies with its parent, by `parent_death_signal`. The kernel ties that to the *thread* which
//   called Start(): when that thread ends, the child goes, even though the process lives on. It is
//   lost where the child executes a set-user-ID program.
// - One without that signal still isn't executed once its parent is seen to be gone.
// - It inherits no descriptor but standard output, standard error and those in `descriptors`;
//   standard input is /dev/null. Signals are as in a fresh program: nothing blocked or ignored.
// - A ChildProcess that goes kills and reaps its child, unless it was released.
// - A released child that has ended stays a zombie, which keeps its number, until ReapIfEnded() or
//   the end of this process.
//
// Thread safety: one thread at a time for each ChildProcess.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/process_handle.h"
#include "base/result.h"
#include "base/user.h"

namespace sublet {

// The environment of a child: at first a copy of this program's own.
class ChildEnvironment {
 public:
  ChildEnvironment();
  static ChildEnvironment Empty();

  ChildEnvironment& Set(std::string_view name, std::string_view value);
  ChildEnvironment& Unset(std::string_view name);
  // All whose name begins with `prefix`.
  ChildEnvironment& UnsetPrefix(std::string_view prefix);
  std::optional<std::string> Get(std::string_view name) const;
  // "NAME=value", ordered by name.
  std::vector<std::string> Lines() const;

 private:
  std::map<std::string, std::string, std::less<>> variables_;
};

// A descriptor that the child has, under a number of its own.
struct ChildDescriptor {
  int ours = -1;
  int theirs = -1;
};

struct ChildOptions {
  // The program and its arguments. Without a slash, the program is looked up in the environment's
  // PATH, or in this process's where it has none; a relative path with one begins at `directory`.
  std::vector<std::string> argv;
  ChildEnvironment environment = {};
  std::vector<ChildDescriptor> descriptors = {};
  int parent_death_signal = SIGKILL;  // 0: it may outlive this process.
  std::string directory = {};         // Where it begins; empty: where this process is.
  bool new_session = false;           // Without a terminal, and leader of a group all the same.
  // As whom it runs, in that user's groups and no others. Another one than this process's own needs
  // root; without, Start() fails with kPermission. The environment stays as it is given.
  std::optional<UserIds> user = {};
};

// How a child ended.
struct ChildEnd {
  int status = -1;  // Exit status; -1 where a signal ended it.
  int signal = 0;
  bool Succeeded() const { return status == 0; }
};
// "exited with status 3", "was killed by signal 9 (Killed)"
std::string DescribeEnd(const ChildEnd& end);

struct StopPatience {
  double after_term_s = 2;  // From SIGTERM to SIGKILL; 0: SIGKILL at once.
  double after_kill_s = 5;  // A process in the driver's hands can take its time, or never end.
};

class ChildProcess {
 public:
  // Returns once the program is executed. Fails with kNotFound or kPermission where it can't be,
  // else with kUnavailable; then no process is left.
  static Result<ChildProcess> Start(const ChildOptions& options);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  // Stays what it was after the end, when the kernel may have given it to another process.
  pid_t pid() const { return pid_; }
  // Readable once the child has ended.
  int pidfd() const { return pidfd_.get(); }

  // Waits until the child has ended; absent where it hasn't by then.
  std::optional<ChildEnd> Wait(Deadline deadline);
  // Does nothing once the end was seen.
  void Signal(int signal);
  // Asks, then kills, the child and whoever is in its process group. Absent where it doesn't go.
  std::optional<ChildEnd> Stop(const StopPatience& patience);
  // It lives on without us: nothing here ends it any more.
  ProcessHandle Release() &&;

 private:
  ChildProcess(pid_t pid, FileDescriptor pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  void SignalGroup(int signal);

  pid_t pid_;  // Also that of its process group; -1 after a move.
  FileDescriptor pidfd_;
  std::optional<ChildEnd> end_;
};

// How a released child ended, and its number is free again. Absent where it hasn't ended, or isn't
// a child of this process, as after a restart; then its new parent reaps it.
std::optional<ChildEnd> ReapIfEnded(pid_t pid);

struct CommandLimits {
  double timeout_s = 10;
  std::size_t output_bytes_max = 1u << 20;  // Of each stream; what is beyond is dropped.
};

struct CommandOutcome {
  ChildEnd end;
  std::string out;
  std::string err;
};

// Starts a program, feeds it `input`, and collects what it prints until it ends. What a child of it
// prints later is not waited for. Fails as ChildProcess::Start() does, and with kUnavailable where
// it takes too long; then it is killed. An interrupt doesn't end the wait: the limit does.
Result<CommandOutcome> RunCommand(ChildOptions options, std::string_view input,
                                  const CommandLimits& limits);

// The path of a program: itself where it has a slash, else the first executable of that name in the
// folders of `search_path`, separated by colons. Absent where there is none.
std::optional<std::string> FindProgram(std::string_view program, std::string_view search_path);

}  // namespace sublet
