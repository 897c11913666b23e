// sim/driver/sublet_sim.h
//
// What the simulated driver exports beyond NVML: the things that hardware and workloads do to a
// real one. A C header, so that any program can use it after dlopen; README.md has an example.
//
// Every function returns an NVML code (0 is success) and needs nvmlInit_v2 before. Changes go into
// the state that all processes share.
//
// Thread safety: call from any thread.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

enum subletSimProcessType {
  SUBLET_SIM_COMPUTE = 0,
  SUBLET_SIM_GRAPHICS = 1,
  SUBLET_SIM_MPS_CLIENT = 2
};

#define SUBLET_SIM_NO_INSTANCE 0xFFFFFFFFu

// A process starts to use a GPU, or with MIG a compute instance of it. `pid` 0 is the caller. It is
// forgotten when it stops, or when the pid is dead. NVML_ERROR_MEMORY where `memory_bytes` doesn't
// fit, NVML_ERROR_NOT_FOUND where there is no such GPU, instance or process, NVML_ERROR_IN_USE
// where the compute mode admits no further process.
int subletSimProcessStart(unsigned pid, unsigned gpu, unsigned gpu_instance,
                          unsigned compute_instance, unsigned long long memory_bytes,
                          unsigned type);
int subletSimProcessStop(unsigned pid);

// Adds a rule of SUBLET_SIM_FAULTS for all processes; see README.md.
int subletSimFault(const char* rule);
// Removes all rules added so and finds lost GPUs again.
int subletSimClearFaults(void);

// Resets a GPU: it is found again, its memory errors are gone, and a pending MIG mode takes effect.
// NVML_ERROR_IN_USE while processes use it.
int subletSimResetGpu(unsigned gpu);
// Puts the whole node back to how the preset or node file has it.
int subletSimResetNode(void);

#ifdef __cplusplus
}
#endif
