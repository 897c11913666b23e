// MIG, for plans, for shares and by itself: each step is journalled before it is done.

#include <fmt/format.h>

#include <future>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/crash_point.h"
#include "node/node_core.h"

namespace sublet {
namespace {

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
    // Shared, because the loop may still be in set_value() when the worker has the answer.
    const auto answer = std::make_shared<std::promise<Status>>();
    std::future<Status> written = answer->get_future();
    asio::post(loop_, [answer, write] { answer->set_value(write()); });
    return written.get();
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

}  // namespace

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
  co_await AwaitShareMig(false);
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

}  // namespace sublet
