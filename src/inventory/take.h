// inventory/take.h
//
// Takes stock of this node: driver, GPUs, host, MPS daemons, sharing modes.
//
//   ASSIGN_OR_RETURN(Inventory node, TakeInventory({.nvml_path = FindNvml(...)}, environment));
//
// A driver can hang, for instance while a GPU falls off the bus. So the work is done in a thread of
// its own, and after `patience` the answer is an Error that says so. The thread is then left
// behind, because nothing ends a call into the kernel; a program that got that Error should end
// soon.
//
// Thread safety: no shared state.
#pragma once

#include <chrono>
#include <string>

#include "base/result.h"
#include "inventory/host.h"
#include "inventory/nvml_library.h"
#include "model/inventory.h"

namespace sublet {

struct TakeOptions {
  std::string nvml_path = "libnvidia-ml.so.1";
  // A first call into a driver that isn't kept loaded takes seconds for each GPU.
  std::chrono::milliseconds patience = std::chrono::seconds(60);
  // Whether to look for MPS control daemons: a look at every process, and a question to each.
  bool mps_daemons = true;
};

Result<Inventory> TakeInventory(const TakeOptions& options, const Environment& environment);

}  // namespace sublet
