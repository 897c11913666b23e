#include "node/local_node.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/files.h"
#include "base/process_handle.h"
#include "inventory/take.h"
#include "model/calibration.h"
#include "node/node_core.h"

namespace sublet {
namespace {

// A look at the driver costs some calls for each GPU: while nobody looks on, seldom.
constexpr double kQuietLookSeconds = 10;
constexpr double kWatchedLookSeconds = 1;
constexpr double kWatchedForSeconds = 5;
constexpr double kLeastLookSeconds = 0.5;
constexpr double kRotateSeconds = 10;

constexpr double kLockPatienceSeconds = 1;
constexpr useconds_t kLockLookMicroseconds = 20'000;

std::optional<std::string> Variable(const char* name) {
  const char* const value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

// What a process on that device needs for its CUDA context, by the figures of its board.
ContextSize ContextsOf(const Inventory& inventory) {
  std::map<std::string, Calibration> by_gpu;
  for (const Gpu& gpu : inventory.gpus) {
    const auto board = BuiltInBoards().Find(gpu.board);
    by_gpu[gpu.uuid] = board ? ForBoard(DefaultCalibration(), **board) : DefaultCalibration();
  }
  return [by_gpu = std::move(by_gpu)](const Device& device, std::optional<int> sm_percent) {
    const auto it = by_gpu.find(device.gpu_uuid);
    const Calibration& figures = it == by_gpu.end() ? DefaultCalibration() : it->second;
    return figures.ContextAt(sm_percent.value_or(100));
  };
}

// A daemon that was killed while it started a process has, for a moment, a child that is still a
// copy of it and holds its lock.
Result<NodeStore> OpenStore(const std::string& directory) {
  const Deadline deadline = Deadline::In(kLockPatienceSeconds);
  while (true) {
    Result<NodeStore> store = NodeStore::Open(directory);
    const bool taken = !store && store.error().code == ErrorCode::kConflict;
    if (!taken || deadline.Passed()) return store;
    ::usleep(kLockLookMicroseconds);
  }
}

// With that mode, whatever the umask is.
Result<FileDescriptor> MakeFolder(const std::string& path, mode_t mode) {
  const auto fail = [&] { return FailFromErrno(errno, fmt::format("making {}", path)); };
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return fail();
  FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!folder.valid() || ::fchmod(folder.get(), mode) != 0) return fail();
  return folder;
}

// Two daemons with states of their own would take each other's domains in one folder for what a
// crash has left, and end them.
Status LockFolder(const FileDescriptor& folder, const std::string& path) {
  const Deadline deadline = Deadline::In(kLockPatienceSeconds);
  while (::flock(folder.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return FailFromErrno(errno, fmt::format("locking {}", path));
    if (deadline.Passed()) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("another daemon, with another state directory, has {}", path),
                  "end that one first, or choose a socket in another folder");
    }
    ::usleep(kLockLookMicroseconds);
  }
  return {};
}

}  // namespace

NodeCore::NodeCore(asio::io_context& loop, asio::thread_pool& pool, NodeOptions given,
                   NodeStore opened)
    : options(std::move(given)),
      store(std::move(opened)),
      events(loop, store),
      search(std::make_shared<ShareSearch>(loop, pool, options.state)),
      parts{loop, pool, store, events, counters, settings, *search},
      retired_(loop),
      returned_(loop),
      operation_over_(loop),
      looked_(loop),
      bell_(loop) {
  settings.state = options.state;
  settings.run = options.run;
  settings.program = options.program;
  settings.libraries = options.libraries;
  counters.version = options.version;
}

Status NodeCore::Begin() {
  // A tenant's user passes through the folder of the domains to its own domain, and sees no other.
  RETURN_IF_ERROR(MakeFolder(settings.state + "/logs", 0711));
  const std::string domains = settings.run + "/mps";
  ASSIGN_OR_RETURN(run_lock_, MakeFolder(domains, 0711));
  RETURN_IF_ERROR(LockFolder(run_lock_, domains));
  for (const TenantConfig& tenant : options.config.tenants) {
    if (!tenant.run_as.empty()) RETURN_IF_ERROR(FindUser(tenant.run_as));
  }
  if (!options.config.xids.empty()) {
    ASSIGN_OR_RETURN(xids_, ParseXidOverrides(options.config.xids));
  }
  ASSIGN_OR_RETURN(NvmlLibrary nvml, NvmlLibrary::Open(options.nvml));
  nvml_.emplace(std::move(nvml));
  ASSIGN_OR_RETURN(inventory_, TakeInventory({.nvml_path = options.nvml}, Variable));
  ledger_.emplace(DevicesOf(inventory_, {}, {}), options.config.tenants, ContextsOf(inventory_));
  directory_ = std::make_shared<ProcessDirectory>(settings.state);
  return {};
}

Task<Result<Inventory>> NodeCore::TakeStock() {
  const TakeOptions take{.nvml_path = options.nvml};
  auto look = [take] { return TakeInventory(take, Variable); };
  Result<Inventory> taken = co_await OnPool(parts.pool, look);
  if (taken) {
    inventory_ = *taken;
    BookDevices();
  }
  co_return taken;
}

// The books' devices as they are by now.
void NodeCore::BookDevices() {
  std::map<std::string, std::string> obstacles;
  for (const auto& [uuid, health] : health_) {
    if (!health.healthy()) obstacles[uuid] = health.why();
  }
  ledger_->SetDevices(DevicesOf(inventory_, usage_.foreign, obstacles));
}

// ---- looking around ----------------------------------------------------------------------------

Task<void> NodeCore::LookAround() {
  const auto self = shared_from_this();
  while (!stopping_) {
    const Moment soonest = MomentIn(kLeastLookSeconds);
    co_await Look();
    RetireDomains();
    LookForHungDriver();
    const Moment now = Clock();
    const bool watched = now - looked_at_ < std::chrono::duration<double>(kWatchedForSeconds);
    const bool soon = watched || !domain_free_since_.empty();
    co_await bell_.Wait(MomentIn(soon ? kWatchedLookSeconds : kQuietLookSeconds));
    // It rings for each share that ends, and hundreds may end together.
    while (Clock() < soonest && !stopping_) co_await bell_.Wait(soonest);
  }
}

Task<void> NodeCore::Look() {
  if (looking_) {
    co_await looked_.Next();
    co_return;
  }
  looking_ = true;
  co_await LookOnce();
  looking_ = false;
  sampled_at_ = Clock();
  looked_.Announce();
}

Task<void> NodeCore::LookOnce() {
  // The directory and the cursor are the worker's until it has answered.
  const auto directory = directory_;
  const auto cursor = cursor_;
  const nvml::Api& api = nvml_->api();
  const bool rotate = Clock() - rotated_ > std::chrono::duration<double>(kRotateSeconds);
  std::vector<std::shared_ptr<ReplicaLog>> logs;
  if (rotate) {
    rotated_ = Clock();
    for (const auto& [id, replica] : replicas_) logs.push_back(replica->log());
    for (const auto& [id, held] : held_) logs.push_back(held->log());
  }
  const ProcessOwners known = KnownProcesses();
  auto look = [directory, cursor, &api, logs, known]() -> Result<Sighting> {
    for (const auto& log : logs) static_cast<void>(log->RotateIfLarge());
    Sighting seen;
    ASSIGN_OR_RETURN(seen.sample, SampleUsage(api, *cursor));
    seen.owners = directory->Owners(seen.sample, known);
    return seen;
  };
  Result<Sighting> seen = co_await OnPool(parts.pool, look);
  if (!seen) co_return;  // The health watch tells of a driver that doesn't answer.
  usage_ = AttributeUsage(seen->sample, seen->owners, Shares());
  EndUnconfined(*seen);
  sample_ = std::move(seen->sample);
  BookDevices();
}

std::vector<Share> NodeCore::Shares() const {
  std::vector<Share> shares;
  for (const auto& [id, replica] : replicas_) shares.push_back(replica->share());
  for (const auto& [id, held] : held_) shares.push_back(held->share());
  return shares;
}

ProcessOwners NodeCore::KnownProcesses() const {
  using Kind = ProcessOwner::Kind;
  ProcessOwners known;
  const auto add = [&](Kind kind, const std::string& id, const ProcessIdentity& process) {
    ProcessOwner& owner = known[process.pid];
    owner.kind = kind;
    owner.id = id;
    owner.started = static_cast<std::int64_t>(process.start_ticks);
  };
  for (const auto& [id, replica] : replicas_) {
    if (const auto process = replica->process()) add(Kind::kShare, replica->share().id, *process);
  }
  for (const auto& [id, held] : held_) {
    if (const auto process = held->process()) add(Kind::kShare, id, *process);
  }
  for (const auto& [name, domain] : domains_) {
    if (const auto process = domain->process()) add(Kind::kOwn, name, *process);
  }
  return known;
}

// Fails closed: what no limit holds is ended.
void NodeCore::EndUnconfined(const Sighting& seen) {
  for (const Unconfined& each :
       unconfined_.Find(seen.sample, seen.owners, Shares(), MonotonicNanoseconds())) {
    ++counters.unconfined;
    events.Append("share", each.share, "unconfined",
                  fmt::format("process {} uses {} past its mps server, so no limit held it; it is "
                              "ended",
                              each.pid, each.gpu_uuid));
    const ProcessIdentity identity{each.pid, static_cast<std::uint64_t>(each.started)};
    if (const auto process = ProcessHandle::Open(identity)) {
      static_cast<void>(process->Signal(SIGKILL));
    }
  }
}

// ---- status ------------------------------------------------------------------------------------

Task<NodeStatus> NodeCore::Fresh() {
  const auto self = shared_from_this();
  looked_at_ = Clock();
  if (SecondsSince(sampled_at_) > kWatchedLookSeconds) co_await Look();
  co_return Now();
}

NodeStatus NodeCore::Now() {
  NodeStatus status;
  status.hostname = inventory_.host.hostname;
  status.time = UtcMilliseconds();
  status.simulated = inventory_.driver.simulated;
  status.plan = plan ? plan->fleet : "";
  status.operation = operation_;
  for (const Gpu& gpu : inventory_.gpus) {
    GpuStatus now;
    now.uuid = gpu.uuid;
    now.index = gpu.index;
    now.product = gpu.product;
    now.memory = gpu.memory;
    now.memory_used = gpu.memory_used;
    now.memory_booked = ledger_->BookedOn(gpu.uuid);
    now.mig = gpu.mig_enabled;
    if (const auto it = health_.find(gpu.uuid); it != health_.end()) {
      now.healthy = it->second.healthy();
      now.why = it->second.why();
    }
    for (const GpuUsage& usage : sample_.gpus) {
      if (usage.uuid != gpu.uuid || !usage.problem.empty()) continue;
      now.memory_used = usage.memory_used;
      now.utilisation_percent = usage.utilisation_percent;
    }
    if (const auto it = usage_.foreign.find(gpu.uuid); it != usage_.foreign.end()) {
      now.foreign = it->second;
    }
    status.gpus.push_back(std::move(now));
  }
  for (const auto& [name, domain] : domains_) {
    status.domains.push_back(domain->Now());
    status.domains.back().clients = ledger_->SharesIn(name);
    if (const auto it = usage_.domain_sm_percent.find(name); it != usage_.domain_sm_percent.end()) {
      status.domains.back().sm_used_percent = it->second;
    }
  }
  const auto add = [&](ShareStatus share) {
    if (const auto it = usage_.shares.find(share.share.id); it != usage_.shares.end()) {
      share.memory_used = it->second.memory_used;
      share.sm_used_percent = it->second.sm_used_percent;
    }
    status.shares.push_back(std::move(share));
  };
  for (const auto& [id, replica] : replicas_) add(replica->Now());
  for (const auto& [id, held] : held_) add(held->Now());
  return status;
}

NodeCounters NodeCore::Counters() const {
  NodeCounters now = counters;
  now.uptime_s = SecondsSince(began_);
  return now;
}

Status NodeCore::MayAdminister(const Peer& by) const {
  // Over TCP a token was shown, which is an administrator's.
  if (!by.local || by.uid == 0 || by.uid == ::geteuid()) return {};
  return Fail(ErrorCode::kPermission,
              fmt::format("user {} may not see or change what others run", UserName(by.uid)),
              "ask as root, or as the user of the daemon");
}

bool NodeCore::Idle() const {
  return held_.empty() && replicas_.empty() && domains_.empty() && instances_.empty() &&
         !plan_row && operation_.empty();
}

void NodeCore::LetGo() {
  stopping_ = true;
  if (watch_) watch_->Stop();
  bell_.Ring();
}

// ---- the outside -------------------------------------------------------------------------------

Result<std::unique_ptr<LocalNode>> LocalNode::Open(asio::io_context& loop, asio::thread_pool& pool,
                                                   NodeOptions options) {
  ASSIGN_OR_RETURN(NodeStore store, OpenStore(options.state));
  auto core = std::make_shared<NodeCore>(loop, pool, std::move(options), std::move(store));
  RETURN_IF_ERROR(core->Begin());
  return std::unique_ptr<LocalNode>(new LocalNode(std::move(core)));
}

LocalNode::~LocalNode() {
  LetGo();
}

Task<Status> LocalNode::Resume() {
  return core_->Resume();
}
Task<Result<Granted>> LocalNode::Grant(ShareRequest request, Peer peer) {
  return core_->Grant(std::move(request), std::move(peer));
}
Task<Status> LocalNode::Release(std::string id, Peer by) {
  return core_->Release(std::move(id), std::move(by));
}
Task<Status> LocalNode::Up(Plan plan, std::string directory, Progress progress) {
  return core_->Up(std::move(plan), std::move(directory), std::move(progress));
}
Result<std::vector<std::string>> LocalNode::UpSteps(const Plan& plan,
                                                    const std::string& directory) {
  return core_->UpSteps(plan, directory);
}
Task<Status> LocalNode::Down(Progress progress) {
  return core_->Down(std::move(progress));
}
Task<Status> LocalNode::ChangeMig(std::vector<MigTarget> targets, Progress progress) {
  return core_->ChangeMig(std::move(targets), std::move(progress));
}
Result<std::vector<std::string>> LocalNode::MigSteps(const std::vector<MigTarget>& targets) {
  ASSIGN_OR_RETURN(const std::vector<MigStep> steps, core_->MigStepsFor(targets));
  std::vector<std::string> lines;
  for (const MigStep& step : steps) {
    lines.push_back(fmt::format("{}: {}", step.gpu_uuid, Describe(step)));
  }
  return lines;
}
Status LocalNode::Restart(const std::string& replica, const Peer& by) {
  return core_->Restart(replica, by);
}
Status LocalNode::ClearHealth(const std::string& gpu, const Peer& by) {
  return core_->ClearHealth(gpu, by);
}
Result<std::shared_ptr<const ReplicaLog>> LocalNode::Log(const std::string& replica,
                                                         const Peer& by) const {
  return core_->Log(replica, by);
}
Task<NodeStatus> LocalNode::Now() {
  return core_->Fresh();
}
Task<Result<Inventory>> LocalNode::TakeStock() {
  return core_->TakeStock();
}
const std::optional<Plan>& LocalNode::plan() const {
  return core_->plan;
}
EventLog& LocalNode::events() {
  return core_->events;
}
NodeCounters LocalNode::Counters() const {
  return core_->Counters();
}
Status LocalNode::MayAdminister(const Peer& by) const {
  return core_->MayAdminister(by);
}
bool LocalNode::Idle() const {
  return core_->Idle();
}
void LocalNode::LetGo() {
  core_->LetGo();
}

}  // namespace sublet
