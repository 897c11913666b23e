// inventory/nvml_library.h
//
// NVML, found and loaded at run time.
//
// The library comes with the driver, so a program that were linked to it would not start on a
// machine without one; and naming another path is how the simulated driver takes its place.
//
//   ASSIGN_OR_RETURN(NvmlLibrary nvml, NvmlLibrary::Open(FindNvml(flag, env)));
//   unsigned count = 0;
//   RETURN_IF_ERROR(FromNvml(nvml.api().device_count(&count), "counting GPUs"));
//
// Open() calls nvmlInit; the destructor calls nvmlShutdown and closes the library.
//
// Thread safety: constant after construction. NVML itself is thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "inventory/nvml_api.h"

namespace sublet {

namespace nvml {

// The functions by short name; an optional one that the library doesn't export is nullptr.
struct Api {
#define SUBLET_NVML_MEMBER(member, name, parameters) Return(*member) parameters = nullptr;
  SUBLET_NVML_REQUIRED(SUBLET_NVML_MEMBER)
  SUBLET_NVML_OPTIONAL(SUBLET_NVML_MEMBER)
#undef SUBLET_NVML_MEMBER
};

// "NVML_ERROR_IN_USE" without the prefix and in words: "in use".
std::string_view ReturnName(Return code);

}  // namespace nvml

// A success as ok; anything else as an Error whose message is "what: name (code)" and whose hint
// says what usually helps.
Status FromNvml(nvml::Return code, std::string_view what);

// The GPU of that UUID; kNotFound where there is none.
Result<nvml::Device> FindDevice(const nvml::Api& api, const std::string& uuid);

// Reads an environment variable; absent where it isn't set or is empty.
using Environment = std::function<std::optional<std::string>(const char* name)>;

// The library to load: `flag` if given, else SUBLET_NVML, else, when SUBLET_SIM is set, the
// simulated driver at `program_folder`/../lib/sublet-sim, else the driver's own.
std::string FindNvml(std::string_view flag, const Environment& environment,
                     std::string_view program_folder);

class NvmlLibrary {
 public:
  // Fails with kUnavailable where there is no library, driver or GPU device file, with kUnsupported
  // where a required function is missing, with kPermission where the driver refuses.
  static Result<NvmlLibrary> Open(const std::string& path);

  NvmlLibrary(NvmlLibrary&& other) noexcept;
  NvmlLibrary& operator=(NvmlLibrary&& other) noexcept;
  NvmlLibrary(const NvmlLibrary&) = delete;
  NvmlLibrary& operator=(const NvmlLibrary&) = delete;
  ~NvmlLibrary();

  const nvml::Api& api() const { return api_; }
  bool Exports(const char* name) const;

 private:
  explicit NvmlLibrary(void* handle) : handle_(handle) {}
  Status Load(const std::string& path);
  void Close();

  void* handle_;              // Of dlopen; nullptr after a move.
  bool initialised_ = false;  // nvmlInit succeeded.
  nvml::Api api_;
};

}  // namespace sublet
