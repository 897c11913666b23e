#include "inventory/nvml_links.h"

#include <algorithm>
#include <string>

namespace sublet {
namespace {

// The ends of one GPU's NVLinks.
struct NvLinks {
  bool known = false;                // The driver told the state of at least one link.
  std::vector<std::string> remotes;  // PCI bus ids of the GPUs at the other ends.
  int to_switch = 0;
};

NvLinks ReadNvLinks(const nvml::Api& api, nvml::Device device) {
  NvLinks links;
  if (api.nvlink_state == nullptr) return links;
  for (unsigned link = 0; link < nvml::kNvLinkMaxLinks; ++link) {
    unsigned state = nvml::kFeatureDisabled;
    if (api.nvlink_state(device, link, &state) != nvml::kSuccess) continue;
    links.known = true;
    if (state != nvml::kFeatureEnabled) continue;
    unsigned type = nvml::kNvLinkDeviceGpu;
    if (api.nvlink_remote_type != nullptr &&
        api.nvlink_remote_type(device, link, &type) == nvml::kSuccess &&
        type == nvml::kNvLinkDeviceSwitch) {
      ++links.to_switch;
      continue;
    }
    nvml::PciInfo remote{};
    if (api.nvlink_remote_pci != nullptr &&
        api.nvlink_remote_pci(device, link, &remote) == nvml::kSuccess) {
      links.remotes.emplace_back(remote.bus_id);
    }
  }
  return links;
}

std::optional<PciPath> ReadPciPath(const nvml::Api& api, nvml::Device a, nvml::Device b) {
  unsigned level = 0;
  if (api.common_ancestor == nullptr || api.common_ancestor(a, b, &level) != nvml::kSuccess) {
    return std::nullopt;
  }
  if (level <= nvml::kTopologyInternal) return PciPath::kSameBoard;
  if (level <= nvml::kTopologySingle) return PciPath::kOneSwitch;
  if (level <= nvml::kTopologyMultiple) return PciPath::kSwitches;
  if (level <= nvml::kTopologyHostBridge) return PciPath::kHostBridge;
  if (level <= nvml::kTopologyNode) return PciPath::kNumaNode;
  return PciPath::kSystem;
}

std::optional<bool> ReadP2p(const nvml::Api& api, nvml::Device a, nvml::Device b) {
  if (api.p2p_status == nullptr) return std::nullopt;
  unsigned read = 0;
  unsigned write = 0;
  if (api.p2p_status(a, b, nvml::kP2pCapsRead, &read) != nvml::kSuccess ||
      api.p2p_status(a, b, nvml::kP2pCapsWrite, &write) != nvml::kSuccess) {
    return std::nullopt;
  }
  return read == nvml::kP2pStatusOk && write == nvml::kP2pStatusOk;
}

}  // namespace

std::vector<GpuLink> ReadLinks(const nvml::Api& api, const std::vector<nvml::Device>& devices,
                               const std::vector<Gpu>& gpus) {
  std::vector<GpuLink> links;
  if (std::ranges::count_if(devices, [](nvml::Device device) { return device != nullptr; }) < 2) {
    return links;
  }
  std::vector<NvLinks> nvlinks;
  for (const nvml::Device device : devices) {
    nvlinks.push_back(device == nullptr ? NvLinks() : ReadNvLinks(api, device));
  }
  for (std::size_t a = 0; a < gpus.size(); ++a) {
    for (std::size_t b = a + 1; b < gpus.size(); ++b) {
      if (devices[a] == nullptr || devices[b] == nullptr) continue;
      GpuLink link;
      link.a = gpus[a].index;
      link.b = gpus[b].index;
      link.pci_path = ReadPciPath(api, devices[a], devices[b]);
      link.p2p = ReadP2p(api, devices[a], devices[b]);
      if (nvlinks[a].known && nvlinks[b].known) {
        const auto direct = std::ranges::count(nvlinks[a].remotes, gpus[b].pci_bus_id);
        const int switched = std::min(nvlinks[a].to_switch, nvlinks[b].to_switch);
        link.nvlinks = static_cast<int>(direct) + switched;
        link.nvswitch = switched > 0;
      }
      links.push_back(link);
    }
  }
  return links;
}

}  // namespace sublet
