#include "proxy/route_service.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <csignal>
#include <ctime>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "base/clock.h"
#include "kvcache/kv_subscriber.h"
#include "proxy/access_log.h"
#include "proxy/control_api.h"
#include "proxy/file_watch.h"
#include "proxy/kubernetes_watch.h"
#include "proxy/node_discovery.h"
#include "proxy/proxy_server.h"
#include "proxy/proxy_settings_of.h"
#include "proxy/replica_fleet.h"
#include "proxy/replica_watch.h"
#include "route/engine_metrics.h"

namespace sublet {
namespace {

constexpr std::chrono::milliseconds kTick{250};
// A thousand replicas cost some milliseconds a look.
constexpr std::int64_t kLookNs = 1'000'000'000;

// What the data plane's threads see of a reload, swapped whole.
struct LiveParts {
  std::shared_ptr<const ControlFacts> facts;
  std::shared_ptr<AccessLog> log;  // Null: none is written.
};

class LiveBox {
 public:
  LiveParts Get() const {
    const std::scoped_lock lock(mutex_);
    return parts_;
  }
  void Set(LiveParts parts) {
    const std::scoped_lock lock(mutex_);
    parts_ = std::move(parts);
  }

 private:
  mutable std::mutex mutex_;
  LiveParts parts_;
};

// Load balancers and Prometheus ask every few seconds: such lines would bury the others.
bool IsProbe(const AccessRecord& record) {
  return record.outcome == RequestOutcome::kControl && record.method == "GET" &&
         (record.status < 400 || record.status == 503);
}

// A teller of replicas that runs until it is told otherwise.
template <typename Watch>
struct RunningSource {
  std::shared_ptr<Watch> watch;
  asio::cancellation_signal cancel;
  int turn = 0;  // Of the watch that is heard.
};

// A name that is looked up can't be cancelled: its coroutine keeps what it needs until it is back.
template <typename Watch>
Task<void> RunKept(std::shared_ptr<Watch> watch) {
  co_await watch->Run();
}

}  // namespace

std::vector<std::string> WhatNeedsRestart(const RouteConfig& before, const RouteConfig& now) {
  std::vector<std::string> names;
  if (before.listen.address != now.listen.address || before.listen.port != now.listen.port) {
    names.emplace_back("listen");
  }
  if (before.listen.tls.has_value() != now.listen.tls.has_value()) names.emplace_back("listen.tls");
  if (before.threads != now.threads) names.emplace_back("threads");
  if (before.seed != now.seed) names.emplace_back("policy.seed");
  if (before.queue != now.queue) names.emplace_back("queue");
  if (before.breaker != now.breaker) names.emplace_back("breaker");
  if (before.cache_bytes_max != now.cache_bytes_max ||
      before.cache_silence_s != now.cache_silence_s) {
    names.emplace_back("cache");
  }
  if (before.access_log.waiting_max != now.access_log.waiting_max) {
    names.emplace_back("access_log.waiting_max");
  }
  return names;
}

class RouteService::Impl {
 public:
  explicit Impl(RouteServiceHooks hooks)
      : hooks_(std::move(hooks)), started_ns_(MonotonicNanoseconds()) {}
  ~Impl();

  Status Open();
  Status Start();
  bool Run();
  void Stop();
  int port() const { return port_; }
  const RouteConfig& config() const { return config_; }

 private:
  ProxyHooks HooksOfProxy();
  ReplicaReports Reports();
  KvSubscriberHandlers HandlersOfEvents();
  FleetHooks HooksOfFleet();
  Result<std::vector<ReplicaSpec>> SpecsOf(const RouteConfig& config,
                                           std::set<std::string, std::less<>>& simulated);
  Result<std::shared_ptr<AccessLog>> LogOf(const RouteConfig& config) const;
  void Publish(std::shared_ptr<AccessLog> log, std::set<std::string, std::less<>> simulated);
  RouteView View() const;

  void Reload(bool reopen_log);
  Status Adopt(RouteConfig config, bool reopen_log);
  void Discover(const RouteConfig& config);
  void StartNode();
  void StartKubernetes();
  template <typename Watch, typename Wanted, typename Make>
  void Start(RunningSource<Watch>& source, std::string_view teller,
             const std::optional<Wanted>& wanted, const Make& make);
  std::vector<std::string> Files() const;

  void WaitForSignal();
  Task<void> FollowFiles();
  Task<void> Tick();
  void BeginToEnd(std::string why);
  Task<void> DrainAndStop();

  const RouteServiceHooks hooks_;
  const std::int64_t started_ns_;
  const std::int64_t started_s_ = static_cast<std::int64_t>(std::time(nullptr));
  asio::io_context loop_{1};
  asio::thread_pool pool_{1};  // Draining blocks.
  RouteConfig config_;
  RouteSecrets secrets_;
  KeyRateBook key_rates_;
  std::string config_error_;
  std::int64_t loads_ = 0;
  std::int64_t load_failures_ = 0;
  LiveBox live_;
  RouteMetrics metrics_;
  std::optional<FleetCache> caches_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<ProxyServer> proxy_;
  std::unique_ptr<ReplicaWatch> watch_;
  std::unique_ptr<KvSubscriber> subscriber_;
  std::set<ReplicaSlot> computing_;  // Replicas that had prompts to compute when last looked.
  std::map<ReplicaSlot, std::string> names_;
  std::unique_ptr<ReplicaFleet> fleet_;
  std::optional<ControlApi> api_;
  std::unique_ptr<FileWatch> files_;
  RunningSource<NodeWatch> node_;
  RunningSource<KubernetesWatch> kubernetes_;
  asio::signal_set signals_{loop_};
  asio::steady_timer timer_{loop_};
  int port_ = 0;
  bool ending_ = false;
  bool drained_ = true;
};

RouteService::Impl::~Impl() {
  if (proxy_) proxy_->Stop();
  // Coroutines that wait see that they are cancelled while what they use is still there.
  ending_ = true;
  asio::post(loop_, [this] {
    node_.cancel.emit(asio::cancellation_type::terminal);
    kubernetes_.cancel.emit(asio::cancellation_type::terminal);
    timer_.cancel();
  });
  loop_.restart();
  loop_.poll();
  pool_.join();
}

Result<std::vector<ReplicaSpec>> RouteService::Impl::SpecsOf(
    const RouteConfig& config, std::set<std::string, std::less<>>& simulated) {
  std::vector<ReplicaSpec> specs;
  std::vector<RouteReplica> engines;
  for (const RouteReplica& replica : config.replicas) {
    if (!replica.simulate) {
      specs.push_back(replica.spec);
    } else {
      engines.push_back(replica);
      simulated.insert(replica.spec.name);
    }
  }
  if (hooks_.engines == nullptr) {
    if (engines.empty()) return specs;
    return Fail(ErrorCode::kUnsupported,
                fmt::format("there are no simulated engines here for: {}", engines[0].spec.name));
  }
  ASSIGN_OR_RETURN(const std::vector<ReplicaSpec> running, hooks_.engines->Run(engines));
  specs.insert(specs.end(), running.begin(), running.end());
  return specs;
}

Result<std::shared_ptr<AccessLog>> RouteService::Impl::LogOf(const RouteConfig& config) const {
  if (config.access_log.path.empty()) return std::shared_ptr<AccessLog>();
  ASSIGN_OR_RETURN(
      std::shared_ptr<AccessLog> log,
      AccessLog::Open({.path = config.access_log.path,
                       .lines_max = static_cast<std::size_t>(config.access_log.waiting_max)}));
  return log;
}

void RouteService::Impl::Publish(std::shared_ptr<AccessLog> log,
                                 std::set<std::string, std::less<>> simulated) {
  auto facts = std::make_shared<ControlFacts>();
  facts->aliases = config_.aliases;
  facts->simulated = std::move(simulated);
  facts->keys = !secrets_.keys.keys.empty();
  facts->config_error = config_error_;
  facts->started_s = started_s_;
  live_.Set({std::move(facts), std::move(log)});
}

ReplicaReports RouteService::Impl::Reports() {
  ReplicaReports reports;
  reports.health = [this](ReplicaSlot slot, ReplicaHealth health, std::string why) {
    const bool well = health == ReplicaHealth::kHealthy;
    router_->OnHealth(slot, health, why, MonotonicNanoseconds());
    if (well) spdlog::info("replica {} is well", names_[slot]);
    if (!well) spdlog::warn("replica {} is unhealthy: {}", names_[slot], why);
    if (well && proxy_) proxy_->WakeWaiting();
  };
  reports.metrics = [this](ReplicaSlot slot, std::string_view text) {
    const EngineMetrics metrics = ParseEngineMetrics(text);
    if (metrics.engine) router_->OnScrape(slot, metrics.load, MonotonicNanoseconds());
  };
  reports.models = [this](ReplicaSlot slot, std::vector<std::string> models) {
    router_->OnModels(slot, std::move(models));
    if (proxy_) proxy_->WakeWaiting();
  };
  return reports;
}

KvSubscriberHandlers RouteService::Impl::HandlersOfEvents() {
  KvSubscriberHandlers handlers;
  handlers.on_verdict = [this](const KvVerdict& verdict) {
    caches_->SetKnowledge(verdict.slot, verdict.knowledge, verdict.why, verdict.restarted,
                          verdict.now_ns);
  };
  handlers.on_batch = [this](ReplicaSlot slot, const KvEventBatch& batch, std::int64_t now_ns) {
    caches_->Apply(slot, batch, now_ns);
  };
  handlers.is_busy = [this](ReplicaSlot slot) { return computing_.contains(slot); };
  return handlers;
}

FleetHooks RouteService::Impl::HooksOfFleet() {
  FleetHooks hooks;
  hooks.added = [this](ReplicaSlot slot, const ReplicaSpec& spec) {
    names_[slot] = spec.name;
    watch_->Add(slot, spec);
    if (!spec.kv_events) return;
    const Status heard = subscriber_->Set(slot, *spec.kv_events, spec.kv_events->ranks);
    if (!heard) spdlog::error("KV events of {}: {}", spec.name, heard.error().message);
  };
  hooks.removed = [this](ReplicaSlot slot, const ReplicaSpec& spec) {
    watch_->Remove(slot);
    subscriber_->Remove(slot);
    names_.erase(slot);
    metrics_.Forget(spec.name);
  };
  return hooks;
}

ProxyHooks RouteService::Impl::HooksOfProxy() {
  ProxyHooks hooks;
  hooks.router = router_.get();
  hooks.access = ControlApi::Access;
  hooks.control = [this](ControlRequest request) { return api_->Answer(std::move(request)); };
  hooks.on_finished = [this](const AccessRecord& record) {
    metrics_.Count(record);
    const LiveParts live = live_.Get();
    if (live.log == nullptr || IsProbe(record)) return;
    live.log->Write(record, UtcMilliseconds(), live.facts->simulated.contains(record.replica));
  };
  return hooks;
}

Status RouteService::Impl::Open() {
  ASSIGN_OR_RETURN(config_, hooks_.load());
  ++loads_;
  ASSIGN_OR_RETURN(secrets_, ReadSecrets(config_));
  ASSIGN_OR_RETURN(std::shared_ptr<AccessLog> log, LogOf(config_));
  caches_.emplace(
      FleetCacheOptions{.bytes_max = static_cast<std::size_t>(config_.cache_bytes_max)});
  ASSIGN_OR_RETURN(router_, Router::Make(RouterOptionsOf(config_), *caches_));
  ASSIGN_OR_RETURN(
      proxy_, ProxyServer::Open(ProxyOptionsOf(config_, secrets_, key_rates_), HooksOfProxy()));
  // As early as can be: whoever connects from now on waits in the kernel's queue and isn't refused.
  ASSIGN_OR_RETURN(port_, proxy_->Listen(config_.listen.address, config_.listen.port));
  watch_ = std::make_unique<ReplicaWatch>(loop_, WatchSettingsOf(config_, secrets_), hooks_.seed,
                                          Reports());
  KvSubscriberOptions events;
  events.stream.silence_s = config_.cache_silence_s;
  subscriber_ = std::make_unique<KvSubscriber>(loop_, events, HandlersOfEvents());
  fleet_ = std::make_unique<ReplicaFleet>(*router_, HooksOfFleet(), config_.timeouts.drain_s);
  ControlDeps deps;
  deps.loop = &loop_;
  deps.router = router_.get();
  deps.fleet = fleet_.get();
  deps.metrics = &metrics_;
  deps.view = [this] { return View(); };
  deps.facts = [this] { return live_.Get().facts; };
  api_.emplace(std::move(deps));
  std::set<std::string, std::less<>> simulated;
  ASSIGN_OR_RETURN(std::vector<ReplicaSpec> specs, SpecsOf(config_, simulated));
  Publish(std::move(log), std::move(simulated));
  fleet_->Tell(kFromConfig, std::move(specs), MonotonicNanoseconds());
  return {};
}

Status RouteService::Impl::Start() {
  RETURN_IF_ERROR(proxy_->Start());
  StartNode();
  StartKubernetes();
  if (Result<std::unique_ptr<FileWatch>> files = FileWatch::Open(loop_)) {
    files_ = std::move(*files);
    asio::co_spawn(loop_, FollowFiles(), EndsTheProgram);
  } else {
    spdlog::warn("{}; {}", files.error().message, files.error().hint);
  }
  if (hooks_.signals) {
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) signals_.add(signal);
    WaitForSignal();
  }
  asio::co_spawn(loop_, Tick(), EndsTheProgram);
  const std::size_t replicas = config_.replicas.size();
  spdlog::info("serves {}://{}:{} with the policy {}, {} replicas in its configuration",
               config_.listen.tls ? "https" : "http", config_.listen.address, port_,
               router_->policy(), replicas);
  for (const std::string& name : live_.Get().facts->simulated) {
    spdlog::warn("replica {} is SIMULATED: an engine without a model", name);
  }
  const bool here = config_.listen.address.starts_with("127.") || config_.listen.address == "::1";
  if (!here && secrets_.keys.keys.empty()) {
    spdlog::warn("without API keys, whoever reaches {} may use it", config_.listen.address);
  }
  if (hooks_.notify) hooks_.notify("READY=1");
  return {};
}

void RouteService::Impl::WaitForSignal() {
  signals_.async_wait([this](const boost::system::error_code& error, int signal) {
    if (error) return;
    if (signal == SIGHUP) {
      Reload(true);
    } else if (!ending_) {
      BeginToEnd(fmt::format("signal {}", signal));
    } else {
      // The drain runs on another thread; whoever says it twice doesn't want to wait for it.
      spdlog::warn("ends at once: signal {}", signal);
      std::signal(signal, SIG_DFL);
      std::raise(signal);
    }
    WaitForSignal();
  });
}

std::vector<std::string> RouteService::Impl::Files() const {
  std::vector<std::string> files = hooks_.files;
  for (const std::string* path : {&config_.keys_file, &config_.upstream.key_file}) {
    if (!path->empty()) files.push_back(*path);
  }
  if (config_.listen.tls) {
    files.push_back(config_.listen.tls->certificate);
    files.push_back(config_.listen.tls->key);
  }
  return files;
}

Task<void> RouteService::Impl::FollowFiles() {
  files_->Follow(Files());
  while (!ending_) {
    const bool changed = co_await files_->Changed();
    if (!changed) co_return;
    if (ending_) co_return;
    Reload(false);
    files_->Follow(Files());
  }
}

void RouteService::Impl::Reload(bool reopen_log) {
  ++loads_;
  Result<RouteConfig> config = hooks_.load();
  Status adopted = config ? Adopt(std::move(*config), reopen_log)
                          : Status(tl::unexpected<Error>(config.error()));
  config_error_ = adopted ? "" : adopted.error().message;
  if (!adopted) {
    ++load_failures_;
    spdlog::error("the configuration can't be used, the old one stays: {}{}{}", config_error_,
                  adopted.error().hint.empty() ? "" : "; ", adopted.error().hint);
  }
  const LiveParts live = live_.Get();
  Publish(live.log, live.facts->simulated);
}

// All that can fail comes first, so that a configuration is taken whole or not at all.
Status RouteService::Impl::Adopt(RouteConfig config, bool reopen_log) {
  ASSIGN_OR_RETURN(RouteSecrets secrets, ReadSecrets(config));
  LiveParts live = live_.Get();
  const bool other_log = config.access_log.path != config_.access_log.path;
  std::shared_ptr<AccessLog> log = live.log;
  if (other_log) {
    ASSIGN_OR_RETURN(log, LogOf(config));
  } else if (reopen_log && log != nullptr) {
    RETURN_IF_ERROR(log->Reopen(config.access_log.path));
  }
  std::set<std::string, std::less<>> simulated;
  ASSIGN_OR_RETURN(std::vector<ReplicaSpec> specs, SpecsOf(config, simulated));
  ProxyOptions options = ProxyOptionsOf(config, secrets, key_rates_);
  RETURN_IF_ERROR(proxy_->Reload(options));
  RETURN_IF_ERROR(router_->SetPolicy(config.policy));
  const bool same =
      config == config_ && secrets.keys == secrets_.keys && secrets.upstream == secrets_.upstream;
  for (const std::string& name : WhatNeedsRestart(config_, config)) {
    spdlog::warn("a change of {} waits for a restart", name);
  }
  secrets_ = std::move(secrets);
  watch_->Change(WatchSettingsOf(config, secrets_));
  fleet_->set_drain_s(config.timeouts.drain_s);
  fleet_->Tell(kFromConfig, std::move(specs), MonotonicNanoseconds());
  Discover(config);
  config_ = std::move(config);
  Publish(std::move(log), std::move(simulated));
  proxy_->WakeWaiting();
  if (!same) spdlog::info("the configuration was loaded anew");
  return {};
}

void RouteService::Impl::Discover(const RouteConfig& config) {
  const bool other_node = config.node != config_.node;
  const bool other_kubernetes = config.kubernetes != config_.kubernetes;
  config_.node = config.node;
  config_.kubernetes = config.kubernetes;
  if (other_node) StartNode();
  if (other_kubernetes) StartKubernetes();
}

void RouteService::Impl::StartNode() {
  Start(node_, kFromNode, config_.node, [this](const NodeDiscovery& wanted, auto on_replicas) {
    return std::make_shared<NodeWatch>(loop_, wanted, std::move(on_replicas));
  });
}

void RouteService::Impl::StartKubernetes() {
  Start(kubernetes_, kFromKubernetes, config_.kubernetes,
        [this](const KubernetesDiscovery& wanted, auto on_replicas) {
          return std::make_shared<KubernetesWatch>(loop_, wanted, hooks_.seed,
                                                   std::move(on_replicas));
        });
}

// In place of the one that runs; none where none is wanted, and then what it told of goes.
template <typename Watch, typename Wanted, typename Make>
void RouteService::Impl::Start(RunningSource<Watch>& source, std::string_view teller,
                               const std::optional<Wanted>& wanted, const Make& make) {
  source.cancel.emit(asio::cancellation_type::terminal);
  const int turn = ++source.turn;
  if (source.watch && !wanted) fleet_->Tell(teller, {}, MonotonicNanoseconds());
  source.watch.reset();
  if (!wanted) return;
  // One that was cancelled may still have an answer on its way.
  source.watch = make(*wanted, [this, &source, turn, teller](std::vector<ReplicaSpec> replicas) {
    if (turn == source.turn) fleet_->Tell(teller, std::move(replicas), MonotonicNanoseconds());
  });
  asio::co_spawn(loop_, RunKept(source.watch),
                 asio::bind_cancellation_slot(source.cancel.slot(), EndsTheProgram));
}

RouteView RouteService::Impl::View() const {
  const std::int64_t now_ns = MonotonicNanoseconds();
  RouteView view;
  view.version = hooks_.version;
  view.uptime_s = static_cast<double>(now_ns - started_ns_) / 1e9;
  view.policy = router_->policy();
  view.config_ok = config_error_.empty();
  view.config_loads = loads_;
  view.config_failures = load_failures_;
  view.proxy = proxy_->Counters();
  view.cache = caches_->Status();
  view.replicas = router_->Replicas(now_ns);
  for (const ReplicaStatus& replica : view.replicas) {
    if (!replica.spec.kv_events) continue;
    if (const auto status = subscriber_->StatusOf(replica.slot)) {
      view.kv_sources.emplace(replica.spec.name, *status);
    }
  }
  view.sources.push_back({std::string(kFromConfig), true, "", fleet_->CountOf(kFromConfig)});
  view.sources.push_back({std::string(kFromApi), true, "", fleet_->CountOf(kFromApi)});
  const auto add = [&](std::string_view name, const SourceState& state) {
    view.sources.push_back({std::string(name), state.ok(), state.why(), fleet_->CountOf(name)});
  };
  if (node_.watch) add(kFromNode, node_.watch->state());
  if (kubernetes_.watch) add(kFromKubernetes, kubernetes_.watch->state());
  const LiveParts live = live_.Get();
  view.access_log_dropped = live.log == nullptr ? 0 : live.log->dropped();
  view.probes = watch_->questions();
  view.probes_failed = watch_->failures();
  return view;
}

Task<void> RouteService::Impl::Tick() {
  std::int64_t sign_ns = 0;
  std::int64_t looked_ns = 0;
  while (!ending_) {
    const std::int64_t now_ns = MonotonicNanoseconds();
    fleet_->Tick(now_ns);
    if (now_ns - looked_ns > kLookNs) {
      looked_ns = now_ns;
      computing_.clear();
      for (const ReplicaStatus& status : router_->Replicas(now_ns)) {
        if (status.prefill_tokens_queued > 0) computing_.insert(status.slot);
      }
    }
    if (hooks_.notify && hooks_.watchdog_s > 0 &&
        now_ns - sign_ns > static_cast<std::int64_t>(hooks_.watchdog_s * 1e9)) {
      hooks_.notify("WATCHDOG=1");
      sign_ns = now_ns;
    }
    timer_.expires_after(kTick);
    boost::system::error_code cancelled;
    co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
  }
}

void RouteService::Impl::BeginToEnd(std::string why) {
  spdlog::info("ends ({}): no new connections, what runs has {} s", why, config_.timeouts.drain_s);
  ending_ = true;
  if (hooks_.notify) hooks_.notify("STOPPING=1");
  asio::co_spawn(loop_, DrainAndStop(), EndsTheProgram);
}

Task<void> RouteService::Impl::DrainAndStop() {
  const double drain_s = config_.timeouts.drain_s;
  auto drain = [this, drain_s] { return proxy_->Drain(drain_s); };
  drained_ = co_await OnPool(pool_, drain);
  proxy_->Stop();
  if (!drained_) spdlog::warn("requests that took longer were cut");
  loop_.stop();
}

bool RouteService::Impl::Run() {
  loop_.run();
  spdlog::info("has ended");
  return drained_;
}

void RouteService::Impl::Stop() {
  asio::post(loop_, [this] {
    if (!ending_) BeginToEnd("as it was asked to");
  });
}

RouteService::RouteService(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RouteService::~RouteService() = default;

Result<std::unique_ptr<RouteService>> RouteService::Open(RouteServiceHooks hooks) {
  auto impl = std::make_unique<Impl>(std::move(hooks));
  RETURN_IF_ERROR(impl->Open());
  return std::unique_ptr<RouteService>(new RouteService(std::move(impl)));
}

Status RouteService::Start() {
  return impl_->Start();
}

int RouteService::port() const {
  return impl_->port();
}

const RouteConfig& RouteService::config() const {
  return impl_->config();
}

bool RouteService::Run() {
  return impl_->Run();
}

void RouteService::Stop() {
  impl_->Stop();
}

}  // namespace sublet
