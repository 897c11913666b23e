// model/measurement.h
//
// What the lab saw on one GPU: every run in every sharing mode, as measured, with what could not be
// measured and why.
//
// measure/ fills it, the report page draws it, and Calibrate() (measure/calibrate.h) draws from it
// what the planner needs. `sublet measure -o` writes it as the field "measurement" of the
// calibration file, so that the figures and their evidence stay together. The format is
// docs/formats/measurement.md.
//
//   measurement
//    ├ gpu, before, after      what was measured on, and how it was doing
//    ├ runs[]                  one mode, one set of tenants that ran together
//    │  └ tenants[]            one process (or, in streams, one stream)
//    ├ quotas[], faults[]      what limits and faults really did
//    └ skipped[]               what was not measured, and why
//
// Rates are units of work a second; the unit of each workload is in measure/workload.h. A figure
// that was not measured is absent, never 0.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/plan.h"

namespace sublet {

inline constexpr std::string_view kMeasurementVersion = "sublet.measurement/v1";

// The median of several rounds with the interval that holds the true median with 95 % confidence
// (by order statistics; the whole range where there are too few rounds for that).
struct Estimate {
  double value = 0;
  double low = 0;
  double high = 0;
};

// One process that worked, or one stream of a process.
struct TenantFigures {
  std::string workload;
  std::optional<int> sm_percent;  // Its SM cap under MPS; absent: none.
  int server = 0;                 // Index of its MPS server where the run has several.
  std::string mig_profile;        // Of the instance it ran in; empty outside MIG.
  Estimate rate_per_s;
  double latency_ms_p50 = 0;  // Of a unit, from launch to the end of the wait.
  double latency_ms_p99 = 0;
  double latency_ms_max = 0;
  std::optional<Bytes> memory;       // As NVML shows the process: context and buffers.
  std::optional<double> startup_ms;  // From starting the process to its first unit done.
  std::optional<double> slowdown;    // Rate of the same workload alone over this rate.
};

struct Run {
  std::string id;      // "time-slicing/transformer/x8": unique in the measurement.
  std::string series;  // What it is a point of: "alone", "scaling", "sm-sweep", "pair", "servers",
                       // "pipeline", "mig", "drift".
  SharingMode mode = SharingMode::kExclusive;  // kExclusive: alone on the GPU.
  int servers = 1;  // MPS servers on the GPU in this run; 1 in other modes.
  int streams = 1;  // CUDA streams a process.
  std::vector<TenantFigures> tenants;
  Estimate total_per_s;  // Of all tenants; their units added up.
  double fairness = 1;   // Jain's index of the tenants' rates, each over its rate alone; 1: equal.
  int rounds = 0;
  double round_ms = 0;
  bool settled = false;                      // The stopping rule was met before the rounds ran out.
  std::optional<double> energy_mj_per_unit;  // NVML's counter over the rounds, idle power included.

  // All tenants run the same workload under the same SM cap.
  bool IsUniform() const;
};

// Allocating until refused, under a memory limit.
struct QuotaCheck {
  SharingMode mode = SharingMode::kMps;
  std::string how;  // "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT, 25 % of the SMs".
  Bytes limit;
  Bytes context;             // What of it the CUDA context takes.
  Bytes allocated;           // What could be had beside it.
  double error_percent = 0;  // (allocated + context - limit) / limit; above 0: past the limit.
  bool enforced = false;     // An allocation was refused at all before the whole GPU was taken.
};

// One tenant misbehaves while others work beside it.
struct FaultCheck {
  SharingMode mode = SharingMode::kMps;
  int servers = 1;
  std::string fault;   // "illegal access", "SIGKILL".
  int neighbours = 0;  // In the same fault domain (with servers = 2: in the other one).
  int survivors = 0;
  double pause_ms_max = 0;  // The longest time without a finished unit among the survivors.
  std::optional<double> recovery_ms;  // Until a new client had finished its first unit.
  std::string note;                   // The error that the neighbours saw, and the like.
};

struct Skipped {
  std::string what;  // "mig", "time-slicing/transformer/x40".
  std::string reason;
};

// The GPU's state at one moment.
struct GpuConditions {
  std::string time;  // UTC, ISO 8601.
  std::optional<int> sm_clock_mhz;
  std::optional<int> memory_clock_mhz;
  std::optional<int> temperature_c;
  std::optional<double> power_w;
  std::vector<std::string> throttle_reasons;  // "sw power cap", ...; idle and settings left out.
};

struct Measurement {
  std::string board;     // Catalogue name; empty where the catalogue hasn't got it.
  std::string gpu_name;  // "NVIDIA H200"
  std::string gpu_uuid;
  std::string driver_version;
  int cuda_version = 0;  // 13000
  int sm_count = 0;
  Bytes memory;
  int cpu_cores = 0;
  std::string effort;      // "quick", "full"
  std::uint64_t seed = 0;  // Of the order of the modes.
  double duration_s = 0;
  bool simulated = false;  // On the simulated driver, in its own time.
  bool partial = false;    // Interrupted or failed before the end; `skipped` says what is missing.
  bool disturbed = false;  // Other processes were on the GPU (--force).
  std::vector<std::string> disturbed_by;  // "1234 python3, 812 MiB".
  GpuConditions before;
  GpuConditions after;
  // How much slower the alone runs were at the end than at the start, of the workload that changed
  // most, in percent; negative: faster. Absent where they were not repeated.
  std::optional<double> drift_percent;
  Bytes device_reserve;     // Of the GPU's memory, what the driver and five MPS servers keep.
  int mps_clients_max = 0;  // Most clients that MPS served; 0: not probed.
  std::vector<Run> runs;
  std::vector<QuotaCheck> quotas;
  std::vector<FaultCheck> faults;
  std::vector<Skipped> skipped;

  // The run of that id, or nullptr.
  const Run* Find(std::string_view id) const;
};

// What the planner's model expected of a run (plan/forecast.h), to be held against it.
struct Forecast {
  std::string run;        // Id of the run.
  double rate_per_s = 0;  // Of all its tenants together.
  double latency_ms_p50 = 0;
  bool given = false;  // The model was fitted to this run: it can only return it.
};

// Amounts of memory are rounded up to whole MiB, the GPU's own down.
nlohmann::ordered_json MeasurementToJson(const Measurement& measurement);

// Reads a measurement, or the field "measurement" of a calibration file. What comes back has a
// GPU's name, ids that are unique, at least one tenant in each run, servers that exist and
// estimates inside their intervals. Fails with kInvalid and the place.
Result<Measurement> ParseMeasurement(std::string_view text, std::string_view source);

}  // namespace sublet
