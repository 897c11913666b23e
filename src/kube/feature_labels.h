// kube/feature_labels.h
//
// The labels by which Kubernetes knows a node's GPUs: those of NVIDIA's gpu-feature-discovery, name
// for name and value for value, so that selectors written for it go on working.
//
//   FeatureFacts facts{.machine_type = "PowerEdge XE9680", .started_s = 1790000000};
//   const FeatureLabels found = MakeFeatureLabels(inventory, config, facts);
//   found.labels.at("nvidia.com/gpu.product")     // "NVIDIA-H200-SHARED"
//
// The rules (docs/operating/kubernetes-labels.md has the list of labels):
//  - nvidia.com/gpu.* are about whole GPUs. Under MIG strategy single they are about the node's one
//    kind of MIG device, or say INVALID; under mixed there are nvidia.com/mig-<profile>.* besides.
//  - `replicas` and the ending -SHARED are those of the first rule for the resource in the section
//    that counts, sharing.mps before sharing.timeSlicing. A rule that renames takes the ending
//    away.
//  - A GPU in MIG mode, seen as a whole GPU, has replicas 0.
//
// Where a node has GPUs of several models, gpu-feature-discovery labels one by chance; here it is
// the one with the lowest index, GPUs outside MIG mode before those in it, and a warning says so.
// Where gpu-feature-discovery gives up (MPS beside a GPU in MIG mode, a driver whose version it
// can't read), the labels concerned are left out or false, with a warning.
//
// Every value is a legal label's: at most 63 of [-A-Za-z0-9_.], letters or digits at both ends.
//
// Thread safety: pure functions of values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/device_plugin_config.h"
#include "model/inventory.h"

namespace sublet {

// By name, "nvidia.com/gpu.count".
using NodeLabels = std::map<std::string, std::string>;

inline constexpr std::size_t kLabelValueMax = 63;  // Of Kubernetes.

// The hypervisor's driver, as a guest with a vGPU finds it written in the device.
struct VgpuHost {
  std::string driver_version;  // "580.159.04"
  std::string driver_branch;   // "r580_00"

  friend bool operator==(const VgpuHost&, const VgpuHost&) = default;
};

// What the labels need beside the driver's report (kube/feature_facts.h finds it).
struct FeatureFacts {
  std::string machine_type = {};              // As the firmware has it; empty: unknown.
  std::vector<std::string> pci_classes = {};  // Of the GPUs, by index: "0x030200"; empty: unknown.
  std::vector<VgpuHost> vgpus = {};
  std::optional<std::int64_t> started_s =
      {};  // Unix time for gfd.timestamp; absent: no such label.
};

struct FeatureLabels {
  NodeLabels labels;
  std::vector<std::string> warnings;  // In sentences.
};

FeatureLabels MakeFeatureLabels(const Inventory& inventory, const DevicePluginConfig& config,
                                const FeatureFacts& facts);

// "NVIDIA H200 (SXM)" → "NVIDIA-H200-SXM": what isn't of [-A-Za-z0-9_. ] is dropped, blanks become
// dashes; then it is cut to a legal label value.
std::string LabelValue(std::string_view text);
bool IsLabelValue(std::string_view text);

}  // namespace sublet
