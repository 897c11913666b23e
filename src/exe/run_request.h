// exe/run_request.h
//
// From the words of `sublet run` to what the node is asked for.
//
//   ASSIGN_OR_RETURN(const ShareRequest request,
//                    RequestFrom({.memory = "20GiB", .sm = "25%", .command = {"python3",
//                    "x.py"}}));
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/share.h"

namespace sublet {

// As they were typed; what is empty was not.
struct RunWords {
  std::string memory = {};  // "20GiB", "512MiB", a number of bytes.
  std::string sm = {};      // "25%" or "25".
  std::string mode = {};    // "auto", "mps", ...
  std::string tenant = {};
  std::string gpu = {};      // UUID or index.
  std::string profile = {};  // Of MIG; implies its mode.
  std::string name = {};
  std::vector<std::string> command = {};
};

// Fails with kUsage, and names the flag.
Result<ShareRequest> RequestFrom(const RunWords& words);

// What of a share nobody enforces, as a sentence; empty where all is enforced.
std::string NotEnforcedText(const Share& share);

}  // namespace sublet
