// exe/kube_plugin_options.h
//
// NVIDIA's options and variables as flags of a verb, and the configuration that they, a file and
// the defaults add up to (model/device_plugin_config.h).
//
//   auto sources = std::make_shared<DevicePluginSources>();
//   AddPluginOptions(*verb, PluginProgram::kFeatureDiscovery, *sources);
//   ...
//   ASSIGN_OR_RETURN(const DevicePluginConfig config, ResolvePluginOptions(*sources));
//
// Variables are read when the configuration is resolved, and so is the file: again and again where
// it may change.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/device_plugin_config.h"

namespace sublet {

// `sources` must live as long as the verb. REQUIRES: no other options of these names.
void AddPluginOptions(CLI::App& verb, PluginProgram program, DevicePluginSources& sources);

// `file`: instead of the one that flags and variables name; empty: that one.
Result<DevicePluginConfig> ResolvePluginOptions(const DevicePluginSources& sources,
                                                const std::string& file = {});

// Whether the option of that name was given, by flag or variable.
bool WasGiven(const DevicePluginSources& sources, std::string_view name);

}  // namespace sublet
