// cdi/root_path.h
//
// Paths below a root that isn't this process's: the driver's files in a container, or the host's
// below a mount.
//
//   ResolveInRoot("/run/nvidia/driver", "/usr/lib/libcuda.so.1")   // "/usr/lib/libcuda.so.580.1"
//
// A symbolic link means there what it means to a process that has that folder for its root: an
// absolute one begins at the root, and ".." stops at it. So none leads out, and what is found can
// be named to somebody who sees the same tree at another place.
//
// What may surprise: nothing is held open, so whoever may write to the tree can change what was
// resolved afterwards. The trees here are root's.
//
// Thread safety: no shared state.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sublet {

// One tree at two places.
struct RootFolder {
  std::string here = "/";  // As this process sees it.
  std::string host = "/";  // As the container runtime sees it.
};

// "/driver-root" and "/usr/lib" give "/driver-root/usr/lib"; the root "/" gives the path itself.
// REQUIRES: `path` begins with a slash.
std::string PathBelow(std::string_view root, std::string_view path);

// The path below the root without any link in it. Fails with kNotFound where nothing lies there,
// with kInvalid for a ring of links.
Result<std::string> ResolveInRoot(const std::string& root, std::string_view path);

// The names in a folder of the tree, in the order of their bytes; none where it can't be read.
std::vector<std::string> NamesInRoot(const std::string& root, std::string_view folder);

// "/usr/lib" of "/usr/lib/a.so", "/" of "/a.so"; and "a.so".
std::string FolderOf(std::string_view path);
std::string LastNameOf(std::string_view path);

}  // namespace sublet
