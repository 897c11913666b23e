// cdi/spec.h
//
// The Container Device Interface as values: what a container runtime does to a container that asks
// for a device by its name.
//
//   CdiSpec spec{.vendor = "k8s.device-plugin.nvidia.com", .class_name = "gpu"};
//   spec.devices.push_back({.name = "0", .edits = {.device_nodes = {{.path = "/dev/nvidia0"}}}});
//   spec.version = CdiVersionNeeded(spec);            // cdi/spec_check.h
//   RETURN_IF_ERROR(CheckCdiSpec(spec));
//   CdiSpecText(spec)                                 // The file in /var/run/cdi.
//
// The fields are those of CDI 0.6 (cncf-tags/container-device-interface, SPEC.md), under its
// meaning. docs/formats/cdi.md says which of them Sublet writes, and why.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sublet {

struct CdiDeviceNode {
  std::string path = {};       // In the container.
  std::string host_path = {};  // As the container runtime sees it; empty: as `path`.
  std::string type = {};       // "c", "b", "u", "p"; empty: as the node of the host is.
  // Absent: the runtime takes those that the node has when the container starts.
  std::optional<std::int64_t> major = {};
  std::optional<std::int64_t> minor = {};
  std::optional<std::uint32_t> file_mode = {};
  std::string permissions = {};  // For the device cgroup, of "rwm"; empty: all three.
  std::optional<std::uint32_t> uid = {};
  std::optional<std::uint32_t> gid = {};

  friend bool operator==(const CdiDeviceNode&, const CdiDeviceNode&) = default;
};

struct CdiMount {
  std::string host_path = {};  // As the container runtime sees it.
  std::string container_path = {};
  std::string type = {};  // Of the file system; empty for a bind mount.
  std::vector<std::string> options = {};

  friend bool operator==(const CdiMount&, const CdiMount&) = default;
};

// A program that the runtime runs as root while it makes the container.
struct CdiHook {
  std::string hook_name = {};  // "createContainer", ...
  std::string path = {};       // Absolute, as the container runtime sees it.
  std::vector<std::string> args = {};
  std::vector<std::string> env = {};  // "NAME=value"
  std::optional<int> timeout_s = {};

  friend bool operator==(const CdiHook&, const CdiHook&) = default;
};

struct CdiEdits {
  std::vector<std::string> env = {};  // "NAME=value"; over the image's own.
  std::vector<CdiDeviceNode> device_nodes = {};
  std::vector<CdiMount> mounts = {};
  std::vector<CdiHook> hooks = {};

  bool empty() const {
    return env.empty() && device_nodes.empty() && mounts.empty() && hooks.empty();
  }
  friend bool operator==(const CdiEdits&, const CdiEdits&) = default;
};

struct CdiDevice {
  std::string name = {};
  std::map<std::string, std::string> annotations = {};
  CdiEdits edits = {};  // For a container that asks for this device.

  friend bool operator==(const CdiDevice&, const CdiDevice&) = default;
};

struct CdiSpec {
  std::string version = {};  // "0.5.0"
  std::string vendor = {};
  std::string class_name = {};
  std::map<std::string, std::string> annotations = {};
  std::vector<CdiDevice> devices = {};
  CdiEdits edits = {};  // For a container that asks for any of the devices.

  std::string kind() const { return vendor + "/" + class_name; }
  friend bool operator==(const CdiSpec&, const CdiSpec&) = default;
};

// "k8s.device-plugin.nvidia.com/gpu=0": what a runtime is asked for.
std::string QualifiedCdiName(std::string_view vendor, std::string_view class_name,
                             std::string_view device);

// What is empty or absent is left out, as the schema has it.
nlohmann::ordered_json CdiSpecToJson(const CdiSpec& spec);

// The whole file. REQUIRES: CheckCdiSpec(spec) holds.
std::string CdiSpecText(const CdiSpec& spec);

}  // namespace sublet
