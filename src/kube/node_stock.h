// kube/node_stock.h
//
// Everything that a device plugin has to know of its node: the GPUs as the driver reports them, the
// resources that they make under a configuration, and the MPS servers that those need.
//
//   ASSIGN_OR_RETURN(const NodeStock stock, TakeNodeStock(source, config));     // Blocks.
//   for (const AdvertisedResource& resource : stock.advertised.resources) ...
//   pool->Want(MpsWantsOf(stock.advertised, *stock.inventory, *config));
//
// Thread safety: no shared state.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "kube/mps_pool.h"
#include "kube/plugin_resources.h"
#include "model/device_plugin_config.h"
#include "model/inventory.h"

namespace sublet {

struct StockSource {
  std::string nvml;        // What NvmlLibrary::Open takes.
  std::string cdi_folder;  // Where CDI specifications go, if a strategy needs them.
  // The simulated node, and the folder of its driver; empty with a real one.
  std::string simulation = {};
  double patience_s = 60;  // With a driver that hangs.
};

struct NodeStock {
  std::shared_ptr<const Inventory> inventory;
  AdvertisedNode advertised;
  std::set<std::string, std::less<>> present_nodes;  // Optional device nodes that are there.
  std::vector<std::string> notes;                    // For the log.
};

// Also writes the CDI specifications, where a strategy needs them. Fails as TakeInventory(),
// AdvertiseNode(), DescribeNode() and WriteCdiSpecs() do, as a plan is read, and with kInfeasible
// where a resource's list is longer than kubelet takes.
Result<NodeStock> TakeNodeStock(const StockSource& source, const DevicePluginConfig& config);

// One for each device that is shared by MPS, by UUID. A server's default must let the largest
// container in: the largest share that one may have of the device.
std::vector<MpsWant> MpsWantsOf(const AdvertisedNode& advertised, const Inventory& inventory,
                                const DevicePluginConfig& config);

}  // namespace sublet
