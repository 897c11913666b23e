#include "model/measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "model/calibration.h"
#include "model/document.h"

namespace sublet {
namespace {

using Json = nlohmann::ordered_json;

// Above these a number is a broken file, whatever field it stands in.
constexpr Range kCount{.min = 0, .max = 10'000'000};
constexpr Range kAmount{.min = 0, .max = 1e15};
constexpr Range kSmPercent{.min = 1, .max = 100};
constexpr Range kChangePercent{.min = -100, .max = 1e9};  // Nothing loses more than everything.

// --- Writing ------------------------------------------------------------------------------------

template <typename T>
void Put(Json& json, const char* key, const std::optional<T>& value) {
  if (value) json[key] = *value;
}

void Put(Json& json, const char* key, const std::optional<Bytes>& value) {
  if (value) json[key] = value->mib_rounded_up();
}

template <typename T, typename Write>
Json ListToJson(const std::vector<T>& list, const Write& write) {
  Json json = Json::array();
  for (const T& item : list) json.push_back(write(item));
  return json;
}

Json EstimateToJson(const Estimate& estimate) {
  return {{"value", estimate.value}, {"low", estimate.low}, {"high", estimate.high}};
}

Json TenantToJson(const TenantFigures& tenant) {
  Json json{{"workload", tenant.workload}};
  Put(json, "sm_percent", tenant.sm_percent);
  json["server"] = tenant.server;
  json["mig_profile"] = tenant.mig_profile;
  json["rate_per_s"] = EstimateToJson(tenant.rate_per_s);
  json["latency_ms_p50"] = tenant.latency_ms_p50;
  json["latency_ms_p99"] = tenant.latency_ms_p99;
  json["latency_ms_max"] = tenant.latency_ms_max;
  Put(json, "memory_mib", tenant.memory);
  Put(json, "startup_ms", tenant.startup_ms);
  Put(json, "slowdown", tenant.slowdown);
  return json;
}

Json RunToJson(const Run& run) {
  Json json{{"id", run.id},
            {"series", run.series},
            {"mode", SharingModeName(run.mode)},
            {"servers", run.servers},
            {"streams", run.streams},
            {"tenants", ListToJson(run.tenants, TenantToJson)},
            {"total_per_s", EstimateToJson(run.total_per_s)},
            {"fairness", run.fairness},
            {"rounds", run.rounds},
            {"round_ms", run.round_ms},
            {"settled", run.settled}};
  Put(json, "energy_mj_per_unit", run.energy_mj_per_unit);
  return json;
}

Json QuotaToJson(const QuotaCheck& quota) {
  return {{"mode", SharingModeName(quota.mode)},
          {"how", quota.how},
          {"limit_mib", quota.limit.mib_rounded_up()},
          {"context_mib", quota.context.mib_rounded_up()},
          {"allocated_mib", quota.allocated.mib_rounded_up()},
          {"error_percent", quota.error_percent},
          {"enforced", quota.enforced}};
}

Json FaultToJson(const FaultCheck& fault) {
  Json json{{"mode", SharingModeName(fault.mode)},
            {"servers", fault.servers},
            {"fault", fault.fault},
            {"neighbours", fault.neighbours},
            {"survivors", fault.survivors},
            {"pause_ms_max", fault.pause_ms_max}};
  Put(json, "recovery_ms", fault.recovery_ms);
  json["note"] = fault.note;
  return json;
}

Json SkippedToJson(const Skipped& skipped) {
  return {{"what", skipped.what}, {"reason", skipped.reason}};
}

Json ConditionsToJson(const GpuConditions& conditions) {
  Json json{{"time", conditions.time}};
  Put(json, "sm_clock_mhz", conditions.sm_clock_mhz);
  Put(json, "memory_clock_mhz", conditions.memory_clock_mhz);
  Put(json, "temperature_c", conditions.temperature_c);
  Put(json, "power_w", conditions.power_w);
  json["throttle_reasons"] = conditions.throttle_reasons;
  return json;
}

// --- Reading ------------------------------------------------------------------------------------

Result<Estimate> ReadEstimate(const Node& node) {
  Estimate estimate;
  ObjectReader in(node, "estimate");
  in.Required("value", estimate.value, kAmount);
  in.Required("low", estimate.low, kAmount);
  in.Required("high", estimate.high, kAmount);
  if (estimate.low > estimate.value || estimate.value > estimate.high) {
    in.Reject("value", "an estimate lies between its low and its high");
  }
  RETURN_IF_ERROR(in.Finish());
  return estimate;
}

// The whole range of uint64_t, which ReadInteger() has not.
Result<std::uint64_t> ReadSeed(const Node& node) {
  std::uint64_t seed = 0;
  const char* end = node.scalar.data() + node.scalar.size();
  const auto [stop, error] = std::from_chars(node.scalar.data(), end, seed);
  if (node.kind != Node::Kind::kScalar || node.quoted || error != std::errc() || stop != end) {
    return FailAt(node, "a whole number from 0 to 2^64 - 1 is expected here");
  }
  return seed;
}

Result<TenantFigures> ReadTenant(const Node& node) {
  TenantFigures tenant;
  ObjectReader in(node, "tenant");
  in.Required("workload", tenant.workload);
  in.Optional("sm_percent", tenant.sm_percent, kSmPercent);
  in.Optional("server", tenant.server, kCount);
  in.Optional("mig_profile", tenant.mig_profile);
  in.Required("rate_per_s", tenant.rate_per_s, ReadEstimate);
  in.Required("latency_ms_p50", tenant.latency_ms_p50, kAmount);
  in.Required("latency_ms_p99", tenant.latency_ms_p99, kAmount);
  in.Required("latency_ms_max", tenant.latency_ms_max, kAmount);
  in.Optional("memory_mib", tenant.memory, ReadMib);
  in.Optional("startup_ms", tenant.startup_ms, kAmount);
  in.Optional("slowdown", tenant.slowdown, kAmount);
  if (in.Has("workload") && tenant.workload.empty()) in.Reject("workload", "workload is empty");
  RETURN_IF_ERROR(in.Finish());
  return tenant;
}

Result<Run> ReadRun(const Node& node) {
  Run run;
  ObjectReader in(node, "run");
  in.Required("id", run.id);
  in.Required("series", run.series);
  in.RequiredEnum("mode", run.mode, SharingModeWords());
  in.Optional("servers", run.servers, {.min = 1, .max = kCount.max});
  in.Optional("streams", run.streams, {.min = 1, .max = kCount.max});
  in.RequiredList("tenants", run.tenants, ReadTenant);
  in.Required("total_per_s", run.total_per_s, ReadEstimate);
  in.Required("fairness", run.fairness, {.min = 0, .max = 1});
  in.Required("rounds", run.rounds, {.min = 1, .max = kCount.max});
  in.Required("round_ms", run.round_ms, kAmount);
  in.Required("settled", run.settled);
  in.Optional("energy_mj_per_unit", run.energy_mj_per_unit, kAmount);
  if (in.Has("id") && run.id.empty()) in.Reject("id", "id is empty");
  if (in.Has("tenants") && run.tenants.empty()) in.Reject("tenants", "a run without tenants");
  for (const TenantFigures& tenant : run.tenants) {
    if (tenant.server < run.servers) continue;
    in.Reject("tenants", fmt::format("a tenant names a server that isn't there: {} of {}",
                                     tenant.server, run.servers));
  }
  RETURN_IF_ERROR(in.Finish());
  return run;
}

Result<QuotaCheck> ReadQuota(const Node& node) {
  QuotaCheck quota;
  ObjectReader in(node, "quota");
  in.RequiredEnum("mode", quota.mode, SharingModeWords());
  in.Required("how", quota.how);
  in.Required("limit_mib", quota.limit, ReadMib);
  in.Required("context_mib", quota.context, ReadMib);
  in.Required("allocated_mib", quota.allocated, ReadMib);
  in.Required("error_percent", quota.error_percent, kChangePercent);
  in.Required("enforced", quota.enforced);
  RETURN_IF_ERROR(in.Finish());
  return quota;
}

Result<FaultCheck> ReadFault(const Node& node) {
  FaultCheck fault;
  ObjectReader in(node, "fault");
  in.RequiredEnum("mode", fault.mode, SharingModeWords());
  in.Optional("servers", fault.servers, {.min = 1, .max = kCount.max});
  in.Required("fault", fault.fault);
  in.Required("neighbours", fault.neighbours, kCount);
  in.Required("survivors", fault.survivors, kCount);
  in.Required("pause_ms_max", fault.pause_ms_max, kAmount);
  in.Optional("recovery_ms", fault.recovery_ms, kAmount);
  in.Optional("note", fault.note);
  if (fault.survivors > fault.neighbours) {
    in.Reject("survivors", "more survivors than there were neighbours");
  }
  RETURN_IF_ERROR(in.Finish());
  return fault;
}

Result<Skipped> ReadSkipped(const Node& node) {
  Skipped skipped;
  ObjectReader in(node, "skipped");
  in.Required("what", skipped.what);
  in.Required("reason", skipped.reason);
  RETURN_IF_ERROR(in.Finish());
  return skipped;
}

Result<GpuConditions> ReadConditions(const Node& node) {
  GpuConditions conditions;
  ObjectReader in(node, "conditions");
  in.Required("time", conditions.time);
  in.Optional("sm_clock_mhz", conditions.sm_clock_mhz, kCount);
  in.Optional("memory_clock_mhz", conditions.memory_clock_mhz, kCount);
  in.Optional("temperature_c", conditions.temperature_c, {.min = -273, .max = kCount.max});
  in.Optional("power_w", conditions.power_w, kAmount);
  in.RequiredList("throttle_reasons", conditions.throttle_reasons, ReadString);
  RETURN_IF_ERROR(in.Finish());
  return conditions;
}

// Find() and every page that names a run rely on ids that are theirs alone.
void CheckIds(const std::vector<Run>& runs, ObjectReader& in) {
  std::unordered_set<std::string_view> ids;
  for (const Run& run : runs) {
    if (ids.insert(run.id).second) continue;
    return in.Reject("runs", fmt::format("two runs of one id: '{}'", run.id));
  }
}

Result<Measurement> ReadMeasurement(const Node& node) {
  Measurement measurement;
  ObjectReader in(node, "measurement");
  in.Version(kMeasurementVersion);
  in.Optional("board", measurement.board);
  in.Required("gpu_name", measurement.gpu_name);
  in.Required("gpu_uuid", measurement.gpu_uuid);
  in.Required("driver_version", measurement.driver_version);
  in.Required("cuda_version", measurement.cuda_version, kCount);
  in.Required("sm_count", measurement.sm_count, kCount);
  in.Required("memory_mib", measurement.memory, ReadMib);
  in.Required("cpu_cores", measurement.cpu_cores, kCount);
  in.Required("effort", measurement.effort);
  in.Required("seed", measurement.seed, ReadSeed);
  in.Required("duration_s", measurement.duration_s, kAmount);
  in.Optional("simulated", measurement.simulated);
  in.Optional("partial", measurement.partial);
  in.Optional("disturbed", measurement.disturbed);
  in.OptionalList("disturbed_by", measurement.disturbed_by, ReadString);
  in.Required("before", measurement.before, ReadConditions);
  in.Required("after", measurement.after, ReadConditions);
  in.Optional("drift_percent", measurement.drift_percent, kChangePercent);
  in.Required("device_reserve_mib", measurement.device_reserve, ReadMib);
  in.Required("mps_clients_max", measurement.mps_clients_max, kCount);
  in.RequiredList("runs", measurement.runs, ReadRun);
  in.RequiredList("quotas", measurement.quotas, ReadQuota);
  in.RequiredList("faults", measurement.faults, ReadFault);
  in.RequiredList("skipped", measurement.skipped, ReadSkipped);
  if (in.Has("gpu_name") && measurement.gpu_name.empty()) {
    in.Reject("gpu_name", "gpu_name is empty");
  }
  CheckIds(measurement.runs, in);
  RETURN_IF_ERROR(in.Finish());
  return measurement;
}

// A measurement, or the calibration file that carries one.
Result<Measurement> ReadFromEither(const Node& node) {
  if (const Node* carried = node.Find("measurement")) return ReadMeasurement(*carried);
  const Node* version = node.Find("version");
  if (version != nullptr && version->scalar == kCalibrationVersion) {
    return FailAt(node, "this calibration carries no measurement",
                  "make one with: sublet measure -o FILE");
  }
  return ReadMeasurement(node);
}

}  // namespace

bool Run::IsUniform() const {
  return std::ranges::all_of(tenants, [&](const TenantFigures& tenant) {
    return tenant.workload == tenants.front().workload &&
           tenant.sm_percent == tenants.front().sm_percent;
  });
}

const Run* Measurement::Find(std::string_view id) const {
  const auto found =
      std::find_if(runs.begin(), runs.end(), [&](const Run& run) { return run.id == id; });
  return found == runs.end() ? nullptr : &*found;
}

nlohmann::ordered_json MeasurementToJson(const Measurement& measurement) {
  Json json{{"version", kMeasurementVersion},
            {"board", measurement.board},
            {"gpu_name", measurement.gpu_name},
            {"gpu_uuid", measurement.gpu_uuid},
            {"driver_version", measurement.driver_version},
            {"cuda_version", measurement.cuda_version},
            {"sm_count", measurement.sm_count},
            {"memory_mib", measurement.memory.mib()},
            {"cpu_cores", measurement.cpu_cores},
            {"effort", measurement.effort},
            {"seed", measurement.seed},
            {"duration_s", measurement.duration_s},
            {"simulated", measurement.simulated},
            {"partial", measurement.partial},
            {"disturbed", measurement.disturbed},
            {"disturbed_by", measurement.disturbed_by},
            {"before", ConditionsToJson(measurement.before)},
            {"after", ConditionsToJson(measurement.after)}};
  Put(json, "drift_percent", measurement.drift_percent);
  json["device_reserve_mib"] = measurement.device_reserve.mib_rounded_up();
  json["mps_clients_max"] = measurement.mps_clients_max;
  json["runs"] = ListToJson(measurement.runs, RunToJson);
  json["quotas"] = ListToJson(measurement.quotas, QuotaToJson);
  json["faults"] = ListToJson(measurement.faults, FaultToJson);
  json["skipped"] = ListToJson(measurement.skipped, SkippedToJson);
  return json;
}

Result<Measurement> ParseMeasurement(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadFromEither);
}

}  // namespace sublet
