// kube/feature_facts.h
//
// What node labels tell beside the driver's report, read from the firmware's and the PCI bus's
// files.
//
//   FactPlaces places{.machine_type_file = config.gfd.machine_type_file};
//   const FeatureFacts facts = FindFeatureFacts(inventory, places);
//
// A file that isn't there is a fact that isn't known: nothing here fails.
//
// Thread safety: no shared state.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kube/feature_labels.h"
#include "model/inventory.h"

namespace sublet {

struct FactPlaces {
  std::string machine_type_file = "/sys/class/dmi/id/product_name";  // Empty: unknown.
  std::string pci_devices = "/sys/bus/pci/devices";
};

// All but FeatureFacts::started_s.
FeatureFacts FindFeatureFacts(const Inventory& inventory, const FactPlaces& places);

// The vendor-specific capability of a PCI device that is a vGPU has, behind the signature "VF",
// records of a type byte, a length byte and data; that of type 0 holds ten bytes of the host
// driver's version and ten of its branch. Absent where `config_space` isn't that of a vGPU.
std::optional<VgpuHost> VgpuHostIn(std::string_view config_space);

}  // namespace sublet
