// measure/profile.h
//
// A user's own program under a sweep of SM caps, made into a workload profile.
//
//   ProfileRequest request{.program = {.argv = {"python3", "encoder.py"}, ...}, ...};
//   ASSIGN_OR_RETURN(const ProfileOutcome seen, ProfileProgram(meter, request, progress));
//   seen.profile.Knee()   // 25: a quarter of the SMs keeps 95 % of its speed.
//
// The program is started anew for each point: once without MPS, then as a client of the MPS server
// under each cap from 100 % downwards, and with `copies` as a crowd too. What a unit of work is the
// program shows itself: a burst of launches between two waits (guard/observation.h).
//
// Memory is told apart by two looks: at the moment of the first context, when that is all there is,
// and at the peak. What is left of the uncapped peak without that context is the program's own and
// the same under every cap; all beyond it is context, which shrinks with the cap.
//
// Thread safety: one at a time. Interrupted() of base/interrupt.h ends it early: with the points
// that there are once one without a cap is among them, and `source` says so; else with an Error.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "measure/gpu_meter.h"
#include "measure/profile_run.h"
#include "model/workload_profile.h"

namespace sublet {

// More clients than this an MPS server doesn't take, on any driver so far.
inline constexpr int kCopiesMax = 48;

struct ProfileRequest {
  ProgramOptions program;          // Place: the GPU; the rest of it is set for each run.
  std::string mps_pipe_directory;  // Of a daemon of our own; empty: no MPS.
  std::string no_mps;              // Why, where it is empty.
  // Fails where one of the processes is not a client of that daemon.
  std::function<Status(const std::vector<int>& pids)> confirm_clients;
  std::vector<int> sm_percents;  // Ascending, 1 to 100, the last 100.
  int copies = 0;                // A crowd of so many at each cap, 2 to kCopiesMax; 0: none.
  std::string load;
  std::optional<ReadyCheck> ready;
  double window_s = 4;
  double timeout_s = 300;

  std::string name;
  std::string board;
  std::string source;
  std::string unit;
  int steps = 1;  // Bursts in a unit.
  int cpu_cores = 0;
};

struct ProfileOutcome {
  WorkloadProfile profile;
  std::vector<std::string> notes;  // What a reader of the figures must know.
};

// Fails where the program can't be run without MPS, or under it without a cap. A point that fails
// is left out with a note.
Result<ProfileOutcome> ProfileProgram(
    const GpuMeter& meter, const ProfileRequest& request,
    const std::function<void(double done, const std::string& now)>& progress);

// "10,25,50" as ascending numbers with 100 at the end. Fails with kUsage.
Result<std::vector<int>> ParseSmPercents(std::string_view text);

// A name for a program: "torch_encoder" of "python3 examples/02_measure/torch_encoder.py --x".
std::string NameOfProgram(const std::vector<std::string>& argv);

}  // namespace sublet
