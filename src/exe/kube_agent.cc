// `sublet kube agent`: labels, configuration and MIG of this node in one process; and
// `sublet kube mig-manager`: MIG alone.
#include <fmt/format.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/interrupt.h"
#include "exe/kube_api_flags.h"
#include "exe/kube_labelling.h"
#include "exe/kube_mig_work.h"
#include "exe/kube_plugin_options.h"
#include "exe/kube_verbs.h"
#include "kube/api_watch.h"
#include "kube/mig_manager.h"
#include "kube/node_agent.h"
#include "kube/node_config.h"

namespace sublet {
namespace {

struct MigFlagsOfKube {
  KubeMigOptions options;
  MigManagerOptions manager;
};

struct ConfigFlags {
  std::string folder;  // Empty: the node's label isn't followed.
  std::string target;
  std::string default_name;
  std::vector<std::string> fallbacks;
  bool send_signal = false;
  int signal = SIGHUP;
  std::string process;
};

struct Flags {
  DevicePluginSources sources;
  KubeApiFlags api;
  LabellingFlags labelling;
  ConfigFlags config;
  MigFlagsOfKube mig;
  bool no_labels = false;
};

void Print(const std::string& line) {
  fmt::print(stderr, "{}\n", line);
}

// What a MIG part needs to live.
struct MigParts {
  MigParts(const MigFlagsOfKube& flags, ClusterNode& api)
      : work(flags.options), manager(work, api, flags.manager), part(manager) {}

  KubeMigWork work;
  MigManager manager;
  MigPart part;
};

void RunAgent(const KubeApi& api, std::vector<AgentPart*> parts) {
  ApiWatch watch(api.Transport(), {.path = "/api/v1/nodes", .name = api.node}, api.Patience());
  NodeAgent agent(watch, std::move(parts), {.say = Print, .stop_fd = InterruptFd()});
  agent.Run(Interrupted);
}

Result<std::unique_ptr<ConfigPart>> FollowConfig(const ConfigFlags& flags, ClusterNode& api) {
  if (flags.folder.empty()) return nullptr;
  NodeConfigPlaces places{
      .folder = flags.folder, .target = flags.target, .default_name = flags.default_name};
  if (!flags.fallbacks.empty()) {
    ASSIGN_OR_RETURN(places.fallbacks, ParseConfigFallbacks(flags.fallbacks));
  }
  const auto changed = [flags] {
    if (!flags.send_signal || flags.process.empty()) return;
    const int told = SignalByName(flags.process, flags.signal);
    Print(fmt::format("signal {} sent to {} processes of {}", flags.signal, told, flags.process));
  };
  return std::make_unique<ConfigPart>(NodeConfig(std::move(places)), api, changed, UtcNow);
}

double LabelInterval(const DevicePluginSources& sources) {
  const Result<DevicePluginConfig> config = ResolvePluginOptions(sources);
  const FeatureDiscoveryFlags flags = config ? config->gfd : FeatureDiscoveryFlags();
  if (flags.sleep_interval == std::chrono::nanoseconds::max()) return AgentPart::kNever;
  return std::chrono::duration<double>(flags.sleep_interval).count();
}

// Where labels go, and how they are made; nullptr where nobody wants them.
class Labelling {
 public:
  static Result<std::unique_ptr<Labelling>> Prepare(const Flags& flags, ApiServerNode& node,
                                                    std::int64_t started_s) {
    // Where a label of the node chooses the file, the one of the flags may be there for nothing.
    const Result<DevicePluginConfig> first = ResolvePluginOptions(flags.sources);
    if (!first && flags.config.folder.empty()) return tl::unexpected<Error>(first.error());
    ASSIGN_OR_RETURN(
        std::optional<PublishPlaces> places,
        WhereLabelsGo(flags.labelling, flags.api, first ? *first : DevicePluginConfig(),
                      WasGiven(flags.sources, "output-file")));
    if (!places) {
      return Fail(ErrorCode::kUsage, "the agent prints no labels; sublet kube labels does",
                  "give --to file, node-feature or node, or --no-labels");
    }
    if (first && first->gfd.oneshot) {
      return Fail(ErrorCode::kUsage, "--oneshot is for sublet kube labels");
    }
    const auto make = [&flags, started_s]() -> Result<FeatureLabels> {
      ASSIGN_OR_RETURN(const DevicePluginConfig now,
                       ResolvePluginOptions(flags.sources, ChosenFile(flags.config)));
      return LabelsOfThisNode(now, flags.labelling, started_s);
    };
    return std::unique_ptr<Labelling>(
        new Labelling(*std::move(places), node, make, LabelInterval(flags.sources)));
  }

  LabelPart& part() { return part_; }
  Status End() {
    if (publisher_.target() != LabelTarget::kFile) return {};
    return publisher_.Remove();
  }

 private:
  Labelling(PublishPlaces places, ApiServerNode& node, LabelPart::Make make, double interval_s)
      : publisher_(std::move(places), &node), part_(publisher_, std::move(make), interval_s) {}

  // The file that the node's label chose, once there is one; else, empty, the one that flags name.
  static std::string ChosenFile(const ConfigFlags& flags) {
    std::error_code unreadable;
    const bool there = !flags.folder.empty() && std::filesystem::exists(flags.target, unreadable);
    return there ? flags.target : std::string();
  }

  FeaturePublisher publisher_;
  LabelPart part_;
};

// Returns at an interrupt.
Result<int> RunParts(const Flags& flags, std::int64_t started_s) {
  ASSIGN_OR_RETURN(const KubeApi api, OpenKubeApi(flags.api));
  ApiServerNode node(api.Client(), api.node);
  std::vector<AgentPart*> parts;

  ASSIGN_OR_RETURN(const std::unique_ptr<ConfigPart> config, FollowConfig(flags.config, node));
  if (config != nullptr) parts.push_back(config.get());

  std::unique_ptr<MigParts> mig;
  if (!flags.mig.options.config.empty()) {
    mig = std::make_unique<MigParts>(flags.mig, node);
    parts.push_back(&mig->part);
  }

  std::unique_ptr<Labelling> labels;
  if (!flags.no_labels) {
    ASSIGN_OR_RETURN(labels, Labelling::Prepare(flags, node, started_s));
    parts.push_back(&labels->part());
  }
  if (parts.empty()) {
    return Fail(ErrorCode::kUsage, "--no-labels leaves nothing to do",
                "give --config-file-srcdir or --mig-config-file");
  }
  RunAgent(api, std::move(parts));
  if (labels != nullptr && InterruptSignal() != SIGHUP) RETURN_IF_ERROR(labels->End());
  return 0;
}

Result<int> Agent(const Flags& flags) {
  const std::int64_t started_s = UnixSeconds();
  while (true) {
    const InterruptScope scope;
    ASSIGN_OR_RETURN(const int status, RunParts(flags, started_s));
    // A hang-up has the configuration read again, as it does with NVIDIA's programs.
    if (InterruptSignal() != SIGHUP) return status;
  }
}

Result<int> ManageMig(const Flags& flags) {
  const InterruptScope scope;
  ASSIGN_OR_RETURN(const KubeApi api, OpenKubeApi(flags.api));
  ApiServerNode node(api.Client(), api.node);
  MigParts mig(flags.mig, node);
  RunAgent(api, {&mig.part});
  return 0;
}

// Under the names and variables of NVIDIA's config-manager.
void AddConfigFlags(CLI::App& verb, ConfigFlags& flags) {
  verb.add_option("--config-file-srcdir", flags.folder,
                  "The folder of device plugin configurations that the node's label "
                  "nvidia.com/device-plugin.config chooses from (default: not followed)")
      ->envname("CONFIG_FILE_SRCDIR")
      ->type_name("FOLDER");
  flags.target = "/config/config.yaml";
  verb.add_option("--config-file-dst", flags.target, "Where the chosen one is linked to")
      ->envname("CONFIG_FILE_DST")
      ->type_name("PATH")
      ->capture_default_str();
  verb.add_option("--default-config", flags.default_name, "The one for nodes without the label")
      ->envname("DEFAULT_CONFIG")
      ->type_name("NAME");
  verb.add_option("--fallback-strategies", flags.fallbacks,
                  "What to do without label and default: named, single, empty, in this order "
                  "(default named,single)")
      ->envname("FALLBACK_STRATEGIES")
      ->delimiter(',')
      ->type_name("WORD");
  verb.add_flag("--send-signal", flags.send_signal, "Tell a program of each change by a signal")
      ->envname("SEND_SIGNAL");
  verb.add_option("--signal", flags.signal, "Which")
      ->envname("SIGNAL")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  verb.add_option("--process-to-signal", flags.process, "The program's name")
      ->envname("PROCESS_TO_SIGNAL")
      ->type_name("NAME");
}

void AddMigFlags(CLI::App& verb, MigFlagsOfKube& flags, bool required) {
  CLI::Option* const config = verb.add_option(
      "--mig-config-file", flags.options.config,
      "The mig-parted file whose labels the node's label nvidia.com/mig.config names");
  config->envname("MIG_CONFIG_FILE")->type_name("FILE");
  if (required) config->required();
  flags.options.state_folder = "/var/lib/sublet/kube";
  verb.add_option("--state-dir", flags.options.state_folder,
                  "Where a change that has begun is remembered; empty: nowhere")
      ->type_name("FOLDER")
      ->capture_default_str();
  verb.add_flag("--with-reboot", flags.options.may_reboot,
                "Reboot the machine where MIG mode can't be changed otherwise")
      ->envname("WITH_REBOOT");
  verb.add_option("--reboot-command", flags.options.reboot_command,
                  "What reboots it (default: the host's systemd is asked to)")
      ->type_name("WORD")
      ->expected(1, -1);
  verb.add_option("--clients-namespace", flags.manager.client_namespace,
                  "Where the pods are that are paused during a change; empty: anywhere")
      ->envname("DEFAULT_GPU_CLIENTS_NAMESPACE")
      ->type_name("NAME")
      ->capture_default_str();
  verb.add_option("--clients-timeout", flags.manager.clients_s,
                  "Seconds to wait for them to go, before the change is given up")
      ->type_name("S")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  verb.add_option("--change-timeout", flags.options.change_s,
                  "Seconds to wait for a driver that hangs in a change")
      ->type_name("S")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
  flags.manager.utc = UtcNow;
}

}  // namespace

void AddKubeAgent(Program& program, CLI::App& kube) {
  auto flags = std::make_shared<Flags>();
  CLI::App* const verb = kube.add_subcommand(
      "agent", "Keep this node's labels, configuration and MIG as the cluster asks");
  AddPluginOptions(*verb, PluginProgram::kFeatureDiscovery, flags->sources);
  AddKubeApiFlags(*verb, flags->api);
  AddLabellingFlags(*verb, flags->labelling);
  verb->add_flag("--no-labels", flags->no_labels, "Leave the node's labels alone");
  AddConfigFlags(*verb, flags->config);
  AddMigFlags(*verb, flags->mig, false);
  verb->callback([&program, flags] {
    flags->mig.options.nvml = flags->labelling.nvml;
    flags->mig.options.timeout_s = flags->labelling.timeout_s;
    program.chosen = [flags] { return Agent(*flags); };
  });
}

void AddKubeMigManager(Program& program, CLI::App& kube) {
  auto flags = std::make_shared<Flags>();
  CLI::App* const verb = kube.add_subcommand(
      "mig-manager", "Make the MIG instances that the node's label nvidia.com/mig.config names");
  AddKubeApiFlags(*verb, flags->api);
  AddMigFlags(*verb, flags->mig, true);
  verb->add_option("--nvml", flags->mig.options.nvml,
                   "NVIDIA's management library (also SUBLET_NVML; default libnvidia-ml.so.1)")
      ->type_name("PATH");
  verb->add_option("--timeout", flags->mig.options.timeout_s,
                   "Seconds to wait for a driver that hangs")
      ->type_name("S")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  verb->callback([&program, flags] { program.chosen = [flags] { return ManageMig(*flags); }; });
}

}  // namespace sublet
