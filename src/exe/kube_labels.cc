// `sublet kube labels`: the node's GPUs as labels, once or again and again.
#include <fmt/format.h>

#include <csignal>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/interrupt.h"
#include "exe/kube_api_flags.h"
#include "exe/kube_labelling.h"
#include "exe/kube_plugin_options.h"
#include "exe/kube_verbs.h"
#include "kube/node_agent.h"

namespace sublet {
namespace {

struct Flags {
  DevicePluginSources sources;
  KubeApiFlags api;
  LabellingFlags labelling;
  bool remove = false;
};

double IntervalSeconds(const DevicePluginConfig& config) {
  if (config.gfd.sleep_interval == std::chrono::nanoseconds::max()) {
    return std::numeric_limits<double>::infinity();
  }
  return std::chrono::duration<double>(config.gfd.sleep_interval).count();
}

double Now() {
  return static_cast<double>(MonotonicNanoseconds()) * 1e-9;
}

void PrintLines(AgentPart& part) {
  for (const std::string& line : part.TakeLines()) fmt::print(stderr, "{}\n", line);
}

// Until an interrupt.
void KeepLabelling(LabelPart& part, double next_s) {
  const ApiPatience patience;
  while (patience.Wait(std::max(next_s - Now(), 0.0))) {
    next_s = part.Step(Now());
    PrintLines(part);
  }
}

// Returns at an interrupt, or, where it is to happen once, when it has.
Result<int> Label(const Flags& flags, std::int64_t started_s) {
  ASSIGN_OR_RETURN(const DevicePluginConfig config, ResolvePluginOptions(flags.sources));
  ASSIGN_OR_RETURN(
      const std::optional<PublishPlaces> places,
      WhereLabelsGo(flags.labelling, flags.api, config, WasGiven(flags.sources, "output-file")));
  const auto make = [&] { return LabelsOfThisNode(config, flags.labelling, started_s); };
  if (!places) {
    if (flags.remove) return 0;
    ASSIGN_OR_RETURN(const FeatureLabels found, make());
    for (const std::string& warning : found.warnings) fmt::print(stderr, "note: {}\n", warning);
    fmt::print("{}", FeaturesText(found.labels));
    return 0;
  }
  std::unique_ptr<ApiServerNode> node;
  if (places->to != LabelTarget::kFile) {
    ASSIGN_OR_RETURN(const KubeApi api, OpenKubeApi(flags.api));
    node = std::make_unique<ApiServerNode>(api.Client(), api.node);
  }
  FeaturePublisher publisher(*places, node.get());
  if (flags.remove) {
    RETURN_IF_ERROR(publisher.Remove());
    return 0;
  }
  LabelPart part(publisher, make, IntervalSeconds(config));
  if (config.gfd.oneshot || config.flags.fail_on_init_error) {
    ASSIGN_OR_RETURN(const FeatureLabels found, make());
    RETURN_IF_ERROR(publisher.Publish(found.labels, Now()));
    for (const std::string& warning : found.warnings) fmt::print(stderr, "note: {}\n", warning);
    if (!publisher.note().empty()) fmt::print(stderr, "note: {}\n", publisher.note());
    if (config.gfd.oneshot) return 0;
    KeepLabelling(part, Now() + IntervalSeconds(config));
  } else {
    KeepLabelling(part, Now());
  }
  // NFD reads the file for as long as it is there; objects and the node's own labels are left for
  // whoever runs next. After a hang-up it is replaced.
  if (places->to == LabelTarget::kFile && InterruptSignal() != SIGHUP) {
    RETURN_IF_ERROR(publisher.Remove());
  }
  return 0;
}

Result<int> Labels(const Flags& flags) {
  const std::int64_t started_s = UnixSeconds();
  while (true) {
    const InterruptScope scope;
    ASSIGN_OR_RETURN(const int status, Label(flags, started_s));
    // The configuration is another one, as NVIDIA's config-manager says by this signal.
    if (InterruptSignal() != SIGHUP) return status;
  }
}

}  // namespace

void AddKubeLabels(Program& program, CLI::App& kube) {
  auto flags = std::make_shared<Flags>();
  CLI::App* const verb = kube.add_subcommand(
      "labels", "Label this node with its GPUs, as NVIDIA's gpu-feature-discovery does");
  AddPluginOptions(*verb, PluginProgram::kFeatureDiscovery, flags->sources);
  AddKubeApiFlags(*verb, flags->api);
  AddLabellingFlags(*verb, flags->labelling);
  verb->add_flag("--remove", flags->remove, "Remove the labels that this verb has written");
  verb->footer(
      "Outside of a cluster, without --output-file, labels are printed once. In a cluster they go\n"
      "where gpu-feature-discovery would have put them, every 60 s; see --to.");
  verb->callback([&program, flags] { program.chosen = [flags] { return Labels(*flags); }; });
}

}  // namespace sublet
