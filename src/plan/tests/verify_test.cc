// A sound plan, broken in every way that VerifyPlan() promises to notice. Each way is a function of
// the plan; what comes out must be refused, and for the reason that was meant.
#include "plan/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "plan/planner.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

Workload Service(const std::string& name, const std::string& tenant, int replicas,
                 Isolation isolation) {
  Workload workload;
  workload.name = name;
  workload.tenant = tenant;
  workload.replicas = replicas;
  workload.memory = 2_GiB;
  workload.isolation = isolation;
  workload.compute.sm_percent = 30;
  workload.compute.bandwidth_percent = 25;
  workload.load = Load{.requests_per_second = 4.0 * replicas, .service_ms = 12, .steps = 4};
  workload.latency.p99_ms = 100;
  return workload;
}

Fleet FleetOf(std::vector<Workload> workloads, const std::string& board, int gpus) {
  Fleet fleet;
  fleet.name = "verify";
  fleet.gpus = {{board, gpus, std::nullopt}};
  fleet.tenants = {{"red", Isolation::kNone}, {"blue", Isolation::kNone}};
  fleet.workloads = std::move(workloads);
  return fleet;
}

struct Sound {
  Fleet fleet;
  Plan plan;
};

Sound PlanFor(Fleet fleet) {
  const auto plan = MakePlan({.fleet = fleet,
                              .catalogue = &BuiltInBoards(),
                              .calibration = &DefaultCalibration(),
                              .compare = false});
  EXPECT_TRUE(plan.has_value()) << plan.error().message;
  return {std::move(fleet), *plan};
}

// One L40S under MPS with a server that both tenants share.
const Sound& SharedServer() {
  static const Sound sound = PlanFor(FleetOf(
      {Service("a", "red", 3, Isolation::kMemory), Service("b", "blue", 2, Isolation::kMemory)},
      "l40s", 1));
  return sound;
}

// One L40S with a server for each tenant.
const Sound& OwnServers() {
  static const Sound sound = PlanFor(FleetOf(
      {Service("a", "red", 2, Isolation::kFault), Service("b", "blue", 1, Isolation::kFault)},
      "l40s", 1));
  return sound;
}

// One H100 cut by MIG, because its tenants must not share anything.
const Sound& Cut() {
  static const Sound sound = PlanFor(FleetOf(
      {Service("a", "red", 1, Isolation::kHardware), Service("b", "blue", 1, Isolation::kHardware)},
      "h100-80gb", 1));
  return sound;
}

Status Verify(const Sound& sound) {
  return VerifyPlan(sound.plan, sound.fleet, BuiltInBoards(), DefaultCalibration());
}

using Breaking = std::function<void(Sound&)>;

void ExpectRefused(const Sound& sound, const Breaking& breaking, const std::string& why) {
  Sound broken = sound;
  breaking(broken);
  const Status status = Verify(broken);
  ASSERT_FALSE(status.has_value()) << "accepted; expected: " << why;
  EXPECT_EQ(status.error().code, ErrorCode::kInternal);
  EXPECT_THAT(status.error().message, HasSubstr(why));
}

PlannedPartition& First(Sound& sound) {
  return sound.plan.gpus.at(0).partitions.at(0);
}

// --- What the broken plans are made of ----------------------------------------------------------

TEST(VerifyPlan, AcceptsThePlansThatAreBrokenBelow) {
  for (const Sound* sound : {&SharedServer(), &OwnServers(), &Cut()}) {
    const Status status = Verify(*sound);
    EXPECT_TRUE(status.has_value()) << status.error().message;
  }
  const PlannedPartition& shared = SharedServer().plan.gpus.at(0).partitions.at(0);
  ASSERT_EQ(shared.mode, SharingMode::kMps);
  ASSERT_EQ(shared.servers.size(), 1u);
  const PlannedPartition& own = OwnServers().plan.gpus.at(0).partitions.at(0);
  ASSERT_EQ(own.servers.size(), 2u);
  ASSERT_EQ(Cut().plan.gpus.at(0).partitions.size(), 2u);
}

// --- Replicas -----------------------------------------------------------------------------------

TEST(VerifyPlan, RefusesAReplicaPlacedTwice) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[1].id = First(s).replicas[0].id; },
      "placed twice");
}

TEST(VerifyPlan, RefusesAMissingReplica) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas.pop_back(); }, "replicas of");
}

TEST(VerifyPlan, RefusesAReplicaTooMany) {
  ExpectRefused(
      SharedServer(),
      [](Sound& s) {
        s.fleet.workloads[0].replicas = 2;
        s.fleet.workloads[0].load->requests_per_second *= 2.0 / 3;
      },
      "3 of 2 replicas of a");
}

TEST(VerifyPlan, RefusesAReplicaOfNoWorkload) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].workload = "c"; }, "no workload");
}

TEST(VerifyPlan, RefusesAReplicaUnderAnotherTenant) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].tenant = "blue"; }, "another tenant");
}

// --- Memory -------------------------------------------------------------------------------------

TEST(VerifyPlan, RefusesMoreMemoryThanThereIs) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].memory += 60_GiB; }, "holds");
}

TEST(VerifyPlan, RefusesAPartitionLargerThanItsGpu) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).memory += 1_GiB; }, "too large");
  ExpectRefused(
      Cut(), [](Sound& s) { First(s).memory += 1_GiB; }, "too large");
}

TEST(VerifyPlan, RefusesAPartitionWithSmsThatItHasNot) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).sm_count += 1; }, "SMs");
  ExpectRefused(
      Cut(), [](Sound& s) { First(s).sm_count = 132; }, "SMs");
}

TEST(VerifyPlan, RefusesLessMemoryThanTheWorkloadNeeds) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].memory = 2_GiB; }, "too little memory");
}

TEST(VerifyPlan, RefusesAContextThatIsTooSmall) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].context = 100_MiB; }, "CUDA context");
}

TEST(VerifyPlan, RefusesALimitThatTheWorkloadCantLiveWith) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].memory_limit = 1_GiB; }, "limit of");
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].memory_limit = 20_GiB; }, "limit of");
}

// --- Modes and isolation ------------------------------------------------------------------------

TEST(VerifyPlan, RefusesMoreClientsThanMpsServes) {
  Sound crowded = SharedServer();
  crowded.fleet.workloads[1].replicas = 47;
  crowded.fleet.workloads[1].memory = 1_MiB;
  crowded.fleet.workloads[1].load->requests_per_second = 1e-3;
  PlannedPartition& partition = First(crowded);
  const PlannedReplica client = partition.replicas.back();
  ASSERT_EQ(client.workload, "b");
  std::erase_if(partition.replicas, [](const PlannedReplica& r) { return r.workload == "b"; });
  for (int n = 0; n < 47; ++n) {
    PlannedReplica& more = partition.replicas.emplace_back(client);
    more.id = "b/" + std::to_string(n);
    more.memory_limit = 1_MiB;
    more.memory = more.context + 1_MiB;
  }
  ExpectRefused(
      crowded, [](Sound&) {}, "MPS clients");
}

TEST(VerifyPlan, RefusesAnExclusivePartitionWithTwoReplicas) {
  ExpectRefused(
      Cut(),
      [](Sound& s) {
        const PlannedReplica other = s.plan.gpus[0].partitions[1].replicas[0];
        s.plan.gpus[0].partitions.pop_back();
        First(s).replicas.push_back(other);
        for (PlannedReplica& replica : First(s).replicas) {
          replica.context = 1_GiB;
          replica.memory = 3_GiB;
        }
      },
      "exclusive to 2");
}

TEST(VerifyPlan, RefusesLimitsOfAnotherMode) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].sm_percent.reset(); }, "another mode");
  ExpectRefused(
      Cut(), [](Sound& s) { First(s).replicas[0].sm_percent = 50; }, "another mode");
}

TEST(VerifyPlan, RefusesACapOutOfRange) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].sm_percent = 0; }, "cap of 0 %");
}

TEST(VerifyPlan, RefusesAServerThatIsNotThere) {
  for (const int server : {-1, 1, 1000}) {
    ExpectRefused(
        SharedServer(), [&](Sound& s) { First(s).replicas[0].server = server; }, "no server");
  }
}

TEST(VerifyPlan, RefusesATenantInTheServerOfAnother) {
  ExpectRefused(
      OwnServers(),
      [](Sound& s) {
        for (PlannedReplica& replica : First(s).replicas) replica.server = 0;
      },
      "in the server of");
}

TEST(VerifyPlan, RefusesFaultIsolationInASharedServer) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.fleet.workloads[0].isolation = Isolation::kFault; },
      "not isolated (fault)");
}

TEST(VerifyPlan, RefusesHardwareIsolationInASharedPartition) {
  for (const Sound* sound : {&SharedServer(), &OwnServers()}) {
    ExpectRefused(
        *sound, [](Sound& s) { s.fleet.workloads[0].isolation = Isolation::kHardware; },
        "not isolated (hardware)");
  }
}

TEST(VerifyPlan, RefusesMemoryIsolationUnderTimeSlicing) {
  ExpectRefused(
      SharedServer(),
      [](Sound& s) {
        First(s).mode = SharingMode::kTimeSlicing;
        First(s).servers.clear();
        for (PlannedReplica& replica : First(s).replicas) {
          replica.sm_percent.reset();
          replica.memory_limit.reset();
          replica.server.reset();
          replica.context = 2_GiB;
          replica.memory = 4_GiB;
        }
      },
      "not isolated (memory)");
}

TEST(VerifyPlan, RefusesEnginesThatAreNotThere) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.fleet.workloads[0].engines.decoder = 2; }, "engines");
  ExpectRefused(
      Cut(), [](Sound& s) { s.fleet.workloads[0].engines.ofa = 1; }, "engines");
}

// --- MIG ----------------------------------------------------------------------------------------

TEST(VerifyPlan, RefusesAnInstanceWhereItsProfileCantBegin) {
  ExpectRefused(
      Cut(), [](Sound& s) { s.plan.gpus[0].partitions[1].start += 1; }, "can't lie at");
}

TEST(VerifyPlan, RefusesInstancesThatOverlap) {
  ExpectRefused(
      Cut(),
      [](Sound& s) {
        PlannedPartition& second = s.plan.gpus[0].partitions[1];
        const PlannedPartition first = First(s);
        second.profile = first.profile;
        second.profile_id = first.profile_id;
        second.start = first.start;
        second.size = first.size;
      },
      "can't lie at");
}

TEST(VerifyPlan, RefusesMoreInstancesThanTheBoardHas) {
  // Two halves with three slices each, and between them a place that only -lgip would refuse.
  Sound cut = Cut();
  const MigProfile* me = (*BuiltInBoards().Find("h100-80gb"))->FindProfile("1g.10gb+me");
  ASSERT_NE(me, nullptr);
  ASSERT_EQ(me->max_instances, 1);
  int start = 0;
  for (PlannedPartition& partition : cut.plan.gpus[0].partitions) {
    partition.profile = me->name;
    partition.profile_id = me->id;
    partition.size = me->size;
    partition.start = start++;
    partition.sm_count = me->sm_count;
    partition.memory = me->memory - 1_GiB;
  }
  const Status status = Verify(cut);
  ASSERT_FALSE(status.has_value());
  EXPECT_THAT(status.error().message, HasSubstr("too many"));
}

TEST(VerifyPlan, RefusesAProfileOfAnotherBoard) {
  ExpectRefused(
      Cut(), [](Sound& s) { First(s).profile = "3g.71gb"; }, "no profile");
  ExpectRefused(
      Cut(), [](Sound& s) { First(s).profile_id += 1; }, "no profile");
  ExpectRefused(
      Cut(), [](Sound& s) { First(s).size += 1; }, "no profile");
}

TEST(VerifyPlan, RefusesAGpuThatIsWholeAndCutAtOnce) {
  ExpectRefused(
      Cut(), [](Sound& s) { s.plan.gpus[0].mig = false; }, "no profile");
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.plan.gpus[0].mig = true; }, "whole and cut");
}

// --- Latency ------------------------------------------------------------------------------------

TEST(VerifyPlan, RefusesAMissedTarget) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.fleet.workloads[0].latency.p99_ms = 13; }, "misses");
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.fleet.workloads[0].latency.p50_ms = 11; }, "misses");
}

TEST(VerifyPlan, RefusesAnOverloadedReplica) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.fleet.workloads[0].load->requests_per_second = 3 * 80; },
      "overloaded");
}

TEST(VerifyPlan, RefusesAServiceThatIsFasterThanAlone) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { First(s).replicas[0].prediction.service_ms = 11; },
      "faster than alone");
}

TEST(VerifyPlan, RefusesAPredictionThatDoesNotFollow) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { *First(s).replicas[0].prediction.latency_ms_p99 *= 0.9; },
      "predicts");
}

// --- Money --------------------------------------------------------------------------------------

TEST(VerifyPlan, RefusesACostThatDoesNotAddUp) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.plan.summary.cost_month_usd -= 10; }, "its cost is");
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.plan.gpus[0].price_usd_hour *= 2; }, "its cost is");
}

TEST(VerifyPlan, RefusesABoundAboveTheCost) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.plan.summary.lower_bound_month_usd *= 1.01; },
      "lower bound");
}

TEST(VerifyPlan, RefusesASummaryThatCountsWrong) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.plan.summary.gpus += 1; }, "summary");
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.plan.summary.replicas -= 1; }, "summary");
}

TEST(VerifyPlan, RefusesOneGpuTwice) {
  Sound twice = Cut();
  twice.plan.gpus[0].uuid = "GPU-1";
  PlannedGpu second = twice.plan.gpus[0];
  second.partitions.erase(second.partitions.begin());
  twice.plan.gpus[0].partitions.pop_back();
  twice.plan.gpus.push_back(second);
  twice.plan.summary.gpus = 2;
  twice.plan.summary.cost_month_usd *= 2;
  ExpectRefused(
      twice, [](Sound&) {}, "two GPUs are GPU-1");
}

TEST(VerifyPlan, RefusesAGpuThatDoesNothing) {
  ExpectRefused(
      SharedServer(), [](Sound& s) { s.plan.gpus.emplace_back(s.plan.gpus[0]).partitions.clear(); },
      "does nothing");
}

}  // namespace
}  // namespace sublet
