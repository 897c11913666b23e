#include "model/device_plugin_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "model/device_plugin_words.h"
#include "model/json_fields.h"

namespace sublet {
namespace {

bool IsAlphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

// A lower-case RFC 1123 subdomain.
bool IsDnsSubdomain(std::string_view text) {
  char before = '.';
  for (const char c : text) {
    const bool fits = c == '.'   ? IsAlphanumeric(before)
                      : c == '-' ? before != '.'
                                 : IsAlphanumeric(c);
    if (!fits) return false;
    before = c;
  }
  return IsAlphanumeric(before);
}

// Kubernetes keeps these domains for itself; kubelet refuses an extended resource in them.
bool IsReservedDomain(std::string_view domain) {
  return domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") ||
         domain.starts_with("requests.");
}

struct DurationUnit {
  std::string_view name;
  double nanoseconds;
};

// Longer names first: "ms" begins with "m".
constexpr DurationUnit kDurationUnits[] = {{"ns", 1},  {"us", 1e3}, {"\u00b5s", 1e3}, {"ms", 1e6},
                                           {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};

}  // namespace

const EnumWords<MigStrategy>& MigStrategyWords() {
  static const EnumWords<MigStrategy> kWords{{"none", MigStrategy::kNone},
                                             {"single", MigStrategy::kSingle},
                                             {"mixed", MigStrategy::kMixed}};
  return kWords;
}

std::string_view MigStrategyName(MigStrategy strategy) {
  return WordOf(MigStrategyWords(), strategy);
}

const EnumWords<DeviceListStrategy>& DeviceListStrategyWords() {
  static const EnumWords<DeviceListStrategy> kWords{
      {"envvar", DeviceListStrategy::kEnvvar},
      {"volume-mounts", DeviceListStrategy::kVolumeMounts},
      {"cdi-annotations", DeviceListStrategy::kCdiAnnotations},
      {"cdi-cri", DeviceListStrategy::kCdiCri}};
  return kWords;
}

std::string_view DeviceListStrategyName(DeviceListStrategy strategy) {
  return WordOf(DeviceListStrategyWords(), strategy);
}

const EnumWords<DeviceIdStrategy>& DeviceIdStrategyWords() {
  static const EnumWords<DeviceIdStrategy> kWords{{"uuid", DeviceIdStrategy::kUuid},
                                                  {"index", DeviceIdStrategy::kIndex}};
  return kWords;
}

const EnumWords<AllocationPolicy>& AllocationPolicyWords() {
  static const EnumWords<AllocationPolicy> kWords{{"distributed", AllocationPolicy::kDistributed},
                                                  {"packed", AllocationPolicy::kPacked}};
  return kWords;
}

const EnumWords<DeviceDiscovery>& DeviceDiscoveryWords() {
  static const EnumWords<DeviceDiscovery> kWords{{"auto", DeviceDiscovery::kAuto},
                                                 {"nvml", DeviceDiscovery::kNvml},
                                                 {"tegra", DeviceDiscovery::kTegra},
                                                 {"vfio", DeviceDiscovery::kVfio}};
  return kWords;
}

bool PluginFlags::Uses(DeviceListStrategy strategy) const {
  return std::ranges::find(device_list_strategy, strategy) != device_list_strategy.end();
}

bool PluginFlags::UsesCdiOnly() const {
  return std::ranges::all_of(device_list_strategy, [](DeviceListStrategy strategy) {
    return strategy == DeviceListStrategy::kCdiAnnotations ||
           strategy == DeviceListStrategy::kCdiCri;
  });
}

std::string_view DevicePluginConfig::SharingStrategy() const {
  if (mps) return "mps";
  return time_slicing ? "time-slicing" : "none";
}

Result<std::string> FullResourceName(std::string_view name, bool any_prefix) {
  const std::string nvidia = fmt::format("{}/", kNvidiaResourcePrefix);
  std::string full(name);
  const bool other_prefix = any_prefix && name.find('/') != std::string_view::npos;
  if (!name.starts_with(nvidia) && !other_prefix) full = nvidia + full;
  if (full.size() > kResourceNameMax) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("fully-qualified resource name must be {} characters or less: {}",
                            kResourceNameMax, full.substr(0, 4 * kResourceNameMax)));
  }
  const std::size_t slash = full.find('/');
  const std::string_view domain = std::string_view(full).substr(0, slash);
  const std::string_view rest = std::string_view(full).substr(slash + 1);
  if (!IsDnsSubdomain(rest) || !IsDnsSubdomain(domain)) {
    return Fail(ErrorCode::kInvalid, fmt::format("incorrect format for resource name '{}'", full),
                "after the domain and '/' use a-z, 0-9, '-' and '.', with a letter or digit at "
                "both ends and beside every dot");
  }
  if (IsReservedDomain(domain)) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("Kubernetes keeps this domain for itself: '{}'", domain));
  }
  return full;
}

std::string MigResourceName(std::string_view profile) {
  std::string name = fmt::format("mig-{}", profile);
  std::ranges::replace(name, '+', '.');
  return name;
}

namespace internal {

Result<std::vector<DeviceListStrategy>> ParseDeviceListStrategies(std::string_view text) {
  std::vector<DeviceListStrategy> strategies;
  while (true) {
    const std::size_t comma = text.find(',');
    const std::string_view word = text.substr(0, comma);
    const auto strategy = FindWord(DeviceListStrategyWords(), word);
    if (!strategy) {
      return Fail(ErrorCode::kInvalid, fmt::format("invalid strategy: {}", word.substr(0, 64)),
                  "there are envvar, volume-mounts, cdi-annotations and cdi-cri");
    }
    if (std::ranges::find(strategies, *strategy) == strategies.end()) {
      strategies.push_back(*strategy);
    }
    if (comma == std::string_view::npos) return strategies;
    text.remove_prefix(comma + 1);
  }
}

std::optional<std::chrono::nanoseconds> ParseGoDuration(std::string_view text) {
  if (text == "infinite") return std::chrono::nanoseconds::max();
  if (text == "0") return std::chrono::nanoseconds(0);
  if (text.starts_with('+')) text.remove_prefix(1);
  if (text.empty()) return std::nullopt;
  double sum = 0;
  while (!text.empty()) {
    // Go takes "1.", ".5" and "1.5", and neither a sign nor an exponent inside.
    const std::size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
    double number = 0;
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + digits, number, std::chars_format::fixed);
    if (error != std::errc() || end != text.data() + digits) return std::nullopt;
    text.remove_prefix(digits);
    const auto* const unit = std::ranges::find_if(
        kDurationUnits, [&](const DurationUnit& known) { return text.starts_with(known.name); });
    if (unit == std::end(kDurationUnits)) return std::nullopt;
    text.remove_prefix(unit->name.size());
    sum += number * unit->nanoseconds;
  }
  // The largest that a double below 2^63 can be; Go refuses what is above, too.
  constexpr double kMax = 9.2e18;
  if (!(sum <= kMax)) return std::nullopt;
  return std::chrono::nanoseconds(std::llround(sum));
}

Status CheckImexChannels(const std::vector<int>& channel_ids) {
  if (channel_ids.empty() || channel_ids == std::vector<int>{0}) return {};
  return Fail(ErrorCode::kInvalid,
              fmt::format("invalid IMEX channel IDs: [{}]", fmt::join(channel_ids, " ")),
              "it is [] or [0]");
}

}  // namespace internal
}  // namespace sublet
