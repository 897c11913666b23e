// model/workload_profile.h
//
// How fast one program runs with a part of a GPU, as measured: alone under each SM cap, and in a
// crowd of its own kind.
//
// `sublet profile` writes one as a file, a calibration carries those of the lab's own workloads, and
// a fleet names either: `profile: encoder.json`, `profile: h200.json#transformer`. The format is
// docs/formats/profile.md.
//
//   ASSIGN_OR_RETURN(WorkloadProfile profile, ParseWorkloadProfile(text, "encoder.json"));
//   profile.SpeedAt(25)   // 0.91: with a quarter of the SMs it keeps 91 % of its speed
//
// Thread safety: values; nothing is shared.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace sublet {

inline constexpr std::string_view kWorkloadProfileVersion = "sublet.profile/v1";

// The program under one SM cap, as a client of MPS.
struct ProfilePoint {
  int sm_percent = 100;  // 100: no cap.
  double alone_per_s = 0;  // Units of work a second of one copy that is always busy.
  double latency_ms_p50 = 0;
  double latency_ms_p99 = 0;
  // Units a second of all `crowd` copies together, each under this cap and always busy; absent
  // where no crowd was measured.
  std::optional<double> crowd_per_s;
  Bytes context;  // Of its memory, the CUDA context.
};

struct WorkloadProfile {
  std::string name;    // "transformer", or what the user called it.
  std::string board;   // Catalogue name of the board it was measured on.
  std::string source;  // "NVIDIA H200, driver 580.159.04, 2026-11-21".
  std::string unit;    // What a unit of work is: "kernel", "forward pass", "burst of launches".

  double service_ms = 0;  // One unit, alone on the whole GPU, without MPS.
  int steps = 1;          // Launch-and-wait rounds in a unit.
  Bytes memory;           // At its peak, without the CUDA context.
  // Part of the board's memory bandwidth that it uses while it runs, in percent; absent: unknown.
  std::optional<double> bandwidth_percent;
  double copy_to_device_mib_s = 0;  // While it runs alone.
  double copy_from_device_mib_s = 0;

  int crowd = 0;        // Copies that gave `crowd_per_s`; 0: none were measured.
  // How sharply a growing crowd turns from "nobody waits" to "full" (plan/saturation.h); measured
  // between one copy and the crowd. Absent: not measured.
  std::optional<double> sharpness;
  std::vector<ProfilePoint> points;  // Ascending sm_percent, at least one; the last is 100.

  // Speed of one copy over that without a cap, 0 to 1, never falling with `sm_percent`: linear
  // between points, in proportion below the first.
  double SpeedAt(double sm_percent) const;
  // The smallest measured cap that keeps `part` of the speed (0.95 unless said otherwise).
  int Knee(double part = 0.95) const;
};

nlohmann::ordered_json WorkloadProfileToJson(const WorkloadProfile& profile);
Result<WorkloadProfile> ParseWorkloadProfile(std::string_view text, std::string_view source);

}  // namespace sublet
