#include "model/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "base/files.h"
#include "model/document.h"
#include "model/fleet.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

// Makes plans that use every field, from a seed.
class PlanMaker {
 public:
  explicit PlanMaker(unsigned seed) : random_(seed) {}

  Plan Make() {
    Plan plan;
    plan.fleet = Text();
    for (int w = 0; w < Upto(5); ++w) AddWorkload(plan, w);
    for (int g = 0; g < 1 + Upto(4); ++g) AddGpu(plan, g);
    for (const PlannedWorkload& workload : plan.workloads) {
      for (int r = 0; r < workload.replicas; ++r) Place(plan, workload, r);
    }
    AddRest(plan);
    return plan;
  }

 private:
  int Upto(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  bool Coin() { return Upto(2) == 0; }
  double Number() { return static_cast<double>(random_()) / 65537.0; }
  Bytes Memory() { return Bytes::FromMib(Upto(200'000)); }
  std::optional<double> Perhaps() { return Coin() ? std::optional(Number()) : std::nullopt; }
  // Text that a careless writer would break: quotes, newlines, other scripts, numbers, nothing.
  std::string Text() {
    static const std::vector<std::string> kTexts = {
        "plain", "", "with \"quotes\"\n", "8000", "null", "grün €", "a\\b\tc", "\x01", "true"};
    return kTexts[static_cast<std::size_t>(Upto(static_cast<int>(kTexts.size())))];
  }

  void AddWorkload(Plan& plan, int number) {
    PlannedWorkload workload;
    workload.name = "workload-" + std::to_string(number);
    workload.tenant = Text();
    workload.replicas = Upto(6);
    workload.isolation = static_cast<Isolation>(Upto(4));
    workload.priority = Upto(200) - 100;
    workload.command = {Text(), Text()};
    workload.image = Text();
    workload.env = {{"A" + Text(), Text()}, {"PORT", "8000"}};
    workload.memory = Memory();
    workload.memory_how = Text();
    workload.latency_ms_p50_target = Perhaps();
    workload.latency_ms_p99_target = Perhaps();
    if (Coin()) workload.port = 8000 + 100 * number;
    if (Coin()) workload.ready = Probe(workload.port.has_value());
    workload.restart = static_cast<RestartPolicy>(Upto(3));
    if (Coin()) workload.stop_timeout_s = Upto(60);
    plan.workloads.push_back(workload);
  }

  Readiness Probe(bool has_port) {
    Readiness ready;
    const int kind = has_port ? Upto(3) : 2;
    if (kind == 0) ready.http = "/health";
    if (kind == 1) ready.tcp = true;
    if (kind == 2) ready.command = {"test", Text()};
    ready.timeout_s = 1 + Upto(100);
    return ready;
  }

  void AddGpu(Plan& plan, int number) {
    PlannedGpu gpu;
    gpu.name = "gpu" + std::to_string(number);
    gpu.board = Text();
    gpu.node = Text();
    gpu.uuid = Text();
    gpu.index = Upto(8) - 1;
    gpu.mig = Coin();
    gpu.memory = Memory();
    gpu.sm_count = Upto(200);
    gpu.memory_units = Upto(13);
    gpu.price_usd_hour = Number();
    gpu.reason = Text();
    for (int p = 0; p < (gpu.mig ? 1 + Upto(3) : 1); ++p) AddPartition(gpu, p);
    plan.gpus.push_back(gpu);
  }

  void AddPartition(PlannedGpu& gpu, int number) {
    PlannedPartition partition;
    partition.name = gpu.name + "-" + std::to_string(number);
    if (gpu.mig) {
      partition.profile = "1g.10gb";
      partition.profile_id = 19;
      partition.start = number;
      partition.size = 1;
    }
    partition.memory = Memory();
    partition.sm_count = Upto(200);
    partition.mode = static_cast<SharingMode>(Upto(4));
    if (partition.mode == SharingMode::kMps) {
      for (int s = 0; s < 1 + Upto(3); ++s) {
        partition.servers.push_back({partition.name + "-" + std::to_string(s), Text()});
      }
    }
    gpu.partitions.push_back(partition);
  }

  void Place(Plan& plan, const PlannedWorkload& workload, int number) {
    PlannedGpu& gpu = plan.gpus[static_cast<std::size_t>(Upto(static_cast<int>(plan.gpus.size())))];
    PlannedPartition& partition = gpu.partitions.back();
    PlannedReplica replica;
    replica.id = workload.name + "/" + std::to_string(number);
    replica.workload = workload.name;
    replica.tenant = Text();
    replica.context = Bytes::FromMib(Upto(1000));
    replica.memory = Memory() + replica.context;
    if (Coin()) replica.memory_limit = Memory();
    if (Coin()) replica.sm_percent = 1 + Upto(100);
    if (!partition.servers.empty()) {
      replica.server = Upto(static_cast<int>(partition.servers.size()));
    }
    replica.prediction = {Number(), Number(), Number() / 65537, Perhaps(), Perhaps(), {}};
    if (Coin()) replica.prediction.headroom_percent = -Number();
    replica.prediction.throughput_per_s = Perhaps();
    replica.enforcement = {{"memory", Text(), Coin()}, {"sm", Text(), Coin()}};
    replica.reason = Text();
    partition.replicas.push_back(replica);
  }

  void AddRest(Plan& plan) {
    for (int s = 0; s < Upto(4); ++s) {
      plan.strategies.push_back({Text(),
                                 Coin(),
                                 Upto(9),
                                 Number(),
                                 Text(),
                                 Perhaps(),
                                 Perhaps(),
                                 Upto(99),
                                 {Text(), Text()},
                                 Perhaps()});
    }
    for (const PlannedWorkload& workload : plan.workloads) {
      plan.rejections.push_back({workload.name, static_cast<SharingMode>(Upto(5)), Text()});
      if (workload.replicas == 0) continue;
      plan.changes.push_back({static_cast<Change::Kind>(Upto(3)), workload.name + "/0", Text(),
                              plan.gpus[0].partitions[0].name});
    }
    plan.changes.push_back({Change::Kind::kRemove, "gone/0", "gone", ""});
    plan.summary = {Upto(9),  Upto(99), {{"h200", 3}, {"l4", Upto(5)}},
                    Number(), Number(), Number(),
                    Number(), Text(),   Number() - 1e9};
    plan.summary.headroom_percent_min = std::min(plan.summary.headroom_percent_min, 100.0);
    plan.summary.throughput_per_s = Perhaps();
    plan.warnings = {Text(), Text()};
    plan.calibration = Text();
  }

  std::mt19937 random_;
};

// A small plan with MPS and MIG, as JSON to break.
Json SmallPlan() {
  Plan plan;
  plan.fleet = "small";
  plan.workloads.push_back({.name = "chat",
                            .tenant = "a",
                            .replicas = 2,
                            .command = {},
                            .image = "",
                            .env = {},
                            .memory = 1_GiB,
                            .memory_how = "given",
                            .latency_ms_p50_target = {},
                            .latency_ms_p99_target = {}});
  for (const bool mig : {false, true}) {
    PlannedGpu gpu;
    gpu.name = mig ? "gpu1" : "gpu0";
    gpu.board = "h200";
    gpu.mig = mig;
    PlannedPartition partition;
    partition.name = gpu.name;
    if (mig) partition.profile = "1g.18gb";
    if (!mig) partition.mode = SharingMode::kMps;
    if (!mig) partition.servers = {{"gpu0-a", "a"}};
    PlannedReplica replica;
    replica.id = mig ? "chat/1" : "chat/0";
    replica.workload = "chat";
    replica.tenant = "a";
    replica.memory = 2_GiB;
    replica.context = 1_GiB;
    if (!mig) replica.server = 0;
    partition.replicas = {replica};
    gpu.partitions = {partition};
    plan.gpus.push_back(gpu);
  }
  plan.rejections = {{"chat", SharingMode::kMig, "too small"}};
  plan.changes = {{Change::Kind::kMove, "chat/0", "gpu1", "gpu0"}};
  return PlanToJson(plan);
}

// The error for the small plan after `edit`, without the place.
std::string ErrorAfter(const std::function<void(Json&)>& edit) {
  Json json = SmallPlan();
  edit(json);
  const Result<Plan> plan = ParsePlan(json.dump(), "plan.json");
  return plan ? "no error" : plan.error().message;
}

TEST(PlanTest, EveryPlanReadsBackAsItWasWritten) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    const Plan plan = PlanMaker(seed).Make();
    for (const int indent : {-1, 2}) {
      const std::string text = PlanToJson(plan).dump(indent);
      const Result<Plan> read = ParsePlan(text, "plan.json");
      ASSERT_TRUE(read) << "seed " << seed << ": " << read.error().message;
      ASSERT_EQ(PlanToJson(*read).dump(indent), text) << "seed " << seed;
    }
  }
}

// The same file is held to docs/formats/plan.schema.json by schema_test.py.
TEST(PlanTest, TheSamplePlanIsWrittenAsItIsRead) {
  const Result<std::string> text =
      ReadFile(SUBLET_SOURCE_DIR "/src/model/tests/data/sample-plan.json", kDocumentBytesMax);
  ASSERT_TRUE(text);
  const Result<Plan> plan = ParsePlan(*text, "sample-plan.json");
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(PlanToJson(*plan).dump(2) + "\n", *text);
  EXPECT_EQ(plan->gpus.at(0).partitions.at(0).replicas.at(1).memory_limit, 6144_MiB);
}

TEST(PlanTest, ThePlanOfTheLargestFleetIsNotTooLargeToRead) {
  const Result<std::string> text =
      ReadFile(SUBLET_SOURCE_DIR "/src/model/tests/data/sample-plan.json", kDocumentBytesMax);
  Plan plan = *ParsePlan(*text, "sample-plan.json");
  const std::size_t size_before = PlanToJson(plan).dump(2).size();
  PlannedPartition& partition = plan.gpus[0].partitions[0];
  partition.replicas.insert(partition.replicas.end(), 1000, partition.replicas[0]);
  const std::size_t bytes_of_1000 = PlanToJson(plan).dump(2).size() - size_before;
  EXPECT_LT(bytes_of_1000 * (kReplicasMax / 1000), kDocumentBytesMax * 3 / 4)
      << "longer reasons must fit, too";
}

TEST(PlanTest, ATruncatedPlanIsAlwaysRefused) {
  const std::string text = PlanToJson(PlanMaker(7).Make()).dump();
  for (std::size_t length = 0; length < text.size(); length += 13) {
    const Result<Plan> read = ParsePlan(text.substr(0, length), "plan.json");
    ASSERT_FALSE(read) << length;
    EXPECT_EQ(read.error().code, ErrorCode::kInvalid);
    EXPECT_THAT(read.error().message, ::testing::StartsWith("plan.json:1:"));
  }
}

TEST(PlanTest, EveryFieldIsRequiredUnlessItIsOptional) {
  EXPECT_EQ(ErrorAfter([](Json&) {}), "no error");
  const std::set<std::string> optional = {"memory_limit_mib", "sm_percent", "server"};
  const auto check_object = [&](const std::string& where,
                                const std::function<Json&(Json&)>& object) {
    Json sample = SmallPlan();
    for (const auto& [key, value] : object(sample).items()) {
      const std::string error = ErrorAfter([&](Json& plan) { object(plan).erase(key); });
      EXPECT_THAT(error, HasSubstr(optional.contains(key) ? "needs a server" : "missing key"))
          << where << "." << key;
      const std::string with_null = ErrorAfter([&](Json& plan) { object(plan)[key] = nullptr; });
      EXPECT_NE(with_null, "no error") << where << "." << key;
    }
    EXPECT_THAT(ErrorAfter([&](Json& plan) { object(plan)["zz_unknown"] = 1; }),
                HasSubstr("unknown key in"))
        << where;
  };
  check_object("plan", [](Json& plan) -> Json& { return plan; });
  check_object("summary", [](Json& plan) -> Json& { return plan["summary"]; });
  check_object("gpu", [](Json& plan) -> Json& { return plan["gpus"][0]; });
  check_object("partition", [](Json& plan) -> Json& { return plan["gpus"][0]["partitions"][0]; });
  check_object("replica",
               [](Json& plan) -> Json& { return plan["gpus"][0]["partitions"][0]["replicas"][0]; });
  check_object("prediction", [](Json& plan) -> Json& {
    return plan["gpus"][0]["partitions"][0]["replicas"][0]["prediction"];
  });
  check_object("server",
               [](Json& plan) -> Json& { return plan["gpus"][0]["partitions"][0]["servers"][0]; });
  check_object("workload", [](Json& plan) -> Json& { return plan["workloads"][0]; });
  check_object("rejection", [](Json& plan) -> Json& { return plan["rejections"][0]; });
  check_object("change", [](Json& plan) -> Json& { return plan["changes"][0]; });
}

TEST(PlanTest, BrokenReferencesAreRefused) {
  const auto partition = [](Json& plan) -> Json& { return plan["gpus"][0]["partitions"][0]; };
  const auto replica = [](Json& plan) -> Json& {
    return plan["gpus"][0]["partitions"][0]["replicas"][0];
  };
  EXPECT_THAT(ErrorAfter([&](Json& plan) { replica(plan)["workload"] = "chta"; }),
              HasSubstr("replica 'chat/0' names a workload that isn't there: 'chta'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { replica(plan)["server"] = 1; }),
              HasSubstr("replica 'chat/0' names a server that isn't there: 1 of 1"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { replica(plan).erase("server"); }),
              HasSubstr("under MPS a replica needs a server: 'chat/0'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { replica(plan)["id"] = "chat/1"; }),
              HasSubstr("two of one name: replica 'chat/1'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { partition(plan)["name"] = "gpu1"; }),
              HasSubstr("two of one name: partition 'gpu1'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { plan["gpus"][0]["name"] = "gpu1"; }),
              HasSubstr("two of one name: gpu 'gpu1'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { partition(plan)["replicas"].clear(); }),
              HasSubstr("workload 'chat' has 2 replicas, but 1 are placed"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { plan["rejections"][0]["workload"] = "x"; }),
              HasSubstr("a rejection names a workload that isn't there: 'x'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { plan["changes"][0]["replica"] = "x/0"; }),
              HasSubstr("a change names a replica that isn't there: 'x/0'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { plan["changes"][0]["to"] = "x"; }),
              HasSubstr("a change names a partition that isn't there: 'x'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { partition(plan)["mode"] = "exclusive"; }),
              HasSubstr("servers are for mode 'mps', not for 'exclusive'"));
}

TEST(PlanTest, EachReplicaHasAPortOfItsOwn) {
  const auto with_port = [](Json& plan) { plan["workloads"][0]["port"] = 8000; };
  EXPECT_EQ(ErrorAfter(with_port), "no error");
  EXPECT_THAT(ErrorAfter([&](Json& plan) {
                with_port(plan);
                plan["changes"].clear();
                plan["gpus"][0]["partitions"][0]["replicas"][0]["id"] = "chat/first";
              }),
              HasSubstr("a replica of a workload with a port needs a number: 'chat/first'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) {
                with_port(plan);
                plan["changes"].clear();
                plan["gpus"][0]["partitions"][0]["replicas"][0]["id"] = "x/1";
              }),
              HasSubstr("two replicas on port 8001: 'x/1' and 'chat/1'"));
  EXPECT_THAT(ErrorAfter([](Json& plan) {
                plan["workloads"][0]["ready"] = {{"tcp", true}};
              }),
              HasSubstr("needs the workload's port"));
}

TEST(PlanTest, ContradictionsAndAbsurdNumbersAreRefused) {
  const auto partition = [](Json& plan) -> Json& { return plan["gpus"][0]["partitions"][0]; };
  const auto replica = [](Json& plan) -> Json& {
    return plan["gpus"][0]["partitions"][0]["replicas"][0];
  };
  EXPECT_THAT(ErrorAfter([&](Json& plan) { plan["version"] = "sublet.plan/v2"; }),
              HasSubstr("unknown version of plan: 'sublet.plan/v2'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { partition(plan)["profile"] = "1g.18gb"; }),
              HasSubstr("with MIG off, a partition can't have a profile: 'gpu0'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { plan["gpus"][1]["partitions"][0]["profile"] = ""; }),
              HasSubstr("with MIG on, a partition needs a profile: 'gpu1'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { partition(plan)["mode"] = "mig"; }),
              HasSubstr("'mig' cuts a GPU"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { partition(plan)["mode"] = "mpss"; }),
              HasSubstr("unknown value: 'mpss'"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { replica(plan)["context_mib"] = 4096; }),
              HasSubstr("the context is a part of memory_mib"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { replica(plan)["memory_mib"] = -1; }),
              HasSubstr("must be from 0"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { replica(plan)["sm_percent"] = 101; }),
              HasSubstr("must be from 1 to 100: 101"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { plan["gpus"][0]["price_usd_hour"] = -3; }),
              HasSubstr("must be from 0"));
  EXPECT_THAT(ErrorAfter([&](Json& plan) { plan["summary"]["gpus"] = 1e300; }),
              HasSubstr("a whole number is expected"));
}

TEST(PlanTest, AmountsThatAreNoWholeMibAreRoundedToTheSafeSide) {
  Plan plan;
  plan.workloads.push_back({});
  plan.workloads[0].memory = {1};
  plan.gpus.push_back({});
  plan.gpus[0].memory = {(2 << 20) - 1};
  const Json json = PlanToJson(plan);
  EXPECT_EQ(json["workloads"][0]["memory_mib"], 1);
  EXPECT_EQ(json["gpus"][0]["memory_mib"], 1);
}

TEST(PlanTest, EveryEnumHasANameOfItsOwn) {
  EXPECT_EQ(SharingModeName(SharingMode::kTimeSlicing), "time-slicing");
  EXPECT_EQ(SharingModeWords().size(), 5u);
  EXPECT_EQ(IsolationName(Isolation::kFault), "fault");
  EXPECT_EQ(IsolationWords().size(), 4u);
  EXPECT_EQ(ChangeKindName(Change::Kind::kAdd), "add");
  EXPECT_EQ(ChangeKindWords().size(), 4u);
}

}  // namespace
}  // namespace sublet
