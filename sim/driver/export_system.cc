// NVML's functions about the library and the system.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/files.h"
#include "driver.h"

namespace sublet::sim {

using namespace nvml;

SIM_EXPORT Return nvmlInit_v2() {
  try {
    if (const Return code = Initialise(); code != kSuccess) return code;
  } catch (const std::exception&) {
    return kUnknown;
  }
  const Return code = Call(__func__, [](Driver&) { return kSuccess; });
  if (code != kSuccess) static_cast<void>(ShutDown());
  return code;
}

SIM_EXPORT Return nvmlInit() {
  return nvmlInit_v2();
}

SIM_EXPORT Return nvmlInitWithFlags(unsigned) {
  return nvmlInit_v2();
}

SIM_EXPORT Return nvmlShutdown() {
  try {
    return ShutDown();
  } catch (const std::exception&) {
    return kUnknown;
  }
}

// The words that NVML's users know from other programs' output.
SIM_EXPORT const char* nvmlErrorString(Return code) {
  struct Row {
    Return code;
    const char* text;
  };
  static constexpr std::array<Row, 30> kRows{{
      {kSuccess, "Success"},
      {kUninitialized, "Uninitialized"},
      {kInvalidArgument, "Invalid Argument"},
      {kNotSupported, "Not Supported"},
      {kNoPermission, "Insufficient Permissions"},
      {kAlreadyInitialized, "Already Initialized"},
      {kNotFound, "Not Found"},
      {kInsufficientSize, "Insufficient Size"},
      {kInsufficientPower, "Insufficient External Power"},
      {kDriverNotLoaded, "Driver Not Loaded"},
      {kTimeout, "Timeout"},
      {kIrqIssue, "Interrupt Request Issue"},
      {kLibraryNotFound, "NVML Shared Library Not Found"},
      {kFunctionNotFound, "Function Not Found"},
      {kCorruptedInforom, "Corrupted infoROM"},
      {kGpuIsLost, "GPU is lost"},
      {kResetRequired, "GPU requires reset"},
      {kOperatingSystem, "GPU access blocked by the operating system"},
      {kLibRmVersionMismatch, "Driver/library version mismatch"},
      {kInUse, "In use by another client"},
      {kMemory, "Insufficient Memory"},
      {kNoData, "No data"},
      {kInsufficientResources, "Insufficient Resources"},
      {kFreqNotSupported, "Frequency Not Supported"},
      {kArgumentVersionMismatch, "Argument Version Mismatch"},
      {kDeprecated, "Deprecated"},
      {kNotReady, "Not Ready"},
      {kGpuNotFound, "GPU Not Found"},
      {kInvalidState, "Invalid State"},
      {kResetTypeNotSupported, "Reset Type Not Supported"},
  }};
  const auto row = std::ranges::find(kRows, code, &Row::code);
  return row == kRows.end() ? "Unknown Error" : row->text;
}

SIM_EXPORT Return nvmlSystemGetDriverVersion(char* version, unsigned length) {
  return Call(__func__, [&](Driver& driver) {
    return PutText(driver.node().driver_version, version, length);
  });
}

SIM_EXPORT Return nvmlSystemGetNVMLVersion(char* version, unsigned length) {
  return Call(__func__, [&](Driver& driver) {
    return PutText(
        fmt::format("{}.{}", driver.node().cuda_version / 1000, driver.node().driver_version),
        version, length);
  });
}

SIM_EXPORT Return nvmlSystemGetCudaDriverVersion_v2(int* version) {
  return Call(__func__, [&](Driver& driver) { return Put(driver.node().cuda_version, version); });
}

SIM_EXPORT Return nvmlSystemGetCudaDriverVersion(int* version) {
  return nvmlSystemGetCudaDriverVersion_v2(version);
}

SIM_EXPORT Return nvmlSystemGetProcessName(unsigned pid, char* name, unsigned length) {
  return Call(__func__, [&](Driver&) {
    if (name == nullptr || length == 0) return kInvalidArgument;
    constexpr std::size_t kCommandBytesMax = 1 << 20;
    const Result<std::string> command =
        ReadFile(fmt::format("/proc/{}/cmdline", pid), kCommandBytesMax);
    if (!command) return kNotFound;
    const std::string_view program(command->c_str());  // Up to the first zero.
    return PutText(program.substr(0, length - 1), name, length);
  });
}

}  // namespace sublet::sim
