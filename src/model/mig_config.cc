#include "model/mig_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "model/document.h"

namespace sublet {
namespace {

// Bounds on what a file may say: a node has at most 16 GPUs and a GPU at most 7 instances today.
constexpr int kGpuIndexMax = 1023;
constexpr int kInstancesMax = 1024;
constexpr int kSlicesMax = 64;

// Reads the digits at the front of `text` and takes them away; nullopt where there are none, or
// more than a number of them.
std::optional<int> TakeNumber(std::string_view& text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || text.front() == '-') return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

bool TakeWord(std::string_view& text, std::string_view word) {
  if (text.substr(0, word.size()) != word) return false;
  text.remove_prefix(word.size());
  return true;
}

bool IsAttributeList(std::string_view text) {
  if (text.empty()) return true;
  if (text[0] != '+' && text[0] != '-') return false;
  char last = ',';
  for (const char c : text.substr(1)) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    const bool separator = c == '.' || c == ',';
    if (!letter && !(separator && last != '.' && last != ',')) return false;
    last = c;
  }
  return last != '.' && last != ',';
}

// "0x20B210DE": eight hexadecimal digits after 0x.
std::optional<std::uint32_t> PackedIdOf(std::string_view text) {
  if (text.size() != 10 || (text.substr(0, 2) != "0x" && text.substr(0, 2) != "0X")) {
    return std::nullopt;
  }
  std::uint32_t id = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data() + 2, end, id, 16);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return id;
}

Result<MigDeviceFilter> ReadFilter(const Node& node) {
  ASSIGN_OR_RETURN(const std::string text, ReadString(node));
  const std::string_view whole = text;
  const std::size_t colon = whole.find(':');
  MigDeviceFilter filter;
  const auto device = PackedIdOf(whole.substr(0, colon));
  bool good = device.has_value();
  if (colon != std::string_view::npos) {
    filter.pci_subsystem_id = PackedIdOf(whole.substr(colon + 1));
    good = good && filter.pci_subsystem_id.has_value();
  }
  if (!good) {
    return FailAt(node, "not a device filter: '" + text.substr(0, 64) + "'",
                  "write device and vendor id as \"0x20B210DE\", and a subsystem behind a colon");
  }
  filter.pci_device_id = *device;
  return filter;
}

// One filter or a list of them; "" is no filter, as in mig-parted.
Result<std::vector<MigDeviceFilter>> ReadFilters(const Node& node) {
  std::vector<MigDeviceFilter> filters;
  if (node.kind == Node::Kind::kScalar && node.scalar.empty()) return filters;
  if (node.kind == Node::Kind::kScalar) {
    ASSIGN_OR_RETURN(const MigDeviceFilter filter, ReadFilter(node));
    filters.push_back(filter);
    return filters;
  }
  if (node.kind != Node::Kind::kSequence)
    return FailAt(node, "a filter or a list is expected here");
  for (const Node& item : node.items) {
    ASSIGN_OR_RETURN(const MigDeviceFilter filter, ReadFilter(item));
    filters.push_back(filter);
  }
  return filters;
}

// "all", which is no list, or GPU indices.
Result<std::optional<std::vector<int>>> ReadDevices(const Node& node) {
  std::optional<std::vector<int>> devices;
  if (node.kind == Node::Kind::kScalar && node.scalar == "all") return devices;
  if (node.kind != Node::Kind::kSequence) {
    return FailAt(node, "\"all\" or a list of GPU indices is expected here");
  }
  devices.emplace();
  for (const Node& item : node.items) {
    ASSIGN_OR_RETURN(const std::int64_t index, ReadInteger(item, {.min = 0, .max = kGpuIndexMax}));
    devices->push_back(static_cast<int>(index));
  }
  return devices;
}

Result<std::map<std::string, int>> ReadMigDevices(const Node& node) {
  std::map<std::string, int> devices;
  if (node.kind != Node::Kind::kMap) {
    return FailAt(node, "a map from profiles to counts is expected here");
  }
  bool any = node.fields.empty();
  for (const auto& [name, value] : node.fields) {
    if (const auto parsed = ParseMigProfileName(name); !parsed) {
      return FailAt(value, parsed.error().message, parsed.error().hint);
    }
    ASSIGN_OR_RETURN(const std::int64_t count,
                     ReadInteger(value, {.min = 0, .max = kInstancesMax}));
    devices.emplace(name, static_cast<int>(count));
    any = any || count > 0;
  }
  if (!any) return FailAt(node, "all counts are 0", "write mig-devices: {} for no MIG devices");
  return devices;
}

Result<MigConfigEntry> ReadEntry(const Node& node) {
  MigConfigEntry entry;
  ObjectReader in(node, "mig config entry");
  in.Optional("device-filter", entry.device_filter, ReadFilters);
  in.Required("devices", entry.devices, ReadDevices);
  in.Required("mig-enabled", entry.mig_enabled);
  const Node* given = node.Find("mig-devices");
  in.Optional("mig-devices", entry.mig_devices, ReadMigDevices);
  if (entry.mig_enabled && (given == nullptr || given->kind == Node::Kind::kNull)) {
    in.Reject("mig-enabled", "mig-devices is required where mig-enabled is true",
              "write mig-devices: {} for no MIG devices");
  }
  if (!entry.mig_enabled && !entry.mig_devices.empty()) {
    in.Reject("mig-devices", "MIG devices are given although mig-enabled is false");
  }
  RETURN_IF_ERROR(in.Finish());
  return entry;
}

Result<std::vector<MigConfigLabel>> ReadLabels(const Node& node) {
  if (node.kind != Node::Kind::kMap || node.fields.empty()) {
    return FailAt(node, "a map with at least one label is expected here");
  }
  std::vector<MigConfigLabel> labels;
  for (const auto& [name, value] : node.fields) {
    if (value.kind != Node::Kind::kSequence || value.items.empty()) {
      return FailAt(
          value, "a list of at least one entry is expected at label '" + name.substr(0, 64) + "'");
    }
    MigConfigLabel label{name, {}};
    for (const Node& item : value.items) {
      ASSIGN_OR_RETURN(MigConfigEntry entry, ReadEntry(item));
      label.entries.push_back(std::move(entry));
    }
    labels.push_back(std::move(label));
  }
  return labels;
}

Result<MigConfig> ReadMigConfig(const Node& node) {
  MigConfig config;
  ObjectReader in(node, "mig-parted config");
  in.Version(kMigConfigVersion);
  in.Required("mig-configs", config.labels, ReadLabels);
  RETURN_IF_ERROR(in.Finish());
  return config;
}

// In double quotes, with what YAML and JSON both understand inside them.
std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      quoted += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

// Labels are usually plain words, and nicer without quotes.
std::string LabelText(std::string_view name) {
  const bool plain =
      !name.empty() && name[0] >= 'a' && name[0] <= 'z' &&
      std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
      });
  // YAML reads these words as booleans or nothing.
  const bool special = name == "null" || name == "true" || name == "false" || name == "yes" ||
                       name == "no" || name == "on" || name == "off" || name == "y" || name == "n";
  return plain && !special ? std::string(name) : Quoted(name);
}

std::string FilterText(const MigDeviceFilter& filter) {
  std::string text = fmt::format("\"0x{:08X}", filter.pci_device_id);
  if (filter.pci_subsystem_id) text += fmt::format(":0x{:08X}", *filter.pci_subsystem_id);
  return text + "\"";
}

void AppendEntry(const MigConfigEntry& entry, std::string& out) {
  const char* lead = "    - ";
  const auto line = [&](std::string_view text) {
    out += lead;
    out += text;
    out += '\n';
    lead = "      ";
  };
  if (!entry.device_filter.empty()) {
    std::vector<std::string> filters;
    for (const MigDeviceFilter& filter : entry.device_filter) filters.push_back(FilterText(filter));
    line(filters.size() == 1 ? "device-filter: " + filters[0]
                             : fmt::format("device-filter: [{}]", fmt::join(filters, ", ")));
  }
  line(entry.devices ? fmt::format("devices: [{}]", fmt::join(*entry.devices, ", "))
                     : "devices: all");
  line(entry.mig_enabled ? "mig-enabled: true" : "mig-enabled: false");
  if (!entry.mig_enabled) return;
  line(entry.mig_devices.empty() ? "mig-devices: {}" : "mig-devices:");
  for (const auto& [name, count] : entry.mig_devices) {
    line(fmt::format("  {}: {}", Quoted(name), count));
  }
}

}  // namespace

bool MigConfigEntry::Matches(int index, std::uint32_t pci_device_id,
                             std::uint32_t pci_subsystem_id) const {
  const auto takes = [&](const MigDeviceFilter& filter) {
    return filter.pci_device_id == pci_device_id &&
           (!filter.pci_subsystem_id || *filter.pci_subsystem_id == pci_subsystem_id);
  };
  const bool board =
      device_filter.empty() || std::any_of(device_filter.begin(), device_filter.end(), takes);
  return board &&
         (!devices || std::find(devices->begin(), devices->end(), index) != devices->end());
}

Result<const MigConfigLabel*> MigConfig::Find(std::string_view label) const {
  std::vector<std::string_view> known;
  for (const MigConfigLabel& one : labels) {
    if (one.name == label) return &one;
    known.push_back(one.name);
  }
  return Fail(ErrorCode::kNotFound, "no such label: '" + std::string(label.substr(0, 64)) + "'",
              SuggestFor(label, known));
}

Result<MigProfileName> ParseMigProfileName(std::string_view name) {
  MigProfileName parsed;
  std::string_view rest = name;
  std::optional<int> compute = TakeNumber(rest);
  std::string_view gpu_instance = name;
  bool good = compute.has_value();
  const bool has_compute = good && TakeWord(rest, "c.");
  std::optional<int> slices = compute;
  if (has_compute) {
    gpu_instance = rest;
    slices = TakeNumber(rest);
  }
  good = good && slices.has_value() && TakeWord(rest, "g.") && TakeNumber(rest).has_value() &&
         TakeWord(rest, "gb") && IsAttributeList(rest);
  if (!good || *slices < 1 || *slices > kSlicesMax || *compute < 1 || *compute > *slices) {
    return Fail(ErrorCode::kInvalid, "not a MIG profile: '" + std::string(name.substr(0, 64)) + "'",
                "profiles look like 1g.10gb, 1g.10gb+me, 1g.24gb-me or 1c.3g.40gb");
  }
  return MigProfileName{*compute, *slices, std::string(gpu_instance)};
}

Result<MigConfig> ParseMigConfig(std::string_view text, std::string_view source) {
  return ParseAs(text, source, ReadMigConfig);
}

std::string MigConfigToYaml(const MigConfig& config) {
  std::string out = fmt::format("version: {}\nmig-configs:\n", kMigConfigVersion);
  for (const MigConfigLabel& label : config.labels) {
    out += "  " + LabelText(label.name) + ":\n";
    for (const MigConfigEntry& entry : label.entries) AppendEntry(entry, out);
  }
  return out;
}

}  // namespace sublet
