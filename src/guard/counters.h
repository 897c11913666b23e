// guard/counters.h
//
// Counting what a program does with its GPU.
//
// The hooks call these around the driver's functions. Everything here is safe in any thread, after
// fork() and in a signal handler; nothing allocates, locks or fails. Where there is nobody to count
// for, it counts nothing.
//
//   const DriverCall call;                 // Not one that the driver makes itself, inside another.
//   if (call.counts()) WorkBegins();
//   const int code = real(...);
//   if (call.counts() && code == 0) Launched();
//
// Thread safety: any thread.
#pragma once

#include <cstdint>

namespace sublet::guard {

// Marks that this thread is inside a driver function.
class DriverCall {
 public:
  DriverCall();
  ~DriverCall();
  DriverCall(const DriverCall&) = delete;
  DriverCall& operator=(const DriverCall&) = delete;

  // False inside another driver function, and where nobody watches.
  bool counts() const { return counts_; }

 private:
  bool counts_;
};

struct Traffic {
  std::uint64_t to_device = 0;
  std::uint64_t from_device = 0;
};

void WorkBegins();  // Before a launch or a copy to the GPU: a burst begins, unless one runs.
void Launched();
void Waited();
void Copied(Traffic traffic);
// May hold the caller for Observation::hold_ms, once a process.
void ContextMade();

}  // namespace sublet::guard
