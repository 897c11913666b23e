// The options and variables of model/device_plugin_config.h, and their precedence.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>

#include "model/device_plugin_config.h"
#include "model/device_plugin_words.h"
#include "model/document.h"

namespace sublet {
namespace {

using Config = DevicePluginConfig;
// Stores a value; the error has a message without a place.
using Setter = Status (*)(Config& config, std::string_view value);

constexpr unsigned kPlugin = 1;  // Programs that have an option.
constexpr unsigned kGfd = 2;
constexpr unsigned kBoth = kPlugin | kGfd;

constexpr std::size_t kAliasesMax = 2;

enum class Value { kOne, kFlag, kList };

struct OptionRow {
  unsigned programs;
  std::string_view names[kAliasesMax];
  std::string_view variables[kAliasesMax];
  Value value;
  std::string_view help;
  Setter set;
};

Status Bad(std::string_view value, std::string hint = {}) {
  return Fail(ErrorCode::kUsage, std::string(value.substr(0, 64)), std::move(hint));
}

// As Go's strconv.ParseBool.
Status SetBool(bool& out, std::string_view value) {
  static constexpr std::string_view kTrue[] = {"1", "t", "T", "true", "TRUE", "True"};
  static constexpr std::string_view kFalse[] = {"0", "f", "F", "false", "FALSE", "False"};
  const bool yes = std::ranges::find(kTrue, value) != std::end(kTrue);
  if (!yes && std::ranges::find(kFalse, value) == std::end(kFalse)) {
    return Bad(value, "it is true or false");
  }
  out = yes;
  return {};
}

template <typename Enum>
Status SetWord(Enum& out, const EnumWords<Enum>& words, std::string_view value) {
  if (const auto found = internal::FindWord(words, value)) {
    out = *found;
    return {};
  }
  std::vector<std::string_view> known;
  for (const auto& [name, unused] : words) known.push_back(name);
  return Bad(value, SuggestFor(value, known));
}

Status SetPath(std::string& out, std::string_view value) {
  if (!value.starts_with('/')) return Bad(value, "give an absolute path");
  out = value;
  return {};
}

Status SetText(std::string& out, std::string_view value) {
  out = value;
  return {};
}

std::vector<std::string_view> SplitAtCommas(std::string_view text) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    if (comma > 0) parts.push_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return parts;
}

Status SetList(std::vector<std::string>& out, std::string_view value) {
  const std::vector<std::string_view> parts = SplitAtCommas(value);
  out.assign(parts.begin(), parts.end());
  return {};
}

Status SetStrategies(Config& config, std::string_view value) {
  Result<std::vector<DeviceListStrategy>> strategies = internal::ParseDeviceListStrategies(value);
  if (!strategies) return Bad(strategies.error().message, strategies.error().hint);
  config.flags.device_list_strategy = *std::move(strategies);
  return {};
}

Status SetChannels(Config& config, std::string_view value) {
  std::vector<int> ids;
  for (const std::string_view part : SplitAtCommas(value)) {
    int id = -1;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), id);
    if (error != std::errc() || end != part.data() + part.size()) return Bad(part);
    ids.push_back(id);
  }
  if (Status status = internal::CheckImexChannels(ids); !status) {
    return Bad(status.error().message, status.error().hint);
  }
  config.imex.channel_ids = std::move(ids);
  return {};
}

Status SetInterval(Config& config, std::string_view value) {
  const auto interval = internal::ParseGoDuration(value);
  if (!interval) return Bad(value, "write it like 60s, 1h30m or infinite");
  config.gfd.sleep_interval = *interval;
  return {};
}

#define SET(field, function) \
  [](Config& c, std::string_view value) -> Status { return function(c.field, value); }
#define SET_WORD(field, words) \
  [](Config& c, std::string_view value) -> Status { return SetWord(c.field, words(), value); }

Status SetDisabledChecks(Config& config, std::string_view value) {
  config.health_checks_disabled = value;
  return {};
}

Status SetEnabledChecks(Config& config, std::string_view value) {
  config.health_checks_enabled = value;
  return {};
}

// Setters of a field in a part of the configuration.
template <auto part, auto field, auto set>
constexpr Setter kInto = [](Config& config, std::string_view value) -> Status {
  return set((config.*part).*field, value);
};
template <auto part, auto field>
constexpr Setter kBool = kInto<part, field, &SetBool>;
template <auto part, auto field>
constexpr Setter kPath = kInto<part, field, &SetPath>;
template <auto part, auto field>
constexpr Setter kText = kInto<part, field, &SetText>;
template <auto part, auto field>
constexpr Setter kTexts = kInto<part, field, &SetList>;
template <auto part, auto field, auto words>
constexpr Setter kWord = [](Config& config, std::string_view value) -> Status {
  return SetWord((config.*part).*field, words(), value);
};

constexpr auto kFlags = &Config::flags;
constexpr auto kGfdFlags = &Config::gfd;

// In the order of NVIDIA's manual. The configuration file is no setting: ConfigFileOf() has it.
constexpr OptionRow kOptionRows[] = {
    {kPlugin, {"config-file"}, {"CONFIG_FILE"}, Value::kOne, "a configuration file, v1", nullptr},
    {kGfd,
     {"config-file"},
     {"GFD_CONFIG_FILE", "CONFIG_FILE"},
     Value::kOne,
     "a configuration file, v1",
     nullptr},
    {kBoth,
     {"mig-strategy"},
     {"MIG_STRATEGY"},
     Value::kOne,
     "MIG devices: none, single or mixed",
     kWord<kFlags, &PluginFlags::mig_strategy, MigStrategyWords>},
    {kPlugin,
     {"fail-on-init-error"},
     {"FAIL_ON_INIT_ERROR"},
     Value::kFlag,
     "end where the driver isn't there; otherwise wait for it",
     kBool<kFlags, &PluginFlags::fail_on_init_error>},
    {kGfd,
     {"fail-on-init-error"},
     {"GFD_FAIL_ON_INIT_ERROR", "FAIL_ON_INIT_ERROR"},
     Value::kFlag,
     "end where the driver isn't there; otherwise wait for it",
     kBool<kFlags, &PluginFlags::fail_on_init_error>},
    {kPlugin,
     {"nvidia-driver-root", "driver-root"},
     {"NVIDIA_DRIVER_ROOT"},
     Value::kOne,
     "where the driver is installed on the host",
     kPath<kFlags, &PluginFlags::driver_root>},
    {kPlugin,
     {"nvidia-dev-root", "dev-root"},
     {"NVIDIA_DEV_ROOT"},
     Value::kOne,
     "where the host's /dev is; absent: the driver's root",
     kPath<kFlags, &PluginFlags::dev_root>},
    {kPlugin,
     {"pass-device-specs"},
     {"PASS_DEVICE_SPECS"},
     Value::kFlag,
     "hand device nodes to kubelet, too",
     kBool<kFlags, &PluginFlags::pass_device_specs>},
    {kPlugin,
     {"device-list-strategy"},
     {"DEVICE_LIST_STRATEGY"},
     Value::kList,
     "envvar, volume-mounts, cdi-annotations, cdi-cri",
     SetStrategies},
    {kPlugin,
     {"device-id-strategy"},
     {"DEVICE_ID_STRATEGY"},
     Value::kOne,
     "uuid or index",
     kWord<kFlags, &PluginFlags::device_id_strategy, DeviceIdStrategyWords>},
    {kPlugin,
     {"gdrcopy-enabled"},
     {"GDRCOPY_ENABLED"},
     Value::kFlag,
     "containers get GDRCopy",
     kBool<kFlags, &PluginFlags::gdrcopy_enabled>},
    {kPlugin,
     {"gds-enabled"},
     {"GDS_ENABLED"},
     Value::kFlag,
     "containers get GPUDirect Storage",
     kBool<kFlags, &PluginFlags::gds_enabled>},
    {kPlugin,
     {"mofed-enabled"},
     {"MOFED_ENABLED"},
     Value::kFlag,
     "containers get Mellanox OFED",
     kBool<kFlags, &PluginFlags::mofed_enabled>},
    {kPlugin,
     {"kubelet-socket"},
     {"KUBELET_SOCKET"},
     Value::kOne,
     "kubelet's registration socket; empty: don't register",
     kText<kFlags, &PluginFlags::kubelet_socket>},
    {kPlugin,
     {"cdi-annotation-prefix"},
     {"CDI_ANNOTATION_PREFIX"},
     Value::kOne,
     "of CDI annotations' names",
     kText<kFlags, &PluginFlags::cdi_annotation_prefix>},
    {kPlugin,
     {"nvidia-cdi-hook-path", "nvidia-ctk-path"},
     {"NVIDIA_CDI_HOOK_PATH", "NVIDIA_CTK_PATH"},
     Value::kOne,
     "of the program that CDI hooks run on the host",
     kPath<kFlags, &PluginFlags::cdi_hook_path>},
    {kPlugin,
     {"driver-root-ctr-path", "container-driver-root"},
     {"DRIVER_ROOT_CTR_PATH", "CONTAINER_DRIVER_ROOT"},
     Value::kOne,
     "where this program sees the driver's root",
     kPath<kFlags, &PluginFlags::container_driver_root>},
    {kPlugin,
     {"mps-root"},
     {"MPS_ROOT"},
     Value::kOne,
     "where MPS servers have their folders",
     kPath<kFlags, &PluginFlags::mps_root>},
    {kPlugin,
     {"shared-devices-allocation-policy"},
     {"SHARED_DEVICES_ALLOCATION_POLICY"},
     Value::kOne,
     "distributed or packed",
     kWord<kFlags, &PluginFlags::allocation_policy, AllocationPolicyWords>},
    {kBoth,
     {"device-discovery-strategy"},
     {"DEVICE_DISCOVERY_STRATEGY"},
     Value::kOne,
     "auto, nvml or tegra",
     kWord<kFlags, &PluginFlags::discovery, DeviceDiscoveryWords>},
    {kPlugin,
     {"imex-channel-ids"},
     {"IMEX_CHANNEL_IDS"},
     Value::kList,
     "0 or nothing",
     SetChannels},
    {kPlugin,
     {"imex-required"},
     {"IMEX_REQUIRED"},
     Value::kFlag,
     "a container without its IMEX channel doesn't start",
     kBool<&Config::imex, &ImexConfig::required>},
    {kPlugin,
     {"cdi-feature-flags"},
     {"CDI_FEATURE_FLAGS"},
     Value::kList,
     "of the CDI specifications",
     kTexts<kFlags, &PluginFlags::cdi_feature_flags>},
    {kPlugin,
     {"cdi-disable-hooks"},
     {"CDI_DISABLE_HOOKS"},
     Value::kList,
     "CDI hooks to leave out, or all",
     kTexts<kFlags, &PluginFlags::cdi_disable_hooks>},
    {kPlugin,
     {},
     {"DP_DISABLE_HEALTHCHECKS"},
     Value::kOne,
     "all, xids, or XIDs to ignore",
     SetDisabledChecks},
    {kPlugin,
     {},
     {"DP_ENABLE_HEALTHCHECKS"},
     Value::kOne,
     "XIDs not to ignore; wins",
     SetEnabledChecks},
    {kGfd,
     {"oneshot"},
     {"GFD_ONESHOT"},
     Value::kFlag,
     "label once, then end",
     kBool<kGfdFlags, &FeatureDiscoveryFlags::oneshot>},
    {kGfd,
     {"no-timestamp"},
     {"GFD_NO_TIMESTAMP"},
     Value::kFlag,
     "without the label gfd.timestamp",
     kBool<kGfdFlags, &FeatureDiscoveryFlags::no_timestamp>},
    {kGfd,
     {"sleep-interval"},
     {"GFD_SLEEP_INTERVAL"},
     Value::kOne,
     "time between labellings",
     SetInterval},
    {kGfd,
     {"output-file", "output"},
     {"GFD_OUTPUT_FILE"},
     Value::kOne,
     "the features.d file",
     kText<kGfdFlags, &FeatureDiscoveryFlags::output_file>},
    {kGfd,
     {"machine-type-file"},
     {"GFD_MACHINE_TYPE_FILE"},
     Value::kOne,
     "where the machine's type stands",
     kText<kGfdFlags, &FeatureDiscoveryFlags::machine_type_file>},
    {kGfd,
     {"use-node-feature-api"},
     {"GFD_USE_NODE_FEATURE_API", "USE_NODE_FEATURE_API"},
     Value::kFlag,
     "write a NodeFeature object instead of a file",
     kBool<kFlags, &PluginFlags::use_node_feature_api>},
};

std::vector<std::string_view> Given(const std::string_view (&texts)[kAliasesMax]) {
  std::vector<std::string_view> given;
  std::ranges::copy_if(texts, std::back_inserter(given),
                       [](std::string_view text) { return !text.empty(); });
  return given;
}

PluginOption OptionOf(const OptionRow& row) {
  return {Given(row.names), Given(row.variables), row.value == Value::kFlag,
          row.value == Value::kList, row.help};
}

unsigned BitOf(PluginProgram program) {
  return program == PluginProgram::kDevicePlugin ? kPlugin : kGfd;
}

std::string_view BareName(std::string_view name) {
  while (name.starts_with('-')) name.remove_prefix(1);
  return name;
}

bool Has(const std::vector<std::string_view>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

// A variable that is set to nothing isn't set. The one where nothing means something is
// KUBELET_SOCKET.
const std::string* VariableOf(const DevicePluginSources& sources, const PluginOption& option,
                              std::string_view& name) {
  for (const std::string_view variable : option.variables) {
    const auto found = sources.environment.find(std::string(variable));
    if (found == sources.environment.end()) continue;
    if (found->second.empty() && variable != "KUBELET_SOCKET") continue;
    name = variable;
    return &found->second;
  }
  return nullptr;
}

// The value on the command line; of a list's options all, of others the last.
std::optional<std::string> FlagOf(const DevicePluginSources& sources, const PluginOption& option) {
  std::optional<std::string> value;
  for (const auto& [name, given] : sources.flags) {
    if (!Has(option.names, BareName(name))) continue;
    const std::string meant = option.flag && given.empty() ? "true" : given;
    value = option.list && value ? fmt::format("{},{}", *value, meant) : meant;
  }
  return value;
}

Status CheckFlagsAreKnown(const DevicePluginSources& sources) {
  std::vector<std::string_view> known;
  for (const OptionRow& row : kOptionRows) {
    if ((row.programs & BitOf(sources.program)) == 0) continue;
    const std::vector<std::string_view> names = Given(row.names);
    known.insert(known.end(), names.begin(), names.end());
  }
  for (const auto& [name, value] : sources.flags) {
    if (Has(known, BareName(name))) continue;
    return Fail(ErrorCode::kUsage,
                fmt::format("unknown option: --{}", BareName(name).substr(0, 64)),
                SuggestFor(BareName(name), known));
  }
  return {};
}

// Variables and options, on top of what the file says.
Status ApplyOptions(const DevicePluginSources& sources, Config& config) {
  for (const OptionRow& row : kOptionRows) {
    if ((row.programs & BitOf(sources.program)) == 0 || row.set == nullptr) continue;
    const PluginOption option = OptionOf(row);
    std::string_view variable;
    std::string origin;
    const std::string* value = VariableOf(sources, option, variable);
    const std::optional<std::string> flag = FlagOf(sources, option);
    if (flag) {
      value = &*flag;
    } else if (value != nullptr) {
      origin = fmt::format(" (variable {})", variable);
    } else {
      continue;
    }
    Status status = row.set(config, *value);
    if (status) continue;
    const Error& error = status.error();
    const std::string what =
        option.names.empty() ? std::string(variable) : fmt::format("--{}", option.names.front());
    return Fail(ErrorCode::kUsage,
                fmt::format("invalid {} option{}: {}", what, origin, error.message), error.hint);
  }
  return {};
}

bool SharesByMps(const Config& config) {
  return std::ranges::any_of(config.sublet.shares,
                             [](const ShareRule& rule) { return rule.mode == SharingMode::kMps; });
}

// What NVIDIA's plugin checks once all sources are together.
Status CheckPlugin(const Config& config) {
  const bool cdi = config.flags.Uses(DeviceListStrategy::kCdiAnnotations) ||
                   config.flags.Uses(DeviceListStrategy::kCdiCri);
  if (cdi && config.flags.discovery == DeviceDiscovery::kTegra) {
    return Fail(ErrorCode::kUsage,
                "CDI --device-list-strategy options are only supported on NVML-based systems");
  }
  if (config.flags.discovery == DeviceDiscovery::kVfio) {
    return Fail(ErrorCode::kUsage, "invalid --device-discovery-strategy option: vfio",
                "only the labels know it");
  }
  if (config.mps && config.flags.mig_strategy == MigStrategy::kMixed) {
    return Fail(ErrorCode::kUsage, "using --mig-strategy=mixed is not supported with MPS",
                "MPS in MIG devices is a matter of sublet.shares: {resource: ..., mode: mps, "
                "profile: 3g.40gb, count: 4}");
  }
  if ((config.mps || SharesByMps(config)) && config.flags.mps_root.empty()) {
    return Fail(ErrorCode::kUsage, "using MPS requires --mps-root to be specified",
                "NVIDIA's charts use /run/nvidia/mps");
  }
  return {};
}

}  // namespace

std::vector<PluginOption> PluginOptions(PluginProgram program) {
  std::vector<PluginOption> options;
  for (const OptionRow& row : kOptionRows) {
    if ((row.programs & BitOf(program)) != 0) options.push_back(OptionOf(row));
  }
  return options;
}

std::string ConfigFileOf(const DevicePluginSources& sources) {
  const std::vector<PluginOption> options = PluginOptions(sources.program);
  const PluginOption& option = options.front();
  if (std::optional<std::string> flag = FlagOf(sources, option)) return *std::move(flag);
  std::string_view variable;
  const std::string* const path = VariableOf(sources, option, variable);
  return path != nullptr ? *path : std::string();
}

Result<DevicePluginConfig> ResolveDevicePluginConfig(const DevicePluginSources& sources) {
  RETURN_IF_ERROR(CheckFlagsAreKnown(sources));
  DevicePluginConfig config;
  if (sources.file) {
    ASSIGN_OR_RETURN(config, ParseDevicePluginConfig(*sources.file, sources.file_name));
  }
  RETURN_IF_ERROR(ApplyOptions(sources, config));
  if (config.flags.dev_root.empty()) config.flags.dev_root = config.flags.driver_root;
  if (sources.program == PluginProgram::kDevicePlugin) RETURN_IF_ERROR(CheckPlugin(config));
  return config;
}

}  // namespace sublet
