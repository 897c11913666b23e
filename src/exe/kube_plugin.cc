// `sublet kube plugin`: this node's GPUs at kubelet, in the place of NVIDIA's device plugin.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/asio/signal_set.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/files.h"
#include "cdi/spec_files.h"
#include "exe/kube_api_flags.h"
#include "exe/kube_plugin_options.h"
#include "exe/kube_verbs.h"
#include "exe/supervised.h"
#include "exe/this_node.h"
#include "kube/device_plugin.h"
#include "kube/kubelet_client.h"
#include "kube/metrics_endpoint.h"
#include "kube/pod_label.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

// Of what blocks: a driver's call, an MPS control program, kubelet. More would only queue in the
// driver; a kubelet that never answers holds one for each resource, for five seconds.
constexpr std::size_t kWorkers = 16;
constexpr std::string_view kSupervised = "--supervised";
constexpr std::string_view kPluginFolder = "/var/lib/kubelet/device-plugins";

// kubelet gives a container half a minute until it must be ready to be started.
constexpr ApiLimits kLabelLimits{.connect_s = 3, .answer_s = 5};

struct Flags {
  DevicePluginSources sources;
  KubeApiFlags api;
  std::string plugin_dir;
  std::string cdi_dir = std::string(kCdiFolder);
  std::string pod_resources_socket = std::string(kPodResourcesSocket);
  double health_poll_s = 5;
  double recover_after_s = HealthLimits().quiet_s;
  double tenant_grace_s = MpsPoolOptions().claim_grace_s;
  bool shared_compute_mode = false;
  bool end_mps = false;
  bool supervised = false;
  std::string metrics_address;
  std::string pod_logs = std::string(kPodLogs);
  std::string proc = "/proc";
  std::string nvml;
  double timeout_s = 60;
};

// kubelet looks for a plugin's socket in the folder of its own.
std::string PluginFolder(const Flags& flags, const DevicePluginConfig& config) {
  std::string folder = flags.plugin_dir;
  if (folder.empty()) folder = fs::path(config.flags.kubelet_socket).parent_path().string();
  if (folder.empty()) folder = kPluginFolder;
  return fs::absolute(folder).lexically_normal().string();
}

// By flag or variable; absolute, or empty.
std::string ConfigFileIn(const DevicePluginSources& given) {
  DevicePluginSources sources = given;
  const PluginOption option = PluginOptions(sources.program).front();
  for (const std::string_view name : option.variables) {
    const char* const value = std::getenv(std::string(name).c_str());
    if (value != nullptr) sources.environment[std::string(name)] = value;
  }
  const std::string file = ConfigFileOf(sources);
  return file.empty() ? file : fs::absolute(file).lexically_normal().string();
}

StockSource SourceOf(const Flags& flags) {
  StockSource source;
  source.nvml = NvmlPath(flags.nvml);
  source.cdi_folder = flags.cdi_dir;
  source.patience_s = flags.timeout_s;
  const char* const simulated = std::getenv("SUBLET_SIM");
  if (simulated != nullptr) source.simulation = simulated;
  return source;
}

// Half of the time of quiet must be polls that found nothing, as it is with the defaults.
HealthLimits LimitsOf(const Flags& flags) {
  HealthLimits limits;
  limits.quiet_s = flags.recover_after_s;
  const double polls = std::ceil(flags.recover_after_s / flags.health_poll_s / 2);
  limits.good_polls = std::max(1, static_cast<int>(polls));
  return limits;
}

// But for the roots.
MpsPoolOptions PoolOptions(const Flags& flags) {
  MpsPoolOptions options;
  options.program = OwnProgramPath();
  options.nvml = NvmlPath(flags.nvml);
  // A client finds the simulated driver as it would find the real one.
  if (std::getenv("SUBLET_SIM") != nullptr) {
    options.libraries = fs::path(options.nvml).parent_path().string();
  }
  options.claim_grace_s = flags.tenant_grace_s;
  options.exclusive_mode = !flags.shared_compute_mode;
  return options;
}

// Each question has a client of its own, because several are asked at a time.
Result<PodLabel> PodLabels(const Flags& flags) {
  if (!HasKubeApi(flags.api)) return PodLabel();
  ASSIGN_OR_RETURN(const ApiPlace place, KubeApiPlace(flags.api));
  return PodLabel(
      [place](const std::string& name_space, const std::string& pod, const std::string& label) {
        ApiClient client(ApiTransport(place, kLabelLimits), {.who = pod});
        return ReadPodLabel(client, {name_space, pod}, label);
      });
}

class PluginProcess {
 public:
  explicit PluginProcess(const Flags& flags) : flags_(flags), pool_(kWorkers), signals_(loop_) {}
  ~PluginProcess() { pool_.join(); }

  Result<int> Run() {
    ASSIGN_OR_RETURN(const DevicePluginConfig config, ResolvePluginOptions(flags_.sources));
    PluginRunOptions options = Options(config);
    ASSIGN_OR_RETURN(options.pod_label, PodLabels(flags_));
    plugin_ = std::make_shared<DevicePlugin>(loop_, pool_, std::move(options));
    RETURN_IF_ERROR(ServeMetrics());
    for (const int signal : {SIGTERM, SIGINT, SIGQUIT, SIGHUP}) signals_.add(signal);
    AwaitSignal();
    asio::co_spawn(loop_, Live(), EndsTheProgram);
    loop_.run();
    if (!outcome_) return tl::unexpected<Error>(outcome_.error());
    return 0;
  }

 private:
  PluginRunOptions Options(const DevicePluginConfig& config) const {
    PluginRunOptions options;
    options.configure = [sources = flags_.sources] { return ResolvePluginOptions(sources); };
    options.config_file = ConfigFileIn(flags_.sources);
    options.plugin_dir = PluginFolder(flags_, config);
    options.pod_resources_socket = flags_.pod_resources_socket;
    options.stock = SourceOf(flags_);
    options.mps = PoolOptions(flags_);
    options.health = LimitsOf(flags_);
    options.health_poll_s = flags_.health_poll_s;
    return options;
  }

  Status ServeMetrics() {
    if (flags_.metrics_address.empty()) return {};
    MetricsEndpointOptions options;
    options.address = flags_.metrics_address;
    options.meter.nvml = NvmlPath(flags_.nvml);
    options.meter.pod_resources_socket = flags_.pod_resources_socket;
    options.meter.pod_logs = flags_.pod_logs;
    options.meter.proc = flags_.proc;
    const auto state = [this] {
      PluginState now = plugin_->State();
      now.version = SUBLET_VERSION;
      return now;
    };
    ASSIGN_OR_RETURN(metrics_,
                     MetricsEndpoint::Open(loop_, pool_, options,
                                           {state, [this] { return plugin_->Sickness(); }}));
    spdlog::info("metrics at port {}", metrics_->port());
    return {};
  }

  void AwaitSignal() {
    signals_.async_wait([this](const boost::system::error_code& failed, int signal) {
      if (failed) return;
      if (signal == SIGHUP) {
        plugin_->Reload();
      } else {
        spdlog::info("ends by signal {}; pods and MPS servers go on", signal);
        plugin_->Stop();
      }
      AwaitSignal();
    });
  }

  Task<void> Live() {
    outcome_ = co_await plugin_->Run();
    loop_.stop();
  }

  const Flags& flags_;
  asio::io_context loop_{1};
  asio::thread_pool pool_;
  asio::signal_set signals_;
  std::shared_ptr<DevicePlugin> plugin_;
  std::unique_ptr<MetricsEndpoint> metrics_;
  Status outcome_;
};

// For who uninstalls: what outlives the plugin is ended.
Result<int> EndMps(const Flags& flags) {
  ASSIGN_OR_RETURN(const DevicePluginConfig config, ResolvePluginOptions(flags.sources));
  if (config.flags.mps_root.empty()) {
    return Fail(ErrorCode::kUsage, "there is no MPS root", "--mps-root says where it is");
  }
  asio::io_context loop{1};
  asio::thread_pool pool(kWorkers);
  Status outcome;
  MpsPoolOptions options = PoolOptions(flags);
  options.host_root = config.flags.mps_root;
  options.root = MpsRootHere(options.host_root);
  asio::co_spawn(loop, EndMpsServers(loop, pool, std::move(options)),
                 [&](std::exception_ptr thrown, const Status& ended) {
                   EndsTheProgram(thrown);
                   outcome = ended;
                   loop.stop();
                 });
  loop.run();
  pool.join();
  if (!outcome) return tl::unexpected<Error>(outcome.error());
  return 0;
}

Result<int> RunPlugin(const Flags& flags, const std::vector<std::string>& words) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("sublet"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  ::umask(0077);
  if (flags.end_mps) return EndMps(flags);
  if (flags.supervised) return RunSupervised(words, kSupervised);
  PluginProcess plugin(flags);
  return plugin.Run();
}

void AddPlaces(CLI::App& verb, Flags& flags) {
  verb.add_option("--plugin-dir", flags.plugin_dir,
                  "Where this plugin's sockets are (default: the folder of kubelet's socket)")
      ->type_name("FOLDER");
  verb.add_option("--cdi-dir", flags.cdi_dir,
                  "Where CDI specifications go, with a strategy that needs them")
      ->type_name("FOLDER")
      ->capture_default_str();
  verb.add_option("--pod-resources-socket", flags.pod_resources_socket,
                  "kubelet's list of pods and their devices, for MPS servers of tenants and "
                  "metrics")
      ->type_name("PATH")
      ->capture_default_str();
  verb.add_option("--nvml", flags.nvml,
                  "NVIDIA's management library (also SUBLET_NVML; default libnvidia-ml.so.1)")
      ->type_name("PATH");
}

void AddMetrics(CLI::App& verb, Flags& flags) {
  verb.add_option("--metrics-address", flags.metrics_address,
                  "Where Prometheus finds /metrics, and probes /healthz: 127.0.0.1:9400, or :9400 "
                  "for everyone (default: nowhere)")
      ->type_name("ADDRESS:PORT");
  verb.add_option("--pod-logs", flags.pod_logs,
                  "kubelet's folders of logs, whose names say which pod a process is of")
      ->type_name("FOLDER")
      ->capture_default_str();
  verb.add_option("--proc", flags.proc, "Where the host's processes are")
      ->type_name("FOLDER")
      ->capture_default_str();
}

void AddBehaviour(CLI::App& verb, Flags& flags) {
  verb.add_option("--health-poll", flags.health_poll_s,
                  "Seconds between two looks at each GPU, beside the driver's events")
      ->type_name("S")
      ->check(CLI::Range(0.05, 3600.0))
      ->capture_default_str();
  verb.add_option("--recover-after", flags.recover_after_s,
                  "Seconds without an event until an unhealthy device is offered again")
      ->type_name("S")
      ->check(CLI::Range(0.05, 86400.0))
      ->capture_default_str();
  verb.add_option("--tenant-grace", flags.tenant_grace_s,
                  "Seconds that a tenant's MPS server stays at least; from then on until it has no "
                  "pods")
      ->type_name("S")
      ->check(CLI::Range(0.05, 86400.0))
      ->capture_default_str();
  verb.add_flag("--no-exclusive-mode", flags.shared_compute_mode,
                "Leave the compute mode of GPUs with an MPS server as it is: then a container that "
                "drops its variables isn't kept off the GPU");
  verb.add_option("--timeout", flags.timeout_s, "Seconds to wait for a driver that hangs")
      ->type_name("S")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  verb.add_flag("--end-mps", flags.end_mps,
                "End all MPS servers below the MPS root, put compute modes back, and exit: to "
                "uninstall");
  verb.add_flag(std::string(kSupervised), flags.supervised,
                "Run as a child of a process that starts it again when it crashes or is killed: in "
                "a container, where MPS servers would end with the first process");
}

}  // namespace

void AddKubePlugin(Program& program, CLI::App& kube) {
  auto flags = std::make_shared<Flags>();
  CLI::App* const verb = kube.add_subcommand(
      "plugin", "Offer this node's GPUs to kubelet, in the place of NVIDIA's device plugin");
  AddPluginOptions(*verb, PluginProgram::kDevicePlugin, flags->sources);
  AddPlaces(*verb, *flags);
  AddKubeApiPlaceFlags(*verb, flags->api);
  AddMetrics(*verb, *flags);
  AddBehaviour(*verb, *flags);
  verb->footer(
      "SIGHUP and a change of the configuration file read it anew; a file that is wrong changes\n"
      "nothing. SIGTERM ends the plugin, and neither pods nor MPS servers.");
  verb->callback([&program, flags] {
    program.chosen = [&program, flags] { return RunPlugin(*flags, program.words); };
  });
}

}  // namespace sublet
