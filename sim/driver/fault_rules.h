// sim/driver/fault_rules.h
//
// Faults on demand, as words. README.md has the list for users.
//
//   fail=nvmlDeviceGetName:999        every call of it returns 999
//   fail=nvmlDeviceGetName:999:3      only the third call in each process does
//   hang=nvmlDeviceGetName[:3]        it never returns
//   lost=0                            GPU 0 has fallen off the bus
//   xid=0:79                          XID 79 happens on GPU 0
//   xid=0:31:7:0                      ... in GPU instance 7, compute instance 0
//
// Functions of CUDA (cuMemAlloc_v2) go as well as NVML's, and three steps of the MPS control
// daemon: mpsCommand (it is asked something), mpsConnect (a client comes), mpsServer (a server
// starts). Several rules are separated by ';'.
//
// Thread safety: values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet::sim {

struct FaultRule {
  enum class Kind { kFail, kHang, kLost, kXid, kEcc, kRemap };
  Kind kind = Kind::kFail;
  std::string function;       // kFail, kHang
  int code = 0;               // kFail
  int nth = 0;                // kFail, kHang: 1 is the first call; 0 is every call.
  int gpu = 0;                // All but kFail and kHang.
  int xid = 0;                // kXid
  int gpu_instance = -1;      // kXid
  int compute_instance = -1;  // kXid
  int errors = 0;             // kEcc: so many more.
};

// Fails with kInvalid and names the rule.
Result<std::vector<FaultRule>> ParseFaults(std::string_view text);

}  // namespace sublet::sim
