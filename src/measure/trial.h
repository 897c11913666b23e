// measure/trial.h
//
// One trial: rounds of a crew until the figure is known well enough, made into a Run.
//
//   TrialRunner runner(meter, Effort::kQuick);
//   ASSIGN_OR_RETURN(Run run, runner.Measure(*crew, act, trial));
//
// Keeps the rates that each workload had alone, because slowdowns and fairness are relative to
// them: trials of the series "alone" must come first.
//
// Thread safety: one thread at a time.
#pragma once

#include <map>
#include <string>

#include "base/result.h"
#include "measure/crew.h"
#include "measure/gpu_meter.h"
#include "measure/schedule.h"
#include "model/measurement.h"

namespace sublet {

class TrialRunner {
 public:
  TrialRunner(const GpuMeter& meter, Effort effort) : meter_(meter), effort_(effort) {}

  // Fails where a worker fails, with what it said; the crew is then of no further use.
  Result<Run> Measure(Crew& crew, const Act& act, const Trial& trial);

  // The rate of one process alone on the GPU; 0 where it was not measured.
  double AloneRate(const std::string& workload) const;

 private:
  struct Rounds;
  Status Prepare(Crew& crew, const Trial& trial, std::map<int, double>& startup_ms);
  Status RunRounds(Crew& crew, const Trial& trial, Rounds& rounds) const;
  Run ToRun(const Act& act, const Trial& trial, const Rounds& rounds) const;
  void AddRatios(Run& run) const;

  const GpuMeter& meter_;
  const Effort effort_;
  std::map<std::string, double> alone_;
};

}  // namespace sublet
