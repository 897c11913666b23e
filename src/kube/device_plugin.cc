#include "kube/device_plugin.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/crash_point.h"
#include "base/files.h"
#include "kube/kubelet_client.h"
#include "model/document.h"
#include "node/back_off.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

// A start that can't be, with failOnInitError off: NVIDIA's plugin tries every 30 s.
constexpr BackOff kStartBackOff{.first_s = 1, .most_s = 30};
// A GPU that recovers from a fault can hold a call for some seconds.
constexpr double kHungDriverSeconds = 30;
constexpr double kHungLookSeconds = 10;

std::string FolderOf(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string NameOf(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

// The UUIDs of a GPU's MIG devices, ascending.
std::vector<std::string> MigDevicesOf(const Inventory& inventory, const std::string& gpu_uuid) {
  std::vector<std::string> uuids;
  const Gpu* const gpu = inventory.FindGpu(gpu_uuid);
  if (gpu == nullptr) return uuids;
  for (const GpuInstance& instance : gpu->instances) {
    for (const ComputeInstance& compute : instance.compute_instances) {
      if (!compute.uuid.empty()) uuids.push_back(compute.uuid);
    }
  }
  std::ranges::sort(uuids);
  return uuids;
}

}  // namespace

DevicePlugin::DevicePlugin(asio::io_context& loop, asio::thread_pool& threads,
                           PluginRunOptions options)
    : loop_(loop),
      threads_(threads),
      options_(std::move(options)),
      health_(HealthPolicy(), options_.health),
      bell_(loop) {}

DevicePlugin::~DevicePlugin() = default;

std::vector<std::string> DevicePlugin::Resources() const {
  std::vector<std::string> names;
  for (const auto& [name, offer] : offers_) names.push_back(name);
  return names;
}

PluginState DevicePlugin::State() const {
  PluginState state;
  state.inventory = stock_.inventory;
  state.resources = stock_.advertised.resources;
  if (state.inventory) state.hostname = state.inventory->host.hostname;
  state.unhealthy = health_.Unhealthy();
  for (const auto& [name, offer] : offers_) {
    for (const auto& [device, why] : offer.obstacles) state.waiting.insert(device);
  }
  if (pool_) {
    state.servers = pool_->Servers();
    state.claims = pool_->Claims();
  }
  state.last_xid = last_xid_;
  return state;
}

std::string DevicePlugin::Sickness() const {
  if (!watch_ || watch_->SecondsSinceAnswer() < kHungDriverSeconds) return "";
  return fmt::format("the driver has not answered for {:.0f} s", watch_->SecondsSinceAnswer());
}

// ---- start, stop, reload -----------------------------------------------------------------------

Task<Status> DevicePlugin::Run() {
  const auto self = shared_from_this();
  Status outcome = co_await Begin();
  while (outcome && !stopping_) {
    if (std::exchange(reload_, false)) {
      co_await ReloadNow();
    } else if (std::exchange(stale_, false)) {
      co_await TakeStockAgain();
    } else if (Clock() >= next_tenants_) {
      co_await LookAfterTenants();
    } else {
      LookForHungDriver();
      co_await bell_.Wait(std::min(next_tenants_, MomentIn(kHungLookSeconds)));
    }
  }
  // The servers of MPS and kubelet's pods go on; the next plugin takes over.
  if (watch_) watch_->Stop();
  if (folders_) folders_->Stop();
  for (auto& [name, offer] : offers_) offer.endpoint->LetGo();
  server_.reset();
  co_return outcome;
}

Task<Status> DevicePlugin::Begin() {
  auto config = Configure();
  if (!config) co_return tl::unexpected<Error>(std::move(config).error());
  config_ = std::make_shared<const DevicePluginConfig>(std::move(*config));
  folders_ = std::make_shared<FolderWatch>(
      loop_, [this](const FolderChange& change) { OnFolder(change); });
  if (const Status started = folders_->Start(); !started) co_return started;
  WatchConfigFile();
  int attempts = 0;
  while (!stopping_) {
    const Status up = co_await BringUp();
    if (up) break;
    if (config_->flags.fail_on_init_error) co_return up;
    const double pause_s = RestartDelay(++attempts, "start", kStartBackOff);
    spdlog::error("{}; tries again in {:.1f} s", up.error().message, pause_s);
    co_await bell_.Wait(MomentIn(pause_s));
    if (std::exchange(reload_, false)) {
      if (auto read = Configure()) {
        config_ = std::make_shared<const DevicePluginConfig>(std::move(*read));
      }
    }
  }
  co_return Status();
}

Task<Status> DevicePlugin::BringUp() {
  std::error_code made;
  fs::create_directories(options_.plugin_dir, made);
  if (made) {
    co_return FailFromErrno(made.value(), fmt::format("making {}", options_.plugin_dir));
  }
  if (!server_) {
    auto server = PluginServer::Start();
    if (!server) co_return tl::unexpected<Error>(std::move(server).error());
    server_ = std::move(*server);
    parts_.emplace(EndpointParts{loop_, threads_, *server_, options_.plugin_dir,
                                 config_->flags.kubelet_socket});
  }
  const auto config = config_;
  auto take = [source = options_.stock, config] { return TakeNodeStock(source, *config); };
  Result<NodeStock> stock = co_await OnPool(threads_, take);
  if (!stock) co_return tl::unexpected<Error>(std::move(stock).error());
  folders_->Watch(options_.plugin_dir);
  const std::string& kubelet = config_->flags.kubelet_socket;
  if (!kubelet.empty()) folders_->Watch(FolderOf(kubelet));
  if (const Status applied = Apply(std::move(*stock), true); !applied) co_return applied;
  if (!watch_) WatchHealth();
  co_return Status();
}

void DevicePlugin::Reload() {
  reload_ = true;
  bell_.Ring();
}

void DevicePlugin::Stop() {
  stopping_ = true;
  bell_.Ring();
}

Result<DevicePluginConfig> DevicePlugin::Configure() {
  if (!options_.config_file.empty()) {
    ASSIGN_OR_RETURN(config_text_, ReadFile(options_.config_file, kYamlBytesMax));
  }
  ASSIGN_OR_RETURN(DevicePluginConfig config, options_.configure());
  if (config.sublet.tenancy == MpsTenancy::kLabel && !options_.pod_label) {
    return Fail(ErrorCode::kUnsupported, "tenants by label need the API server",
                "per_tenant: namespace needs only kubelet");
  }
  for (const std::string& warning : config.warnings) spdlog::warn("{}", warning);
  std::vector<std::string> warnings;
  health_.SetPolicy(
      ParseHealthPolicy(config.health_checks_disabled, config.health_checks_enabled, warnings));
  for (const std::string& warning : warnings) spdlog::warn("{}", warning);
  return config;
}

Task<void> DevicePlugin::ReloadNow() {
  Result<DevicePluginConfig> read = Configure();
  WatchConfigFile();
  if (!read) {
    spdlog::error("the configuration stays as it was: {}", read.error().message);
    co_return;
  }
  auto config = std::make_shared<const DevicePluginConfig>(std::move(*read));
  if (*config == *config_) {
    spdlog::info("the configuration is read again, and is as it was");
    co_return;
  }
  auto take = [source = options_.stock, config] { return TakeNodeStock(source, *config); };
  Result<NodeStock> stock = co_await OnPool(threads_, take);
  if (!stock) {
    spdlog::error("the configuration stays as it was: {}", stock.error().message);
    co_return;
  }
  if (config->flags.kubelet_socket != config_->flags.kubelet_socket ||
      (pool_ && config->flags.mps_root != config_->flags.mps_root)) {
    spdlog::warn("kubelet's socket and the MPS root stay as they were until the plugin restarts");
  }
  CrashPoint("plugin-reloading");
  config_ = config;
  if (const Status applied = Apply(std::move(*stock), false); !applied) {
    spdlog::error("{}", applied.error().message);
  }
  spdlog::info("the configuration is in effect");
}

Task<void> DevicePlugin::TakeStockAgain() {
  const auto config = config_;
  auto take = [source = options_.stock, config] { return TakeNodeStock(source, *config); };
  Result<NodeStock> stock = co_await OnPool(threads_, take);
  if (!stock) {
    // What was offered stays offered, well or not: what is gone is seen to by its health.
    spdlog::error("the node can't be read: {}", stock.error().message);
    co_return;
  }
  if (const Status applied = Apply(std::move(*stock), false); !applied) {
    spdlog::error("{}", applied.error().message);
  }
}

// ---- what is offered ---------------------------------------------------------------------------

Status DevicePlugin::OpenPool() {
  const std::string& host_root = config_->flags.mps_root;
  if (pool_ || host_root.empty()) return {};
  const std::string root = MpsRootHere(host_root);
  std::error_code ignored;
  const bool needed = std::ranges::any_of(
      stock_.advertised.resources,
      [](const AdvertisedResource& one) { return one.mode == SharingMode::kMps; });
  // What ran under another configuration is to end, too.
  if (!needed && !fs::exists(root + "/servers", ignored)) return {};
  MpsPoolOptions options = options_.mps;
  options.root = root;
  options.host_root = host_root;
  const auto changed = [this, weak = weak_from_this()] {
    if (conditions_pending_) return;
    conditions_pending_ = true;
    asio::post(loop_, [weak] {
      const auto self = weak.lock();
      if (!self) return;
      self->conditions_pending_ = false;
      self->UpdateConditions();
    });
  };
  ASSIGN_OR_RETURN(pool_, MpsPool::Open(loop_, threads_, options, changed));
  return {};
}

Status DevicePlugin::Apply(NodeStock stock, bool first) {
  for (const std::string& note : stock.notes) {
    if (std::ranges::find(stock_.notes, note) == stock_.notes.end()) spdlog::warn("{}", note);
  }
  stock_ = std::move(stock);
  health_.SetNode(*stock_.inventory);
  RETURN_IF_ERROR(OpenPool());
  const auto wants = MpsWantsOf(stock_.advertised, *stock_.inventory, *config_);
  if (pool_) pool_->Want(wants);
  const bool tenants =
      std::ranges::any_of(wants, [](const MpsWant& want) { return want.per_tenant; });
  next_tenants_ = tenants ? std::min(next_tenants_, MomentIn(options_.mps.claim_grace_s)) : kNever;
  std::set<std::string> there;
  std::vector<std::string> added;
  for (const AdvertisedResource& resource : stock_.advertised.resources) {
    there.insert(resource.name);
    const auto known = offers_.find(resource.name);
    if (known == offers_.end()) {
      // At the start a socket that can't be had is an error; later the endpoint goes on trying.
      RETURN_IF_ERROR(AddOffer(resource, first));
      added.push_back(resource.name);
      continue;
    }
    const OptionalCalls before = known->second.desk->Options();
    known->second.desk->Set(FactsOf(resource));
    if (known->second.desk->Options() != before) known->second.endpoint->RegisterAgain();
  }
  for (auto it = offers_.begin(); it != offers_.end();) {
    if (there.contains(it->first)) {
      ++it;
      continue;
    }
    spdlog::info("{}: no longer offered", it->first);
    asio::co_spawn(loop_, it->second.endpoint->End(), EndsTheProgram);
    it = offers_.erase(it);
  }
  UpdateConditions();
  for (const std::string& name : added) offers_.at(name).endpoint->Begin();
  if (offers_.empty()) spdlog::warn("no device is offered");
  return {};
}

std::shared_ptr<const ResourceFacts> DevicePlugin::FactsOf(
    const AdvertisedResource& resource) const {
  auto facts = std::make_shared<ResourceFacts>(resource, stock_.inventory, config_);
  facts->present_nodes = stock_.present_nodes;
  return facts;
}

Status DevicePlugin::AddOffer(const AdvertisedResource& resource, bool bind_now) {
  Offer offer;
  const auto pre_start = [this, weak = weak_from_this(), name = resource.name](
                             std::vector<std::string> ids, std::function<void(Status)> done) {
    asio::post(loop_, [weak, name, ids = std::move(ids), done = std::move(done)]() mutable {
      const auto self = weak.lock();
      if (!self) return;
      asio::co_spawn(self->loop_, self->PreStart(name, std::move(ids)),
                     [done](std::exception_ptr thrown, const Status& status) {
                       EndsTheProgram(thrown);
                       done(status);
                     });
    });
  };
  offer.desk = std::make_shared<AllocationDesk>(pre_start);
  offer.desk->Set(FactsOf(resource));
  offer.desk->Set(std::make_shared<const ResourceCondition>());
  offer.endpoint = std::make_shared<ResourceEndpoint>(*parts_, resource.name, offer.desk);
  if (bind_now) {
    if (Status bound = offer.endpoint->Bind(); !bound) {
      // None is registered yet: what was bound so far goes without a word.
      for (auto& [name, other] : offers_) other.endpoint->LetGo();
      offers_.clear();
      return bound;
    }
  }
  spdlog::info("{}: {} devices, {} replicas, {}", resource.name, resource.devices.size(),
               resource.replicas.size(), SharingModeName(resource.mode));
  offers_.emplace(resource.name, std::move(offer));
  return {};
}

void DevicePlugin::UpdateConditions() {
  const auto unhealthy = health_.Unhealthy();
  for (const AdvertisedResource& resource : stock_.advertised.resources) {
    const auto found = offers_.find(resource.name);
    if (found == offers_.end()) continue;
    Offer& offer = found->second;
    auto now = std::make_shared<ResourceCondition>();
    now->unhealthy = unhealthy;
    for (const AdvertisedDevice& device : resource.devices) {
      if (!pool_) break;
      if (std::string obstacle = pool_->Obstacle(device.uuid); !obstacle.empty()) {
        now->obstacles.emplace(device.uuid, std::move(obstacle));
      }
      if (device.mode != SharingMode::kMps) continue;
      if (auto folder = pool_->FolderOf(device.uuid, resource.name, "")) {
        now->mps.emplace(device.uuid, std::move(*folder));
      }
    }
    for (const auto& [device, obstacle] : now->obstacles) {
      const auto before = offer.obstacles.find(device);
      if (before == offer.obstacles.end() || before->second != obstacle) {
        spdlog::warn("{}: {} waits: {}", resource.name, device, obstacle);
      }
    }
    for (const auto& [device, obstacle] : offer.obstacles) {
      if (!now->obstacles.contains(device)) spdlog::info("{}: {} is ready", resource.name, device);
    }
    offer.obstacles = now->obstacles;
    std::vector<ListedDevice> listed = ListDevices(resource, *now);
    offer.desk->Set(std::shared_ptr<const ResourceCondition>(std::move(now)));
    if (listed == offer.listed) continue;
    offer.listed = std::move(listed);
    offer.endpoint->List(offer.listed);
  }
}

// ---- what happens ------------------------------------------------------------------------------

void DevicePlugin::WatchHealth() {
  HealthWatchOptions watch;
  watch.nvml_path = options_.stock.nvml;
  watch.tell_mig = true;
  watch.poll_s = options_.health_poll_s;
  watch.report = [this, weak = weak_from_this()](const HealthSighting& seen) {
    asio::post(loop_, [weak, seen] {
      if (const auto self = weak.lock()) self->OnSighting(seen);
    });
  };
  watch_ = std::make_unique<HealthWatch>(std::move(watch));
}

void DevicePlugin::OnSighting(const HealthSighting& seen) {
  using What = HealthSighting::What;
  if (stopping_ || !stock_.inventory) return;
  if (seen.what == What::kFound) {
    // The first time it is as it was a moment ago.
    if (std::exchange(driver_found_, true)) {
      spdlog::info("the driver is back");
      stale_ = true;
      bell_.Ring();
    }
    return;
  }
  if (seen.mig_devices) {
    std::vector<std::string> now = *seen.mig_devices;
    std::ranges::sort(now);
    if (now != MigDevicesOf(*stock_.inventory, seen.gpu_uuid)) {
      spdlog::info("{}: its MIG devices are others now", seen.gpu_uuid);
      stale_ = true;
      bell_.Ring();
    }
  }
  if (seen.what == What::kXid && !seen.gpu_uuid.empty()) last_xid_[seen.gpu_uuid] = seen.xid;
  const auto notes = health_.On(seen, MonotonicNanoseconds());
  if (notes.empty()) return;
  for (const DeviceHealthNote& note : notes) {
    const bool recovered = note.change.what == HealthChange::What::kRecovered;
    spdlog::warn("{}: {}: {}", note.device, recovered ? "recovered" : "unhealthy", note.change.why);
  }
  UpdateConditions();
}

// A call into the driver that never comes back tells nothing; that it doesn't is told here.
void DevicePlugin::LookForHungDriver() {
  if (!watch_ || watch_->SecondsSinceAnswer() < kHungDriverSeconds) return;
  HealthSighting hung;
  hung.what = HealthSighting::What::kNoAnswer;
  hung.message =
      fmt::format("the driver has not answered for {:.0f} s", watch_->SecondsSinceAnswer());
  OnSighting(hung);
}

void DevicePlugin::WatchConfigFile() {
  if (options_.config_file.empty()) return;
  folders_->Watch(FolderOf(options_.config_file));
  // A link, as a ConfigMap's file is one: what it leads to may change in its own folder.
  std::error_code unreadable;
  const fs::path target = fs::canonical(options_.config_file, unreadable);
  if (!unreadable) folders_->Watch(target.parent_path().string());
}

void DevicePlugin::OnFolder(const FolderChange& change) {
  if (stopping_ || !config_) return;
  const std::string& kubelet = config_->flags.kubelet_socket;
  if (!kubelet.empty() && change.folder == FolderOf(kubelet) && !change.is_gone &&
      (change.name.empty() || change.name == NameOf(kubelet))) {
    spdlog::info("kubelet's socket is new: {}", kubelet);
    for (auto& [name, offer] : offers_) offer.endpoint->KubeletCame();
  }
  if (change.folder == options_.plugin_dir && (change.is_gone || change.name.empty())) {
    for (auto& [name, offer] : offers_) offer.endpoint->SocketMayBeGone();
  }
  if (options_.config_file.empty() || change.folder == options_.plugin_dir) return;
  const Result<std::string> text = ReadFile(options_.config_file, kYamlBytesMax);
  if (text && *text != config_text_) Reload();
}

// ---- tenants -----------------------------------------------------------------------------------

Result<std::string> DevicePlugin::TenantOf(const PodDevices& pod, const SubletSharing& sharing,
                                           const PodLabel& pod_label) {
  if (sharing.tenancy == MpsTenancy::kNamespace) return pod.pod_namespace;
  ASSIGN_OR_RETURN(const std::string value,
                   pod_label(pod.pod_namespace, pod.pod, sharing.tenant_label));
  // One without the label is its namespace's; a namespace has no "=".
  if (value.empty()) return pod.pod_namespace;
  return fmt::format("{}={}", pod.pod_namespace, value);
}

Task<Status> DevicePlugin::PreStart(std::string resource, std::vector<std::string> ids) {
  const auto self = shared_from_this();
  const auto offer = offers_.find(resource);
  if (offer == offers_.end() || !pool_) {
    co_return Fail(ErrorCode::kUnavailable, fmt::format("{} is no longer offered", resource));
  }
  const auto facts = offer->second.desk->facts();
  const AdvertisedReplica* const replica = ids.empty() ? nullptr : facts->index.Find(ids.front());
  if (replica == nullptr) {
    co_return Fail(ErrorCode::kInvalid,
                   fmt::format("{}: unknown devices: {}", resource, fmt::join(ids, ",")));
  }
  const std::string device = facts->resource.devices[replica->device].uuid;
  // Kubelet says which devices a container has, and not whose it is; its list of pods does.
  auto find = [socket = options_.pod_resources_socket, label = options_.pod_label,
               config = facts->config, resource, ids]() -> Result<std::string> {
    ASSIGN_OR_RETURN(const std::vector<PodDevices> pods, ListPodDevices(socket));
    const std::set<std::string> wanted(ids.begin(), ids.end());
    for (const PodDevices& pod : pods) {
      if (pod.resource != resource || std::set(pod.ids.begin(), pod.ids.end()) != wanted) continue;
      return TenantOf(pod, config->sublet, label);
    }
    return Fail(ErrorCode::kUnavailable,
                fmt::format("kubelet doesn't say whose pod has {}", fmt::join(ids, ",")));
  };
  const Result<std::string> tenant = co_await OnPool(threads_, find);
  if (!tenant) {
    spdlog::warn("{}: not started: {}", resource, tenant.error().message);
    co_return tl::unexpected<Error>(tenant.error());
  }
  const Status claimed = co_await pool_->Claim(ClaimName(resource, ids), device, *tenant);
  if (!claimed) spdlog::warn("{}: not started: {}", resource, claimed.error().message);
  co_return claimed;
}

Task<void> DevicePlugin::LookAfterTenants() {
  next_tenants_ = MomentIn(options_.mps.claim_grace_s);
  auto list = [socket = options_.pod_resources_socket] { return ListPodDevices(socket); };
  const Result<std::vector<PodDevices>> pods = co_await OnPool(threads_, list);
  if (!pods || !pool_) co_return;  // Nothing ends for want of an answer.
  std::set<std::string> claims;
  for (const PodDevices& pod : *pods) {
    if (offers_.contains(pod.resource)) claims.insert(ClaimName(pod.resource, pod.ids));
  }
  pool_->KeepClaims(claims);
}

}  // namespace sublet
