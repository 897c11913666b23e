// inventory/nvml_source.h
//
// The driver's answers as an Inventory: driver, GPUs, links. The rest of an Inventory comes from
// inventory/host.h and inventory/environment.h; inventory/take.h puts them together.
//
// What a driver can't tell is left absent. A GPU that doesn't answer doesn't hide the others: it is
// listed with its `problem`.
//
//   Inventory node;
//   RETURN_IF_ERROR(ReadNvml(nvml, BuiltInBoards(), "/sys", node));
//
// Cost: about 100 calls for a GPU with MIG, each of them a round trip into the kernel driver.
//
// Thread safety: no shared state; NVML is thread-safe.
#pragma once

#include <string>

#include "base/result.h"
#include "inventory/nvml_library.h"
#include "model/board.h"
#include "model/inventory.h"

namespace sublet {

// Fills node.driver, node.gpus and node.links; node.host must be filled, because capabilities
// depend on it. `sysfs` is where the kernel tells the GPUs' NUMA nodes. Fails when the GPUs can't
// even be counted.
Status ReadNvml(const NvmlLibrary& nvml, const BoardCatalogue& boards, const std::string& sysfs,
                Inventory& node);

}  // namespace sublet
