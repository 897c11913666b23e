// cdi/node_specs.h
//
// From a node to its CDI specifications: finds the driver's files, the device nodes and the hook
// program, and puts them together. This is what callers begin with.
//
//   CdiRequest request;
//   request.driver_root = {"/driver-root", "/"};         // As we see it; as the runtime does.
//   ASSIGN_OR_RETURN(const CdiDescription found, DescribeNode(inventory, request));
//   for (const std::string& note : found.notes) ...      // What a user should know.
//   ASSIGN_OR_RETURN(auto changes, WriteCdiSpecs("/var/run/cdi", kCdiVendor, found.specs));
//
// A GPU that can't be given out (without a device node, lost) is left out with a note; the others
// are described.
//
// **A simulated driver** has no files but its own libraries, and no device nodes. Unless a driver
// root is named, its libraries' folder is described, with /dev/null under the names of device
// nodes, and with SUBLET_SIM set in the container, which is how such a spec is known for what it
// is.
//
// Thread safety: no shared state.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cdi/gpu_spec.h"
#include "cdi/root_path.h"
#include "cdi/spec.h"
#include "model/inventory.h"

namespace sublet {

struct CdiSimulation {
  std::string node;    // What SUBLET_SIM says: a preset, or the path of a node file.
  std::string folder;  // Of the simulated driver's libraries.
};

struct CdiRequest {
  RootFolder driver_root;
  bool driver_root_named =
      false;  // By the user; then it is looked into for a simulated driver, too.
  // The folder whose dev/ has the nodes, as the container runtime sees it; empty: the driver root
  // where it has them, else "/". Where this process sees the driver root at another place, it looks
  // for nodes there, else in its own /dev, as NVIDIA's plugin does.
  std::string dev_root = {};
  std::string proc = "/proc";
  std::string sys = "/sys";
  // NVIDIA's hook program as the container runtime sees it; empty: where its packages put it.
  std::string hook_path = {};
  CdiSimulation simulation = {};  // Used where the inventory's driver is simulated.
  // The caller's wishes; what has to be found is filled in.
  CdiConfig config = {};
};

struct CdiDescription {
  std::vector<CdiSpec> specs;  // The GPUs' first. Each is valid.
  std::vector<std::string> notes;
  DriverFiles files;
  std::string hook_path;  // Empty: no hooks.
  bool simulated = false;
};

// Fails with kNotFound where no GPU can be given out or the driver's files aren't there, with
// kUnsupported under WSL2, whose driver has neither device nodes nor versions.
Result<CdiDescription> DescribeNode(const Inventory& inventory, const CdiRequest& request);

}  // namespace sublet
