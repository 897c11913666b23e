// base/process_handle.h
//
// A process that isn't ours, held so that it can't be mistaken for another: by its number and the
// moment it started, and by a descriptor of the kernel's (a pidfd) once it is watched.
//
//   store.Book(share, ProcessIdentity::Of(pid).value());      // Before this program ends...
//   ...
//   Result<ProcessHandle> process = ProcessHandle::Open(share.process);   // ...and in its next
//   life. if (!process && process.error().code == ErrorCode::kNotFound) TakeBack(share);
//   poll({process->fd(), POLLIN}); // readable once it has ended
//
// And those that nobody wrote down, found by what they were started with:
//
//   for (const ProcessIdentity& each : ProcessesWithEnvironment("SUBLET_SHARE", "s17")) ...
//
// What may surprise:
// - A number alone names nobody: the kernel gives it to another process once its owner is gone.
// - A zombie has ended, though its number is still taken until its parent has reaped it. It has no
//   environment either.
// - An environment is what the process was *started* with: a setenv() of its own isn't seen. A
//   process between fork and exec still shows the environment of its parent.
// - Another user's environment can be read by root only.
//
// Thread safety: one thread at a time for each ProcessHandle; the functions share no state.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file_descriptor.h"
#include "base/result.h"

namespace sublet {

struct ProcessIdentity {
  int pid = 0;
  std::uint64_t start_ticks = 0;  // Since the machine's start, in clock ticks (USER_HZ, 10 ms).

  // Of the process that has the number now; kNotFound without one. A zombie still has it.
  static Result<ProcessIdentity> Of(int pid);

  friend auto operator<=>(const ProcessIdentity&, const ProcessIdentity&) = default;
};

class ProcessHandle {
 public:
  // Fails with kNotFound where the process has ended or its number is another's by now, with
  // kUnsupported on a kernel before 5.3.
  static Result<ProcessHandle> Open(ProcessIdentity identity);

  bool Ended() const;
  // Readable once the process has ended. Of this handle, which closes it when it goes.
  int fd() const { return pidfd_.get(); }
  const ProcessIdentity& identity() const { return identity_; }

  // Fails with kNotFound where it has ended, with kPermission where it isn't ours to signal.
  Status Signal(int signal) const;

 private:
  ProcessHandle(ProcessIdentity identity, FileDescriptor pidfd)
      : identity_(identity), pidfd_(std::move(pidfd)) {}

  // A child is handed over without being looked up again: until it is reaped its number is its own.
  friend class ChildProcess;

  ProcessIdentity identity_;
  FileDescriptor pidfd_;
};

// Those whose environment has the variable `name` with this value, by number; this process, zombies
// and those whose environment may not be read are not among them.
std::vector<ProcessIdentity> ProcessesWithEnvironment(std::string_view name,
                                                      std::string_view value);

// Those that have the variable, and its value: all in one pass, which costs some 10 microseconds
// for each process of the machine.
std::map<ProcessIdentity, std::string> ProcessesWithEnvironment(std::string_view name);
// Of those only the ones that have `other_name` with `other_value`, too.
std::map<ProcessIdentity, std::string> ProcessesWithEnvironment(std::string_view name,
                                                                std::string_view other_name,
                                                                std::string_view other_value);

// One variable of one process. Absent where it hasn't the variable, has ended, or may not be read.
std::optional<std::string> EnvironmentVariable(const ProcessIdentity& process,
                                               std::string_view name);

// Whose a process is; absent where it has ended, or has several users, as a set-uid program does.
std::optional<uid_t> UserOfProcess(const ProcessIdentity& process);

// Those of a session (setsid) that haven't ended, by number, without this process.
std::vector<ProcessIdentity> ProcessesOfSession(int session);

}  // namespace sublet
