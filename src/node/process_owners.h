// node/process_owners.h
//
// Which share a process belongs to.
//
//   ProcessDirectory directory("/var/lib/sublet");
//   const ProcessOwners owners = directory.Owners(sample, {{4700, first_process_of_s17}});
//   owners.at(4711).id                                // "s17": a child of 4700
//
// In this order:
// 1. The node knows it (`known`): it started it, or granted it a share.
// 2. Its environment has SUBLET_SHARE, and SUBLET_STATE is this state directory: the ids of another
//    daemon mean nothing here. With SUBLET_STATE alone it is Sublet's own, as an MPS server is.
// 3. It is what its parent is, or what the first process of its session is, so that a program that
//    clears its children's environment, or whose environment may not be read, is still seen whole.
// Otherwise it is foreign.
//
// What was found is remembered by pid and start time, so that a look at a known process costs one
// read of /proc/PID/stat. Only foreign processes are looked at anew each time.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "node/usage.h"

namespace sublet {

class ProcessDirectory {
 public:
  explicit ProcessDirectory(std::string state_directory, std::string proc = "/proc")
      : state_directory_(std::move(state_directory)), proc_(std::move(proc)) {}

  // Of every process in the sample that still runs. Forgets all that aren't in it. A known process
  // whose `started` is 0 counts whenever it started.
  ProcessOwners Owners(const UsageSample& sample, const ProcessOwners& known);

 private:
  struct Entry {
    ProcessOwner owner;
    bool used = false;  // In this round.
  };
  ProcessOwner Find(int pid, const ProcessOwners& known);
  // Whose a process is by itself.
  std::optional<ProcessOwner> Told(int pid, std::int64_t started, const ProcessOwners& known);
  // ... and by its ancestors, then its session's first process.
  std::optional<ProcessOwner> Elder(int parent, int session, const ProcessOwners& known);
  bool ReadMarks(int pid, ProcessOwner& owner) const;

  std::string state_directory_;
  std::string proc_;
  std::map<int, Entry> entries_;
};

}  // namespace sublet
