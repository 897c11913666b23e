// kube/compute_mode.h
//
// A GPU's compute mode. In exclusive-process mode nobody but the MPS server can use the GPU: the
// door is shut for a container that drops its variables, and so would miss the server.
//
//   ASSIGN_OR_RETURN(const ComputeMode before, ReadComputeMode(nvml, uuid));
//   RETURN_IF_ERROR(SetComputeMode(nvml, uuid, ComputeMode::kExclusiveProcess));    // Needs root.
//
// Opens the driver's library for each call; blocks.
//
// Thread safety: no shared state.
#pragma once

#include <string>

#include "base/result.h"
#include "model/inventory.h"

namespace sublet {

// Fails with kUnsupported where the GPU has no modes, with kNotFound where it isn't there.
Result<ComputeMode> ReadComputeMode(const std::string& nvml_path, const std::string& gpu_uuid);

// And reads it back. Fails like that, with kPermission without root, and with kConflict where the
// driver says another one afterwards.
Status SetComputeMode(const std::string& nvml_path, const std::string& gpu_uuid, ComputeMode mode);

}  // namespace sublet
