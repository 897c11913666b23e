// model/calibration.h
//
// What sharing costs on a board, as measured: the figures that turn a packing into a prediction.
//
// data/calibrations/*.json holds the ones that come with Sublet; docs/formats/calibration.md is the
// format. ForBoard() scales a calibration to a board on which nothing was measured, always to the
// worse side, and marks it.
//
//   const Calibration& h200 = DefaultCalibration();
//   Calibration here = ForBoard(h200, *board);   // here.scaled, here.source says from what
//
// A file that `sublet measure` wrote holds the evidence as well, in the field "measurement". This
// reader passes over it and ParseMeasurement() (model/measurement.h) reads it: who plans needs the
// figures, who reports needs the evidence.
//
// Thread safety: values; constant after construction.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/board.h"
#include "model/workload_profile.h"

namespace sublet {

inline constexpr std::string_view kCalibrationVersion = "sublet.calibration/v1";

// Memory of one process's CUDA context under an SM cap.
struct ContextPoint {
  int sm_percent = 100;
  Bytes memory;
};

struct Calibration {
  std::string board;    // Catalogue name of the board it was measured on or scaled to.
  std::string source;   // "NVIDIA H200, driver 580.159.04, 2026-11-20", what and when.
  bool scaled = false;  // True where ForBoard() made it.

  double switch_ms = 0;           // Time-slicing: lost at each switch between two busy processes.
  double mps_service_factor = 1;  // MPS, one client alone: its service time over that without MPS.
  int mps_clients_max = 48;       // Clients one GPU serves.
  std::vector<ContextPoint> contexts;  // Ascending sm_percent; the last is 100.
  Bytes device_reserve;  // Of the GPU's memory, what no process gets: driver, ECC, MPS server.
  // The lab's own workloads as they ran on `board`, each name once; empty where ForBoard() scaled.
  std::vector<WorkloadProfile> profiles;

  // The context of a process capped at `sm_percent`: linear between points, the first point's below
  // it. Rounded up to a MiB.
  Bytes ContextAt(double sm_percent) const;
};

// The H200 of data/calibrations/h200.json, compiled in.
const Calibration& DefaultCalibration();

// The figures for `board`: as they are when they were measured on it; otherwise with switch_ms
// multiplied by 1.5 and contexts by 1.25 (docs/decisions says why), and `scaled` set. Profiles stay
// with the board they were measured on: a fleet that names one says so by its name, and the planner
// scales the workload.
Calibration ForBoard(const Calibration& calibration, const Board& board);

nlohmann::ordered_json CalibrationToJson(const Calibration& calibration);
Result<Calibration> ParseCalibration(std::string_view text, std::string_view source);

// The profile that `text`, a workload profile or a calibration, has under `name`; of a file with
// one profile, an empty name means that one. Fails with kInvalid, and the hint says what to write.
Result<WorkloadProfile> ParseProfileNamed(std::string_view text, std::string_view source,
                                          std::string_view name);

}  // namespace sublet
