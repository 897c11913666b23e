// measure/profile_run.h
//
// One run of a user's program, or of several copies of it: from the start until the figures of its
// steady state are taken.
//
//   starting ── first context: held until its memory was read ── ready? load ──
//   warming ── rates of successive steps agree ── window ── figures, everybody stopped
//
// A program that ends by itself before the window is over gives the figures that there are. One
// that fails, launches nothing or never waits gives an Error that says what was seen.
//
// Thread safety: one run at a time. Interrupted() of base/interrupt.h ends it early.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "measure/gpu_meter.h"
#include "measure/profile_program.h"
#include "measure/profile_ready.h"
#include "measure/profile_window.h"

namespace sublet {

struct RunOptions {
  ProgramOptions program;  // `copy` is set for each.
  int copies = 1;
  std::string load;  // Shell command, started when the server is ready; may be empty.
  std::optional<ReadyCheck> ready;  // With `load`.
  double window_s = 4;
  double timeout_s = 300;  // From the start to the steady state.
  SteadyOptions steady;
  // Called once all copies work, with their processes; an Error ends the run.
  std::function<Status(const std::vector<int>& pids)> confirm;
};

struct CopyFigures {
  WindowFigures window;
  std::optional<Bytes> context;  // When it was the only thing in the process; absent: not seen.
  std::optional<Bytes> peak;     // Of its processes together.
};

struct RunFigures {
  std::vector<CopyFigures> copies;
  bool settled = true;       // All were steady before the window began.
  bool ended_early = false;  // One ended by itself before the window was over.
  bool whole_gpu_memory =
      false;  // Memory is what the GPU had less, for want of figures by process.
  std::uint64_t processes_lost = 0;  // That found no place to count; what they did is not here.

  double BurstsPerS() const;  // Of all copies.
};

Result<RunFigures> RunProgram(const GpuMeter& meter, const RunOptions& options);

}  // namespace sublet
