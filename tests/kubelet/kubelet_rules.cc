#include "kubelet/kubelet_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>

namespace sublet::kubelet {
namespace {

constexpr std::size_t kNameMax = 63;
constexpr std::size_t kDomainMax = 253;

bool IsAlphanumeric(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0;
}

// RFC 1123, as Kubernetes has it.
bool IsDomain(std::string_view domain) {
  if (domain.empty() || domain.size() > kDomainMax) return false;
  while (!domain.empty()) {
    const std::string_view label = domain.substr(0, domain.find('.'));
    const bool edges = !label.empty() && label.front() != '-' && label.back() != '-';
    const bool letters = std::ranges::all_of(label, [](char c) {
      return c == '-' || (IsAlphanumeric(c) && std::isupper(static_cast<unsigned char>(c)) == 0);
    });
    if (!edges || !letters) return false;
    if (label.size() == domain.size()) return true;
    domain.remove_prefix(label.size() + 1);
  }
  return false;
}

bool IsName(std::string_view name) {
  if (name.empty() || name.size() > kNameMax) return false;
  if (!IsAlphanumeric(name.front()) || !IsAlphanumeric(name.back())) return false;
  return std::ranges::all_of(
      name, [](char c) { return IsAlphanumeric(c) || c == '-' || c == '_' || c == '.'; });
}

// "vendor.com/class=name"
bool IsCdiName(std::string_view name) {
  const std::size_t slash = name.find('/');
  const std::size_t equals = name.find('=');
  if (slash == std::string_view::npos || equals == std::string_view::npos || equals < slash) {
    return false;
  }
  const std::string_view device = name.substr(equals + 1);
  return IsDomain(name.substr(0, slash)) && IsName(name.substr(slash + 1, equals - slash - 1)) &&
         !device.empty() && std::ranges::all_of(device, [](char c) {
           return IsAlphanumeric(c) || c == '-' || c == '_' || c == '.' || c == ':';
         });
}

std::string FaultOfPaths(const v1beta1::ContainerAllocateResponse& grant) {
  std::set<std::string> targets;
  const auto check = [&](const std::string& target, const std::string& source) -> std::string {
    if (!target.starts_with('/')) return fmt::format("not an absolute path: {}", target);
    if (!source.starts_with('/')) return fmt::format("not an absolute path: {}", source);
    if (!targets.insert(target).second) return fmt::format("twice in the container: {}", target);
    return "";
  };
  for (const v1beta1::Mount& mount : grant.mounts()) {
    if (std::string fault = check(mount.container_path(), mount.host_path()); !fault.empty()) {
      return fault;
    }
  }
  for (const v1beta1::DeviceSpec& device : grant.devices()) {
    if (std::string fault = check(device.container_path(), device.host_path()); !fault.empty()) {
      return fault;
    }
    const std::string& permissions = device.permissions();
    if (permissions.empty() || permissions.find_first_not_of("rwm") != std::string::npos) {
      return fmt::format("no permissions of a device: \"{}\"", permissions);
    }
  }
  return "";
}

}  // namespace

std::string FaultOfQualifiedName(std::string_view name) {
  const std::size_t slash = name.find('/');
  const bool fine = slash == std::string_view::npos
                        ? IsName(name)
                        : IsDomain(name.substr(0, slash)) && IsName(name.substr(slash + 1));
  return fine ? "" : fmt::format("no qualified name: {}", name);
}

std::string FaultOfResourceName(std::string_view name) {
  const std::string_view domain = name.substr(0, name.find('/'));
  const bool native = domain.size() == name.size() || domain == "kubernetes.io" ||
                      domain.ends_with(".kubernetes.io") || name.starts_with("requests.");
  if (native || !FaultOfQualifiedName(name).empty() ||
      !FaultOfQualifiedName(fmt::format("requests.{}", name)).empty()) {
    return fmt::format("the ResourceName \"{}\" is invalid", name);
  }
  return "";
}

std::string FaultOfGrant(const v1beta1::ContainerAllocateResponse& grant) {
  if (std::string fault = FaultOfPaths(grant); !fault.empty()) return fault;
  for (const auto& [name, value] : grant.envs()) {
    if (name.empty() || name.find('=') != std::string::npos) {
      return fmt::format("no name of a variable: {}", name);
    }
  }
  for (const auto& [name, value] : grant.annotations()) {
    if (std::string fault = FaultOfQualifiedName(name); !fault.empty()) return fault;
  }
  std::set<std::string> cdi;
  for (const v1beta1::CDIDevice& device : grant.cdi_devices()) {
    if (!IsCdiName(device.name())) return fmt::format("no CDI device: {}", device.name());
    if (!cdi.insert(device.name()).second) return fmt::format("twice: {}", device.name());
  }
  return "";
}

std::string FaultOfList(const v1beta1::ListAndWatchResponse& list) {
  std::set<std::string> ids;
  for (const v1beta1::Device& device : list.devices()) {
    if (device.id().empty()) return "a device without an id";
    if (!ids.insert(device.id()).second) return fmt::format("listed twice: {}", device.id());
    if (device.health() != "Healthy" && device.health() != "Unhealthy") {
      return fmt::format("no health: {}", device.health());
    }
  }
  return "";
}

}  // namespace sublet::kubelet
