#include "cdi/driver_files.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <utility>

#include "base/files.h"
#include "cdi/elf_library.h"
#include "cdi/ld_cache.h"
#include "cdi/root_path.h"

namespace sublet {
namespace {

using Names = std::vector<std::string>;

// Where distributions and NVIDIA's own installer put libraries. The last two are of roots that are
// nothing but a driver: Google's on its container-optimized system, and NixOS's.
constexpr std::array<std::string_view, 11> kLibraryFolders = {
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/usr/lib64",
    "/usr/lib",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/local/nvidia/lib64",
    "/run/opengl-driver/lib"};
// Below such a folder; what lies there is found by its folder's name and must stay in it.
constexpr std::array<std::string_view, 1> kLibrarySubfolders = {"vdpau"};

// The driver's libraries with versions of their own, by how their names begin.
constexpr std::array<std::string_view, 1> kOwnVersions = {"libnvidia-nvvm70.so."};
constexpr std::array<std::string_view, 4> kOwnVersionsGraphics = {
    "libnvidia-egl-gbm.so.", "libnvidia-egl-wayland.so.", "libnvidia-egl-xcb.so.",
    "libnvidia-egl-xlib.so."};

// PATH of a root's user.
constexpr std::array<std::string_view, 6> kProgramFolders = {
    "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"};
constexpr std::array<std::string_view, 7> kPrograms = {
    "nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-debugdump", "nvidia-imex",
    "nvidia-imex-ctl",         "nvidia-persistenced",    "nvidia-smi"};

// Not /tmp/nvidia-mps: whoever sees an MPS server's folder is its client. Which server a container
// is granted isn't for a file to say that all containers share.
constexpr std::array<std::string_view, 2> kSockets = {"/run/nvidia-fabricmanager/socket",
                                                      "/run/nvidia-persistenced/socket"};

// Below /etc or /usr/share, whichever has it.
constexpr std::array<std::string_view, 2> kConfigFolders = {"/etc", "/usr/share"};
constexpr std::array<std::string_view, 4> kConfigs = {
    "/egl/egl_external_platform.d/10_nvidia_wayland.json",
    "/egl/egl_external_platform.d/15_nvidia_gbm.json", "/glvnd/egl_vendor.d/10_nvidia.json",
    "/nvidia/nvoptix.bin"};
// The loader of Vulkan looks into /etc first; a root that is nothing but a driver has them at its
// top.
constexpr std::array<std::string_view, 5> kVulkanConfigs = {
    "/vulkan/icd.d/nvidia_icd.aarch64.json", "/vulkan/icd.d/nvidia_icd.json",
    "/vulkan/icd.d/nvidia_icd.x86_64.json", "/vulkan/icd.d/nvidia_layers.json",
    "/vulkan/implicit_layer.d/nvidia_layers.json"};

constexpr std::string_view kUdevFolder = "/run/udev";
constexpr std::string_view kCufileConfig = "/etc/cufile.json";

enum class FileType { kRegular, kProgram, kSocket, kFolder };

bool IsOfType(mode_t mode, FileType type) {
  switch (type) {
    case FileType::kRegular:
      return S_ISREG(mode);
    case FileType::kProgram:
      return S_ISREG(mode) && (mode & 0111) != 0;
    case FileType::kSocket:
      return S_ISSOCK(mode);
    case FileType::kFolder:
      return S_ISDIR(mode);
  }
  return false;
}

// The file there, if it is one of that type.
std::optional<std::string> FindFile(const std::string& root, std::string_view path, FileType type) {
  const auto resolved = ResolveInRoot(root, path);
  if (!resolved) return std::nullopt;
  struct stat status {};
  if (::lstat(PathBelow(root, *resolved).c_str(), &status) != 0 ||
      !IsOfType(status.st_mode, type)) {
    return std::nullopt;
  }
  return *resolved;
}

bool IsPrintable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

template <typename Prefixes>
bool BeginsWithOneOf(std::string_view name, const Prefixes& prefixes) {
  return std::ranges::any_of(prefixes,
                             [name](std::string_view prefix) { return name.starts_with(prefix); });
}

class LibrarySearch {
 public:
  explicit LibrarySearch(const DriverSearch& search)
      : search_(search), ending_(".so." + search.version) {}

  void Run() {
    AddFoldersOfCache();
    for (const std::string_view folder : kLibraryFolders) AddFolder(folder);
    // The list grows no more.
    for (const std::string& folder : folders_) {
      TakeFrom(folder, "");
      for (const std::string_view sub : kLibrarySubfolders) {
        if (const auto below = ResolveInRoot(search_.root, fmt::format("{}/{}", folder, sub))) {
          TakeFrom(*below, std::string(sub));
        }
      }
    }
    std::ranges::sort(libraries_, {}, &DriverLibrary::name);
  }

  std::vector<DriverLibrary> TakeLibraries() { return std::move(libraries_); }
  bool from_cache() const { return from_cache_; }

 private:
  // Names that the driver's libraries have in the cache, so that not every library of the host is
  // looked at.
  static bool MayBeDrivers(std::string_view name) {
    return name.find("nvidia") != std::string_view::npos || name.starts_with("libcuda") ||
           name.starts_with("libnv");
  }

  static bool IsSubfolder(std::string_view name) {
    return std::ranges::find(kLibrarySubfolders, name) != kLibrarySubfolders.end();
  }

  void AddFoldersOfCache() {
    const auto path = ResolveInRoot(search_.root, "/etc/ld.so.cache");
    if (!path) return;
    const auto bytes = ReadFile(PathBelow(search_.root, *path), kLdCacheBytesMax);
    if (!bytes) return;
    // A cache that can't be read is as good as none: the usual folders remain.
    const auto entries = ParseLdCache(*bytes);
    if (!entries) return;
    for (const LdCacheEntry& entry : *entries) {
      if (!MayBeDrivers(entry.name) || !entry.path.starts_with('/')) continue;
      const auto file = ResolveInRoot(search_.root, entry.path);
      if (!file || !file->ends_with(ending_)) continue;
      from_cache_ = true;
      const std::string folder = FolderOf(*file);
      AddFolder(IsSubfolder(LastNameOf(folder)) ? FolderOf(folder) : folder);
    }
  }

  void AddFolder(std::string_view folder) {
    auto resolved = ResolveInRoot(search_.root, folder);
    if (resolved && std::ranges::find(folders_, *resolved) == folders_.end()) {
      folders_.push_back(std::move(*resolved));
    }
  }

  bool IsDrivers(const std::string& name) const {
    return name.ends_with(ending_) || BeginsWithOneOf(name, kOwnVersions) ||
           (search_.graphics && BeginsWithOneOf(name, kOwnVersionsGraphics));
  }

  void TakeFrom(const std::string& folder, const std::string& subfolder) {
    for (const std::string& name : NamesInRoot(search_.root, folder)) {
      if (!name.starts_with("lib") || !IsDrivers(name) || !IsPrintable(name)) continue;
      const std::string path = fmt::format("{}/{}", folder, name);
      const auto file = FindFile(search_.root, path, FileType::kRegular);
      if (!file || !IsPrintable(*file)) continue;
      // libnvidia-nvvm70.so.4 may be a link beside its file; then the file is taken for itself.
      if (!name.ends_with(ending_) && LastNameOf(*file) != name) continue;
      auto library = ReadElfLibrary(PathBelow(search_.root, *file));
      if (!library || !taken_.insert(subfolder + "/" + name).second) continue;
      libraries_.push_back({.path = *file,
                            .name = name,
                            .soname = library->soname.empty() ? name : library->soname,
                            .folder = folder,
                            .subfolder = subfolder,
                            .machine = library->machine});
    }
  }

  const DriverSearch& search_;
  const std::string ending_;
  Names folders_;                // Without links, best first.
  std::set<std::string> taken_;  // The first folder that has a library has it.
  std::vector<DriverLibrary> libraries_;
  bool from_cache_ = false;
};

std::vector<DriverFile> FindPrograms(const std::string& root) {
  std::vector<DriverFile> found;
  for (const std::string_view name : kPrograms) {
    for (const std::string_view folder : kProgramFolders) {
      const std::string path = fmt::format("{}/{}", folder, name);
      if (auto file = FindFile(root, path, FileType::kProgram)) {
        found.push_back({std::move(*file), path});
        break;
      }
    }
  }
  std::ranges::sort(found, {}, &DriverFile::container_path);
  return found;
}

// Where the kernel would look, in its order.
std::vector<DriverFile> FindFirmware(const DriverSearch& search) {
  std::vector<std::string> folders;
  if (!search.kernel.empty()) folders.push_back("/lib/firmware/updates/" + search.kernel);
  folders.emplace_back("/lib/firmware/updates");
  if (!search.kernel.empty()) folders.push_back("/lib/firmware/" + search.kernel);
  folders.emplace_back("/lib/firmware");
  for (const std::string& base : folders) {
    const std::string folder = fmt::format("{}/nvidia/{}", base, search.version);
    std::vector<DriverFile> found;
    for (const std::string& name : NamesInRoot(search.root, folder)) {
      if (!name.starts_with("gsp") || !name.ends_with(".bin")) continue;
      const std::string path = fmt::format("{}/{}", folder, name);
      if (auto file = FindFile(search.root, path, FileType::kRegular)) {
        found.push_back({std::move(*file), path});
      }
    }
    if (!found.empty()) return found;
  }
  return {};
}

std::vector<DriverFile> FindSockets(const std::string& root) {
  std::vector<DriverFile> found;
  for (const std::string_view path : kSockets) {
    if (auto file = FindFile(root, path, FileType::kSocket)) {
      found.push_back({std::move(*file), std::string(path)});
    }
  }
  return found;
}

std::vector<DriverFile> FindStorage(const std::string& root) {
  std::vector<DriverFile> found;
  if (auto file = FindFile(root, kCufileConfig, FileType::kRegular)) {
    found.push_back({std::move(*file), std::string(kCufileConfig)});
  }
  if (auto folder = FindFile(root, kUdevFolder, FileType::kFolder)) {
    found.push_back({std::move(*folder), std::string(kUdevFolder)});
  }
  return found;
}

std::vector<DriverFile> FindConfigs(const std::string& root) {
  std::vector<DriverFile> found;
  for (const std::string_view name : kConfigs) {
    for (const std::string_view folder : kConfigFolders) {
      const std::string path = fmt::format("{}{}", folder, name);
      if (auto file = FindFile(root, path, FileType::kRegular)) {
        found.push_back({std::move(*file), path});
        break;
      }
    }
  }
  for (const std::string_view name : kVulkanConfigs) {
    for (const std::string_view folder : {"/etc", "/usr/share", ""}) {
      if (auto file = FindFile(root, fmt::format("{}{}", folder, name), FileType::kRegular)) {
        found.push_back({std::move(*file), fmt::format("/etc{}", name)});
        break;
      }
    }
  }
  std::ranges::sort(found, {}, &DriverFile::container_path);
  return found;
}

}  // namespace

const DriverLibrary* DriverFiles::FindLibrary(std::string_view soname) const {
  const auto found = std::ranges::find(libraries, soname, &DriverLibrary::soname);
  return found == libraries.end() ? nullptr : &*found;
}

Result<DriverFiles> FindDriverFiles(const DriverSearch& search) {
  if (search.version.empty()) {
    return Fail(ErrorCode::kUnavailable, "the driver doesn't say its version");
  }
  LibrarySearch libraries(search);
  libraries.Run();
  DriverFiles files;
  files.version = search.version;
  files.libraries = libraries.TakeLibraries();
  files.from_cache = libraries.from_cache();
  if (files.FindLibrary("libcuda.so.1") == nullptr &&
      files.FindLibrary("libnvidia-ml.so.1") == nullptr) {
    return Fail(
        ErrorCode::kNotFound,
        fmt::format("no library of driver {} in the driver root: {}", search.version, search.root),
        "the driver root is the folder that holds usr/lib/.../libcuda.so.<version>, as "
        "this process sees it: --container-driver-root");
  }
  files.programs = FindPrograms(search.root);
  files.firmware = FindFirmware(search);
  files.sockets = FindSockets(search.root);
  files.storage = FindStorage(search.root);
  if (search.graphics) files.configs = FindConfigs(search.root);
  return files;
}

Result<DriverFiles> FindSimulatedFiles(const std::string& folder, std::string_view version) {
  ASSIGN_OR_RETURN(const std::string real, ResolveInRoot("/", folder));
  DriverFiles files;
  files.version = version;
  for (const std::string& name : NamesInRoot("/", real)) {
    const std::string path = fmt::format("{}/{}", real, name);
    if (const auto file = FindFile("/", path, FileType::kRegular); !file || *file != path) continue;
    if (!name.starts_with("lib")) {
      if (FindFile("/", path, FileType::kProgram)) {
        files.programs.push_back({path, fmt::format("/usr/bin/{}", name)});
      }
      continue;
    }
    const auto library = ReadElfLibrary(path);
    if (!library) continue;
    files.libraries.push_back({.path = path,
                               .name = name,
                               .soname = library->soname.empty() ? name : library->soname,
                               .folder = {},
                               .subfolder = {},
                               .machine = library->machine});
  }
  if (files.libraries.empty()) {
    return Fail(ErrorCode::kNotFound, "no library of the simulated driver in " + folder);
  }
  return files;
}

}  // namespace sublet
