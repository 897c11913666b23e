// measure/lab.h
//
// The lab: runs a schedule on a GPU and writes down what it sees.
//
//   ASSIGN_OR_RETURN(Measurement seen, RunLab(node, gpu, options, [](const LabProgress& p) {
//     fmt::print(stderr, "\r{:3.0f} %  {}", p.done * 100, p.now);
//   }));
//
// What can't be run is in Measurement::skipped with its reason, and the rest goes on: a card
// without MPS is still measured alone, with streams and time-sliced. Where the lab is interrupted
// (base/interrupt.h) or a worker dies, what was seen so far comes back with `partial` set. In any
// case everything that was started has ended when RunLab() returns: workers, MPS control daemons,
// folders, MIG instances. Where the driver doesn't let MIG be put back, `skipped` says what is left
// and how to undo it, and `partial` is set.
//
// Thread safety: one lab at a time in a process.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "measure/crew.h"
#include "measure/gpu_meter.h"
#include "measure/schedule.h"
#include "model/inventory.h"
#include "model/measurement.h"

namespace sublet {

struct LabProgress {
  double done = 0;          // 0 to 1, by expected time.
  double seconds_left = 0;  // Expected.
  std::string now;          // "MPS, 10 % of the SMs each: transformer x16"
};

struct LabOptions {
  LabRequest request;
  CrewOptions crew;
  std::string no_mps;  // Why there can be no MPS; empty where it may be tried.
  // Where the GPU has no MIG instances, make some to measure in, and put back what was there.
  bool allow_mig_reconfigure = false;
  // UTC as ISO 8601: the lab itself reads no calendar.
  std::function<std::string()> now_utc;
};

// Fails only where nothing could be begun: no context on the GPU, no room for one worker.
// REQUIRES: `gpu` is of `node`, `meter` is of `gpu`.
Result<Measurement> RunLab(const Inventory& node, const Gpu& gpu, const GpuMeter& meter,
                           const LabOptions& options,
                           const std::function<void(const LabProgress&)>& progress);

}  // namespace sublet
