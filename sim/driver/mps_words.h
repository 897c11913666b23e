// sim/driver/mps_words.h
//
// The texts that MPS reads and writes: limits in variables and commands.
//
// Thread safety: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace sublet::sim {

// "600M", "2G", "1024K": binary units, and MiB without one. Empty for anything else.
std::optional<Bytes> ParseMpsLimit(std::string_view text);
// As the control daemon tells a limit: whole GiB from one up, else MiB.
std::string FormatMpsLimit(Bytes limit);

// "25" or "12.5": more than 0, at most 100.
std::optional<double> ParsePercent(std::string_view text);

struct MpsDeviceLimit {
  std::string device;  // A number, or a UUID or its beginning.
  Bytes limit;
};
// CUDA_MPS_PINNED_DEVICE_MEM_LIMIT: "0=600M,GPU-10fca55d=1G". Empty where one part is wrong.
std::optional<std::vector<MpsDeviceLimit>> ParseDeviceLimits(std::string_view text);

// Separated by blanks.
std::vector<std::string> Words(std::string_view line);

}  // namespace sublet::sim
