// model/fleet.h
//
// What somebody wants to run: the GPUs they may use, their tenants, and their workloads.
//
// A Fleet is read from a versioned YAML file (docs/formats/fleet.md,
// docs/formats/fleet.schema.json):
//
//   version: sublet.fleet/v1
//   name: four-7b
//   gpus:
//     - board: a100-80gb
//   workloads:
//     - name: chat
//       model: {parameters: 7e9, dtype: bf16, layers: 32, heads: 32, head_dim: 128,
//               context_tokens: 4096, concurrency: 2}
//       compute: {sm_percent: 30}
//       load: {requests_per_second: 0.4, service_ms: 450, steps: 40}
//       latency: {p99_ms: 4000}
//
//   ASSIGN_OR_RETURN(Fleet fleet, ParseFleet(text, "fleet.yaml", loader));
//
// A workload may name a measured profile (`compute: {profile: encoder.json}`); the loader fetches
// such files, so that reading a fleet opens none by itself.
//
// Parsing is strict and complete: what comes out has every default filled in, every number within
// its range, every name unique and every reference resolved. Where a workload gives a model instead
// of a memory size, EstimateMemory() has already been applied.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/plan.h"
#include "model/profile_book.h"
#include "model/workload_profile.h"

namespace sublet {

inline constexpr std::string_view kFleetVersion = "sublet.fleet/v1";
inline constexpr int kReplicasMax = 100'000;  // Of the whole fleet; the planner's tested range.
inline constexpr int kWorkloadsMax = 2'000;   // Distinct workloads; the planner's tested range.

// GPUs that a plan may use. Without any, the plan is for the node that is given or inspected.
struct GpuPool {
  std::string board;                     // Catalogue name.
  std::optional<int> count;              // Absent: as many as it takes.
  std::optional<double> price_usd_hour;  // Absent: the catalogue's.
};

// Enough of a transformer to know its memory. All counts; tokens are per sequence.
struct ModelShape {
  double parameters = 0;
  std::string dtype = "bf16";  // fp32, tf32, bf16, fp16, fp8, int8, int4, fp4, nvfp4, mxfp4
  int layers = 0;              // 0: no KV cache (an encoder, a vision model).
  int heads = 0;
  int kv_heads = 0;     // Absent in the file: as heads.
  int head_dim = 0;     // Absent in the file: hidden_size / heads.
  int hidden_size = 0;  // Absent in the file: heads * head_dim.
  // Absent in the file: fp32 for fp32 and tf32, otherwise 16 bits, because inference engines keep
  // the cache in the type they compute in unless told otherwise: quantised weights don't shrink it.
  std::string kv_dtype;
  int context_tokens = 0;
  int concurrency = 1;  // Sequences in flight at once.
};

// The parts of EstimateMemory(); the CUDA context is not among them, because it depends on the
// sharing mode.
struct MemoryEstimate {
  Bytes weights;
  Bytes kv_cache;
  Bytes activations;
  Bytes Total() const { return weights + kv_cache + activations; }
};

// A data type of weights or of a KV cache.
struct ModelDtype {
  std::string_view name;
  double bits = 0;  // Of one value, its part of the block scales included.
};
const std::vector<ModelDtype>& ModelDtypes();

// Fills in what the file may leave out: kv_heads, head_dim, hidden_size, kv_dtype.
ModelShape Completed(ModelShape model);

// weights = parameters * bytes(dtype), with block scales where the type has them (4.25 bits for
// mxfp4, 4.5 for nvfp4);
// kv_cache = 2 * layers * kv_heads * head_dim * bytes(kv_dtype) * context_tokens * concurrency;
// activations = 22 * tokens of a batch * hidden_size * bytes of the computing type, or a fifth of
// the weights where no hidden size is known. docs/formats/fleet.md has the sources and the limits.
//
// Each part is rounded up to a MiB. REQUIRES: dtype and kv_dtype are among ModelDtypes(), kv_dtype
// may be empty.
MemoryEstimate EstimateMemory(const ModelShape& model);

// A point of a measured profile: at this share of the reference GPU's SMs the workload runs at
// `speed` times its speed on all of them.
struct SpeedPoint {
  double sm_percent = 100;
  double speed = 1;  // 0 < speed <= 1
};

// How a workload uses a GPU while it works on a request, in percent of the whole `measured_on`
// board.
struct ComputeNeed {
  // Below this many SMs the workload gets slower, in proportion. Where the file gives a `profile`
  // instead: its first point of full speed.
  double sm_percent = 100;
  // Part of the memory bandwidth it uses while it runs. Absent in the file: 100 for a workload
  // whose model has a KV cache (decoding reads every weight for each token), else as sm_percent.
  double bandwidth_percent = 100;
  // Ascending in both, the last point is {100, 1}; empty: linear up to sm_percent.
  std::vector<SpeedPoint> profile;
  std::string measured_on;  // Catalogue name; empty: the figures hold on every board.
  // Where the file names a measured profile: that profile, from which the other fields were filled.
  std::optional<WorkloadProfile> measured;
};

struct Load {
  double requests_per_second = 0;  // Of the workload; its replicas share it evenly.
  double service_ms = 0;           // One request, alone on the whole `measured_on` board.
  double service_variability = 0;  // Coefficient of variation of the service time; 0: constant.
  int steps = 1;                   // Launch-and-wait rounds in a request: decode steps, batches.
  double burstiness = 1;           // Squared coefficient of variation of arrivals; 1: Poisson.
};

struct LatencyTarget {
  std::optional<double> p50_ms;
  std::optional<double> p99_ms;
};

struct Workload {
  // At most 63 of a-z, 0-9, '-' and '.', a letter or digit at both ends and beside every dot: fit
  // for Kubernetes and systemd. So are the names of tenants and of the fleet.
  std::string name;
  std::string tenant;  // Absent in the file: "default".
  int replicas = 1;
  Bytes memory;  // Of one replica, without the CUDA context.
  // "given", "measured: ...", or "13.0 GiB weights + 2.0 GiB KV cache + ..."
  std::string memory_how;
  ComputeNeed compute;
  std::optional<Load> load;  // Absent: it may be busy all the time.
  LatencyTarget latency;     // Needs `load` (its service_ms): ParseFleet refuses it otherwise.
  Isolation isolation = Isolation::kNone;  // At least its tenant's.
  EngineCounts engines;  // Media engines it must have: decoder, encoder, jpeg, ofa. Copy stays 0.
  int priority = 0;      // -100..100; larger is more important. Placed first, moved last.
  std::vector<std::string> command;
  std::string image;
  std::map<std::string, std::string> env;
  // How its processes live; model/launch.h. Ports of different workloads don't overlap.
  std::optional<int> port{};         // Of replica 0; replica k has port + k, in its variable PORT.
  std::optional<Readiness> ready{};  // Absent: ready as soon as it runs.
  RestartPolicy restart = RestartPolicy::kAlways;
  std::optional<double> stop_timeout_s{};  // Absent: kStopTimeoutSDefault.
};

struct Tenant {
  std::string name;
  Isolation isolation = Isolation::kNone;  // Least isolation of its workloads.
};

struct Fleet {
  std::string name;
  std::vector<GpuPool> gpus;
  // Every tenant a workload names; declared ones first. A file that declares tenants must declare
  // all that it names but "default": a mistyped tenant would lose the isolation that it demands.
  std::vector<Tenant> tenants;
  std::vector<Workload> workloads;

  int ReplicaCount() const;
};

// Without a loader, a fleet that names a profile's file is refused.
Result<Fleet> ParseFleet(std::string_view text, std::string_view source,
                         const FileLoader& loader = {});

}  // namespace sublet
