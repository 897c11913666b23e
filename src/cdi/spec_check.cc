#include "cdi/spec_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

namespace sublet {
namespace {

constexpr std::array<std::string_view, 4> kVersions = {"0.3.0", "0.4.0", "0.5.0", "0.6.0"};
constexpr std::array<std::string_view, 6> kHookNames = {
    "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"};
constexpr std::size_t kVendorBytesMax = 253;  // A DNS subdomain.
constexpr std::size_t kClassBytesMax = 63;    // A DNS label.
// What Kubernetes admits for the annotations of one object, which CDI follows.
constexpr std::size_t kAnnotationBytesMax = 256u << 10;

bool IsLetter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool IsLetterOrDigit(char c) {
  return IsLetter(c) || (c >= '0' && c <= '9');
}

// Letters, digits and `others`; a letter or digit at both ends.
bool IsName(std::string_view text, std::string_view others) {
  return !text.empty() && IsLetterOrDigit(text.front()) && IsLetterOrDigit(text.back()) &&
         std::ranges::all_of(text, [others](char c) {
           return IsLetterOrDigit(c) || others.find(c) != std::string_view::npos;
         });
}

bool IsPrintable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

bool IsAbsolutePath(std::string_view path) {
  return path.starts_with('/') && IsPrintable(path);
}

Status Broken(std::string message) {
  return Fail(ErrorCode::kInvalid, std::move(message));
}

Status CheckEnv(const std::vector<std::string>& env) {
  for (const std::string& each : env) {
    const std::size_t equals = each.find('=');
    if (equals == std::string::npos || equals == 0 || !IsPrintable(each)) {
      return Broken(fmt::format("an environment variable isn't NAME=value: '{}'", each));
    }
  }
  return {};
}

Status CheckNode(const CdiDeviceNode& node) {
  constexpr std::array<std::string_view, 5> kTypes = {"", "b", "c", "u", "p"};
  if (!IsAbsolutePath(node.path)) {
    return Broken(fmt::format("a device node's path isn't absolute: '{}'", node.path));
  }
  if (!node.host_path.empty() && !IsAbsolutePath(node.host_path)) {
    return Broken(fmt::format("a device node's hostPath isn't absolute: '{}'", node.host_path));
  }
  if (std::ranges::find(kTypes, node.type) == kTypes.end()) {
    return Broken(fmt::format("{}: no type of a device node: '{}'", node.path, node.type));
  }
  if (node.major.value_or(0) < 0 || node.minor.value_or(0) < 0) {
    return Broken(fmt::format("{}: a negative device number", node.path));
  }
  if (node.major.has_value() != node.minor.has_value() ||
      (node.major.has_value() && node.type.empty())) {
    return Broken(fmt::format("{}: a device has type, major and minor, or none", node.path));
  }
  if (node.permissions.find_first_not_of("rwm") != std::string::npos) {
    return Broken(
        fmt::format("{}: permissions are of r, w and m: '{}'", node.path, node.permissions));
  }
  return {};
}

Status CheckHook(const CdiHook& hook) {
  if (std::ranges::find(kHookNames, hook.hook_name) == kHookNames.end()) {
    return Broken(fmt::format("no hook of a container has this name: '{}'", hook.hook_name));
  }
  if (!IsAbsolutePath(hook.path)) {
    return Broken(fmt::format("a hook's path isn't absolute: '{}'", hook.path));
  }
  if (hook.timeout_s && *hook.timeout_s <= 0) {
    return Broken(fmt::format("{}: a hook's timeout is above 0: {}", hook.path, *hook.timeout_s));
  }
  if (!std::ranges::all_of(hook.args, IsPrintable)) {
    return Broken(fmt::format("{}: an argument isn't printable", hook.path));
  }
  return CheckEnv(hook.env);
}

Status CheckEdits(const CdiEdits& edits) {
  RETURN_IF_ERROR(CheckEnv(edits.env));
  for (const CdiDeviceNode& node : edits.device_nodes) RETURN_IF_ERROR(CheckNode(node));
  for (const CdiMount& mount : edits.mounts) {
    if (!IsAbsolutePath(mount.host_path) || !IsAbsolutePath(mount.container_path)) {
      return Broken(fmt::format("a mount's paths aren't absolute: '{}' at '{}'", mount.host_path,
                                mount.container_path));
    }
    if (!IsPrintable(mount.type) || !std::ranges::all_of(mount.options, IsPrintable)) {
      return Broken(fmt::format("{}: an option isn't printable", mount.container_path));
    }
  }
  for (const CdiHook& hook : edits.hooks) RETURN_IF_ERROR(CheckHook(hook));
  return {};
}

// A key is a name as Kubernetes has it, with or without a domain in front: "sublet.dev/made-by".
bool IsAnnotationKey(std::string_view key) {
  const std::size_t slash = key.find('/');
  const std::string_view name = slash == std::string_view::npos ? key : key.substr(slash + 1);
  if (name.size() > kClassBytesMax || !IsName(name, "-_.")) return false;
  if (slash == std::string_view::npos) return true;
  const std::string_view domain = key.substr(0, slash);
  return domain.size() <= kVendorBytesMax && IsName(domain, "-.");
}

Status CheckAnnotations(const std::map<std::string, std::string>& annotations) {
  std::size_t bytes = 0;
  for (const auto& [key, value] : annotations) {
    if (!IsAnnotationKey(key)) {
      return Broken(fmt::format("an annotation's key is wrong: '{}'", key));
    }
    if (!IsPrintable(value)) return Broken(fmt::format("{}: its value isn't printable", key));
    bytes += key.size() + value.size();
  }
  if (bytes > kAnnotationBytesMax) {
    return Broken(fmt::format("annotations have {} bytes, at most {}", bytes, kAnnotationBytesMax));
  }
  return {};
}

bool UsesAnnotations(const CdiSpec& spec) {
  return !spec.annotations.empty() ||
         std::ranges::any_of(spec.devices,
                             [](const CdiDevice& device) { return !device.annotations.empty(); });
}

bool AnyEdits(const CdiSpec& spec, bool (*holds)(const CdiEdits&)) {
  return holds(spec.edits) || std::ranges::any_of(spec.devices, [holds](const CdiDevice& device) {
           return holds(device.edits);
         });
}

bool HasHostPath(const CdiEdits& edits) {
  return std::ranges::any_of(edits.device_nodes,
                             [](const CdiDeviceNode& node) { return !node.host_path.empty(); });
}

bool HasMountType(const CdiEdits& edits) {
  return std::ranges::any_of(edits.mounts,
                             [](const CdiMount& mount) { return !mount.type.empty(); });
}

}  // namespace

bool IsCdiVendor(std::string_view vendor) {
  return vendor.size() <= kVendorBytesMax && IsName(vendor, "-_.") && IsLetter(vendor.front());
}

bool IsCdiClass(std::string_view class_name) {
  return class_name.size() <= kClassBytesMax && IsName(class_name, "-_.") &&
         IsLetter(class_name.front());
}

bool IsCdiDeviceName(std::string_view name) {
  return IsName(name, "-_.:");
}

std::string CdiVersionNeeded(const CdiSpec& spec) {
  if (UsesAnnotations(spec) || spec.class_name.find('.') != std::string::npos) return "0.6.0";
  // Before 0.5.0 a device's name began with a letter.
  const bool digit_first = std::ranges::any_of(spec.devices, [](const CdiDevice& device) {
    return !device.name.empty() && !IsLetter(device.name.front());
  });
  if (digit_first || AnyEdits(spec, HasHostPath)) return "0.5.0";
  if (AnyEdits(spec, HasMountType)) return "0.4.0";
  return std::string(kCdiVersionMin);
}

Status CheckCdiSpec(const CdiSpec& spec) {
  if (std::ranges::find(kVersions, spec.version) == kVersions.end()) {
    return Broken(fmt::format("no version of CDI that is known here: '{}'", spec.version));
  }
  if (const std::string needed = CdiVersionNeeded(spec); spec.version < needed) {
    return Broken(fmt::format("the spec says version {}, and uses {}", spec.version, needed));
  }
  if (!IsCdiVendor(spec.vendor)) return Broken(fmt::format("no vendor's name: '{}'", spec.vendor));
  if (!IsCdiClass(spec.class_name)) {
    return Broken(fmt::format("no class's name: '{}'", spec.class_name));
  }
  if (spec.devices.empty()) return Broken(fmt::format("{} has no device", spec.kind()));
  RETURN_IF_ERROR(CheckAnnotations(spec.annotations));
  RETURN_IF_ERROR(CheckEdits(spec.edits));
  std::set<std::string_view> names;
  for (const CdiDevice& device : spec.devices) {
    if (!IsCdiDeviceName(device.name)) {
      return Broken(fmt::format("no device's name: '{}'", device.name));
    }
    if (!names.insert(device.name).second) {
      return Broken(fmt::format("two devices have one name: {}", device.name));
    }
    if (device.edits.empty()) {
      return Broken(fmt::format("a device brings nothing: {}", device.name));
    }
    RETURN_IF_ERROR(CheckAnnotations(device.annotations));
    RETURN_IF_ERROR(CheckEdits(device.edits));
  }
  return {};
}

}  // namespace sublet
