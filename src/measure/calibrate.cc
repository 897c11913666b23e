#include "measure/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "measure/crowd_profile.h"
#include "measure/lab_runs.h"
#include "measure/statistics.h"
#include "model/board.h"

namespace sublet {
namespace {

// The workload whose rate alone under MPS stands for all: many small kernels and one wait, as
// models have it.
constexpr std::string_view kFactorWorkload = "transformer";

Bytes MibRoundedUp(double bytes) {
  return Bytes::FromMib(static_cast<std::int64_t>(std::ceil(bytes / (1 << 20))));
}

// To six digits: no figure is known better, and a file is read by people too.
double Rounded(double value) {
  return std::stod(fmt::format("{:.6g}", value));
}

// "NVIDIA H200, driver 580.159.04, CUDA 13.0, 2026-11-20, full"
std::string SourceOf(const Measurement& measurement) {
  std::string source =
      fmt::format("{}, driver {}, CUDA {}.{}, ", measurement.gpu_name, measurement.driver_version,
                  measurement.cuda_version / 1000, measurement.cuda_version % 1000 / 10);
  // Of an ISO 8601 time, the day.
  const std::string day = measurement.before.time.substr(0, measurement.before.time.find('T'));
  if (!day.empty()) source += day + ", ";
  source += measurement.effort;
  if (measurement.simulated) source += ", simulated";
  if (measurement.disturbed) source += ", beside other processes";
  if (measurement.partial) source += ", interrupted";
  return source;
}

// Fills a calibration figure by figure and keeps the books on where each came from.
class Deriver {
 public:
  explicit Deriver(const Measurement& measurement) : measurement_(measurement) {
    Board board;
    board.name = measurement.board.empty() ? measurement.gpu_name : measurement.board;
    CHECK(!board.name.empty());
    // What no run says stays as it is here.
    calibration_ = ForBoard(DefaultCalibration(), board);
    inherited_scaled_ = calibration_.scaled;
    calibration_.source = SourceOf(measurement);
    calibration_.scaled = false;
    calibration_.profiles.clear();
  }

  DerivedCalibration Finish() && {
    FindSwitch();
    FindServiceFactor();
    FindClientsMax();
    FindContexts();
    FindReserve();
    NameWhatIsInherited();
    FindProfiles();
    return {std::move(calibration_), std::move(derivations_)};
  }

 private:
  void Measured(std::string figure, std::string how) {
    derivations_.push_back({std::move(figure), true, std::move(how)});
  }

  void Inherited(std::string figure, std::string_view why) {
    inherited_.push_back(fmt::format("{} ({})", figure, why));
    derivations_.push_back({std::move(figure), false,
                            fmt::format("{}; taken over from {}{}", why, DefaultCalibration().board,
                                        inherited_scaled_ ? ", scaled to the worse side" : "")});
  }

  void FindSwitch() {
    std::vector<double> lost;
    std::vector<LinePoint> cycles;
    for (const std::string_view workload : WorkloadsIn(measurement_)) {
      const Run* alone = AloneRun(measurement_, workload);
      if (alone == nullptr || workload == kCopyingWorkload) continue;
      const double service = 1000 / alone->total_per_s.value;
      for (const Run* run : UniformRuns(measurement_, SharingMode::kTimeSlicing, workload)) {
        if (run->tenants.size() < 2) continue;
        const double cycle = 1000 / run->total_per_s.value;
        lost.push_back(cycle - service);
        cycles.push_back({service, cycle});
      }
    }
    if (lost.empty()) return Inherited("switch_ms", "nothing was time-sliced");
    // Below 0 nothing is lost; the noise of two rates says no more.
    calibration_.switch_ms = Rounded(std::max(0.0, Median(lost)));
    Measured("switch_ms", fmt::format("median of {} time-sliced runs, half of which lie within "
                                      "{:.4f} ms of it; the time of a unit grows by {:.2f} of its "
                                      "time alone",
                                      lost.size(), MedianDeviation(lost), FitLine(cycles).slope));
  }

  void FindServiceFactor() {
    std::string_view chosen;
    double factor = 0;
    std::string rates;
    for (const std::string_view workload : WorkloadsIn(measurement_)) {
      const Run* alone = AloneRun(measurement_, workload);
      if (alone == nullptr || workload == kCopyingWorkload) continue;
      for (const Run* run : UniformRuns(measurement_, SharingMode::kMps, workload)) {
        if (run->tenants.size() != 1 || CapOf(*run) != 100) continue;
        if (!chosen.empty() && workload != kFactorWorkload) continue;
        chosen = workload;
        factor = alone->total_per_s.value / run->total_per_s.value;
        rates = fmt::format("{:.0f} units a second alone, {:.0f} as the only client of MPS",
                            alone->total_per_s.value, run->total_per_s.value);
      }
    }
    if (chosen.empty()) return Inherited("mps_service_factor", "nothing ran alone under MPS");
    calibration_.mps_service_factor = Rounded(std::max(1.0, factor));
    Measured("mps_service_factor", fmt::format("{}: {}", chosen, rates));
  }

  void FindClientsMax() {
    if (measurement_.mps_clients_max <= 0) return Inherited("mps_clients_max", "not probed");
    calibration_.mps_clients_max = measurement_.mps_clients_max;
    Measured("mps_clients_max", "clients that were served of those that asked");
  }

  // Bytes of each process's context in `mode`, by cap.
  std::map<int, std::vector<double>> ContextsIn(SharingMode mode) const {
    std::map<int, std::vector<double>> contexts;
    for (const Run& run : measurement_.runs) {
      if (run.mode != mode) continue;
      for (const TenantFigures& tenant : run.tenants) {
        const std::optional<Bytes> buffers = BuffersOf(tenant.workload, run.streams);
        // A process below its own buffers was not counted in full.
        if (!tenant.memory || !buffers || *tenant.memory <= *buffers) continue;
        contexts[tenant.sm_percent.value_or(100)].push_back(
            static_cast<double>((*tenant.memory - *buffers).count));
      }
    }
    return contexts;
  }

  void FindContexts() {
    std::map<int, std::vector<double>> contexts = ContextsIn(SharingMode::kMps);
    std::string where = "MPS clients";
    if (!contexts.contains(100)) {
      // Without MPS a context is about as large as under it without a cap.
      for (const SharingMode mode : {SharingMode::kExclusive, SharingMode::kTimeSlicing}) {
        auto plain = ContextsIn(mode);
        if (contexts.contains(100) || !plain.contains(100)) continue;
        contexts[100] = std::move(plain[100]);
        where = "processes; without a cap, of those outside MPS";
      }
    }
    if (!contexts.contains(100)) {
      return Inherited("contexts", contexts.empty() ? "no process's memory was seen"
                                                    : "no process's without an SM cap was seen");
    }
    calibration_.contexts.clear();
    std::size_t seen = 0;
    for (auto& [cap, bytes] : contexts) {
      seen += bytes.size();
      calibration_.contexts.push_back({cap, MibRoundedUp(Median(std::move(bytes)))});
    }
    Measured("contexts", fmt::format("medians of {} {}, their memory less their workload's buffers",
                                     seen, where));
  }

  void FindReserve() {
    if (measurement_.device_reserve <= Bytes{}) return Inherited("device_reserve", "not probed");
    calibration_.device_reserve = Bytes::FromMib(measurement_.device_reserve.mib_rounded_up());
    Measured("device_reserve", "what the driver and five MPS servers take of the memory");
  }

  void NameWhatIsInherited() {
    if (inherited_.empty()) return;
    calibration_.scaled = inherited_scaled_;
    calibration_.source += fmt::format("; not measured here but {} {}: {}",
                                       inherited_scaled_ ? "scaled from" : "taken over from",
                                       DefaultCalibration().board, fmt::join(inherited_, ", "));
  }

  void FindProfiles() {
    for (const std::string_view workload : WorkloadsIn(measurement_)) {
      if (workload == kCopyingWorkload) continue;
      std::string figure = fmt::format("profiles/{}", workload);
      Result<WorkloadProfile> profile = ProfileFromLab(measurement_, workload, calibration_);
      if (!profile) {
        derivations_.push_back({std::move(figure), false, profile.error().message});
        continue;
      }
      profile->source = SourceOf(measurement_);
      std::string crowd = profile->crowd == 0 ? std::string("no crowd was run")
                                              : fmt::format("crowd of {}", profile->crowd);
      Measured(std::move(figure),
               fmt::format("alone under {} SM caps, {}", profile->points.size(), crowd));
      calibration_.profiles.push_back(*std::move(profile));
    }
  }

  const Measurement& measurement_;
  Calibration calibration_;
  bool inherited_scaled_ = false;  // What is inherited comes from another board.
  std::vector<std::string> inherited_;
  std::vector<Derivation> derivations_;
};

}  // namespace

DerivedCalibration DeriveCalibration(const Measurement& measurement) {
  return Deriver(measurement).Finish();
}

Calibration Calibrate(const Measurement& measurement) {
  return DeriveCalibration(measurement).calibration;
}

}  // namespace sublet
