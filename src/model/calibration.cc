#include "model/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "embedded/model_data.h"
#include "model/document.h"

namespace sublet {
namespace {

// docs/decisions/0003-scaling-calibrations.md derives both.
constexpr double kScaledSwitch = 1.5;
constexpr double kScaledContext = 1.25;

Bytes RoundedUpToMib(double bytes) {
  return Bytes::FromMib(static_cast<std::int64_t>(std::ceil(bytes / (1 << 20))));
}

Result<ContextPoint> ReadContextPoint(const Node& node) {
  ContextPoint point;
  ObjectReader in(node, "context");
  in.Required("sm_percent", point.sm_percent, {.min = 1, .max = 100});
  in.Required("memory_mib", point.memory, ReadMib);
  RETURN_IF_ERROR(in.Finish());
  return point;
}

// Contexts must be as ContextAt() needs them.
void CheckContexts(const std::vector<ContextPoint>& contexts, ObjectReader& in) {
  const auto descends = [](const ContextPoint& a, const ContextPoint& b) {
    return a.sm_percent >= b.sm_percent;
  };
  if (std::adjacent_find(contexts.begin(), contexts.end(), descends) != contexts.end()) {
    return in.Reject("contexts", "contexts must have ascending sm_percent");
  }
  if (contexts.empty() || contexts.back().sm_percent != 100) {
    in.Reject("contexts", "the last context must be the one at sm_percent 100");
  }
}

Result<Calibration> ReadCalibration(const Node& node) {
  Calibration calibration;
  ObjectReader in(node, "calibration");
  in.Version(kCalibrationVersion);
  in.Required("board", calibration.board);
  in.Required("source", calibration.source);
  in.Optional("scaled", calibration.scaled);
  // The upper ends are a thousand times what was ever measured: above is a wrong unit.
  in.Required("switch_ms", calibration.switch_ms, {.min = 0, .max = 1000});
  in.Required("mps_service_factor", calibration.mps_service_factor, {.min = 1, .max = 1000});
  in.Required("mps_clients_max", calibration.mps_clients_max, {.min = 1, .max = 100'000});
  in.RequiredList("contexts", calibration.contexts, ReadContextPoint);
  in.Required("device_reserve_mib", calibration.device_reserve, ReadMib);
  if (in.Has("contexts")) CheckContexts(calibration.contexts, in);
  if (in.Has("board") && calibration.board.empty()) in.Reject("board", "board must not be empty");
  RETURN_IF_ERROR(in.Finish());
  return calibration;
}

}  // namespace

Bytes Calibration::ContextAt(double sm_percent) const {
  CHECK(!contexts.empty());
  const auto above = std::find_if(contexts.begin(), contexts.end(), [&](const ContextPoint& point) {
    return static_cast<double>(point.sm_percent) >= sm_percent;
  });
  if (above == contexts.begin()) return RoundedUpToMib(static_cast<double>(above->memory.count));
  const ContextPoint& low = *std::prev(above);
  if (above == contexts.end()) return RoundedUpToMib(static_cast<double>(low.memory.count));
  const double part = (sm_percent - low.sm_percent) / (above->sm_percent - low.sm_percent);
  const double step = static_cast<double>(above->memory.count - low.memory.count);
  return RoundedUpToMib(static_cast<double>(low.memory.count) + part * step);
}

const Calibration& DefaultCalibration() {
  static const Calibration kDefault = [] {
    Result<Calibration> parsed = ParseCalibration(embedded::h200_json, "h200.json");
    CHECK(parsed.has_value());
    return *std::move(parsed);
  }();
  return kDefault;
}

Calibration ForBoard(const Calibration& calibration, const Board& board) {
  if (calibration.board == board.name) return calibration;
  Calibration scaled = calibration;
  scaled.board = board.name;
  scaled.source = fmt::format("scaled from {}: {}", calibration.board, calibration.source);
  scaled.scaled = true;
  scaled.switch_ms *= kScaledSwitch;
  for (ContextPoint& point : scaled.contexts) {
    point.memory = RoundedUpToMib(static_cast<double>(point.memory.count) * kScaledContext);
  }
  return scaled;
}

nlohmann::ordered_json CalibrationToJson(const Calibration& calibration) {
  nlohmann::ordered_json contexts = nlohmann::ordered_json::array();
  for (const ContextPoint& point : calibration.contexts) {
    contexts.push_back({{"sm_percent", point.sm_percent}, {"memory_mib", point.memory.mib()}});
  }
  return {{"version", kCalibrationVersion},
          {"board", calibration.board},
          {"source", calibration.source},
          {"scaled", calibration.scaled},
          {"switch_ms", calibration.switch_ms},
          {"mps_service_factor", calibration.mps_service_factor},
          {"mps_clients_max", calibration.mps_clients_max},
          {"contexts", std::move(contexts)},
          {"device_reserve_mib", calibration.device_reserve.mib()}};
}

Result<Calibration> ParseCalibration(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadCalibration);
}

}  // namespace sublet
