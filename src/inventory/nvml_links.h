// inventory/nvml_links.h
//
// How each pair of GPUs is connected. Internal to the module: nvml_source.cc calls it.
#pragma once

#include <vector>

#include "inventory/nvml_library.h"
#include "model/inventory.h"

namespace sublet {

// `devices` and `gpus` are parallel; a GPU with a problem has nullptr there and gets no links.
std::vector<GpuLink> ReadLinks(const nvml::Api& api, const std::vector<nvml::Device>& devices,
                               const std::vector<Gpu>& gpus);

}  // namespace sublet
