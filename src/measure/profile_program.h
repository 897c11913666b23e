// measure/profile_program.h
//
// A user's program, run with the guard in it and watched from outside.
//
//   ASSIGN_OR_RETURN(auto program, WatchedProgram::Start({.argv = {"python3", "encoder.py"},
//   ...})); program->Pump();                                  // Often: its output goes through a
//   pipe. const BurstCounts now = ReadCounts(program->observation());
//
// The program is not told that it is watched. Its processes inherit the guard with the environment
// and count into the same memory, which has no name in any file system.
//
// Thread safety: one thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/child_process.h"
#include "base/file_descriptor.h"
#include "base/result.h"
#include "guard/observation.h"
#include "measure/crew.h"

namespace sublet {

struct ProgramOptions {
  std::vector<std::string> argv;
  WorkerPlace place;
  std::string guard_library;   // libsublet-guard.so
  std::string driver_folder;   // Where the program is to find the driver first; empty: as ever.
  int copy = 0;                // SUBLET_COPY, for programs that need a port or file of their own.
  std::optional<int> hold_ms;  // After a first context, until LetGo().
};

class WatchedProgram {
 public:
  static Result<std::unique_ptr<WatchedProgram>> Start(const ProgramOptions& options);
  WatchedProgram(const WatchedProgram&) = delete;
  WatchedProgram& operator=(const WatchedProgram&) = delete;
  ~WatchedProgram();  // Kills it and all in its process group.

  const guard::Observation& observation() const { return *observation_; }
  // Processes that have made a context.
  std::vector<int> GpuPids() const;
  // Processes that are held at their first context.
  std::vector<int> HeldPids() const;
  void LetGo(int pid);

  // Reads what the program printed.
  void Pump();
  // The last lines of that, at most ten, for an error message.
  std::string LastLines() const;

  // How it ended; absent while it runs. Whatever it left running in its process group is killed.
  std::optional<ChildEnd> Ended();
  void AskToStop();  // SIGTERM, without waiting.

 private:
  WatchedProgram(ChildProcess child, FileDescriptor output, FileDescriptor memory,
                 guard::Observation* observation);

  ChildProcess child_;
  FileDescriptor output_;  // Our end of the pipe that is its standard output and error.
  FileDescriptor memory_;
  guard::Observation* observation_;
  std::string tail_;
  std::optional<ChildEnd> end_;
};

// The environment of a program at `options.place`: the user's own but for what decides where it
// runs.
ChildEnvironment ProgramEnvironment(const ProgramOptions& options,
                                    const std::string& observation_path);

}  // namespace sublet
