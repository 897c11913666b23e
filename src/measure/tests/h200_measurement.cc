#include "measure/tests/h200_measurement.h"

#include <fmt/format.h>

#include "base/check.h"
#include "measure/lab_runs.h"

namespace sublet {
namespace {

// Of bare contexts under MPS, docs/formats/calibration.md.
Bytes ContextUnder(int sm_percent) {
  switch (sm_percent) {
    case 5:
      return 61_MiB;
    case 10:
      return 75_MiB;
    case 25:
      return 147_MiB;
    case 50:
      return 277_MiB;
    case 75:
      return 393_MiB;
    case 100:
      return 519_MiB;
  }
  CHECK(false);
}

void AddMicroKernels(Measurement& m) {
  struct Row {
    std::string_view workload;
    double alone, streams, sliced2, sliced4, mps2, mps4;  // Each process's, but streams: the sum.
  };
  const Row rows[] = {{"small", 10'013, 19'494, 2197, 1121, 9931, 9944},
                      {"big", 2391, 2489, 921, 459, 1305, 652},
                      {"mem", 6823, 7155, 1805, 905, 3783, 1879}};
  for (const Row& row : rows) {
    m.runs.push_back(MakeRun(
        {.series = "alone", .workload = row.workload, .total_per_s = row.alone, .sm_percent = {}}));
    Run streams = MakeRun({SharingMode::kStreams, "streams", row.workload, 2, row.streams, {}});
    streams.streams = 2;
    m.runs.push_back(streams);
    const auto add = [&](SharingMode mode, int copies, double each) {
      m.runs.push_back(MakeRun({mode, "scaling", row.workload, copies, copies * each, {}}));
    };
    add(SharingMode::kTimeSlicing, 2, row.sliced2);
    add(SharingMode::kTimeSlicing, 4, row.sliced4);
    add(SharingMode::kMps, 2, row.mps2);
    add(SharingMode::kMps, 4, row.mps4);
  }
}

void AddTransformers(Measurement& m) {
  const auto add = [&](SharingMode mode, std::string_view series, int copies, double total,
                       std::optional<int> cap = {}) {
    m.runs.push_back(MakeRun({mode, series, "transformer", copies, total, cap}));
  };
  add(SharingMode::kExclusive, "alone", 1, 4244);
  add(SharingMode::kTimeSlicing, "scaling", 4, 2709);
  add(SharingMode::kTimeSlicing, "scaling", 16, 2709);
  add(SharingMode::kTimeSlicing, "scaling", 40, 2762);
  add(SharingMode::kMps, "scaling", 1, 4111);
  add(SharingMode::kMps, "scaling", 4, 9425);
  add(SharingMode::kMps, "scaling", 16, 10'658);
  add(SharingMode::kMps, "scaling", 40, 10'790);
  add(SharingMode::kMps, "scaling", 16, 25'295, 10);
  // Alone under a cap, and forty at 25 and 50 %: not measured on the card, chosen between what was.
  add(SharingMode::kMps, "sm-sweep", 1, 1650, 10);
  add(SharingMode::kMps, "sm-sweep", 1, 3300, 25);
  add(SharingMode::kMps, "sm-sweep", 1, 4000, 50);
  add(SharingMode::kMps, "sm-sweep", 40, 25'589, 10);
  add(SharingMode::kMps, "sm-sweep", 40, 17'000, 25);
  add(SharingMode::kMps, "sm-sweep", 40, 12'500, 50);
}

void AddTheRest(Measurement& m) {
  for (const int streams : {1, 3}) {
    Run run = MakeRun({.mode = streams == 1 ? SharingMode::kExclusive : SharingMode::kStreams,
                       .series = "pipeline",
                       .workload = "transfer",
                       .copies = streams,
                       .total_per_s = streams == 1 ? 1400.0 : 2600.0,
                       .sm_percent = {}});
    run.streams = streams;
    run.id = fmt::format("pipeline/transfer/x{}", streams);
    m.runs.push_back(run);
  }
  Run servers = MakeRun({SharingMode::kMps, "servers", "small", 2, 2354 + 2384, {}});
  servers.id = "mps-servers/small/1+1";
  servers.servers = 2;
  servers.tenants[1].server = 1;
  m.runs.push_back(servers);
  m.quotas.push_back({.mode = SharingMode::kMps,
                      .how = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
                      .limit = 2_GiB,
                      .context = 519_MiB,
                      .allocated = 1528_MiB,
                      .error_percent = -0.05,
                      .enforced = true});
  m.faults.push_back({.mode = SharingMode::kMps,
                      .servers = 2,
                      .fault = "illegal access",
                      .neighbours = 2,
                      .survivors = 2,
                      .pause_ms_max = 141,
                      .recovery_ms = 900,
                      .note = "clients of the other server"});
  m.skipped.push_back({"mig", "MIG mode is off"});
}

}  // namespace

Run MakeRun(const UniformRun& run) {
  Run made;
  made.series = run.series;
  made.mode = run.mode;
  const std::string cap = run.sm_percent ? fmt::format("-{}", *run.sm_percent) : std::string();
  made.id =
      run.series == "alone" || run.series == "drift"
          ? fmt::format("{}/{}", run.series, run.workload)
          : fmt::format("{}{}/{}/x{}", SharingModeName(run.mode), cap, run.workload, run.copies);
  const double each = run.total_per_s / run.copies;
  const Bytes context = ContextUnder(run.sm_percent.value_or(100));
  for (int i = 0; i < run.copies; ++i) {
    TenantFigures tenant;
    tenant.workload = run.workload;
    tenant.sm_percent = run.sm_percent;
    tenant.rate_per_s = {each, each * 0.99, each * 1.01};
    tenant.latency_ms_p50 = 1000 / each;
    tenant.latency_ms_p99 = 1100 / each;
    tenant.latency_ms_max = 2000 / each;
    tenant.memory = context + BuffersOf(run.workload, 1).value();
    tenant.startup_ms = 700;
    made.tenants.push_back(tenant);
  }
  made.total_per_s = {run.total_per_s, run.total_per_s * 0.99, run.total_per_s * 1.01};
  made.rounds = 6;
  made.round_ms = 100;
  made.settled = true;
  return made;
}

Measurement H200Measurement() {
  Measurement m;
  m.board = "h200";
  m.gpu_name = "NVIDIA H200";
  m.gpu_uuid = "GPU-6e1f3c52-5a0e-4a0c-8f43-8f8a0c6d2b11";
  m.driver_version = "580.159.04";
  m.cuda_version = 13'000;
  m.sm_count = 132;
  m.memory = Bytes::FromMib(143'771);
  m.cpu_cores = 16;
  m.effort = "quick";
  m.seed = 7;
  m.duration_s = 58;
  m.before.time = "2026-11-20T10:00:00Z";
  m.before.sm_clock_mhz = 1980;
  m.after.time = "2026-11-20T10:00:58Z";
  m.after.sm_clock_mhz = 1965;
  m.drift_percent = 0.4;
  m.device_reserve = Bytes::FromMib(690);
  m.mps_clients_max = 48;
  AddMicroKernels(m);
  AddTransformers(m);
  AddTheRest(m);
  return m;
}

}  // namespace sublet
