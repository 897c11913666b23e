// model/workload_profile.h
//
// How fast one program runs with a part of a GPU, as measured: alone under each SM cap, and in a
// crowd of its own kind.
//
// `sublet profile` writes one as a file, a calibration carries those of the lab's own workloads,
// and a fleet names either: `profile: encoder.json`, `profile: h200.json#transformer`. The format
// is docs/formats/profile.md.
//
//   ASSIGN_OR_RETURN(WorkloadProfile profile, ParseWorkloadProfile(text, "encoder.json"));
//   profile.SpeedAt(25)   // 0.91: with a quarter of the SMs it keeps 91 % of its speed
//
// Whoever measures fits the sharpness, whoever plans draws the curve (plan/saturation.h); both use
// the functions at the end of this file, so that what was fitted is what is drawn.
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

struct Node;

inline constexpr std::string_view kWorkloadProfileVersion = "sublet.profile/v1";

// The program under one SM cap, as a client of MPS.
struct ProfilePoint {
  int sm_percent = 100;    // 100: no cap.
  double alone_per_s = 0;  // Units of work a second of one copy that is always busy.
  double latency_ms_p50 = 0;
  double latency_ms_p99 = 0;
  // Units a second of all `crowd` copies together, each under this cap and always busy; absent
  // where no crowd was measured.
  std::optional<double> crowd_per_s;
  // As WorkloadProfile::sharpness, measured under this cap; absent: the profile's.
  std::optional<double> sharpness;
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

  int crowd = 0;  // Copies that gave `crowd_per_s`, at least 2; 0: none were measured.
  // How sharply a growing crowd turns from "nobody waits" to "full", kSharpnessMin to
  // kSharpnessMax (FitSharpness() below); measured between one copy and the crowd. Absent: not
  // measured.
  std::optional<double> sharpness;
  std::vector<ProfilePoint> points;  // Ascending sm_percent, at least one; the last is 100.

  // Speed of one copy over that without a cap, 0 to 1, never falling with `sm_percent`: linear
  // between points, in proportion below the first.
  double SpeedAt(double sm_percent) const;
  // The speed of each point, as SpeedAt() has it.
  std::vector<double> Speeds() const;
  // The smallest measured cap that keeps `part` of the speed (0.95 unless said otherwise).
  int Knee(double part = 0.95) const;
  // Units a second of the crowd under this cap: linear between points, in proportion below the
  // first; absent where no crowd was measured, and above the last point that has one.
  std::optional<double> CrowdAt(double sm_percent) const;
  // Linear between the points, level outside; kSharpnessUnknown where none was measured.
  double SharpnessAt(double sm_percent) const;
};

// The curve of a crowd: N copies, each always busy, slow each other by
//
//   slowdown(N) = (1 + (N^p - 1) d^p)^(1/p)
//
// where d is the part of the GPU's capacity that one copy takes, and p how sharply the curve turns
// from 1 (nobody waits) to N d (full). One alone has 1 for any d and p.
inline constexpr double kSharpnessMin = 0.5;
inline constexpr double kSharpnessMax = 32;     // 4 % off the corner between the two lines.
inline constexpr double kSharpnessUnknown = 2;  // Softer than all that was measured.

// Copies that ran together, and their units a second in sum.
struct CrowdRate {
  int copies = 1;
  double per_s = 0;
};

// The d, 0 to 1, with which the curve goes through the crowd; 0 where the crowd shows no slowdown.
// REQUIRES: crowd.copies >= 2, rates above 0.
double DemandOfOne(double alone_per_s, const CrowdRate& crowd, double sharpness);

// The sharpness with which the curve goes through `few` as well as through `crowd`, at most
// kSharpnessMax and at least kSharpnessMin; absent where the crowd shows no slowdown, because then
// no curve is to be seen. REQUIRES: 1 < few.copies < crowd.copies, rates above 0.
std::optional<double> FitSharpness(double alone_per_s, const CrowdRate& few,
                                   const CrowdRate& crowd);

nlohmann::ordered_json WorkloadProfileToJson(const WorkloadProfile& profile);
Result<WorkloadProfile> ParseWorkloadProfile(std::string_view text, std::string_view source);

// For codecs of files that carry profiles within: an entry is a profile without "version".
nlohmann::ordered_json ProfileEntryToJson(const WorkloadProfile& profile);
Result<WorkloadProfile> ReadProfileEntry(const Node& node);
Result<WorkloadProfile> ReadWorkloadProfile(const Node& node);

}  // namespace sublet
