#include "node/plan_diff.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "node/plan_binding.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = PlanStep::Kind;

Inventory NodeOf(int gpus, bool mig_capable = true) {
  Inventory node;
  for (int index = 0; index < gpus; ++index) {
    Gpu gpu;
    gpu.index = index;
    gpu.uuid = fmt::format("GPU-{}", index);
    gpu.board = "a100-80gb";
    gpu.mig_capable = mig_capable;
    node.gpus.push_back(gpu);
  }
  return node;
}

PlannedWorkload WorkloadOf(const std::string& name, int replicas) {
  PlannedWorkload workload;
  workload.name = name;
  workload.tenant = "search";
  workload.replicas = replicas;
  workload.command = {"serve", name};
  return workload;
}

PlannedReplica ReplicaOf(const std::string& id, int sm_percent = 20) {
  PlannedReplica replica;
  replica.id = id;
  replica.workload = id.substr(0, id.find('/'));
  replica.tenant = "search";
  replica.memory = 4_GiB + 100_MiB;
  replica.context = 100_MiB;
  replica.memory_limit = 4_GiB;
  replica.sm_percent = sm_percent;
  replica.server = 0;
  return replica;
}

// A plan with one MPS server on one GPU: the replicas chat/0, chat/1, ...
Plan ChatPlan(int replicas, const std::string& uuid = "GPU-0") {
  Plan plan;
  plan.fleet = "shop";
  plan.workloads.push_back(WorkloadOf("chat", replicas));
  PlannedGpu gpu;
  gpu.name = "gpu0";
  gpu.board = "a100-80gb";
  gpu.uuid = uuid;
  PlannedPartition whole;
  whole.name = "gpu0";
  whole.mode = SharingMode::kMps;
  whole.sm_count = 108;
  whole.servers = {{"gpu0-search", "search"}};
  for (int k = 0; k < replicas; ++k) whole.replicas.push_back(ReplicaOf(fmt::format("chat/{}", k)));
  gpu.partitions.push_back(whole);
  plan.gpus.push_back(gpu);
  return plan;
}

PlanTarget TargetFor(const Plan& plan, const Inventory& node = NodeOf(2)) {
  Result<PlanTarget> target = TargetOf(plan, "/srv/shop", node);
  EXPECT_TRUE(target) << target.error().message;
  return target ? std::move(*target) : PlanTarget{};
}

std::vector<std::string> Lines(const PlanTarget& current, const PlanTarget& target) {
  std::vector<std::string> lines;
  for (const PlanStep& step : StepsBetween(current, target)) lines.push_back(Describe(step));
  return lines;
}

TEST(TargetOf, SaysWhatIsToExist) {
  Plan plan = ChatPlan(2);
  plan.workloads[0].port = 8100;
  plan.workloads[0].env = {{"LOG", "1"}};
  plan.workloads[0].stop_timeout_s = 30;
  plan.workloads[0].restart = RestartPolicy::kOnFailure;
  const PlanTarget target = TargetFor(plan);
  ASSERT_EQ(target.replicas.size(), 2u);
  const ReplicaTarget& second = target.replicas[1];
  EXPECT_EQ(second.id, "chat/1");
  EXPECT_EQ(second.port, 8101);
  EXPECT_EQ(second.directory, "/srv/shop");
  EXPECT_THAT(second.command, ElementsAre("serve", "chat"));
  EXPECT_EQ(second.env.at("LOG"), "1");
  EXPECT_EQ(second.restart, RestartPolicy::kOnFailure);
  EXPECT_EQ(second.stop_timeout_s, 30);
  EXPECT_EQ(second.share.mode, SharingMode::kMps);
  EXPECT_EQ(second.share.gpu_uuid, "GPU-0");
  EXPECT_EQ(second.share.domain, "gpu0-search");
  EXPECT_EQ(second.share.memory_limit, 4_GiB);
  ASSERT_EQ(target.domains.size(), 1u);
  EXPECT_EQ(target.domains[0].domain.memory_limit, 4_GiB + 100_MiB) << "MPS counts the context";
  EXPECT_EQ(target.domains[0].domain.sm_percent, 20);
  EXPECT_TRUE(target.domains[0].domain.planned);
  ASSERT_EQ(target.mig.size(), 1u);
  EXPECT_FALSE(target.mig[0].mig);
}

TEST(TargetOf, BindsPlannedGpusByUuidElseByBoard) {
  Plan plan = ChatPlan(1, "");
  plan.gpus.push_back(plan.gpus[0]);
  plan.gpus[1].name = "gpu1";
  plan.gpus[1].uuid = "GPU-0";
  plan.gpus[1].partitions[0].replicas.clear();
  EXPECT_EQ(TargetFor(plan).replicas.at(0).share.gpu_uuid, "GPU-1") << "0 is named by the other";
  const Result<PlanTarget> too_few = TargetOf(plan, "/", NodeOf(1));
  ASSERT_FALSE(too_few);
  EXPECT_EQ(too_few.error().code, ErrorCode::kInfeasible);
  EXPECT_THAT(too_few.error().message, HasSubstr("a GPU of board a100-80gb more than this node"));
  EXPECT_EQ(TargetOf(ChatPlan(1, "GPU-9"), "/", NodeOf(2)).error().code, ErrorCode::kInfeasible);
}

// A plan for boards, whose GPUs have one replica each, in this order.
Plan BoardPlan(const std::vector<std::string>& ids) {
  Plan plan = ChatPlan(static_cast<int>(ids.size()), "");
  const PlannedGpu first = plan.gpus[0];
  plan.gpus.clear();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    plan.gpus.push_back(first);
    plan.gpus[i].name = fmt::format("gpu{}", i);
    plan.gpus[i].partitions[0].replicas = {ReplicaOf(ids[i])};
  }
  return plan;
}

TEST(BindPlan, LeavesReplicasWhereTheyRun) {
  const PlanTarget current = TargetFor(BoardPlan({"chat/0", "chat/1", "chat/2"}), NodeOf(4));
  const Result<Plan> turned =
      BindPlan(BoardPlan({"chat/3", "chat/2", "chat/0"}), NodeOf(4), current);
  ASSERT_TRUE(turned) << turned.error().message;
  EXPECT_EQ(turned->gpus[0].uuid, "GPU-1") << "nobody needs it who runs there";
  EXPECT_EQ(turned->gpus[1].uuid, "GPU-2");
  EXPECT_EQ(turned->gpus[2].uuid, "GPU-0");
  EXPECT_EQ(turned->gpus[2].index, 0);
  const Result<Plan> again = BindPlan(*turned, NodeOf(4), {});
  ASSERT_TRUE(again);
  EXPECT_EQ(again->gpus[0].uuid, "GPU-1") << "what is bound stays so";
}

TEST(BindPlan, GoesRoundGpusWithAProblemAndRefusesOneTwice) {
  Inventory node = NodeOf(2);
  node.gpus[0].problem = "gpu is lost";
  const Result<Plan> bound = BindPlan(BoardPlan({"chat/0"}), node, {});
  ASSERT_TRUE(bound);
  EXPECT_EQ(bound->gpus[0].uuid, "GPU-1");
  Plan twice = BoardPlan({"chat/0", "chat/1"});
  twice.gpus[0].uuid = twice.gpus[1].uuid = "GPU-1";
  EXPECT_THAT(BindPlan(twice, NodeOf(2), {}).error().message, HasSubstr("the same one: GPU-1"));
}

TEST(TargetOf, RefusesWhatNobodyCanStart) {
  Plan silent = ChatPlan(1);
  silent.workloads[0].command.clear();
  const Result<PlanTarget> target = TargetOf(silent, "/", NodeOf(1));
  ASSERT_FALSE(target);
  EXPECT_EQ(target.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(target.error().message, HasSubstr("workload chat has no command"));
  EXPECT_THAT(target.error().hint, HasSubstr("command: ["));
  Plan streams = ChatPlan(1);
  streams.gpus[0].partitions[0].mode = SharingMode::kStreams;
  EXPECT_EQ(TargetOf(streams, "/", NodeOf(1)).error().code, ErrorCode::kUnsupported);
}

TEST(TargetOf, RefusesVariablesThatWouldLiftLimits) {
  for (const char* name : {"CUDA_VISIBLE_DEVICES", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
                           "NVIDIA_VISIBLE_DEVICES", "SUBLET_SHARE"}) {
    Plan plan = ChatPlan(1);
    plan.workloads[0].env[name] = "0";
    const Result<PlanTarget> target = TargetOf(plan, "/", NodeOf(1));
    ASSERT_FALSE(target) << name;
    EXPECT_EQ(target.error().code, ErrorCode::kInvalid);
    EXPECT_THAT(target.error().message, HasSubstr(name));
  }
}

TEST(TargetOf, StartsTheMoreImportantFirst) {
  Plan plan = ChatPlan(2);
  plan.workloads.push_back(WorkloadOf("urgent", 1));
  plan.workloads[1].priority = 10;
  plan.gpus[0].partitions[0].replicas.push_back(ReplicaOf("urgent/0"));
  std::vector<std::string> order;
  for (const ReplicaTarget& replica : TargetFor(plan).replicas) order.push_back(replica.id);
  EXPECT_THAT(order, ElementsAre("urgent/0", "chat/0", "chat/1"));
}

TEST(PlanSteps, FromNothingMakeServersBeforeReplicas) {
  EXPECT_THAT(Lines({}, TargetFor(ChatPlan(2), NodeOf(2, false))),
              ElementsAre("start MPS domain gpu0-search: is new", "start chat/0: is new",
                          "start chat/1: is new"));
}

TEST(PlanSteps, ToTheSamePlanAreNone) {
  const PlanTarget target = TargetFor(ChatPlan(3));
  EXPECT_THAT(Lines(target, target), IsEmpty());
}

TEST(PlanSteps, OfOneReplicaMoreTouchNoOther) {
  EXPECT_THAT(Lines(TargetFor(ChatPlan(2)), TargetFor(ChatPlan(3))),
              ElementsAre("start chat/2: is new"));
  EXPECT_THAT(Lines(TargetFor(ChatPlan(3)), TargetFor(ChatPlan(2))),
              ElementsAre("stop chat/2: is not in the plan"));
}

TEST(PlanSteps, SayWhatIsDifferent) {
  const PlanTarget before = TargetFor(ChatPlan(1));
  const auto why = [&](auto edit) {
    Plan plan = ChatPlan(1);
    edit(plan);
    const std::vector<std::string> lines = Lines(before, TargetFor(plan));
    return lines.empty() ? "" : lines.front();
  };
  const auto replica = [](Plan& plan) -> PlannedReplica& {
    return plan.gpus[0].partitions[0].replicas[0];
  };
  EXPECT_EQ(why([&](Plan& plan) { replica(plan).sm_percent = 10; }),
            "stop chat/0: gets 10 % of the SMs instead of 20 % of the SMs");
  EXPECT_EQ(why([&](Plan& plan) { replica(plan).memory_limit = 3_GiB; }),
            "stop chat/0: gets 3072 MiB instead of 4096 MiB");
  EXPECT_EQ(why([&](Plan& plan) { plan.workloads[0].command = {"x"}; }),
            "stop chat/0: has another command");
  EXPECT_EQ(why([&](Plan& plan) { plan.workloads[0].env["A"] = "1"; }),
            "stop chat/0: has another environment");
  EXPECT_EQ(why([&](Plan& plan) { plan.workloads[0].port = 1; }), "stop chat/0: has another port");
  EXPECT_EQ(why([&](Plan& plan) { plan.gpus[0].uuid = "GPU-1"; }),
            "stop chat/0: moves to another GPU");
  EXPECT_EQ(why([&](Plan& plan) { replica(plan).reason = "because"; }), "");
}

TEST(PlanSteps, KeepAServerThatAdmitsWhatIsNeeded) {
  Plan less = ChatPlan(2);
  less.gpus[0].partitions[0].replicas[0].sm_percent = 10;
  less.gpus[0].partitions[0].replicas[1].sm_percent = 10;
  EXPECT_THAT(Lines(TargetFor(ChatPlan(2)), TargetFor(less)),
              ElementsAre(HasSubstr("stop chat/1"), HasSubstr("stop chat/0"),
                          "start chat/0: in its new place", "start chat/1: in its new place"));
  Plan more = ChatPlan(2);
  more.gpus[0].partitions[0].replicas[1].sm_percent = 50;
  EXPECT_THAT(
      Lines(TargetFor(ChatPlan(2)), TargetFor(more)),
      ElementsAre(HasSubstr("stop chat/1: gets 50 %"), "stop chat/0: its MPS domain is replaced",
                  "end MPS domain gpu0-search: gets other limits or place",
                  "start MPS domain gpu0-search: gets other limits or place",
                  "start chat/0: in its new place", "start chat/1: in its new place"));
}

// --- Properties
// -----------------------------------------------------------------------------------

// A plan for GPUs of two nodes' worth: some whole under MPS or time-slicing, some cut by MIG.
Plan AnyPlan() {
  Plan plan;
  plan.fleet = "any";
  const int workloads = *rc::gen::inRange(1, 4);
  for (int w = 0; w < workloads; ++w) {
    plan.workloads.push_back(WorkloadOf(fmt::format("w{}", w), 0));
    plan.workloads.back().priority = *rc::gen::inRange(0, 3);
    if (*rc::gen::arbitrary<bool>()) plan.workloads.back().env["V"] = "1";
  }
  for (int index = 0; index < 3; ++index) {
    if (*rc::gen::inRange(0, 3) == 0) continue;
    PlannedGpu gpu;
    gpu.name = fmt::format("gpu{}", index);
    gpu.board = "a100-80gb";
    gpu.uuid = fmt::format("GPU-{}", index);
    gpu.mig = *rc::gen::inRange(0, 3) == 0;
    const int partitions = gpu.mig ? *rc::gen::inRange(1, 4) : 1;
    for (int p = 0; p < partitions; ++p) {
      PlannedPartition partition;
      partition.name = fmt::format("gpu{}-{}", index, p);
      if (gpu.mig) {
        partition.profile = "2g.20gb";
        partition.start = 2 * *rc::gen::inRange(p, 3);
        partition.size = 2;
        const bool taken = std::ranges::any_of(gpu.partitions, [&](const PlannedPartition& other) {
          return other.start == partition.start;
        });
        if (taken) continue;
      }
      const bool mps = *rc::gen::arbitrary<bool>();
      partition.mode = mps ? SharingMode::kMps : SharingMode::kTimeSlicing;
      if (mps) partition.servers = {{partition.name + "-search", "search"}};
      for (int r = *rc::gen::inRange(0, 4); r > 0; --r) {
        PlannedWorkload& workload =
            plan.workloads[*rc::gen::inRange<std::size_t>(0, plan.workloads.size())];
        PlannedReplica replica = ReplicaOf(fmt::format("{}/{}", workload.name, workload.replicas++),
                                           10 * *rc::gen::inRange(1, 4));
        if (!mps) {
          replica.server.reset();
          replica.memory_limit.reset();
          replica.sm_percent.reset();
        }
        partition.replicas.push_back(std::move(replica));
      }
      gpu.partitions.push_back(std::move(partition));
    }
    plan.gpus.push_back(std::move(gpu));
  }
  return plan;
}

// The plan with a few replicas changed or gone, as somebody edits it.
Plan Edited(Plan plan) {
  for (PlannedGpu& gpu : plan.gpus) {
    for (PlannedPartition& partition : gpu.partitions) {
      for (PlannedReplica& replica : partition.replicas) {
        if (*rc::gen::inRange(0, 4) > 0) continue;
        if (replica.sm_percent) replica.sm_percent = 10 * *rc::gen::inRange(1, 8);
      }
      if (*rc::gen::inRange(0, 4) == 0 && !partition.replicas.empty()) {
        partition.replicas.pop_back();
      }
    }
  }
  if (*rc::gen::inRange(0, 4) == 0) plan.workloads[0].env["W"] = "2";
  return plan;
}

std::string TextOf(const ReplicaTarget& replica) {
  return ReplicaTargetToJson(replica).dump();
}

// A node that does what steps say, and only what is possible.
class Doer {
 public:
  explicit Doer(const PlanTarget& current) {
    for (const ReplicaTarget& replica : current.replicas) replicas_[replica.id] = replica;
    for (const DomainTarget& domain : current.domains) domains_[domain.domain.name] = domain;
    for (const MigTarget& mig : current.mig) mig_[mig.gpu_uuid] = mig;
  }

  void Do(const PlanStep& step, const PlanTarget& target) {
    switch (step.kind) {
      case Kind::kStopReplica:
        RC_ASSERT(replicas_.erase(step.name) == 1u);
        break;
      case Kind::kEndDomain:
        for (const auto& [id, replica] : replicas_) RC_ASSERT(replica.share.domain != step.name);
        RC_ASSERT(domains_.erase(step.name) == 1u);
        break;
      case Kind::kChangeMig:
        Change(*std::ranges::find(target.mig, step.name, &MigTarget::gpu_uuid));
        break;
      case Kind::kStartDomain: {
        const auto wanted = std::ranges::find(
            target.domains, step.name, [](const auto& domain) { return domain.domain.name; });
        RC_ASSERT(domains_.emplace(step.name, *wanted).second);
        break;
      }
      case Kind::kStartReplica: {
        const auto wanted = std::ranges::find(target.replicas, step.name, &ReplicaTarget::id);
        RC_ASSERT(wanted->share.domain.empty() || domains_.contains(wanted->share.domain));
        RC_ASSERT(replicas_.emplace(step.name, *wanted).second);
        break;
      }
    }
  }

  // Everything is as the target has it.
  void CheckIs(const PlanTarget& target) const {
    RC_ASSERT(replicas_.size() == target.replicas.size());
    for (const ReplicaTarget& replica : target.replicas) {
      RC_ASSERT(TextOf(replicas_.at(replica.id)) == TextOf(replica));
    }
    RC_ASSERT(domains_.size() == target.domains.size());
    for (const DomainTarget& domain : target.domains) {
      RC_ASSERT(domains_.at(domain.domain.name) == domain);
    }
    for (const MigTarget& mig : target.mig) RC_ASSERT(mig_.at(mig.gpu_uuid) == mig);
  }

 private:
  // No replica and no domain loses the instance that it is on.
  void Change(const MigTarget& wanted) {
    const auto stays = [&](const std::string& gpu_uuid, const std::optional<MigSeat>& seat) {
      if (gpu_uuid != wanted.gpu_uuid) return true;
      if (!seat) return !wanted.mig;
      return std::ranges::count(wanted.instances, *seat) == 1;
    };
    for (const auto& [id, replica] : replicas_)
      RC_ASSERT(stays(replica.share.gpu_uuid, replica.seat));
    for (const auto& [name, domain] : domains_)
      RC_ASSERT(stays(domain.domain.gpu_uuid, domain.seat));
    mig_[wanted.gpu_uuid] = wanted;
  }

  std::map<std::string, ReplicaTarget> replicas_;
  std::map<std::string, DomainTarget> domains_;
  std::map<std::string, MigTarget> mig_;
};

RC_GTEST_PROP(PlanStepsProperty, LeadToTheTargetAndTouchNothingElse, ()) {
  const Inventory node = NodeOf(3);
  const Plan plan = AnyPlan();
  const Result<PlanTarget> current = TargetOf(plan, "/", node);
  const Result<PlanTarget> wanted =
      TargetOf(*rc::gen::arbitrary<bool>() ? AnyPlan() : Edited(plan), "/", node);
  RC_ASSERT(current && wanted);
  const PlanTarget target = Settled(*current, *wanted);
  const std::vector<PlanStep> steps = StepsBetween(*current, target);
  RC_ASSERT(steps == StepsBetween(*current, target));
  Doer doer(*current);
  std::set<std::string> touched;
  std::set<std::string> ended;
  for (const PlanStep& step : steps) {
    RC_ASSERT(!Describe(step).empty() && !step.why.empty());
    touched.insert(step.name);
    if (step.kind == Kind::kEndDomain) ended.insert(step.name);
    doer.Do(step, target);
  }
  // What runs, and isn't what the target has only in words, is as it was but for its reason.
  for (const ReplicaTarget& now : current->replicas) {
    const auto then = std::ranges::find(target.replicas, now.id, &ReplicaTarget::id);
    const bool same =
        then != target.replicas.end() && now.RunsAs(*then) && !ended.contains(now.share.domain);
    RC_ASSERT(touched.contains(now.id) == !same);
  }
  doer.CheckIs(target);
  RC_ASSERT(StepsBetween(target, target).empty());
}

}  // namespace
}  // namespace sublet
