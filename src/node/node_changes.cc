// Plans up and down: what changes the node as a whole.
//
// A change is a target and the steps to it from what is there now, worked out anew each time. So
// going on after a crash is the same as beginning, and putting back is the same with the old target
// (but for MIG, whose journalled steps are undone).

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/crash_point.h"
#include "node/node_core.h"
#include "node/plan_binding.h"

namespace sublet {
namespace {

std::string FleetOf(const std::optional<PlanRow>& row) {
  if (!row) return "nothing";
  const auto plan = ParsePlan(row->plan, "plan");
  return plan ? plan->fleet : "a plan";
}

bool Overlap(const MigSeat& a, const MigSeat& b) {
  return a.start < b.start + b.size && b.start < a.start + a.size;
}

}  // namespace

Status NodeCore::Turn::Free(const NodeCore& node) {
  if (node.operation_.empty()) return {};
  return Fail(ErrorCode::kConflict, fmt::format("under way: {}", node.operation_),
              "try again when it is done; sublet ps shows it");
}

PlanTarget NodeCore::Current() {
  PlanTarget current;
  for (const Gpu& gpu : inventory_.gpus) {
    if (!gpu.mig_capable) continue;
    if (auto target = CurrentTarget(gpu)) current.mig.push_back(std::move(*target));
  }
  for (const auto& [name, domain] : domains_) {
    if (domain->domain().planned) current.domains.push_back(domain->target());
  }
  for (const auto& [id, replica] : replicas_) current.replicas.push_back(replica->target());
  return current;
}

// What a plan means here. MIG instances that are neither ours nor in the plan's way stay.
Result<PlanTarget> NodeCore::TargetFor(const Plan& wanted, const std::string& directory) {
  ASSIGN_OR_RETURN(PlanTarget target, TargetOf(wanted, directory, inventory_));
  for (MigTarget& mig : target.mig) {
    const Gpu* const gpu = inventory_.FindGpu(mig.gpu_uuid);
    ASSIGN_OR_RETURN(const MigTarget now, CurrentTarget(*gpu));
    for (const MigSeat& seat : now.instances) {
      const bool ours =
          std::any_of(instances_.begin(), instances_.end(), [&](const MigInstanceRow& row) {
            return IsOfPlan(row) && row.gpu_uuid == mig.gpu_uuid && row.start == seat.start;
          });
      const bool in_the_way =
          std::any_of(mig.instances.begin(), mig.instances.end(),
                      [&](const MigSeat& wanted_seat) { return Overlap(wanted_seat, seat); });
      if (mig.mig && !ours && !in_the_way) mig.instances.push_back(seat);
    }
    // A plan without MIG takes the GPU whole; nobody else's MIG mode is turned off for that.
    ASSIGN_OR_RETURN(mig, ResolveTarget(*gpu, std::move(mig)));
  }
  return target;
}

// An MPS server has one user, whom alone its folder admits: a client of another one would find no
// server, and run on the whole GPU.
Status NodeCore::OneUserEach(const PlanTarget& target) const {
  for (const ReplicaTarget& replica : target.replicas) {
    for (const DomainTarget& domain : target.domains) {
      if (domain.domain.name != replica.share.domain) continue;
      if (UserOf(domain.domain.tenant) == UserOf(replica.share.tenant)) continue;
      return Fail(ErrorCode::kUnsupported,
                  fmt::format("tenants {} and {} run as different users, and the plan puts them "
                              "into one MPS server: {}",
                              domain.domain.tenant, replica.share.tenant, domain.domain.name),
                  "give one of them isolation: fault in the fleet's file");
    }
  }
  return {};
}

// Whether the target's replicas have room beside the shares that others hold.
Status NodeCore::Fits(const PlanTarget& target) {
  RETURN_IF_ERROR(OneUserEach(target));
  Ledger books = *ledger_;
  for (const auto& [id, replica] : replicas_) books.Release(replica->share().id);
  int number = 0;
  for (const ReplicaTarget& replica : target.replicas) {
    Share share = replica.share;
    share.id = fmt::format("new-{}", ++number);
    if (replica.seat) continue;  // Its instance is its own, and isn't there yet.
    if (Status booked = books.Book(share); !booked) {
      return tl::unexpected<Error>(
          std::move(booked).error().Prefixed(fmt::format("{} doesn't fit", replica.id)));
    }
  }
  return {};
}

Result<std::vector<std::string>> NodeCore::UpSteps(const Plan& wanted,
                                                   const std::string& directory) {
  ASSIGN_OR_RETURN(const Plan bound, BindPlan(wanted, inventory_, Current()));
  ASSIGN_OR_RETURN(PlanTarget target, TargetFor(bound, directory));
  RETURN_IF_ERROR(Fits(target));
  const PlanTarget current = Current();
  std::vector<std::string> lines;
  for (const PlanStep& step : StepsBetween(current, Settled(current, std::move(target)))) {
    lines.push_back(Describe(step));
  }
  return lines;
}

Task<Status> NodeCore::Up(Plan wanted, std::string directory, Progress progress) {
  const auto self = shared_from_this();
  if (Status free = Turn::Free(*this); !free) co_return free;
  const Turn turn(*this, fmt::format("up {}", wanted.fleet));
  if (Result<Inventory> stock = co_await TakeStock(); !stock) {
    co_return tl::unexpected<Error>(std::move(stock).error());
  }
  // The bound plan is what is kept: bound again, when other things run, it might move.
  Result<Plan> bound = BindPlan(std::move(wanted), inventory_, Current());
  if (!bound) co_return tl::unexpected<Error>(std::move(bound).error());
  wanted = std::move(*bound);
  const Result<PlanTarget> target = TargetFor(wanted, directory);
  if (!target) co_return tl::unexpected<Error>(target.error());
  if (Status fits = Fits(*target); !fits) co_return fits;
  OperationRow operation;
  operation.id = fmt::format("up-{}", UtcMilliseconds());
  operation.kind = OperationKind::kUp;
  operation.from = plan_row;
  operation.to = PlanRow{PlanToJson(wanted).dump(), std::move(directory)};
  operation.started_at = UtcMilliseconds();
  if (Status written = store.PutOperation(operation); !written) co_return written;
  CrashPoint("operation-written");
  events.Append("plan", wanted.fleet, "up", fmt::format("instead of {}", FleetOf(plan_row)));
  co_return co_await Finish(std::move(operation), progress);
}

// Whoever takes a plan down doesn't wait for one that is coming up.
Task<void> NodeCore::GiveUpOperation() {
  while (operation_.starts_with("up ")) {
    given_up_ = true;
    for (const auto& [id, replica] : replicas_) replica->GiveUp("it is taken down");
    co_await operation_over_.Next();
  }
  given_up_ = false;
}

Task<Status> NodeCore::Down(Progress progress) {
  const auto self = shared_from_this();
  co_await GiveUpOperation();
  if (Status free = Turn::Free(*this); !free) co_return free;
  if (!plan_row && replicas_.empty()) {
    co_return Fail(ErrorCode::kNotFound, "no plan is up", "sublet ps shows what runs");
  }
  const Turn turn(*this, fmt::format("down {}", FleetOf(plan_row)));
  OperationRow operation;
  operation.id = fmt::format("down-{}", UtcMilliseconds());
  operation.kind = OperationKind::kDown;
  operation.from = plan_row;
  operation.started_at = UtcMilliseconds();
  if (Status written = store.PutOperation(operation); !written) co_return written;
  CrashPoint("operation-written");
  events.Append("plan", FleetOf(plan_row), "down", "as it was asked");
  co_return co_await Finish(std::move(operation), progress);
}

bool NodeCore::IsOfPlan(const MigInstanceRow& row) const {
  return row.made_for.starts_with(kMadeForPlan);
}

// The target of one side of an operation: a plan's, or nothing at all.
Result<PlanTarget> NodeCore::SideOf(const std::optional<PlanRow>& row) {
  if (row) {
    ASSIGN_OR_RETURN(const Plan wanted, ParsePlan(row->plan, "plan"));
    return TargetFor(wanted, row->directory);
  }
  PlanTarget nothing;
  for (const Gpu& gpu : inventory_.gpus) {
    if (!gpu.mig_capable) continue;
    ASSIGN_OR_RETURN(MigTarget target, CurrentTarget(gpu));
    bool mode_ours = false;
    for (const MigInstanceRow& made : instances_) {
      if (made.gpu_uuid != gpu.uuid || !IsOfPlan(made)) continue;
      mode_ours = mode_ours || made.start == kModeRow;
      std::erase_if(target.instances,
                    [&](const MigSeat& seat) { return seat.start == made.start; });
    }
    if (mode_ours && target.instances.empty()) target.mig = false;
    nothing.mig.push_back(std::move(target));
  }
  return nothing;
}

Task<Status> NodeCore::Finish(OperationRow operation, const Progress& progress) {
  co_await AwaitShareMig(false);
  Status failed;
  if (operation.direction == OperationDirection::kForward) {
    failed = co_await GoTo(operation.to, progress);
    CrashPoint("operation-reached");
    if (failed) {
      co_return Settle(operation.to);
    }
    given_up_ = false;  // The way back isn't given up.
    progress({"roll back", "starting", failed.error().message});
    operation.direction = OperationDirection::kBack;
    if (Status written = store.PutOperation(operation); !written) co_return written;
    CrashPoint("operation-back");
  } else {
    failed = Fail(ErrorCode::kUnavailable, "it was being undone when the daemon ended");
  }
  Status back = co_await UndoMig();
  if (back) back = co_await GoTo(operation.from, progress);
  progress({"roll back", back ? "done" : "failed", back ? "" : back.error().message});
  Status settled = Settle(operation.from);
  Error error = failed.error();
  if (!back) {
    error.message +=
        fmt::format("; and putting back what was there failed: {}", back.error().message);
  } else if (!settled) {
    error.message += fmt::format("; {}", settled.error().message);
  } else {
    error.message += fmt::format(
        "; {} is as before", operation.from ? FleetOf(operation.from) : std::string("the node"));
  }
  events.Append("plan", FleetOf(operation.to), "rolled-back", error.message);
  co_return tl::unexpected<Error>(std::move(error));
}

// The operation is over, and this is what is up.
Status NodeCore::Settle(const std::optional<PlanRow>& row) {
  const Status written = store.Transaction([&]() -> Status {
    if (row) RETURN_IF_ERROR(store.PutPlan(*row));
    if (!row) RETURN_IF_ERROR(store.RemovePlan());
    RETURN_IF_ERROR(store.ClearMigSteps());
    return store.RemoveOperation();
  });
  if (!written) return written;
  CrashPoint("operation-settled");
  plan_row = row;
  plan.reset();
  if (row) {
    ASSIGN_OR_RETURN(plan, ParsePlan(row->plan, "plan"));
  }
  return {};
}

Task<Status> NodeCore::GoTo(const std::optional<PlanRow>& row, const Progress& progress) {
  Result<PlanTarget> target = SideOf(row);
  if (!target) co_return tl::unexpected<Error>(std::move(target).error());
  co_return co_await MakeSo(std::move(*target), fmt::format("{}{}", kMadeForPlan, FleetOf(row)),
                            progress);
}

Task<Status> NodeCore::MakeSo(PlanTarget wanted, std::string made_for, const Progress& progress) {
  const PlanTarget current = Current();
  const PlanTarget target = Settled(current, std::move(wanted));
  std::map<PlanStep::Kind, std::vector<PlanStep>> steps;
  for (PlanStep& step : StepsBetween(current, target)) steps[step.kind].push_back(step);
  using Kind = PlanStep::Kind;
  // Those that go don't wait for each other: each has its own patience.
  std::vector<Task<Status>> stops;
  for (const PlanStep& step : steps[Kind::kStopReplica]) {
    stops.push_back(StopReplica(step, progress));
  }
  if (Status done = co_await AllOf(parts.loop, std::move(stops)); !done) co_return done;
  std::vector<Task<Status>> ends;
  for (const PlanStep& step : steps[Kind::kEndDomain]) ends.push_back(EndDomain(step, progress));
  if (Status done = co_await AllOf(parts.loop, std::move(ends)); !done) co_return done;
  if (!steps[Kind::kChangeMig].empty()) {
    Status done = co_await ApplyMig(target.mig, made_for, progress);
    if (!done) co_return done;
  }
  std::vector<Task<Status>> starts;
  for (const PlanStep& step : steps[Kind::kStartDomain]) {
    starts.push_back(StartDomain(step, target, progress));
  }
  if (Status done = co_await AllOf(parts.loop, std::move(starts)); !done) co_return done;
  std::vector<ReplicaTarget> replicas;
  for (const PlanStep& step : steps[Kind::kStartReplica]) {
    const auto it = std::find_if(target.replicas.begin(), target.replicas.end(),
                                 [&](const ReplicaTarget& each) { return each.id == step.name; });
    replicas.push_back(*it);
  }
  co_return co_await StartReplicas(std::move(replicas), progress);
}

Task<Status> NodeCore::StopReplica(PlanStep step, Progress progress) {
  const std::string label = fmt::format("replica {}", step.name);
  progress({label, "stopping", step.why});
  const std::shared_ptr<ReplicaKeeper> replica = replicas_.at(step.name);
  Status ended = co_await replica->End();
  progress({label, ended ? "stopped" : "failed", ended ? "" : ended.error().message});
  if (!ended) co_return ended;
  ledger_->Release(replica->share().id);
  replicas_.erase(step.name);
  events.Append("replica", step.name, "removed", step.why);
  co_return ended;
}

Task<Status> NodeCore::EndDomain(PlanStep step, Progress progress) {
  const std::string label = fmt::format("domain {}", step.name);
  progress({label, "stopping", step.why});
  const std::shared_ptr<DomainKeeper> domain = domains_.at(step.name);
  Status ended = co_await domain->End();
  progress({label, ended ? "stopped" : "failed", ended ? "" : ended.error().message});
  if (!ended) co_return ended;
  domains_.erase(step.name);
  ledger_->RemoveDomain(step.name);
  co_return ended;
}

Task<Status> NodeCore::StartDomain(PlanStep step, const PlanTarget& target, Progress progress) {
  const auto it =
      std::find_if(target.domains.begin(), target.domains.end(),
                   [&](const DomainTarget& each) { return each.domain.name == step.name; });
  DomainTarget wanted = *it;
  if (wanted.seat) {
    Result<std::string> uuid = MigUuidAt(wanted.domain.gpu_uuid, *wanted.seat);
    if (!uuid) co_return tl::unexpected<Error>(std::move(uuid).error());
    wanted.domain.mig_uuid = std::move(*uuid);
  }
  const std::string label = fmt::format("domain {}", step.name);
  progress({label, "starting", step.why});
  const std::shared_ptr<DomainKeeper> domain = MakeDomain(wanted, std::nullopt);
  Status ready = co_await domain->AwaitReady();
  progress({label, ready ? "done" : "failed", ready ? "" : ready.error().message});
  co_return ready;
}

Task<Status> NodeCore::StartReplicas(std::vector<ReplicaTarget> replicas,
                                     const Progress& progress) {
  // As many at once as can get anywhere: a model server's start is mostly one thread that loads.
  const std::size_t crew = std::max<std::size_t>(2, std::thread::hardware_concurrency());
  struct Queue {
    std::vector<ReplicaTarget> replicas;
    std::size_t next = 0;
    bool failed = false;
  };
  const auto queue = std::make_shared<Queue>(Queue{std::move(replicas)});
  const auto work = [](NodeCore* node, std::shared_ptr<Queue> of, Progress say) -> Task<Status> {
    while (of->next < of->replicas.size() && !of->failed) {
      if (node->given_up_) co_return Fail(ErrorCode::kConflict, "it is taken down");
      const ReplicaTarget target = of->replicas[of->next++];
      Status started = co_await node->StartReplica(target, say);
      if (!started) {
        of->failed = true;
        co_return started;
      }
    }
    co_return Status{};
  };
  std::vector<Task<Status>> hands;
  for (std::size_t i = 0; i < crew; ++i) hands.push_back(work(this, queue, progress));
  co_return co_await AllOf(parts.loop, std::move(hands));
}

Task<Status> NodeCore::StartReplica(ReplicaTarget target, Progress progress) {
  const std::string label = fmt::format("replica {}", target.id);
  progress({label, "starting", ""});
  if (target.seat) {
    Result<std::string> uuid = MigUuidAt(target.share.gpu_uuid, *target.seat);
    if (!uuid) co_return tl::unexpected<Error>(std::move(uuid).error());
    target.share.mig_uuid = std::move(*uuid);
  }
  Result<std::string> id = store.TakeShareId();
  if (!id) co_return tl::unexpected<Error>(std::move(id).error());
  target.share.id = std::move(*id);
  if (Status booked = ledger_->Book(target.share); !booked) co_return booked;
  const std::shared_ptr<ReplicaKeeper> replica = MakeReplica(target, std::nullopt, std::nullopt);
  Status ready = co_await replica->AwaitReady();
  progress({label, ready ? "done" : "failed", ready ? "" : ready.error().message});
  co_return ready;
}

Status NodeCore::ClearHealth(const std::string& gpu, const Peer& by) {
  RETURN_IF_ERROR(MayAdminister(by));
  for (const Gpu& each : inventory_.gpus) {
    if (each.uuid != gpu && std::to_string(each.index) != gpu) continue;
    HealthJudge& health = health_.try_emplace(each.uuid).first->second;
    const std::string who = by.local ? UserName(by.uid) : "an administrator";
    if (const auto change = health.OnClear(who, MonotonicNanoseconds())) {
      OnHealthChange(each.uuid, *change);
    }
    if (health.healthy()) return {};
    return Fail(ErrorCode::kConflict,
                fmt::format("GPU {} is still not well: {}", each.index, health.why()));
  }
  return Fail(ErrorCode::kNotFound, fmt::format("no such GPU: {}", gpu), "sublet ps shows them");
}

Status NodeCore::Restart(const std::string& replica, const Peer& by) {
  RETURN_IF_ERROR(MayAdminister(by));
  const auto it = replicas_.find(replica);
  if (it == replicas_.end()) {
    return Fail(ErrorCode::kNotFound, fmt::format("no such replica: {}", replica),
                "sublet ps shows them");
  }
  it->second->Restart("as it was asked to");
  return {};
}

std::shared_ptr<ReplicaKeeper> NodeCore::MakeReplica(const ReplicaTarget& target,
                                                     std::optional<ShareRow> found,
                                                     std::optional<ReplicaRow> history) {
  ReplicaKeeper::Setup setup;
  setup.target = target;
  setup.run_as = UserOf(target.share.tenant);
  setup.domain = FindDomain(target.share.domain);
  setup.obstacle = [weak = weak_from_this(), gpu = target.share.gpu_uuid]() -> std::string {
    const auto node = weak.lock();
    return node ? node->Obstacle(gpu) : "";
  };
  setup.changed = [] {};
  auto replica = std::make_shared<ReplicaKeeper>(parts, std::move(setup));
  replicas_[target.id] = replica;
  replica->Begin(std::move(found), std::move(history));
  return replica;
}

}  // namespace sublet
