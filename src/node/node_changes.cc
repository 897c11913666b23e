// Plans up and down, and MIG: what changes the node as a whole.
//
// A change is a target and the steps to it from what is there now, worked out anew each time. So
// going on after a crash is the same as beginning, and putting back is the same with the old target
// (but for MIG, whose journalled steps are undone).

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "base/crash_point.h"
#include "node/node_core.h"
#include "node/plan_binding.h"

namespace sublet {
namespace {

// In a MigInstanceRow's place: that MIG mode was turned on.
constexpr int kModeRow = -1;

// Instances that were asked for by themselves; they go only when that is asked for.
constexpr std::string_view kMadeForUser = "user";
constexpr std::string_view kMadeForPlan = "plan ";

constexpr MigPatience kMigPatience{.in_use_s = 5};

// The store belongs to the loop's thread; MIG's steps are done on a worker, which waits here.
class LoopMigJournal final : public MigJournal {
 public:
  LoopMigJournal(asio::io_context& loop, NodeStore& store, std::vector<MigInstanceRow>& instances,
                 std::string made_for, int next)
      : loop_(loop),
        store_(store),
        instances_(instances),
        made_for_(std::move(made_for)),
        next_(next) {}

  Status WillDo(const MigStep& step) override {
    return OnLoop([this, step] {
      return store_.Transaction([&]() -> Status {
        RETURN_IF_ERROR(store_.PutMigStep({.number = next_, .step = MigStepToJson(step).dump()}));
        return Note(step, RowState::kCreating);
      });
    });
  }

  void Done(const MigStep& step) override {
    const Status written = OnLoop([this, step] {
      return store_.Transaction([&]() -> Status {
        RETURN_IF_ERROR(
            store_.PutMigStep({.number = next_, .step = MigStepToJson(step).dump(), .done = true}));
        return Note(step, RowState::kPresent);
      });
    });
    // Written as begun it is, and that is what undoing goes by.
    static_cast<void>(written);
    ++next_;
  }

 private:
  template <typename Write>
  Status OnLoop(Write write) {
    std::promise<Status> answer;
    asio::post(loop_, [&] { answer.set_value(write()); });
    return answer.get_future().get();
  }

  // Which instances are ours.
  Status Note(const MigStep& step, RowState state) {
    MigInstanceRow row;
    row.gpu_uuid = step.gpu_uuid;
    row.start = step.ChangesMode() ? kModeRow : step.seat.start;
    row.profile = step.ChangesMode() ? "mode" : step.seat.profile;
    row.state = state;
    row.made_for = made_for_;
    const auto same = [&](const MigInstanceRow& each) {
      return each.gpu_uuid == row.gpu_uuid && each.start == row.start;
    };
    const bool made =
        step.kind == MigStep::Kind::kCreate || step.kind == MigStep::Kind::kEnableMode;
    if (step.kind == MigStep::Kind::kKeepMode) return {};
    if (!made && state == RowState::kCreating) return {};
    std::erase_if(instances_, same);
    // What was asked for by itself is the user's from now on.
    if (made && made_for_ == kMadeForUser) return {};
    if (!made) return store_.RemoveMigInstance(row.gpu_uuid, row.start);
    instances_.push_back(row);
    return store_.PutMigInstance(row);
  }

  asio::io_context& loop_;
  NodeStore& store_;
  std::vector<MigInstanceRow>& instances_;
  const std::string made_for_;
  int next_;
};

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

// Whether the target's replicas have room beside the shares that others hold.
Status NodeCore::Fits(const PlanTarget& target) {
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

Result<std::string> NodeCore::MigUuidAt(const std::string& gpu_uuid, const MigSeat& seat) const {
  const Gpu* const gpu = inventory_.FindGpu(gpu_uuid);
  for (const GpuInstance& instance : gpu->instances) {
    if (instance.placement.start != seat.start || instance.profile_id != seat.profile_id) continue;
    if (!instance.compute_instances.empty() && !instance.compute_instances[0].uuid.empty()) {
      return instance.compute_instances[0].uuid;
    }
  }
  return Fail(ErrorCode::kConflict,
              fmt::format("{} has no MIG device for {}", gpu_uuid, DescribeSeat(seat)));
}

Task<Status> NodeCore::StartReplicas(std::vector<ReplicaTarget> replicas,
                                     const Progress& progress) {
  // As many at once as can get anywhere: a model server's start is work for a processor or two.
  const std::size_t crew = std::max<std::size_t>(2, std::thread::hardware_concurrency() / 2);
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

Task<Status> NodeCore::ApplyMig(std::vector<MigTarget> targets, std::string made_for,
                                const Progress& progress) {
  Result<std::vector<MigStep>> steps = MigStepsFor(targets);
  if (!steps) co_return tl::unexpected<Error>(std::move(steps).error());
  if (steps->empty()) co_return Status{};
  for (const MigStep& step : *steps) {
    progress({fmt::format("mig {}", step.gpu_uuid), "starting", Describe(step)});
  }
  Result<NodeRecord> record = store.LoadAll();
  if (!record) co_return tl::unexpected<Error>(std::move(record).error());
  const int next = record->mig_steps.empty() ? 0 : record->mig_steps.back().number + 1;
  LoopMigJournal journal(parts.loop, store, instances_, std::move(made_for), next);
  const nvml::Api& api = nvml_->api();
  auto apply = [&api, &journal, &steps, &targets] {
    return ApplyTargets(api, *steps, targets, journal, kMigPatience);
  };
  Status applied = co_await OnPool(parts.pool, apply);
  const Result<Inventory> stock = co_await TakeStock();
  if (applied && !stock) applied = tl::unexpected<Error>(stock.error());
  events.Append("mig", "node", applied ? "changed" : "not-changed",
                applied ? fmt::format("{} steps", steps->size()) : applied.error().message);
  progress({"mig", applied ? "done" : "failed", applied ? "" : applied.error().message});
  co_return applied;
}

// Takes back all MIG steps of the operation that is under way.
Task<Status> NodeCore::UndoMig() {
  Result<NodeRecord> record = store.LoadAll();
  if (!record) co_return tl::unexpected<Error>(std::move(record).error());
  std::vector<MigStep> begun;
  for (const MigStepRow& row : record->mig_steps) {
    Result<std::vector<MigStep>> step = ParseMigSteps(fmt::format("[{}]", row.step), "journal");
    if (!step) co_return tl::unexpected<Error>(std::move(step).error());
    begun.push_back(std::move(step->front()));
  }
  if (begun.empty()) co_return Status{};
  const nvml::Api& api = nvml_->api();
  auto undo = [&api, &begun] { return UndoSteps(api, begun, kMigPatience); };
  Status undone = co_await OnPool(parts.pool, undo);
  CrashPoint("mig-undone");
  if (!undone) co_return undone;
  for (const MigStep& step : begun) {
    if (step.kind != MigStep::Kind::kCreate && step.kind != MigStep::Kind::kEnableMode) continue;
    const int start = step.ChangesMode() ? kModeRow : step.seat.start;
    std::erase_if(instances_, [&](const MigInstanceRow& row) {
      return row.gpu_uuid == step.gpu_uuid && row.start == start;
    });
    if (Status removed = store.RemoveMigInstance(step.gpu_uuid, start); !removed) {
      co_return removed;
    }
  }
  if (const Result<Inventory> stock = co_await TakeStock(); !stock) {
    co_return tl::unexpected<Error>(stock.error());
  }
  co_return Status{};
}

Result<std::vector<MigStep>> NodeCore::MigStepsFor(const std::vector<MigTarget>& targets) {
  std::map<std::string, MigUse> use;
  for (const Gpu& gpu : inventory_.gpus) {
    use[gpu.uuid] = UseByProcesses(gpu);
    for (const Device& device : ledger_->devices()) {
      if (device.gpu_uuid != gpu.uuid) continue;
      for (const Share* share : ledger_->SharesOn(device.uuid())) {
        const std::string who = fmt::format("share {} of tenant {}", share->id, share->tenant);
        MigUse by_share;
        if (device.mig_uuid.empty()) by_share.whole.push_back(who);
        for (const GpuInstance& instance : gpu.instances) {
          for (const ComputeInstance& compute : instance.compute_instances) {
            if (compute.uuid == device.mig_uuid) by_share.instances[instance.id] = {who};
          }
        }
        use[gpu.uuid].Add(by_share);
      }
    }
  }
  return StepsForNode(inventory_, targets, use);
}

Task<Status> NodeCore::ChangeMig(std::vector<MigTarget> targets, Progress progress) {
  const auto self = shared_from_this();
  if (Status free = Turn::Free(*this); !free) co_return free;
  const Turn turn(*this, "mig");
  if (const Result<Inventory> stock = co_await TakeStock(); !stock) {
    co_return tl::unexpected<Error>(stock.error());
  }
  if (const auto steps = MigStepsFor(targets); !steps) {
    co_return tl::unexpected<Error>(steps.error());
  }
  OperationRow operation;
  operation.id = fmt::format("mig-{}", UtcMilliseconds());
  operation.kind = OperationKind::kMig;
  operation.to = PlanRow{MigTargetsToJson(targets).dump(), ""};
  operation.started_at = UtcMilliseconds();
  if (Status written = store.PutOperation(operation); !written) co_return written;
  CrashPoint("mig-operation-written");
  co_return co_await FinishMig(std::move(operation), progress);
}

// The instances are from now on the user's: they stay when plans come and go.
Task<Status> NodeCore::FinishMig(OperationRow operation, const Progress& progress) {
  Status done = Fail(ErrorCode::kUnavailable, "it was being undone when the daemon ended");
  if (operation.direction == OperationDirection::kForward) {
    Result<std::vector<MigTarget>> targets = ParseMigTargets(operation.to->plan, "journal");
    if (!targets) co_return tl::unexpected<Error>(std::move(targets).error());
    done = co_await ApplyMig(std::move(*targets), std::string(kMadeForUser), progress);
  }
  if (!done) {
    operation.direction = OperationDirection::kBack;
    if (Status written = store.PutOperation(operation); !written) co_return written;
    if (const Status undone = co_await UndoMig(); !undone) {
      Error error = done.error();
      error.message += fmt::format("; undoing it failed: {}", undone.error().message);
      done = tl::unexpected<Error>(std::move(error));
    }
  }
  const Status settled = store.Transaction([&]() -> Status {
    RETURN_IF_ERROR(store.ClearMigSteps());
    return store.RemoveOperation();
  });
  CrashPoint("mig-operation-settled");
  if (done && !settled) co_return settled;
  co_return done;
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
