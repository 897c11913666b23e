#include "model/measurement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "base/files.h"
#include "model/calibration.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

// Makes measurements that use every field, from a seed.
class MeasurementMaker {
 public:
  explicit MeasurementMaker(unsigned seed) : random_(seed) {}

  Measurement Make() {
    Measurement m;
    m.board = Text();
    m.gpu_name = "NVIDIA " + Text();
    m.gpu_uuid = Text();
    m.driver_version = Text();
    m.cuda_version = Upto(14'000);
    m.sm_count = Upto(200);
    m.memory = Mib();
    m.cpu_cores = Upto(256);
    m.effort = Text();
    m.seed = (static_cast<std::uint64_t>(random_()) << 32) | random_();
    m.duration_s = Number();
    m.simulated = Coin();
    m.partial = Coin();
    m.disturbed = Coin();
    for (int i = Upto(3); i > 0; --i) m.disturbed_by.push_back(Text());
    m.before = Conditions();
    m.after = Conditions();
    if (Coin()) m.drift_percent = Number() - 50;
    m.device_reserve = Mib();
    m.mps_clients_max = Upto(60);
    for (int i = Upto(6); i > 0; --i) m.runs.push_back(OneRun(i));
    for (int i = Upto(3); i > 0; --i) m.quotas.push_back(Quota());
    for (int i = Upto(3); i > 0; --i) m.faults.push_back(Fault());
    for (int i = Upto(3); i > 0; --i) m.skipped.push_back({Text(), Text()});
    return m;
  }

 private:
  int Upto(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  bool Coin() { return Upto(2) == 1; }
  double Number() { return std::uniform_real_distribution<double>(0, 100)(random_); }
  Bytes Mib() { return Bytes::FromMib(Upto(200'000)); }
  SharingMode Mode() { return SharingModeWords()[random_() % SharingModeWords().size()].second; }
  std::string Text() {
    static constexpr std::string_view kPieces[] = {"a", "\"", "\\", "{", "é", " ", "\n", "7", ":"};
    std::string text;
    for (int i = Upto(6); i > 0; --i) text += kPieces[random_() % std::size(kPieces)];
    return text;
  }
  Estimate AnyEstimate() {
    const double low = Number();
    const double value = low + Number();
    return {value, low, value + Number()};
  }

  GpuConditions Conditions() {
    GpuConditions conditions;
    conditions.time = Text();
    if (Coin()) conditions.sm_clock_mhz = Upto(3000);
    if (Coin()) conditions.memory_clock_mhz = Upto(3000);
    if (Coin()) conditions.temperature_c = Upto(100) - 10;
    if (Coin()) conditions.power_w = Number();
    for (int i = Upto(3); i > 0; --i) conditions.throttle_reasons.push_back(Text());
    return conditions;
  }

  TenantFigures Tenant(int servers) {
    TenantFigures tenant;
    tenant.workload = "w" + Text();
    if (Coin()) tenant.sm_percent = 1 + Upto(100);
    tenant.server = Upto(servers);
    tenant.mig_profile = Text();
    tenant.rate_per_s = AnyEstimate();
    tenant.latency_ms_p50 = Number();
    tenant.latency_ms_p99 = Number();
    tenant.latency_ms_max = Number();
    if (Coin()) tenant.memory = Mib();
    if (Coin()) tenant.startup_ms = Number();
    if (Coin()) tenant.slowdown = Number();
    return tenant;
  }

  Run OneRun(int number) {
    Run run;
    run.id = std::to_string(number) + Text();
    run.series = Text();
    run.mode = Mode();
    run.servers = 1 + Upto(3);
    run.streams = 1 + Upto(3);
    for (int i = 1 + Upto(4); i > 0; --i) run.tenants.push_back(Tenant(run.servers));
    run.total_per_s = AnyEstimate();
    run.fairness = Number() / 100;
    run.rounds = 1 + Upto(40);
    run.round_ms = Number();
    run.settled = Coin();
    if (Coin()) run.energy_mj_per_unit = Number();
    return run;
  }

  QuotaCheck Quota() {
    return {.mode = Mode(),
            .how = Text(),
            .limit = Mib(),
            .context = Mib(),
            .allocated = Mib(),
            .error_percent = Number() - 50,
            .enforced = Coin()};
  }

  FaultCheck Fault() {
    FaultCheck fault;
    fault.mode = Mode();
    fault.fault = Text();
    fault.note = Text();
    fault.servers = 1 + Upto(3);
    fault.survivors = Upto(4);
    fault.neighbours = fault.survivors + Upto(4);
    fault.pause_ms_max = Number();
    if (Coin()) fault.recovery_ms = Number();
    return fault;
  }

  std::mt19937 random_;
};

Measurement Sample() {
  Measurement m;
  m.gpu_name = "NVIDIA H200";
  Run run;
  run.id = "alone/small";
  run.series = "alone";
  TenantFigures tenant;
  tenant.workload = "small";
  tenant.rate_per_s = {10'013, 9990, 10'020};
  run.tenants = {tenant};
  run.total_per_s = tenant.rate_per_s;
  run.rounds = 6;
  m.runs = {run};
  m.quotas.push_back(
      {.how = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", .limit = {}, .context = {}, .allocated = {}});
  m.faults.push_back({.fault = "SIGKILL", .recovery_ms = {}, .note = {}});
  return m;
}

std::string ErrorOf(const std::string& text) {
  const Result<Measurement> measurement = ParseMeasurement(text, "m.json");
  return measurement ? "no error" : measurement.error().message;
}

// The error after `change` to the sample.
std::string ErrorAfter(const std::function<void(Json&)>& change) {
  Json json = MeasurementToJson(Sample());
  change(json);
  return ErrorOf(json.dump());
}

TEST(MeasurementTest, JsonRoundTripKeepsEveryField) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    const std::string written = MeasurementToJson(MeasurementMaker(seed).Make()).dump();
    const Result<Measurement> read = ParseMeasurement(written, "m.json");
    ASSERT_TRUE(read.has_value()) << seed << ": " << read.error().message << "\n" << written;
    EXPECT_EQ(MeasurementToJson(*read).dump(), written) << seed;
  }
}

// The other half of the promise: what is written differs wherever a field does. Each field of a
// measurement that has them all is changed in turn in the JSON, and must be there after reading.
TEST(MeasurementTest, ReadsEveryFieldThatItWrites) {
  Measurement full = Sample();
  // No list is empty: flatten() can't tell one from null.
  full.before = full.after = {"t", 1, 2, 3, 4, {"hw slowdown"}};
  full.disturbed_by = {"99 Xorg, 4 MiB"};
  full.drift_percent = 1;
  full.runs[0].energy_mj_per_unit = 5;
  full.runs[0].tenants[0].sm_percent = 10;
  full.runs[0].tenants[0].memory = 6_MiB;
  full.runs[0].tenants[0].startup_ms = 7;
  full.runs[0].tenants[0].slowdown = 8;
  full.faults[0].recovery_ms = 9;
  full.skipped.push_back({"mig", "off"});
  const Json flat = MeasurementToJson(full).flatten();
  int changed = 0;
  for (const auto& [path, value] : flat.items()) {
    Json json = flat;
    if (value.is_string() && !path.ends_with("/mode") && path != "/version") {
      json[path] = "other";
    } else if (value.is_boolean()) {
      json[path] = !value.get<bool>();
    } else if (path.ends_with("fairness")) {
      json[path] = 0.5;
    } else if (path.ends_with("/neighbours") || path.ends_with("/servers")) {
      json[path] = value.get<int>() + 1;
    } else if (value.is_number() && !path.ends_with("/server") && !path.ends_with("/survivors") &&
               path.find("_per_s") == std::string::npos) {
      json[path] = value.get<int>() + 1;
    } else {
      continue;  // Bound to another field; the random round trip has these.
    }
    const std::string text = json.unflatten().dump();
    const Result<Measurement> read = ParseMeasurement(text, "m.json");
    ASSERT_TRUE(read.has_value()) << path << ": " << read.error().message;
    EXPECT_EQ(MeasurementToJson(*read).flatten()[path], json[path]) << path;
    ++changed;
  }
  EXPECT_GE(changed, 50);
}

TEST(MeasurementTest, KeepsASeedOfSixtyFourBits) {
  Measurement m = Sample();
  m.seed = std::numeric_limits<std::uint64_t>::max();
  const auto read = ParseMeasurement(MeasurementToJson(m).dump(), "m.json");
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->seed, m.seed);
}

TEST(MeasurementTest, LeavesOutWhatWasNotMeasured) {
  const Json json = MeasurementToJson(Sample());
  EXPECT_FALSE(json.contains("drift_percent"));
  EXPECT_FALSE(json["runs"][0].contains("energy_mj_per_unit"));
  EXPECT_FALSE(json["runs"][0]["tenants"][0].contains("memory_mib"));
  EXPECT_FALSE(json["runs"][0]["tenants"][0].contains("sm_percent"));
  EXPECT_FALSE(json["before"].contains("power_w"));
}

TEST(MeasurementTest, IsReadOutOfTheCalibrationThatCarriesIt) {
  Json calibration = CalibrationToJson(DefaultCalibration());
  calibration["measurement"] = MeasurementToJson(Sample());
  const Result<Measurement> read = ParseMeasurement(calibration.dump(), "cal.json");
  ASSERT_TRUE(read.has_value()) << read.error().message;
  EXPECT_EQ(MeasurementToJson(*read).dump(), MeasurementToJson(Sample()).dump());
}

TEST(MeasurementTest, ACalibrationWithoutOneSaysHowToMakeIt) {
  const auto read = ParseMeasurement(CalibrationToJson(DefaultCalibration()).dump(), "cal.json");
  ASSERT_FALSE(read.has_value());
  EXPECT_THAT(read.error().message, HasSubstr("carries no measurement"));
  EXPECT_THAT(read.error().hint, HasSubstr("sublet measure -o"));
}

TEST(MeasurementTest, FindsARunByItsId) {
  const Measurement m = Sample();
  EXPECT_EQ(m.Find("alone/small"), m.runs.data());
  EXPECT_EQ(m.Find("alone/big"), nullptr);
}

TEST(MeasurementTest, RefusesAnUnknownKeyAndProposesOne) {
  const Result<Measurement> read = [] {
    Json json = MeasurementToJson(Sample());
    json["runs"][0]["round"] = 1;
    return ParseMeasurement(json.dump(2), "m.json");
  }();
  ASSERT_FALSE(read.has_value());
  EXPECT_THAT(read.error().message, HasSubstr("unknown key in run: 'round'"));
  EXPECT_THAT(read.error().hint, HasSubstr("'rounds'"));
}

TEST(MeasurementTest, RefusesAnotherVersion) {
  EXPECT_THAT(ErrorAfter([](Json& json) { json["version"] = "sublet.measurement/v2"; }),
              HasSubstr("unknown version of measurement: 'sublet.measurement/v2'"));
}

TEST(MeasurementTest, RefusesAnEstimateOutsideItsInterval) {
  EXPECT_THAT(ErrorAfter([](Json& json) { json["runs"][0]["total_per_s"]["low"] = 10'014; }),
              HasSubstr("an estimate lies between its low and its high"));
  EXPECT_THAT(ErrorAfter([](Json& json) { json["runs"][0]["total_per_s"]["high"] = 10'012; }),
              HasSubstr("an estimate lies between its low and its high"));
}

TEST(MeasurementTest, RefusesTwoRunsOfOneId) {
  EXPECT_THAT(ErrorAfter([](Json& json) { json["runs"].push_back(json["runs"][0]); }),
              HasSubstr("two runs of one id: 'alone/small'"));
}

TEST(MeasurementTest, RefusesARunThatNobodyWorkedIn) {
  EXPECT_THAT(ErrorAfter([](Json& json) { json["runs"][0]["tenants"] = Json::array(); }),
              HasSubstr("a run without tenants"));
  EXPECT_THAT(ErrorAfter([](Json& json) { json["runs"][0]["rounds"] = 0; }), HasSubstr("1"));
}

TEST(MeasurementTest, RefusesATenantOfAServerThatIsNotThere) {
  EXPECT_THAT(ErrorAfter([](Json& json) { json["runs"][0]["tenants"][0]["server"] = 1; }),
              HasSubstr("a tenant names a server that isn't there: 1 of 1"));
}

TEST(MeasurementTest, RefusesMoreSurvivorsThanNeighbours) {
  EXPECT_THAT(ErrorAfter([](Json& json) { json["faults"][0]["survivors"] = 1; }),
              HasSubstr("more survivors than there were neighbours"));
}

TEST(MeasurementTest, RefusesFiguresThatCannotBe) {
  const auto refused = [](const char* path, const Json& value) {
    const std::string error =
        ErrorAfter([&](Json& json) { json[Json::json_pointer(path)] = value; });
    EXPECT_THAT(error, HasSubstr("m.json:1:")) << path;
  };
  refused("/seed", -1);
  refused("/seed", 1.5);
  refused("/seed", "7");
  refused("/memory_mib", -1);
  refused("/gpu_name", "");
  refused("/before", Json::array());
  refused("/runs/0/fairness", 1.01);
  refused("/runs/0/mode", "turns");
  refused("/runs/0/servers", 0);
  refused("/runs/0/tenants/0/sm_percent", 0);
  refused("/runs/0/tenants/0/latency_ms_p50", -1);
  refused("/runs/0/tenants/0/workload", "");
  refused("/quotas/0/error_percent", -101);
}

TEST(MeasurementTest, NamesTheFieldThatIsMissing) {
  EXPECT_THAT(ErrorAfter([](Json& json) { json["runs"][0].erase("total_per_s"); }),
              HasSubstr("total_per_s"));
  EXPECT_THAT(ErrorOf("[]"), HasSubstr("measurement must be a map"));
}

}  // namespace
}  // namespace sublet
