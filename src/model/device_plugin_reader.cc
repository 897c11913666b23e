// The file of model/device_plugin_config.h.

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "model/device_plugin_config.h"
#include "model/device_plugin_words.h"
#include "model/document.h"
#include "model/mig_config.h"

namespace sublet {
namespace {

constexpr std::size_t kQuotedMax = 64;
// A node has at most 16 GPUs with 7 instances each; what is far above is a slip.
constexpr std::size_t kRulesMax = 1'000;
constexpr std::size_t kSelectedMax = 1'000;
constexpr std::size_t kLabelKeyMax = 253 + 1 + 63;  // Domain, '/', name.
constexpr std::size_t kUuidGroups[] = {8, 4, 4, 4, 12};

bool IsNumber(std::string_view text) {
  constexpr std::size_t kDigitsMax = 9;
  return !text.empty() && text.size() <= kDigitsMax &&
         text.find_first_not_of("0123456789") == std::string_view::npos;
}

bool IsUuid(std::string_view text) {
  for (std::size_t group = 0; group < std::size(kUuidGroups); ++group) {
    if (group > 0) {
      if (!text.starts_with('-')) return false;
      text.remove_prefix(1);
    }
    const std::string_view digits = text.substr(0, kUuidGroups[group]);
    if (digits.size() != kUuidGroups[group] ||
        digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
      return false;
    }
    text.remove_prefix(digits.size());
  }
  return text.empty();
}

// "0", "0:1", "GPU-...", "MIG-...", "MIG-GPU-.../7/0"
bool IsDeviceReference(std::string_view text) {
  if (text.starts_with("GPU-")) return IsUuid(text.substr(4));
  if (text.starts_with("MIG-GPU-")) {
    const std::size_t first = text.find('/');
    const std::size_t second = text.find('/', first == std::string_view::npos ? first : first + 1);
    return second != std::string_view::npos && IsUuid(text.substr(8, first - 8)) &&
           IsNumber(text.substr(first + 1, second - first - 1)) &&
           IsNumber(text.substr(second + 1));
  }
  if (text.starts_with("MIG-")) return IsUuid(text.substr(4));
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return IsNumber(text);
  return IsNumber(text.substr(0, colon)) && IsNumber(text.substr(colon + 1));
}

Result<std::string> ReadDeviceReference(const Node& node) {
  ASSIGN_OR_RETURN(std::string text, ReadString(node));
  if (IsDeviceReference(text)) return text;
  return FailAt(
      node,
      fmt::format("unsupported type for device in devices list: {}", text.substr(0, kQuotedMax)),
      "name it by index (0), MIG index (0:1), or UUID (GPU-..., MIG-...)");
}

Result<DeviceSelection> ReadDeviceSelection(const Node& node) {
  DeviceSelection selection;
  if (node.kind == Node::Kind::kSequence) {
    if (node.items.empty()) return FailAt(node, "a list of no devices", "leave it out for all");
    if (node.items.size() > kSelectedMax) return FailAt(node, "too many devices to be meant");
    for (const Node& item : node.items) {
      ASSIGN_OR_RETURN(std::string device, ReadDeviceReference(item));
      if (std::ranges::find(selection.list, device) != selection.list.end()) {
        return FailAt(item, fmt::format("the same device twice: {}", device));
      }
      selection.list.push_back(std::move(device));
    }
    return selection;
  }
  if (node.kind != Node::Kind::kScalar) {
    return FailAt(node, "unrecognized type for devices spec", "all, a count or a list");
  }
  if (node.scalar == "all") return selection;
  if (node.quoted || !ReadInteger(node)) {
    return FailAt(node, fmt::format("devices set as '{}' but the only valid string input is 'all'",
                                    node.scalar.substr(0, kQuotedMax)));
  }
  ASSIGN_OR_RETURN(const std::int64_t count, ReadInteger(node));
  if (count <= 0) {
    return FailAt(node,
                  fmt::format("devices set as '{}' but a count of devices must be > 0", count));
  }
  if (count > static_cast<std::int64_t>(kSelectedMax)) {
    return FailAt(node, fmt::format("more devices than any node has: {}", count));
  }
  selection.count = static_cast<int>(count);
  return selection;
}

Result<std::string> ReadResourceName(const Node& node) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node));
  Result<std::string> name = FullResourceName(text);
  if (name) return name;
  return FailAt(node, name.error().message, name.error().hint);
}

Result<ReplicatedResource> ReadReplicatedResource(const Node& node) {
  ReplicatedResource resource;
  std::int64_t replicas = 0;
  ObjectReader in(node, "shared resource");
  in.Required("name", resource.name, ReadResourceName);
  in.Optional("rename", resource.rename, ReadResourceName);
  in.Optional("devices", resource.devices, ReadDeviceSelection);
  in.Required("replicas", replicas);
  if (in.Has("replicas") && replicas < 2) {
    in.Reject("replicas", fmt::format("number of replicas must be >= 2: {}", replicas),
              "for whole devices leave the resource out");
  }
  if (replicas > kReplicasMax) {
    in.Reject("replicas", fmt::format("more than {} replicas of a device", kReplicasMax));
  }
  RETURN_IF_ERROR(in.Finish());
  resource.replicas = static_cast<int>(replicas);
  return resource;
}

// `fail_default`: what an absent failRequestsGreaterThanOne means.
Result<ReplicatedResources> ReadReplicatedResources(const Node& node, std::string_view what,
                                                    bool fail_default) {
  ReplicatedResources shared;
  shared.fail_requests_greater_than_one = fail_default;
  std::string strategy;
  ObjectReader in(node, what);
  in.Optional("renameByDefault", shared.rename_by_default);
  in.Optional("failRequestsGreaterThanOne", shared.fail_requests_greater_than_one);
  // Files from before version 0.12 may carry it; only the empty one was ever known.
  in.Optional("strategy", strategy);
  if (!strategy.empty()) {
    in.Reject("strategy", fmt::format("unknown time-slicing strategy: {}", strategy.substr(0, 64)));
  }
  in.RequiredList("resources", shared.resources, ReadReplicatedResource);
  if (in.Has("resources") && shared.resources.empty()) {
    in.Reject("resources", "no resources specified");
  }
  if (shared.resources.size() > kRulesMax) in.Reject("resources", "too many to be meant");
  RETURN_IF_ERROR(in.Finish());
  for (ReplicatedResource& resource : shared.resources) {
    if (!shared.rename_by_default || !resource.rename.empty()) continue;
    Result<std::string> name = FullResourceName(resource.name + ".shared");
    if (!name) return FailAt(node, name.error().message, name.error().hint);
    resource.rename = *std::move(name);
  }
  return shared;
}

Status ReadSharing(const Node& node, DevicePluginConfig& config) {
  ObjectReader in(node, "sharing");
  in.Optional("timeSlicing", config.time_slicing, [](const Node& field) {
    return ReadReplicatedResources(field, "timeSlicing", false);
  });
  in.Optional("mps", config.mps,
              [](const Node& field) { return ReadReplicatedResources(field, "mps", true); });
  return in.Finish();
}

template <typename Enum>
auto WordReader(const EnumWords<Enum>& words, std::string_view message) {
  return [&words, message](const Node& node) -> Result<Enum> {
    ASSIGN_OR_RETURN(const std::string text, ReadString(node));
    if (const auto value = internal::FindWord(words, text)) return *value;
    std::vector<std::string_view> known;
    for (const auto& [name, unused] : words) known.push_back(name);
    return FailAt(node, fmt::format("{}: {}", message, text.substr(0, kQuotedMax)),
                  SuggestFor(text, known));
  };
}

// A string, several with commas between them, or a list.
Result<std::vector<DeviceListStrategy>> ReadDeviceListStrategies(const Node& node) {
  std::string text;
  if (node.kind == Node::Kind::kSequence) {
    for (const Node& item : node.items) {
      ASSIGN_OR_RETURN(const std::string word, ReadString(item));
      text += fmt::format("{}{}", text.empty() ? "" : ",", word);
    }
  } else {
    ASSIGN_OR_RETURN(text, ReadString(node));
  }
  Result<std::vector<DeviceListStrategy>> strategies = internal::ParseDeviceListStrategies(text);
  if (strategies) return strategies;
  return FailAt(node, "invalid deviceListStrategy: " + strategies.error().message,
                strategies.error().hint);
}

// Go's text, or a number of nanoseconds.
Result<std::chrono::nanoseconds> ReadDuration(const Node& node) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node));
  if (!node.quoted) {
    const Result<std::int64_t> count = ReadInteger(node, {.min = 0});
    if (count) return std::chrono::nanoseconds(*count);
  }
  if (const auto duration = internal::ParseGoDuration(text)) return *duration;
  return FailAt(node, fmt::format("not a duration: '{}'", text.substr(0, kQuotedMax)),
                "write it like 60s, 1h30m or infinite");
}

Result<std::string> ReadAbsolutePath(const Node& node) {
  ASSIGN_OR_RETURN(std::string path, ReadString(node));
  if (path.starts_with('/')) return path;
  return FailAt(node, fmt::format("not an absolute path: '{}'", path.substr(0, kQuotedMax)));
}

Status ReadPluginPart(const Node& node, PluginFlags& flags) {
  ObjectReader in(node, "flags.plugin");
  in.Optional("passDeviceSpecs", flags.pass_device_specs);
  in.Optional("deviceListStrategy", flags.device_list_strategy, ReadDeviceListStrategies);
  in.Optional("deviceIDStrategy", flags.device_id_strategy,
              WordReader(DeviceIdStrategyWords(), "invalid deviceIDStrategy"));
  in.Optional("cdiAnnotationPrefix", flags.cdi_annotation_prefix);
  in.Optional("nvidiaCTKPath", flags.cdi_hook_path);
  in.Optional("containerDriverRoot", flags.container_driver_root, ReadAbsolutePath);
  in.Optional("sharedDevicesAllocationPolicy", flags.allocation_policy,
              WordReader(AllocationPolicyWords(), "invalid sharedDevicesAllocationPolicy"));
  return in.Finish();
}

Status ReadGfdPart(const Node& node, FeatureDiscoveryFlags& gfd) {
  ObjectReader in(node, "flags.gfd");
  in.Optional("oneshot", gfd.oneshot);
  in.Optional("noTimestamp", gfd.no_timestamp);
  in.Optional("sleepInterval", gfd.sleep_interval, ReadDuration);
  in.Optional("outputFile", gfd.output_file);
  in.Optional("machineTypeFile", gfd.machine_type_file);
  return in.Finish();
}

// Runs a reader that fills a part of a larger value, where ObjectReader wants a value.
template <typename Part, typename Reader>
void ReadPart(ObjectReader& in, std::string_view key, Part& part, const Reader& reader) {
  bool read = false;
  in.Optional(key, read, [&](const Node& node) -> Result<bool> {
    RETURN_IF_ERROR(reader(node, part));
    return true;
  });
}

Status ReadFlags(const Node& node, DevicePluginConfig& config) {
  PluginFlags& flags = config.flags;
  bool restart = false;
  ObjectReader in(node, "flags");
  in.Optional("migStrategy", flags.mig_strategy,
              WordReader(MigStrategyWords(), "unknown MIG strategy"));
  in.Optional("failOnInitError", flags.fail_on_init_error);
  in.Optional("mpsRoot", flags.mps_root, ReadAbsolutePath);
  in.Optional("nvidiaDriverRoot", flags.driver_root, ReadAbsolutePath);
  in.Optional("nvidiaDevRoot", flags.dev_root, ReadAbsolutePath);
  in.Optional("gdrcopyEnabled", flags.gdrcopy_enabled);
  in.Optional("gdsEnabled", flags.gds_enabled);
  in.Optional("mofedEnabled", flags.mofed_enabled);
  in.Optional("useNodeFeatureAPI", flags.use_node_feature_api);
  in.Optional("deviceDiscoveryStrategy", flags.discovery,
              WordReader(DeviceDiscoveryWords(), "invalid deviceDiscoveryStrategy"));
  // Forks of the plugin have it, and files made for them stay around.
  in.Optional("restartOnDeviceUnhealthy", restart);
  ReadPart(in, "plugin", flags, ReadPluginPart);
  ReadPart(in, "gfd", config.gfd, ReadGfdPart);
  RETURN_IF_ERROR(in.Finish());
  if (restart) {
    config.warnings.emplace_back(
        "restartOnDeviceUnhealthy has no effect: devices recover without a restart");
  }
  return {};
}

// One entry of `resources.gpus` or `resources.mig`; read to find slips, then dropped.
Result<bool> ReadPattern(const Node& node) {
  std::string pattern;
  std::string name;
  ObjectReader in(node, "resource");
  in.Required("pattern", pattern);
  in.Required("name", name, ReadResourceName);
  RETURN_IF_ERROR(in.Finish());
  return true;
}

Status ReadResources(const Node& node, DevicePluginConfig& config) {
  std::vector<bool> gpus;
  std::vector<bool> mig;
  ObjectReader in(node, "resources");
  in.OptionalList("gpus", gpus, ReadPattern);
  in.OptionalList("mig", mig, ReadPattern);
  RETURN_IF_ERROR(in.Finish());
  if (!gpus.empty() || !mig.empty()) {
    config.warnings.emplace_back(
        "resources has no effect, as with NVIDIA's plugin: a resource gets a name of its own by "
        "rename in sharing, or by sublet.shares");
  }
  return {};
}

Status ReadImex(const Node& node, ImexConfig& imex) {
  ObjectReader in(node, "imex");
  in.OptionalList("channelIDs", imex.channel_ids, [](const Node& item) -> Result<int> {
    ASSIGN_OR_RETURN(const std::int64_t id, ReadInteger(item, {.min = 0, .max = 65535}));
    return static_cast<int>(id);
  });
  if (const Status status = internal::CheckImexChannels(imex.channel_ids); !status) {
    in.Reject("channelIDs", status.error().message, status.error().hint);
  }
  in.Optional("required", imex.required);
  return in.Finish();
}

Result<std::string> ReadShareResource(const Node& node) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node));
  Result<std::string> name = FullResourceName(text, true);
  if (name) return name;
  return FailAt(node, name.error().message, name.error().hint);
}

Result<Bytes> ReadShareMemory(const Node& node) {
  ASSIGN_OR_RETURN(const Bytes memory, ReadBytes(node));
  if (memory >= 1_MiB) return memory;
  return FailAt(node, fmt::format("too little memory to be meant: {}", FormatBytes(memory)),
                "a number without unit counts bytes; write it like 10Gi");
}

Result<std::string> ReadProfileName(const Node& node) {
  ASSIGN_OR_RETURN(std::string name, ReadString(node));
  const Result<MigProfileName> profile = ParseMigProfileName(name);
  if (profile) return name;
  return FailAt(node, profile.error().message, profile.error().hint);
}

Status ReadCount(const Node& node, ShareRule& rule) {
  const bool word = node.kind == Node::Kind::kScalar;
  if (word && node.scalar == "fill") {
    rule.count_how = ShareRule::Count::kFill;
  } else if (word && node.scalar == "plan") {
    rule.count_how = ShareRule::Count::kPlan;
  } else {
    Result<std::int64_t> count = ReadInteger(node, {.min = 1, .max = kReplicasMax});
    if (!count) {
      Error error = std::move(count).error();
      error.hint = "give a number from 1, or fill, or plan";
      return tl::unexpected<Error>(std::move(error));
    }
    rule.count = static_cast<int>(*count);
  }
  return {};
}

// What contradicts itself within one rule.
void CheckRule(const ShareRule& rule, ObjectReader& in) {
  const bool sized = rule.size.memory || rule.size.sm_percent;
  if (rule.mode != SharingMode::kMps && sized) {
    in.Reject(rule.size.memory ? "memory" : "sm_percent",
              fmt::format("nothing enforces a limit in mode {}", SharingModeName(rule.mode)),
              "use mode mps, or leave it out");
  }
  if (rule.mode == SharingMode::kExclusive &&
      (rule.count_how != ShareRule::Count::kFixed || rule.count != 1)) {
    in.Reject("count", "a device in mode exclusive is handed out once");
  }
  if (rule.mode == SharingMode::kTimeSlicing && rule.count_how == ShareRule::Count::kFill) {
    in.Reject("count", "time-slicing has no size to fill a device with", "give a number");
  }
  if (rule.mode == SharingMode::kMps && rule.count_how != ShareRule::Count::kFixed && !sized) {
    in.Reject("count", "without memory and sm_percent nothing says how many fit",
              "give one of the two, or a number");
  }
}

Result<ShareRule> ReadShareRule(const Node& node) {
  static const EnumWords<SharingMode> kModes{{"mps", SharingMode::kMps},
                                             {"time-slicing", SharingMode::kTimeSlicing},
                                             {"exclusive", SharingMode::kExclusive}};
  ShareRule rule;
  ObjectReader in(node, "share");
  in.Required("resource", rule.resource, ReadShareResource);
  in.OptionalEnum("mode", rule.mode, kModes);
  in.Optional("devices", rule.devices, ReadDeviceSelection);
  in.Optional("profile", rule.profile, ReadProfileName);
  in.Optional("memory", rule.size.memory, ReadShareMemory);
  in.Optional("sm_percent", rule.size.sm_percent, Range{.min = 1, .max = 100});
  ReadPart(in, "count", rule, ReadCount);
  in.Optional("fail_requests_greater_than_one", rule.fail_requests_greater_than_one);
  CheckRule(rule, in);
  RETURN_IF_ERROR(in.Finish());
  return rule;
}

// The key of a pod's label, and nothing that would end a selector.
Result<std::string> ReadLabelKey(const Node& node) {
  ASSIGN_OR_RETURN(std::string key, ReadString(node));
  const bool fits =
      !key.empty() && key.size() <= kLabelKeyMax && std::ranges::all_of(key, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("-_./").find(c) != std::string_view::npos;
      });
  if (fits) return key;
  return FailAt(node, fmt::format("not the key of a label: '{}'", key.substr(0, kQuotedMax)));
}

Status ReadSublet(const Node& node, SubletSharing& sublet) {
  static const EnumWords<MpsTenancy> kTenancies{{"none", MpsTenancy::kResource},
                                                {"namespace", MpsTenancy::kNamespace},
                                                {"label", MpsTenancy::kLabel}};
  static const EnumWords<bool> kLimits{{"pod", true}, {"process", false}};
  ObjectReader in(node, "sublet");
  in.OptionalList("shares", sublet.shares, ReadShareRule);
  if (sublet.shares.size() > kRulesMax) in.Reject("shares", "too many to be meant");
  in.OptionalEnum("per_tenant", sublet.tenancy, kTenancies);
  in.Optional("tenant_label", sublet.tenant_label, ReadLabelKey);
  if ((sublet.tenancy == MpsTenancy::kLabel) != !sublet.tenant_label.empty()) {
    in.Reject("per_tenant", "per_tenant: label and tenant_label belong together");
  }
  in.OptionalEnum("limits", sublet.limits_for_pod, kLimits);
  in.Optional("fail_closed", sublet.fail_closed);
  in.Optional("plan", sublet.plan, ReadAbsolutePath);
  const bool planned = std::ranges::any_of(sublet.shares, [](const ShareRule& rule) {
    return rule.count_how == ShareRule::Count::kPlan;
  });
  if (planned && sublet.plan.empty()) {
    in.Reject("shares", "count: plan without a plan", "name it: sublet.plan: /path/plan.json");
  }
  return in.Finish();
}

Result<DevicePluginConfig> ReadDevicePluginConfig(const Node& node) {
  DevicePluginConfig config;
  std::string version;
  ObjectReader in(node, "device plugin's configuration");
  in.Optional("version", version);
  if (!version.empty() && version != kDevicePluginVersion) {
    in.Reject("version", fmt::format("unknown version: {}", version.substr(0, kQuotedMax)),
              fmt::format("this program reads {}", kDevicePluginVersion));
  }
  ReadPart(in, "flags", config, ReadFlags);
  ReadPart(in, "resources", config, ReadResources);
  ReadPart(in, "sharing", config, ReadSharing);
  ReadPart(in, "imex", config.imex, ReadImex);
  ReadPart(in, "sublet", config.sublet, ReadSublet);
  RETURN_IF_ERROR(in.Finish());
  return config;
}

// Blank lines and comments only.
bool SaysNothing(std::string_view text) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::size_t first = text.find_first_not_of(" \t\r");
    if (first < end && text[first] != '#') return false;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return true;
}

}  // namespace

Result<DevicePluginConfig> ParseDevicePluginConfig(std::string_view text, std::string_view source) {
  // NVIDIA's config-manager gives a node without a label an empty file: the defaults.
  if (SaysNothing(text)) return DevicePluginConfig();
  return ParseAs(text, source, ReadDevicePluginConfig);
}

}  // namespace sublet
