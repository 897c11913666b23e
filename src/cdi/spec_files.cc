#include "cdi/spec_files.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <set>
#include <system_error>

#include "base/check.h"
#include "base/files.h"
#include "cdi/gpu_spec.h"
#include "cdi/root_path.h"
#include "model/document.h"

namespace sublet {
namespace {

constexpr std::array<std::string_view, 5> kClasses = {kCdiGpuClass, kCdiImexClass, kCdiGdrcopyClass,
                                                      kCdiGdsClass, kCdiMofedClass};
// Sixteen GPUs of seven MIG devices each come to 200 KB.
constexpr std::size_t kSpecBytesMax = 16u << 20;

Status MakeFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return FailFromErrno(error.value(), "making " + folder);
  return {};
}

// What a whole file that couldn't be renamed any more was called (base/files.h).
bool IsRemnantOf(std::string_view name, std::string_view file) {
  constexpr std::size_t kRandomLetters = 6;
  return name.size() == file.size() + 1 + kRandomLetters && name.starts_with(file) &&
         name[file.size()] == '.';
}

Result<bool> Remove(const std::string& path) {
  if (::unlink(path.c_str()) == 0) return true;
  if (errno == ENOENT) return false;
  return FailFromErrno(errno, "removing " + path);
}

// The devices that a file describes, if it is of that kind.
std::set<std::string> DevicesOf(const std::string& path, const std::string& kind) {
  std::set<std::string> names;
  const auto text = ReadFile(path, kSpecBytesMax);
  if (!text) return names;
  const auto document = ParseDocument(*text);
  if (!document) return names;
  const Node* const its_kind = document->Find("kind");
  const Node* const devices = document->Find("devices");
  if (its_kind == nullptr || devices == nullptr || its_kind->scalar != kind) return names;
  for (const Node& device : devices->items) {
    if (const Node* const name = device.Find("name")) names.insert(name->scalar);
  }
  return names;
}

}  // namespace

std::string CdiFileName(std::string_view vendor, std::string_view class_name) {
  return fmt::format("{}-{}.json", vendor, class_name);
}

Result<std::vector<CdiFileChange>> WriteCdiSpecs(const std::string& wanted, std::string_view vendor,
                                                 const std::vector<CdiSpec>& specs) {
  const std::string folder = std::filesystem::absolute(wanted).string();
  if (!specs.empty()) RETURN_IF_ERROR(MakeFolder(folder));
  std::vector<CdiFileChange> changes;
  std::set<std::string> kept;
  for (const CdiSpec& spec : specs) {
    CHECK(spec.vendor == vendor);
    const std::string name = CdiFileName(vendor, spec.class_name);
    CHECK(kept.insert(name).second);
    const std::string path = fmt::format("{}/{}", folder, name);
    const std::string text = CdiSpecText(spec);
    const auto before = ReadFile(path, kSpecBytesMax);
    if (before && *before == text) {
      changes.push_back({path, CdiFileChange::Kind::kUnchanged});
      continue;
    }
    RETURN_IF_ERROR(WriteFileAtomically(path, text));
    changes.push_back({path, CdiFileChange::Kind::kWritten});
  }
  for (const std::string_view class_name : kClasses) {
    const std::string name = CdiFileName(vendor, class_name);
    if (kept.contains(name)) continue;
    const std::string path = fmt::format("{}/{}", folder, name);
    ASSIGN_OR_RETURN(const bool removed, Remove(path));
    if (removed) changes.push_back({path, CdiFileChange::Kind::kRemoved});
    for (const std::string& other : NamesInRoot("/", folder)) {
      if (!IsRemnantOf(other, name)) continue;
      ASSIGN_OR_RETURN([[maybe_unused]] const bool gone,
                       Remove(fmt::format("{}/{}", folder, other)));
    }
  }
  return changes;
}

std::vector<std::string> CdiConflicts(const std::vector<std::string>& folders,
                                      const std::vector<CdiSpec>& specs) {
  std::vector<std::string> conflicts;
  for (const std::string& folder : folders) {
    for (const std::string& name : NamesInRoot("/", folder)) {
      if (!name.ends_with(".json") && !name.ends_with(".yaml")) continue;
      const std::string path = fmt::format("{}/{}", folder, name);
      for (const CdiSpec& spec : specs) {
        if (name == CdiFileName(spec.vendor, spec.class_name)) continue;
        const std::set<std::string> theirs = DevicesOf(path, spec.kind());
        const auto both = std::ranges::find_if(spec.devices, [&theirs](const CdiDevice& device) {
          return theirs.contains(device.name);
        });
        if (both != spec.devices.end()) {
          conflicts.push_back(fmt::format("{}: {}={} too", path, spec.class_name, both->name));
        }
      }
    }
  }
  return conflicts;
}

}  // namespace sublet
