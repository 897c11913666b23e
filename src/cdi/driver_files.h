// cdi/driver_files.h
//
// The files of NVIDIA's driver in a driver root: what a container that shall use a GPU must see of
// the host, because it has to fit the kernel's part of the driver to the last digit.
//
//   ASSIGN_OR_RETURN(const DriverFiles files,
//                    FindDriverFiles({.root = "/run/nvidia/driver", .version = "580.159.04"}));
//
// A driver root is "/" where the driver is installed on the host, another folder where it comes in
// a container of its own, or where this process sees the host's files (/driver-root).
//
// - Libraries are those whose file's name ends with the version ("libcuda.so.580.159.04"), in the
//   folders that /etc/ld.so.cache of the root names for NVIDIA's libraries, then in the usual ones;
//   and the few that have versions of their own. 32-bit ones are left out.
// - Everything else is a list of names, of which those are taken that are there.
//
// Links are followed within the root, and never lead out of it (cdi/root_path.h).
//
// Thread safety: no shared state.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet {

struct DriverLibrary {
  std::string path;       // Below the root, without links.
  std::string name;       // "libcuda.so.580.159.04": where it was found.
  std::string soname;     // "libcuda.so.1": what programs ask for; `name` where it states none.
  std::string folder;     // Where it was found, below the root.
  std::string subfolder;  // "vdpau" below the libraries' folder; mostly empty.
  int machine = 0;        // EM_*, of <elf.h>

  friend bool operator==(const DriverLibrary&, const DriverLibrary&) = default;
};

struct DriverFile {
  std::string path;            // Below the root, without links.
  std::string container_path;  // Where a container looks for it.

  friend bool operator==(const DriverFile&, const DriverFile&) = default;
};

// Each list is in the order of its container paths or names.
struct DriverFiles {
  std::string version;
  std::vector<DriverLibrary> libraries;
  std::vector<DriverFile> programs;  // nvidia-smi, ...
  std::vector<DriverFile> firmware;  // Of the GPU system processor: gsp_*.bin
  std::vector<DriverFile> sockets;   // Of nvidia-persistenced and the fabric manager.
  std::vector<DriverFile> configs;   // What finds the driver for Vulkan, EGL and OptiX.
  std::vector<DriverFile> storage;   // For GPUDirect Storage: udev's folder, cufile.json.
  bool from_cache = false;           // The dynamic linker's cache named the folders.

  const DriverLibrary* FindLibrary(std::string_view soname) const;
};

struct DriverSearch {
  std::string root = "/";    // As this process sees it.
  std::string version = {};  // Of the driver; its libraries end with it.
  std::string kernel = {};   // Release of the host's kernel, for firmware; may be empty.
  bool graphics = true;      // `configs`, and the libraries only graphics needs.
};

// Fails with kNotFound where the root has neither libcuda nor libnvidia-ml of that version.
Result<DriverFiles> FindDriverFiles(const DriverSearch& search);

// Those of the simulated driver (sim/driver), which all lie in one folder and end with no version.
Result<DriverFiles> FindSimulatedFiles(const std::string& folder, std::string_view version);

}  // namespace sublet
