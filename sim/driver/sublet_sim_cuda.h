// sim/driver/sublet_sim_cuda.h
//
// What the simulated CUDA driver exports beyond libcuda.so.1: its clock.
//
// On the simulated GPU time is computed, not waited for: a kernel of 0.1 ms ends 0.1 ms later on
// this clock, whatever the machine underneath does meanwhile, so forty processes on two cores give
// the same figures every time. The clock can run only while nobody is about to do something. A
// process that reads it (subletSimNow) is therefore taken to be busy on its processor from when
// subletSimHold() was called until it waits for the GPU, and after the wait again, until
// subletSimLetGo(); meanwhile the clock stands still, but for a fixed price of each driver call.
//
// A process that calls none of these knows nothing of the simulation. While one has work on a GPU,
// that GPU's clock follows the machine's.
//
// Thread safety: call from any thread; hold and let go count for the process.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Nanoseconds since the simulated machine was switched on.
unsigned long long subletSimNow(void);
// This process is about to work: the clock waits for it.
void subletSimHold(void);
// It has nothing to do until somebody outside the GPU wakes it.
void subletSimLetGo(void);

#ifdef __cplusplus
}
#endif
