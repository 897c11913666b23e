// exe/chosen_gpu.h
//
// The GPU that a verb measures on, and what stands in the way of measuring there.
//
//   ASSIGN_OR_RETURN(const Gpu* const gpu, ChooseGpu(node, flags.gpu));
//   RETURN_IF_ERROR(CheckIdle(OthersOn(*gpu), flags.force));
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/inventory.h"

namespace sublet {

// The GPU named by UUID or index; without a name, the first that can be used.
Result<const Gpu*> ChooseGpu(const Inventory& node, const std::string& wanted);

// The processes on it: "1234 python3, 812 MiB".
std::vector<std::string> OthersOn(const Gpu& gpu);

// Others change every figure: fails with kConflict, naming them, unless told to go on.
Status CheckIdle(const std::vector<std::string>& others, bool force);

// Why no MPS server can be started for it; empty where one can.
std::string WhyNoMps(const Inventory& node, const Gpu& gpu);

}  // namespace sublet
