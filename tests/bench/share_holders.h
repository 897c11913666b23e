// tests/bench/share_holders.h
//
// Processes that each ask a node for a share and hold it, as `sublet run` does, without a program's
// start: forks of this one.
//
//   ShareHolders holders(node);
//   for (int i = 0; i < 500; ++i) holders.Add(request);   // They hold theirs until `holders` goes.
//   const Asked asked = AskAndEnd(node, request);         // Asks, is answered, ends.
//
// Call from a process with one thread.
//
// Thread safety: one thread at a time.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/file_descriptor.h"
#include "bench/node_under_test.h"
#include "model/share.h"

namespace sublet::bench {

struct Asked {
  double connect_us = 0;
  double grant_us = 0;  // From before the request is sent until the answer is read.
  pid_t pid = 0;
};

// A refusal ends this program, with what it says.
Asked AskAndEnd(const NodeUnderTest& node, const ShareRequest& request);

class ShareHolders {
 public:
  explicit ShareHolders(const NodeUnderTest& node);
  ~ShareHolders();
  ShareHolders(const ShareHolders&) = delete;
  ShareHolders& operator=(const ShareHolders&) = delete;

  // A process that holds such a share from now on.
  pid_t Add(const ShareRequest& request);

 private:
  const NodeUnderTest& node_;
  FileDescriptor leash_;       // At whose end they go, also where this program is killed.
  FileDescriptor leash_hand_;  // This program's end.
  std::vector<pid_t> pids_;
};

}  // namespace sublet::bench
