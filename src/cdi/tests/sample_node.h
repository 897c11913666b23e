// cdi/tests/sample_node.h
//
// A node of two GPUs, as an inventory tells of it: the second has MIG devices.
#pragma once

#include "model/inventory.h"

namespace sublet {

inline Inventory SampleNode() {
  Inventory node;
  node.host.kernel = "6.1.0-18-amd64";
  node.driver.version = "580.159.04";
  node.gpus.resize(2);
  node.gpus[0].index = 0;
  node.gpus[0].uuid = "GPU-aaaa";
  node.gpus[0].minor_number = 0;
  node.gpus[0].pci_bus_id = "00000000:1B:00.0";
  Gpu& parted = node.gpus[1];
  parted.index = 1;
  parted.uuid = "GPU-bbbb";
  parted.minor_number = 3;
  parted.pci_bus_id = "00000000:3B:00.0";
  parted.mig_capable = true;
  parted.mig_enabled = true;
  // In the order of their places, which is not that of their ids.
  parted.instances.resize(2);
  parted.instances[0].id = 9;
  parted.instances[1].id = 2;
  parted.instances[0].compute_instances = {
      {.id = 0, .profile_id = 0, .placement = {0, 1}, .uuid = "MIG-small"}};
  parted.instances[1].compute_instances = {
      {.id = 0, .profile_id = 0, .placement = {0, 1}, .uuid = "MIG-first"},
      {.id = 1, .profile_id = 0, .placement = {1, 1}, .uuid = ""},
      {.id = 2, .profile_id = 0, .placement = {2, 1}, .uuid = "MIG-third"}};
  return node;
}

}  // namespace sublet
