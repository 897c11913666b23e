// sim/driver/process_rules.h
//
// Whether a process may use a simulated GPU, and how much of its memory is left.
//
// Thread safety: pure functions.
#pragma once

#include "base/bytes.h"
#include "inventory/nvml_api.h"
#include "sim_node.h"
#include "sim_state.h"

namespace sublet::sim {

// Of the GPU or instance that the process is on: what processes can have of it in all.
Bytes RoomOn(const SimNode& node, const SimState& state, const ProcessState& process);
// What processes have of it.
Bytes UsedOn(const SimState& state, const ProcessState& process);

// Whether the process may start there: its compute instance exists, the compute mode admits it, it
// fits. kNotFound, kInUse, kMemory, kGpuIsLost otherwise.
nvml::Return Admit(const SimNode& node, const SimState& state, const ProcessState& process);

}  // namespace sublet::sim
