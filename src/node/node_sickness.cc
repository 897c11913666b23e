// What the driver tells of the GPUs, and what follows: an unhealthy one gets no new shares, its
// replicas move where another has room, and it comes back when it has recovered.

#include <fmt/format.h>

#include <boost/asio/post.hpp>
#include <utility>

#include "base/clock.h"
#include "node/node_core.h"

namespace sublet {
namespace {

void Silent(const ProgressLine& /*line*/) {}

// A GPU that recovers from a fault can hold a call for some seconds.
constexpr double kHungDriverSeconds = 30;

}  // namespace

void NodeCore::WatchHealth() {
  for (const Gpu& gpu : inventory_.gpus) health_.try_emplace(gpu.uuid);
  HealthWatchOptions watch;
  watch.nvml_path = options.nvml;
  watch.report = [this, weak = weak_from_this()](const HealthSighting& seen) {
    asio::post(parts.loop, [weak, seen] {
      if (const auto node = weak.lock()) node->OnSighting(seen);
    });
  };
  watch_ = std::make_unique<HealthWatch>(std::move(watch));
}

void NodeCore::OnSighting(const HealthSighting& seen) {
  if (seen.what == HealthSighting::What::kFound) {
    asio::co_spawn(parts.loop, DriverIsBack(), EndsTheProgram);
    return;
  }
  if (!seen.gpu_uuid.empty()) {
    OnSightingOf(seen.gpu_uuid, seen);
    return;
  }
  // Without a GPU it is about all of them.
  std::vector<std::string> uuids;
  for (const auto& [uuid, health] : health_) uuids.push_back(uuid);
  for (const std::string& uuid : uuids) OnSightingOf(uuid, seen);
}

void NodeCore::OnSightingOf(const std::string& gpu_uuid, const HealthSighting& seen) {
  using What = HealthSighting::What;
  const std::int64_t now_ns = MonotonicNanoseconds();
  HealthJudge& health = health_.try_emplace(gpu_uuid).first->second;
  std::optional<HealthChange> change;
  if (seen.what == What::kXid) {
    const XidJudgement judged = JudgeXid(seen.xid, xids_);
    GpuCounters& count = counters.gpus[gpu_uuid];
    count.last_xid = seen.xid;
    count.xids[seen.xid] += seen.count;
    events.Append("gpu", gpu_uuid, "xid",
                  fmt::format("{}: {}", judged.Text(), XidVerdictName(judged.verdict)));
    change = health.OnXid(judged, fmt::format("at {}", UtcMilliseconds()), now_ns);
  } else if (seen.what == What::kPolled) {
    change = health.OnPoll(seen.facts, now_ns);
  } else {
    change = health.OnNoAnswer(seen.message, now_ns);
  }
  if (change) OnHealthChange(gpu_uuid, *change);
}

void NodeCore::OnHealthChange(const std::string& gpu_uuid, const HealthChange& change) {
  GpuCounters& count = counters.gpus[gpu_uuid];
  const bool recovered = change.what == HealthChange::What::kRecovered;
  const bool fell = change.what == HealthChange::What::kUnhealthy;
  if (recovered) ++count.recovered;
  if (fell) ++count.unhealthy;
  events.Append("gpu", gpu_uuid, recovered ? "recovered" : "unhealthy", change.why);
  BookDevices();
  for (const auto& [id, replica] : replicas_) replica->Look();
  if (fell) asio::co_spawn(parts.loop, MoveAway(gpu_uuid), EndsTheProgram);
}

// After the driver was gone everything may be another: read it anew.
Task<void> NodeCore::DriverIsBack() {
  const auto self = shared_from_this();
  if (const Result<Inventory> stock = co_await TakeStock(); !stock) {
    events.Append("gpu", "all", "unreadable", stock.error().message);
  }
}

// Replicas of a sick GPU go where the books have room for them as they are: same mode, same limits.
// The others stay, and wait or work as the GPU lets them.
Task<void> NodeCore::MoveAway(std::string gpu_uuid) {
  const auto self = shared_from_this();
  std::vector<std::string> ids;
  for (const auto& [id, replica] : replicas_) {
    if (replica->share().gpu_uuid == gpu_uuid) ids.push_back(id);
  }
  for (const std::string& id : ids) {
    while (!operation_.empty()) co_await operation_over_.Next();
    const auto it = replicas_.find(id);
    if (it == replicas_.end() || it->second->share().gpu_uuid != gpu_uuid) continue;
    if (health_.at(gpu_uuid).healthy()) co_return;
    co_await MoveReplica(it->second);
  }
}

Task<void> NodeCore::MoveReplica(std::shared_ptr<ReplicaKeeper> replica) {
  ReplicaTarget target = replica->target();
  const Share old = target.share;
  ShareRequest request;
  request.name = target.id;
  request.tenant = target.share.tenant;
  request.mode = target.share.mode;
  request.memory = target.share.memory_limit;
  if (!request.memory && target.share.mode != SharingMode::kExclusive) {
    request.memory = target.share.memory;
  }
  request.sm_percent = target.share.sm_percent;
  // A MIG instance elsewhere would be a change of geometry, which is the plan's to decide.
  if (target.seat) co_return;
  const Turn turn(*this, fmt::format("move {}", target.id));
  Requester node;
  node.own_daemon = true;
  node.uid = UserOf(old.tenant).value_or(CurrentUser()).uid;
  Result<sublet::Grant> grant = Admit(*ledger_, request, node);
  if (!grant) {
    events.Append("replica", target.id, "stays", grant.error().message);
    co_return;
  }
  events.Append("replica", target.id, "moves",
                fmt::format("from {} to {}", old.gpu_uuid, grant->share.gpu_uuid));
  if (const Status ended = co_await replica->End(); !ended) co_return;
  ledger_->Release(old.id);
  replicas_.erase(target.id);
  target.share = std::move(grant->share);
  target.share.name = target.id;
  if (const Status ready = co_await PrepareDomain(target.share, grant->new_domain); !ready) {
    events.Append("replica", target.id, "not-moved", ready.error().message);
  }
  const Status started = co_await StartReplica(target, Silent);
  if (!started) events.Append("replica", target.id, "not-moved", started.error().message);
}

// A call into the driver that never comes back tells nothing; that it doesn't is told here.
void NodeCore::LookForHungDriver() {
  const double silent_s = watch_->SecondsSinceAnswer();
  if (silent_s < kHungDriverSeconds) return;
  HealthSighting hung;
  hung.what = HealthSighting::What::kNoAnswer;
  hung.message = fmt::format("the driver has not answered for {:.0f} s", silent_s);
  OnSighting(hung);
}

std::string NodeCore::Obstacle(const std::string& gpu_uuid) const {
  const auto it = health_.find(gpu_uuid);
  if (it == health_.end() || it->second.healthy()) return "";
  return fmt::format("waits for {}: {}", gpu_uuid, it->second.why());
}

}  // namespace sublet
