// node/process_owners.h
//
// Which share a process belongs to, by the marker that Sublet puts into its environment.
//
//   ProcessDirectory directory("/var/lib/sublet");
//   const ProcessOwners owners = directory.Owners(sample);
//   owners.at(4711).share                                // "s17"
//
// A process is a share's when its environment has SUBLET_SHARE and the SUBLET_STATE of this state
// directory: the ids of another node's daemon mean nothing here. One with that SUBLET_STATE alone
// is Sublet's own, as an MPS server is. A process without markers is what its parent is, so that
// a program that clears its children's environment is still seen whole. A process whose environment
// may not be read, as another user's, is foreign.
//
// An environment is read once for each process and remembered by pid and start time; a look at a
// process that is known costs one read of /proc/PID/stat.
//
// Thread safety: one thread at a time.
#pragma once

#include <map>
#include <string>

#include "node/usage.h"

namespace sublet {

class ProcessDirectory {
 public:
  explicit ProcessDirectory(std::string state_directory, std::string proc = "/proc")
      : state_directory_(std::move(state_directory)), proc_(std::move(proc)) {}

  // Of every process in the sample that still runs. Forgets all that aren't in it.
  ProcessOwners Owners(const UsageSample& sample);

 private:
  struct Known {
    ProcessOwner owner;
    bool used = false;  // In this round.
  };
  const ProcessOwner* Find(int pid, int depth);

  std::string state_directory_;
  std::string proc_;
  std::map<int, Known> known_;
};

}  // namespace sublet
