// model/device_plugin_words.h
//
// The texts that stand in a device plugin's configuration file, its options and its variables
// alike; include model/device_plugin_config.h instead.
//
// Thread safety: pure functions.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/device_plugin_config.h"

namespace sublet::internal {

// "envvar", or several with ',' between them. The error has a message without a place.
Result<std::vector<DeviceListStrategy>> ParseDeviceListStrategies(std::string_view text);

// As Go's time.ParseDuration reads it, "1h30m", "1.5s", "0"; or "infinite": max(). nullopt where it
// is none, or negative.
std::optional<std::chrono::nanoseconds> ParseGoDuration(std::string_view text);

// "[1 2]": a list as NVIDIA's messages print it. Fails where it is neither empty nor 0 alone.
Status CheckImexChannels(const std::vector<int>& channel_ids);

template <typename Enum>
std::optional<Enum> FindWord(const EnumWords<Enum>& words, std::string_view text) {
  for (const auto& [name, value] : words) {
    if (name == text) return value;
  }
  return std::nullopt;
}

}  // namespace sublet::internal
