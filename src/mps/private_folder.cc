#include "mps/private_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/files.h"
#include "mps/folder_users.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

// Each time another process took the new folder for one that was left: it must win a race of
// microseconds every time.
constexpr int kTriesMax = 10;
// Whoever is left in a folder whose owner is dead was told to end by the kernel already.
constexpr double kLeftoverGraceSeconds = 0;

FileDescriptor OpenFolder(const std::string& path) {
  return FileDescriptor(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// Whether the open folder is still the one of that name, and ours.
bool IsOurs(const FileDescriptor& folder, const std::string& path) {
  struct stat open {};
  struct stat named {};
  return ::fstat(folder.get(), &open) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         open.st_ino == named.st_ino && open.st_dev == named.st_dev && open.st_uid == ::geteuid();
}

void RemoveLeftOver(const std::string& path) {
  const FileDescriptor folder = OpenFolder(path);
  if (!folder.valid() || ::flock(folder.get(), LOCK_EX | LOCK_NB) != 0) return;
  if (!IsOurs(folder, path)) return;
  EndFolderUsers(path, kLeftoverGraceSeconds);
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

}  // namespace

Result<PrivateFolder> PrivateFolder::Make(const std::string& parent, std::string_view prefix) {
  std::error_code ignored;
  for (fs::directory_iterator it(parent, ignored), end; it != end; it.increment(ignored)) {
    if (it->path().filename().string().starts_with(prefix)) RemoveLeftOver(it->path());
    if (ignored) break;
  }
  for (int i = 0; i < kTriesMax; ++i) {
    std::string path = fmt::format("{}/{}XXXXXX", parent, prefix);
    if (::mkdtemp(path.data()) == nullptr) {
      return FailFromErrno(errno, fmt::format("making a folder in {}", parent));
    }
    FileDescriptor lock = OpenFolder(path);
    // Between its making and its locking somebody may have removed it as left over.
    if (!lock.valid() || ::flock(lock.get(), LOCK_EX) != 0 || !IsOurs(lock, path)) continue;
    return PrivateFolder(std::move(path), std::move(lock));
  }
  return Fail(ErrorCode::kUnavailable, fmt::format("somebody removes all folders in {}", parent));
}

PrivateFolder::PrivateFolder(PrivateFolder&& other) noexcept
    : path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}

void PrivateFolder::Remove() {
  if (path_.empty()) return;
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  path_.clear();
  lock_.Close();
}

}  // namespace sublet
