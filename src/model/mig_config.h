// model/mig_config.h
//
// The file of NVIDIA's MIG partition editor, mig-parted, as its config v1 defines it: for each
// label a list of entries that say which GPUs get which MIG devices. docs/formats/mig-parted.md.
//
//   version: v1
//   mig-configs:
//     two-sizes:
//       - device-filter: ["0x20B210DE"]
//         devices: [0, 1]
//         mig-enabled: true
//         mig-devices: {1g.10gb: 4, 3g.40gb: 1}
//
//   ASSIGN_OR_RETURN(MigConfig config, ParseMigConfig(text, "mig.yaml"));
//   ASSIGN_OR_RETURN(const MigConfigLabel* label, config.Find("two-sizes"));
//
// Profile names are kept as text: what they mean depends on the board (model/board.h).
//
// Thread safety: values; nothing is shared.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet {

inline constexpr std::string_view kMigConfigVersion = "v1";

// A PCI device, both ids packed as NVML packs them: 0x20B210DE is device 20B2 of vendor 10DE.
struct MigDeviceFilter {
  std::uint32_t pci_device_id = 0;
  std::optional<std::uint32_t> pci_subsystem_id;

  friend bool operator==(const MigDeviceFilter&, const MigDeviceFilter&) = default;
};

struct MigConfigEntry {
  std::vector<MigDeviceFilter> device_filter;  // Any of these; empty: every board.
  std::optional<std::vector<int>> devices;     // GPU indices; absent: all.
  bool mig_enabled = false;
  std::map<std::string, int> mig_devices;  // Profile name → how many on each GPU.

  // Whether the entry is meant for this GPU. `pci_device_id` and `pci_subsystem_id` packed, as NVML
  // gives them. A filter without a subsystem takes every subsystem.
  bool Matches(int index, std::uint32_t pci_device_id, std::uint32_t pci_subsystem_id) const;

  friend bool operator==(const MigConfigEntry&, const MigConfigEntry&) = default;
};

struct MigConfigLabel {
  std::string name;
  std::vector<MigConfigEntry> entries;

  friend bool operator==(const MigConfigLabel&, const MigConfigLabel&) = default;
};

struct MigConfig {
  std::vector<MigConfigLabel> labels;  // In the order of the file.

  // Fails with kNotFound and proposes the closest label.
  Result<const MigConfigLabel*> Find(std::string_view label) const;

  friend bool operator==(const MigConfig&, const MigConfig&) = default;
};

// A profile name taken apart: "[Cc.]Gg.Ngb" and attributes, "+me,gfx" or "-me".
struct MigProfileName {
  int compute_instance_slices = 0;  // C, G where it isn't given: the whole GPU instance.
  int gpu_instance_slices = 0;      // G
  std::string gpu_instance;         // The name without "Cc.": "3g.40gb+me".
};

// Fails with kInvalid where `name` is no MIG profile name, or C is more than G.
Result<MigProfileName> ParseMigProfileName(std::string_view name);

// Strict, as mig-parted is: unknown fields, another version, a missing `devices` or `mig-enabled`,
// MIG devices with MIG disabled or none given with it enabled, negative counts, and counts that are
// all 0 fail with kInvalid.
Result<MigConfig> ParseMigConfig(std::string_view text, std::string_view source);

// The file's text; ParseMigConfig() reads it back to the same value.
std::string MigConfigToYaml(const MigConfig& config);

}  // namespace sublet
