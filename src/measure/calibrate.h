// measure/calibrate.h
//
// From what the lab saw to what the planner needs: a Measurement in, a Calibration out.
//
// Each figure comes from runs, by a formula that docs/operating/measuring.md derives:
//
//   switch_ms           median over the time-sliced runs of 1000 / total - 1000 / alone
//   mps_service_factor  rate alone / rate as the only client of MPS, of the transformer
//   contexts            median over MPS clients under one cap of memory - the workload's buffers
//   device_reserve, mps_clients_max   as probed
//   profiles            of each workload that was run under several SM caps
//
// A figure whose runs are missing is the default calibration's, scaled to this board as ForBoard()
// does (model/calibration.h), and `source` names it with the reason: nothing is made up in silence.
//
//   Calibration here = Calibrate(measurement);
//   for (const Derivation& d : DeriveCalibration(measurement).derivations) Print(d.figure, d.how);
//
// Pure. Thread safety: no shared state but constants.
#pragma once

#include <string>
#include <vector>

#include "model/calibration.h"
#include "model/measurement.h"

namespace sublet {

// Where one figure of a calibration comes from.
struct Derivation {
  std::string figure;     // "switch_ms", "profiles/transformer"
  bool measured = false;  // False: taken over from the default, or left out.
  std::string how;        // "median of 14 time-sliced runs; they lie within 0.003 ms of it"
};

struct DerivedCalibration {
  Calibration calibration;
  std::vector<Derivation> derivations;  // One for each figure, in the order of the struct.
};

// The calibration passes ParseCalibration() when written. Its board is the GPU's own name where the
// catalogue hasn't got it. REQUIRES: what ParseMeasurement() promises of a measurement.
DerivedCalibration DeriveCalibration(const Measurement& measurement);

// The same without the reasons.
Calibration Calibrate(const Measurement& measurement);

}  // namespace sublet
