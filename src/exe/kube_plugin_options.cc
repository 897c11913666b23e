#include "exe/kube_plugin_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/files.h"

namespace sublet {
namespace {

constexpr std::size_t kConfigBytesMax = 16u << 20;

// With the variables that there are now.
DevicePluginSources WithVariables(const DevicePluginSources& given) {
  DevicePluginSources sources = given;
  for (const PluginOption& option : PluginOptions(sources.program)) {
    for (const std::string_view name : option.variables) {
      const char* const value = std::getenv(std::string(name).c_str());
      if (value != nullptr) sources.environment[std::string(name)] = value;
    }
  }
  return sources;
}

}  // namespace

void AddPluginOptions(CLI::App& verb, PluginProgram program, DevicePluginSources& sources) {
  sources.program = program;
  for (const PluginOption& option : PluginOptions(program)) {
    if (option.names.empty()) continue;
    std::string names;
    for (const std::string_view name : option.names) {
      names += fmt::format("{}--{}", names.empty() ? "" : ",", name);
    }
    const auto take = [&sources,
                       name = std::string(option.names[0])](const CLI::results_t& values) {
      for (const std::string& value : values) sources.flags.emplace_back(name, value);
      return true;
    };
    std::string help(option.help);
    if (!option.variables.empty()) help += fmt::format(" (also {})", option.variables[0]);
    CLI::Option* const flag = verb.add_option(names, take, help);
    flag->type_name(option.flag ? "BOOL" : "VALUE");
    // Given twice, the last one counts, as in NVIDIA's programs.
    flag->multi_option_policy(option.list ? CLI::MultiOptionPolicy::TakeAll
                                          : CLI::MultiOptionPolicy::TakeLast);
    if (option.flag) flag->expected(0, 1);
    if (option.list) flag->expected(1, -1);
  }
}

Result<DevicePluginConfig> ResolvePluginOptions(const DevicePluginSources& given,
                                                const std::string& file) {
  DevicePluginSources sources = WithVariables(given);
  sources.file_name = file.empty() ? ConfigFileOf(sources) : file;
  if (!sources.file_name.empty()) {
    ASSIGN_OR_RETURN(sources.file, ReadFile(sources.file_name, kConfigBytesMax));
  }
  return ResolveDevicePluginConfig(sources);
}

bool WasGiven(const DevicePluginSources& given, std::string_view name) {
  const DevicePluginSources sources = WithVariables(given);
  const auto by_flag = std::ranges::find(
      sources.flags, name, [](const auto& flag) { return std::string_view(flag.first); });
  if (by_flag != sources.flags.end()) return true;
  for (const PluginOption& option : PluginOptions(sources.program)) {
    if (option.names.empty() || option.names[0] != name) continue;
    return std::ranges::any_of(option.variables, [&](std::string_view variable) {
      const auto found = sources.environment.find(std::string(variable));
      return found != sources.environment.end() && !found->second.empty();
    });
  }
  return false;
}

}  // namespace sublet
