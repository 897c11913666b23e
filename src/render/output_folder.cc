#include "render/output_folder.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>

#include "base/files.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kHeadBytes = 4096;             // The mark stands in the first two lines.
constexpr std::size_t kManifestBytesMax = 16 << 20;  // 100,000 replicas have 200,000 paths.

std::string MarkOf(Target target) {
  return fmt::format("{} for the target {},", kRenderMark, TargetName(target));
}

tl::unexpected<Error> FailFrom(const std::error_code& error, const std::string& what) {
  return FailFromErrno(error.value(), what);
}

// The folder in which files are prepared; it goes with its content.
class Staging {
 public:
  static Result<Staging> In(const fs::path& folder) {
    std::string name = (folder / ".sublet-new-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      return FailFromErrno(errno, fmt::format("writing to {}", folder.string()));
    }
    return Staging(name);
  }
  ~Staging() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  Staging(Staging&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  Staging& operator=(Staging&&) = delete;
  const fs::path& path() const { return path_; }

 private:
  explicit Staging(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

Status CreateFolder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return FailFrom(error, fmt::format("creating {}", folder.string()));
  return {};
}

bool HasMark(const fs::path& path, Target target) {
  std::ifstream file(path, std::ios::binary);
  std::string head(kHeadBytes, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(file.gcount()));
  return head.find(MarkOf(target)) != std::string::npos;
}

// A name that is free or whose file this target wrote; a symbolic link is somebody else's.
Status CheckReplaceable(const fs::path& path, Target target, const WriteOptions& options) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (status.type() == fs::file_type::not_found) return {};
  if (status.type() == fs::file_type::none) {
    return FailFrom(error, fmt::format("writing {}", path.string()));
  }
  if (status.type() == fs::file_type::directory) {
    return Fail(ErrorCode::kConflict,
                fmt::format("there is a folder where a file should go: {}", path.string()));
  }
  if (options.force || (status.type() == fs::file_type::regular && HasMark(path, target)))
    return {};
  return Fail(
      ErrorCode::kConflict,
      fmt::format("a file of that name exists and is not from sublet render: {}", path.string()),
      "write to another folder, or replace it with --force");
}

fs::path ManifestPath(const fs::path& folder, Target target) {
  return folder / fmt::format(".sublet-render-{}", TargetName(target));
}

// Removes what an earlier rendering of this target wrote and this one doesn't have. Only files that
// say that they are such, and only below the folder.
void RemoveStale(const std::string& manifest, const Rendering& rendering, Target target,
                 const fs::path& folder) {
  std::set<std::string> current;
  for (const RenderedFile& file : rendering.files) current.insert(file.path);
  std::istringstream lines(manifest);
  for (std::string line; std::getline(lines, line);) {
    const fs::path path = fs::path(line).lexically_normal();
    if (line.empty() || line.front() == '#' || current.contains(line)) continue;
    if (path.is_absolute() || *path.begin() == "..") continue;
    std::error_code ignored;
    if (fs::is_regular_file(fs::symlink_status(folder / path, ignored)) &&
        HasMark(folder / path, target)) {
      fs::remove(folder / path, ignored);
    }
  }
}

std::string ManifestOf(const Rendering& rendering, Target target) {
  std::string manifest = fmt::format("# {} these files:\n", MarkOf(target));
  for (const RenderedFile& file : rendering.files) manifest += file.path + "\n";
  return manifest;
}

Status MoveIntoPlace(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) return FailFrom(error, fmt::format("writing {}", to.string()));
  return {};
}

}  // namespace

Status WriteRendering(const Rendering& rendering, Target target, const std::string& folder_name,
                      const WriteOptions& options) {
  const fs::path folder(folder_name);
  for (const RenderedFile& file : rendering.files) {
    RETURN_IF_ERROR(CheckReplaceable(folder / file.path, target, options));
  }
  const fs::path manifest_path = ManifestPath(folder, target);
  RETURN_IF_ERROR(CheckReplaceable(manifest_path, target, options));
  RETURN_IF_ERROR(CreateFolder(folder));
  ASSIGN_OR_RETURN(const Staging staging, Staging::In(folder));
  for (const RenderedFile& file : rendering.files) {
    const fs::path staged = staging.path() / file.path;
    RETURN_IF_ERROR(CreateFolder(staged.parent_path()));
    RETURN_IF_ERROR(WriteFileAtomically(staged.string(), file.content, file.mode));
  }
  for (const RenderedFile& file : rendering.files) {
    RETURN_IF_ERROR(CreateFolder((folder / file.path).parent_path()));
  }
  const Result<std::string> earlier = ReadFile(manifest_path.string(), kManifestBytesMax);
  for (const RenderedFile& file : rendering.files) {
    RETURN_IF_ERROR(MoveIntoPlace(staging.path() / file.path, folder / file.path));
  }
  if (earlier) RemoveStale(*earlier, rendering, target, folder);
  return WriteFileAtomically(manifest_path.string(), ManifestOf(rendering, target));
}

}  // namespace sublet
