// inventory/nvml_mig.h
//
// The MIG part of a GPU's description: profiles on offer, instances that exist. nvml_source.cc
// fills an Inventory with it; who changes MIG reads back with it. What the driver doesn't tell is
// absent.
#pragma once

#include "inventory/nvml_library.h"
#include "model/inventory.h"

namespace sublet {

// Fills mig_*, profiles and instances of `gpu`. The driver tells profiles also with MIG mode off.
// It tells GPU instances only to root; others see what the MIG devices show, without placements.
void ReadMig(const nvml::Api& api, nvml::Device device, Gpu& gpu);

}  // namespace sublet
