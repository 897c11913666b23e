// NVML's functions about connections between GPUs.
#include <algorithm>

#include "driver.h"

namespace sublet::sim {

using namespace nvml;

namespace {

const GpuLink* FindLink(const SimNode& node, int a, int b) {
  const auto found = std::ranges::find_if(node.links, [&](const GpuLink& link) {
    return link.a == std::min(a, b) && link.b == std::max(a, b);
  });
  return found == node.links.end() ? nullptr : &*found;
}

// Calls `body` with the link between two GPUs, nullptr for one GPU with itself.
template <typename Body>
Return CallOnPair(const char* function, Device a, Device b, const Body& body) noexcept {
  return Call(function, [&](Driver& driver) {
    Target first;
    Target second;
    if (const Return code = driver.ResolveGpu(a, first); code != kSuccess) return code;
    if (const Return code = driver.ResolveGpu(b, second); code != kSuccess) return code;
    if (first.gpu == second.gpu) return body(nullptr);
    const GpuLink* link = FindLink(driver.node(), first.gpu, second.gpu);
    return link == nullptr ? kNotSupported : body(link);
  });
}

unsigned Level(PciPath path) {
  switch (path) {
    case PciPath::kSameBoard:
      return kTopologyInternal;
    case PciPath::kOneSwitch:
      return kTopologySingle;
    case PciPath::kSwitches:
      return kTopologyMultiple;
    case PciPath::kHostBridge:
      return kTopologyHostBridge;
    case PciPath::kNumaNode:
      return kTopologyNode;
    case PciPath::kSystem:
      break;
  }
  return kTopologySystem;
}

// What one NVLink of a GPU leads to: -1 a switch, otherwise a GPU. The GPU's links are numbered
// through, those to the switch first, then those to other GPUs in their order.
bool RemoteOf(const SimNode& node, int gpu, unsigned number, int& remote) {
  auto left = static_cast<int>(number) - node.gpus[static_cast<std::size_t>(gpu)].nvswitch_links;
  if (left < 0) {
    remote = -1;
    return true;
  }
  for (const GpuLink& link : node.links) {
    if (link.nvswitch || (link.a != gpu && link.b != gpu)) continue;
    left -= link.nvlinks.value_or(0);
    if (left < 0) {
      remote = link.a == gpu ? link.b : link.a;
      return true;
    }
  }
  return false;
}

// Calls `body` with the other end of an active link.
template <typename Body>
Return CallOnNvLink(const char* function, Device device, unsigned link, const Body& body) noexcept {
  return CallOnGpu(function, device, [&](Driver& driver, const Target& target) {
    if (link >= kNvLinkMaxLinks) return kInvalidArgument;
    int remote = 0;
    if (!RemoteOf(driver.node(), target.gpu, link, remote)) return kNotSupported;
    return body(driver, remote);
  });
}

}  // namespace

SIM_EXPORT Return nvmlDeviceGetTopologyCommonAncestor(Device a, Device b, unsigned* level) {
  return CallOnPair(__func__, a, b, [&](const GpuLink* link) {
    if (link == nullptr) return Put(kTopologyInternal, level);
    return link->pci_path ? Put(Level(*link->pci_path), level) : kNotSupported;
  });
}

SIM_EXPORT Return nvmlDeviceGetP2PStatus(Device a, Device b, unsigned capability,
                                         unsigned* status) {
  return CallOnPair(__func__, a, b, [&](const GpuLink* link) {
    if (link == nullptr || capability > 5) return kInvalidArgument;
    const bool nvlink = link->nvlinks.value_or(0) > 0;
    const bool able = capability == kP2pCapsNvLink ? nvlink : link->p2p.value_or(false);
    return Put(able ? kP2pStatusOk : kP2pStatusNotSupported, status);
  });
}

SIM_EXPORT Return nvmlDeviceOnSameBoard(Device a, Device b, int* same) {
  return CallOnPair(__func__, a, b, [&](const GpuLink* link) {
    return Put(link == nullptr || link->pci_path == PciPath::kSameBoard ? 1 : 0, same);
  });
}

SIM_EXPORT Return nvmlDeviceGetNvLinkState(Device device, unsigned link, unsigned* active) {
  return CallOnGpu(__func__, device, [&](Driver& driver, const Target& target) {
    if (link >= kNvLinkMaxLinks) return kInvalidArgument;
    int remote = 0;
    if (!RemoteOf(driver.node(), target.gpu, 0, remote)) return kNotSupported;  // No NVLink at all.
    const bool there = RemoteOf(driver.node(), target.gpu, link, remote);
    return Put(there ? kFeatureEnabled : kFeatureDisabled, active);
  });
}

SIM_EXPORT Return nvmlDeviceGetNvLinkRemoteDeviceType(Device device, unsigned link,
                                                      unsigned* type) {
  return CallOnNvLink(__func__, device, link, [&](Driver&, int remote) {
    return Put(remote < 0 ? kNvLinkDeviceSwitch : kNvLinkDeviceGpu, type);
  });
}

SIM_EXPORT Return nvmlDeviceGetNvLinkRemotePciInfo_v2(Device device, unsigned link, PciInfo* info) {
  return CallOnNvLink(__func__, device, link, [&](Driver& driver, int remote) {
    if (info == nullptr) return kInvalidArgument;
    if (remote < 0) return kNotSupported;  // The simulated switch is on no PCI bus.
    const Gpu& facts = driver.node().gpus[static_cast<std::size_t>(remote)].facts;
    *info = {};
    info->pci_device_id = facts.pci_device_id;
    return PutText(facts.pci_bus_id, info->bus_id, sizeof info->bus_id);
  });
}

}  // namespace sublet::sim
