#include "measure/trial.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "measure/statistics.h"
#include "measure/stopping_rule.h"

namespace sublet {
namespace {

// Long enough for queues to fill and clocks to rise, short beside the window.
double WarmupMs(double window_ms) {
  return window_ms * 0.2;
}

std::vector<int> WorkersOf(const Trial& trial) {
  std::vector<int> workers;
  for (const Part& part : trial.parts) workers.push_back(part.worker);
  return workers;
}

}  // namespace

// What the rounds of a trial showed, by tenant: a worker's streams one after the other.
struct TrialRunner::Rounds {
  struct Tenant {
    std::vector<double> rates;
    std::vector<double> p50_ms;
    std::vector<double> p99_ms;
    double max_ms = 0;
  };
  std::vector<Tenant> tenants;
  Estimate total;
  int count = 0;
  bool settled = false;
  double units = 0;
  std::optional<double> energy_mj;
  std::map<int, Bytes> memory;       // By pid.
  std::map<int, double> startup_ms;  // By worker.
  std::vector<WorkerInfo> infos;     // By part.
};

double TrialRunner::AloneRate(const std::string& workload) const {
  const auto it = alone_.find(workload);
  return it == alone_.end() ? 0 : it->second;
}

Result<Run> TrialRunner::Measure(Crew& crew, const Act& act, const Trial& trial) {
  Rounds rounds;
  RETURN_IF_ERROR(Prepare(crew, trial, rounds.startup_ms));
  rounds.memory = meter_.ProcessMemory();
  for (const Part& part : trial.parts) rounds.infos.push_back(crew.info(part.worker));
  rounds.tenants.resize(trial.parts.size() * static_cast<std::size_t>(trial.streams));
  RETURN_IF_ERROR(RunRounds(crew, trial, rounds));
  Run run = ToRun(act, trial, rounds);
  if (trial.series == "alone") alone_[trial.parts[0].workload] = run.total_per_s.value;
  AddRatios(run);
  return run;
}

// Workers that take no part keep their context, as processes that wait for requests do, but give
// their workload's memory back.
Status TrialRunner::Prepare(Crew& crew, const Trial& trial, std::map<int, double>& startup_ms) {
  std::map<std::string, std::vector<int>> by_workload;
  std::set<int> busy;
  for (const Part& part : trial.parts) {
    by_workload[part.workload].push_back(part.worker);
    busy.insert(part.worker);
  }
  std::vector<int> resting;
  for (int worker = 0; worker < crew.size(); ++worker) {
    if (!busy.contains(worker)) resting.push_back(worker);
  }
  RETURN_IF_ERROR(crew.Rest(resting));
  for (const auto& [workload, workers] : by_workload) {
    RETURN_IF_ERROR(crew.PrepareAll(workers, workload, trial.streams));
  }
  for (const int worker : busy) startup_ms[worker] = crew.info(worker).first_unit_ms;
  return {};
}

Status TrialRunner::RunRounds(Crew& crew, const Trial& trial, Rounds& rounds) const {
  const std::vector<int> workers = WorkersOf(trial);
  const RoundOptions options{.warmup_ms = WarmupMs(trial.window_ms), .window_ms = trial.window_ms};
  const double cost_ms = options.warmup_ms + options.window_ms;
  StoppingRule rule(StoppingOptionsFor(effort_ == Effort::kFull ? "full" : "quick"));
  const std::optional<double> energy = meter_.EnergyMj();
  double units_per_window = 0;
  for (;;) {
    const std::vector<WorkerOutcome> outcomes = crew.RunRound(workers, options);
    double rate = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      if (outcomes[i].error) return tl::unexpected(*outcomes[i].error);
      for (const StreamFigures& stream : outcomes[i].streams) {
        Rounds::Tenant& tenant = rounds.tenants[at++];
        tenant.rates.push_back(stream.rate_per_s);
        tenant.p50_ms.push_back(stream.latency_ms_p50);
        tenant.p99_ms.push_back(stream.latency_ms_p99);
        tenant.max_ms = std::max(tenant.max_ms, stream.latency_ms_max);
        rate += stream.rate_per_s;
      }
    }
    units_per_window += rate * cost_ms / 1000;
    const StoppingVerdict verdict = rule.Add({.rate_per_s = rate, .cost_ms = cost_ms});
    if (verdict.kind != StoppingVerdict::Kind::kContinue) break;
  }
  rounds.total = rule.estimate();
  rounds.count = rule.rounds();
  rounds.settled = rule.settled();
  rounds.units = units_per_window;
  const std::optional<double> energy_after = meter_.EnergyMj();
  if (energy && energy_after && *energy_after > *energy) {
    rounds.energy_mj = *energy_after - *energy;
  }
  return {};
}

Run TrialRunner::ToRun(const Act& act, const Trial& trial, const Rounds& rounds) const {
  Run run;
  run.id = trial.id;
  run.series = trial.series;
  const bool alone = trial.parts.size() == 1;
  run.mode = trial.streams > 1                                ? SharingMode::kStreams
             : alone && act.mode == SharingMode::kTimeSlicing ? SharingMode::kExclusive
                                                              : act.mode;
  run.servers = std::max(act.servers, 1);
  run.streams = trial.streams;
  std::size_t at = 0;
  for (std::size_t i = 0; i < trial.parts.size(); ++i) {
    const Part& part = trial.parts[i];
    for (int stream = 0; stream < trial.streams; ++stream) {
      const Rounds::Tenant& seen = rounds.tenants[at++];
      TenantFigures tenant;
      tenant.workload = part.workload;
      tenant.sm_percent = act.sm_percent;
      tenant.server = act.servers > 1 ? part.worker % act.servers : 0;
      tenant.mig_profile = act.MigProfileOf(part.worker);
      tenant.rate_per_s = MedianWithInterval(seen.rates);
      tenant.latency_ms_p50 = Median(seen.p50_ms);
      tenant.latency_ms_p99 = Median(seen.p99_ms);
      tenant.latency_ms_max = seen.max_ms;
      const auto memory = rounds.memory.find(rounds.infos[i].pid);
      if (memory != rounds.memory.end()) tenant.memory = memory->second;
      const auto startup = rounds.startup_ms.find(part.worker);
      if (startup != rounds.startup_ms.end()) tenant.startup_ms = startup->second;
      run.tenants.push_back(std::move(tenant));
    }
  }
  run.total_per_s = rounds.total;
  run.rounds = rounds.count;
  run.round_ms = trial.window_ms;
  run.settled = rounds.settled;
  // The counter runs through the warm-ups too, in which as much is done a second.
  if (rounds.energy_mj && rounds.units > 0) {
    run.energy_mj_per_unit = *rounds.energy_mj / rounds.units;
  }
  return run;
}

void TrialRunner::AddRatios(Run& run) const {
  std::vector<double> kept;
  for (TenantFigures& tenant : run.tenants) {
    const double alone = AloneRate(tenant.workload);
    if (alone > 0 && tenant.rate_per_s.value > 0) {
      tenant.slowdown = alone / tenant.rate_per_s.value;
      kept.push_back(tenant.rate_per_s.value / alone);
    } else {
      kept.push_back(tenant.rate_per_s.value);
    }
  }
  run.fairness = JainIndex(kept);
}

}  // namespace sublet
