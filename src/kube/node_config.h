// kube/node_config.h
//
// The device plugin's configuration as a label of the node chooses it, out of a folder of files.
//
//   NodeConfig config({.folder = "/available-configs", .target = "/config/config.yaml"});
//   const NodeConfigLook look = config.Look(node.Label(kPluginConfigLabel));
//   if (look.changed) Signal(...);
//   if (!look.problem.empty()) Annotate(look.problem);
//
// The folder's files, as a ConfigMap is mounted, are the configurations; a label's value names one.
// Without the label it is the default's, and where there is none, what the fallback strategies say,
// in their order: the file "default", the only file there is, or an empty configuration. All that
// is as NVIDIA's config-manager has it, and so is the result: a link at `target`.
//
// Unlike there, a label that names no file, or a file that is no valid configuration, leaves the
// last good one in effect, and is told as a problem. A file that changes behind its name, as a
// ConfigMap's do, is a change.
//
// Thread safety: ChooseNodeConfig() is pure; NodeConfig: one thread at a time.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace sublet {

inline constexpr std::string_view kPluginConfigLabel = "nvidia.com/device-plugin.config";
// Why the configuration that the label asks for isn't in effect.
inline constexpr std::string_view kPluginConfigProblem = "sublet.dev/device-plugin.config.problem";

enum class ConfigFallback { kNamed, kSingle, kEmpty };

// "named,single" or its words one by one. Fails with kUsage.
Result<std::vector<ConfigFallback>> ParseConfigFallbacks(const std::vector<std::string>& words);

struct NodeConfigPlaces {
  std::string folder = "/available-configs";
  std::string target = "/config/config.yaml";
  std::string default_name = {};
  std::vector<ConfigFallback> fallbacks = {ConfigFallback::kNamed, ConfigFallback::kSingle};
};

// Which of the files; absent: the empty configuration. Fails with kNotFound.
Result<std::optional<std::string>> ChooseNodeConfig(const NodeConfigPlaces& places,
                                                    std::string_view label,
                                                    const std::vector<std::string>& files);

struct NodeConfigLook {
  bool changed = false;  // What `target` says is new.
  std::string name;      // Of what is in effect; empty: the empty one, or nothing yet.
  std::string problem;   // Why it isn't what it should be; empty: it is.
};

class NodeConfig {
 public:
  explicit NodeConfig(NodeConfigPlaces places) : places_(std::move(places)) {}

  // Looks at the folder and puts the choice into effect. After a restart what lies at `target`
  // counts as in effect, and as last good.
  NodeConfigLook Look(std::string_view label);

  const NodeConfigPlaces& places() const { return places_; }
  // There is a configuration in effect.
  bool chosen() const { return text_.has_value(); }

 private:
  Result<bool> Follow(std::string_view label);
  void Resume();

  NodeConfigPlaces places_;
  bool resumed_ = false;
  std::string name_;
  std::optional<std::string> text_;  // Of what is in effect.
};

// Sends the signal to each process whose program is called so (argv[0], or its last part), but not
// to this one, and returns to how many. For programs that share this one's process namespace.
int SignalByName(std::string_view program, int signal, const std::string& proc = "/proc");

}  // namespace sublet
