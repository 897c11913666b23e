#include "store/state_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/files.h"

namespace sublet::store {
namespace {

namespace fs = std::filesystem;

constexpr mode_t kFolderMode = 0700;
constexpr mode_t kFileMode = 0600;
constexpr mode_t kForOthers = 0077;

// What SQLite may keep beside a database, which comes first.
constexpr std::string_view kParts[] = {"", "-wal", "-shm", "-journal"};

bool Exists(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

Status MakeFolders(const std::string& path) {
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (!Exists(part) && ::mkdir(part.c_str(), kFolderMode) != 0 && errno != EEXIST) {
      return FailFromErrno(errno, fmt::format("making the folder {}", part));
    }
    if (end == std::string::npos) return {};
  }
}

bool WasUsedBefore(const std::string& path) {
  return Exists(path + "/node.lock") || Exists(path + "/node.db");
}

bool IsEmpty(const std::string& path) {
  std::error_code error;
  return fs::is_empty(path, error) && !error;
}

Status CloseToOthers(const FileDescriptor& folder, const std::string& path) {
  struct stat status {};
  if (::fstat(folder.get(), &status) != 0) return FailFromErrno(errno, path);
  if (status.st_uid != ::geteuid()) {
    return Fail(ErrorCode::kPermission,
                fmt::format("the state directory belongs to user {}, and this is user {}: {}",
                            status.st_uid, ::geteuid(), path),
                "choose a directory of your own, or run as that user");
  }
  if ((status.st_mode & kForOthers) == 0) return {};
  if (!WasUsedBefore(path) && !IsEmpty(path)) {
    return Fail(ErrorCode::kPermission,
                fmt::format("other users may look into the state directory: {}", path),
                fmt::format("if nothing else needs it, close it: chmod 700 {}", path));
  }
  if (::fchmod(folder.get(), kFolderMode) != 0) return FailFromErrno(errno, path);
  return {};
}

// Empty where it can't be told.
std::string HolderOf(const FileDescriptor& lock) {
  char text[16] = {};
  const ssize_t length = ::pread(lock.get(), text, sizeof(text), 0);
  const std::string_view line(text, length > 0 ? static_cast<std::size_t>(length) : 0);
  return std::string(line.substr(0, line.find_first_not_of("0123456789")));
}

Result<FileDescriptor> Lock(const std::string& directory) {
  const std::string path = directory + "/node.lock";
  FileDescriptor lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kFileMode));
  if (!lock.valid()) return FailFromErrno(errno, path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return FailFromErrno(errno, fmt::format("locking {}", path));
    const std::string holder = HolderOf(lock);
    return Fail(ErrorCode::kConflict,
                fmt::format("{} has the state directory already: {}",
                            holder.empty() ? "another process" : "process " + holder, directory),
                "one daemon can use it at a time: end that one first, or choose another directory");
  }
  // Only for the message above. Where the disk is full, the state can still be read.
  const std::string line = fmt::format("{}\n", ::getpid());
  if (::ftruncate(lock.get(), 0) == 0) {
    (void)!::pwrite(lock.get(), line.data(), line.size(), 0);
  }
  return lock;
}

}  // namespace

Result<StateDirectory> StateDirectory::Enter(const std::string& directory, bool create) {
  std::error_code error;
  // SQLite takes a relative name like "file:x" for a URI.
  std::string path = fs::absolute(directory, error).lexically_normal().string();
  if (directory.empty() || error) {
    return Fail(ErrorCode::kUsage, fmt::format("no state directory: '{}'", directory));
  }
  if (path.size() > 1 && path.back() == '/') path.pop_back();
  if (create) RETURN_IF_ERROR(MakeFolders(path));
  FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return FailFromErrno(errno, fmt::format("the state directory {}", path));
  RETURN_IF_ERROR(CloseToOthers(folder, path));
  if (!create && !WasUsedBefore(path)) {
    return Fail(ErrorCode::kNotFound, fmt::format("there is no state in {}", path));
  }
  ASSIGN_OR_RETURN(FileDescriptor lock, Lock(path));
  return StateDirectory(std::move(path), std::move(folder), std::move(lock));
}

Result<bool> StateDirectory::HasDatabase() const {
  const std::string path = database();
  if (Exists(path)) {
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0 && (status.st_mode & kForOthers) != 0 &&
        ::chmod(path.c_str(), kFileMode) != 0) {
      return FailFromErrno(errno, path);
    }
    return true;
  }
  for (const std::string_view part : kParts) {
    const std::string left = fmt::format("{}{}", path, part);
    if (!Exists(left)) continue;
    return Fail(ErrorCode::kInvalid,
                fmt::format("the database is missing, while its log is there: {}", left),
                RebuildHint(path));
  }
  return false;
}

Status StateDirectory::Sync() const {
  if (::fsync(folder_.get()) != 0) return FailFromErrno(errno, path_);
  return {};
}

Status StateDirectory::BeginDraft() const {
  for (const std::string_view part : kParts) ::unlink(fmt::format("{}{}", draft(), part).c_str());
  const FileDescriptor file(
      ::open(draft().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kFileMode));
  if (!file.valid()) return FailFromErrno(errno, fmt::format("making {}", draft()));
  return {};
}

Status StateDirectory::PublishDraft() const {
  if (::rename(draft().c_str(), database().c_str()) != 0) {
    return FailFromErrno(errno, fmt::format("renaming {}", draft()));
  }
  return Sync();
}

Result<std::string> StateDirectory::SetAside() const {
  const std::string from = database();
  const std::string to = NextDamagedName(from);
  bool found = false;
  // The database goes first. Killed after it, the log is left alone, and HasDatabase() refuses;
  // the other way round, a database without its last changes would pass for a whole one.
  for (const std::string_view part : kParts) {
    const std::string old_name = fmt::format("{}{}", from, part);
    if (::rename(old_name.c_str(), fmt::format("{}{}", to, part).c_str()) == 0) {
      found = true;
    } else if (errno != ENOENT) {
      return FailFromErrno(errno, fmt::format("renaming {}", old_name));
    }
  }
  if (!found) {
    return Fail(ErrorCode::kNotFound, fmt::format("there is no database to set aside: {}", from));
  }
  RETURN_IF_ERROR(Sync());
  return to;
}

void ReserveSpace(const std::string& path, std::int64_t bytes) {
  const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  struct stat status {};
  if (!file.valid() || ::fstat(file.get(), &status) != 0) return;
  // The file's size stays: SQLite reads it as the end of the content.
  (void)::fallocate(file.get(), FALLOC_FL_KEEP_SIZE, 0, status.st_size + bytes);
}

std::string NextDamagedName(const std::string& database) {
  for (int number = 1;; ++number) {
    std::string name = fmt::format("{}.damaged-{}", database, number);
    const auto taken = [&](std::string_view part) {
      return Exists(fmt::format("{}{}", name, part));
    };
    if (std::none_of(std::begin(kParts), std::end(kParts), taken)) return name;
  }
}

std::string RebuildHint(const std::string& database) {
  return fmt::format(
      "`sublet daemon --rebuild` makes a new one from what the driver shows; this one is kept as "
      "{}",
      NextDamagedName(database));
}

}  // namespace sublet::store
