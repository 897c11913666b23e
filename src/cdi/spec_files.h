// cdi/spec_files.h
//
// CDI specifications as files in a folder that container runtimes watch.
//
//   ASSIGN_OR_RETURN(auto changes, WriteCdiSpecs("/var/run/cdi", kCdiVendor, specs));
//   ASSIGN_OR_RETURN(auto removed, WriteCdiSpecs("/var/run/cdi", kCdiVendor, {}));   // Uninstall.
//
// A file is replaced whole, and only where its bytes change: a runtime that watches the folder
// reads everything again at each change. Files are named as NVIDIA's device plugin names them
// (<vendor>-<class>.json), so that the one who comes takes over from the one who goes. Those of a
// class that is described no more are removed. Nobody else's file is touched.
//
// Thread safety: no shared state; two writers of one folder each write whole files, the last wins.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cdi/spec.h"

namespace sublet {

// Where runtimes look by themselves: the first for what somebody wrote, the second for what is made
// anew at each start of the machine.
inline constexpr std::string_view kCdiStaticFolder = "/etc/cdi";
inline constexpr std::string_view kCdiFolder = "/var/run/cdi";

struct CdiFileChange {
  enum class Kind { kUnchanged, kWritten, kRemoved };
  std::string path;
  Kind kind = Kind::kUnchanged;
};

// "k8s.device-plugin.nvidia.com-gpu.json"
std::string CdiFileName(std::string_view vendor, std::string_view class_name);

// In the order of the specs, then what was removed. Makes the folder where it isn't there. Fails
// with kPermission or kIo; then some may be written, each of them whole.
// REQUIRES: the specs are valid, of that vendor, and of different classes.
Result<std::vector<CdiFileChange>> WriteCdiSpecs(const std::string& folder, std::string_view vendor,
                                                 const std::vector<CdiSpec>& specs);

// Other files in the folders that describe devices of the same kind and name: a runtime that finds
// two descriptions of one device gives out neither. "<path>: gpu=0 too", by path.
std::vector<std::string> CdiConflicts(const std::vector<std::string>& folders,
                                      const std::vector<CdiSpec>& specs);

}  // namespace sublet
