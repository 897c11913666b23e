#include "mps/pipe_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/files.h"

namespace sublet {
namespace {

constexpr std::string_view kPrivatePrefix = "sublet-mps-";
constexpr std::string_view kLongestSocket = "/control_privileged";
constexpr off_t kLastBytes = 4096;  // A log's line has less than 200.
constexpr std::size_t kLastWordsMax = 300;

// Who may enter without being the owner can't list it: the names in it are known anyway.
mode_t ModeFor(PipeFolderUsers users) {
  return users == PipeFolderUsers::kAll ? 0711 : 0700;
}

FileDescriptor OpenFolder(const std::string& path) {
  return FileDescriptor(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

Status CheckLength(const std::string& path) {
  if (path.size() + kLongestSocket.size() < sizeof(sockaddr_un::sun_path)) return {};
  return Fail(ErrorCode::kUsage,
              fmt::format("too long a path for a socket: {}{}", path, kLongestSocket),
              "choose a folder with a shorter path");
}

std::string LastLineOf(const FileDescriptor& file) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return "";
  std::string text(static_cast<std::size_t>(std::min(status.st_size, kLastBytes)), '\0');
  const ssize_t got = ::pread(file.get(), text.data(), text.size(),
                              std::max<off_t>(0, status.st_size - kLastBytes));
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  const std::size_t last = text.find_last_not_of("\n ");
  if (last == std::string::npos) return "";
  text.resize(last + 1);
  const std::size_t end = text.rfind('\n');
  return text.substr(end == std::string::npos ? 0 : end + 1, kLastWordsMax);
}

}  // namespace

std::optional<FileDescriptor> OpenFileOf(uid_t owner, const std::string& path, int access) {
  // Without O_NONBLOCK, opening a pipe would wait for somebody to write.
  FileDescriptor file(
      ::open(path.c_str(), access | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat status {};
  if (!file.valid() || ::fstat(file.get(), &status) != 0) return std::nullopt;
  if (!S_ISREG(status.st_mode) || status.st_uid != owner) return std::nullopt;
  return file;
}

// Before the folder is its owner's, so that nobody can put something else there meanwhile.
Status PipeFolder::MakeLogs(const std::optional<UserIds>& owner) {
  RETURN_IF_ERROR(CheckLength(path_));
  const auto fail = [&](std::string_view what) {
    return FailFromErrno(errno, fmt::format("{} {}", what, log_directory()));
  };
  const FileDescriptor folder = OpenFolder(path_);
  if (!folder.valid() || ::mkdirat(folder.get(), "logs", 0700) != 0) return fail("making");
  const FileDescriptor logs = OpenFolder(log_directory());
  output_ = FileDescriptor(::openat(logs.get(), "control.log",
                                    O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600));
  if (!output_.valid()) return fail("making a file in");
  if (!owner) return {};
  for (const FileDescriptor* each :
       std::initializer_list<const FileDescriptor*>{&output_, &logs, &folder}) {
    if (::fchown(each->get(), owner->uid, owner->gid) != 0) return fail("giving to its user");
  }
  return {};
}

Result<PipeFolder> PipeFolder::MakePrivate(const std::string& parent) {
  ASSIGN_OR_RETURN(PrivateFolder made, PrivateFolder::Make(parent, kPrivatePrefix));
  PipeFolder folder(made.path(), ::geteuid());
  folder.private_.emplace(std::move(made));
  RETURN_IF_ERROR(folder.MakeLogs({}));
  return folder;
}

Result<PipeFolder> PipeFolder::MakeNamed(const std::string& path,
                                         const std::optional<UserIds>& owner,
                                         PipeFolderUsers users) {
  RETURN_IF_ERROR(CheckLength(path));
  if (!path.starts_with('/')) {
    return Fail(ErrorCode::kUsage, fmt::format("not an absolute path: {}", path));
  }
  if (::mkdir(path.c_str(), 0700) != 0) {
    if (errno == EEXIST) {
      return Fail(ErrorCode::kConflict,
                  fmt::format("the folder for mps is there already: {}", path),
                  "it was left by an earlier daemon, or is in use");
    }
    return FailFromErrno(errno, fmt::format("making {}", path));
  }
  PipeFolder folder(path, owner ? owner->uid : ::geteuid());
  Status made = folder.MakeLogs(owner);
  // Opened last, and whatever this process's umask is.
  if (made && users == PipeFolderUsers::kAll && ::chmod(path.c_str(), ModeFor(users)) != 0) {
    made = FailFromErrno(errno, fmt::format("opening {} to its users", path));
  }
  if (!made) {
    static_cast<void>(folder.Remove());
    return tl::unexpected<Error>(std::move(made).error());
  }
  return folder;
}

Result<PipeFolder> PipeFolder::OpenNamed(const std::string& path,
                                         const std::optional<UserIds>& owner,
                                         PipeFolderUsers users) {
  PipeFolder folder(path, owner ? owner->uid : ::geteuid());
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    return FailFromErrno(errno, fmt::format("opening {}", path));
  }
  const bool closed = (status.st_mode & 0777 & ~ModeFor(users)) == 0;
  if (!S_ISDIR(status.st_mode) || status.st_uid != folder.owner_ || !closed) {
    return Fail(
        ErrorCode::kPermission,
        fmt::format("not a folder of user {}'s that is closed to others: {}", folder.owner_, path));
  }
  return folder;
}

Result<std::optional<PipeFolder>> PipeFolder::FindLeft(const std::string& path,
                                                       const std::optional<UserIds>& owner) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return std::nullopt;
    return FailFromErrno(errno, fmt::format("looking at {}", path));
  }
  // A crash may have come before the folder was given to its owner.
  const bool ours = status.st_uid == ::geteuid() || (owner && status.st_uid == owner->uid);
  if (!S_ISDIR(status.st_mode) || !ours) {
    return Fail(ErrorCode::kPermission, fmt::format("not a folder for mps of ours: {}", path));
  }
  return PipeFolder(path, status.st_uid);
}

std::string PipeFolder::LastWords() const {
  const std::optional<FileDescriptor> file = OpenFileOf(owner_, log_path());
  return file ? LastLineOf(*file) : "";
}

Status PipeFolder::Remove() {
  if (path_.empty()) return {};
  if (private_) {
    private_->Remove();
  } else {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
    if (error) return FailFromErrno(error.value(), fmt::format("removing {}", path_));
  }
  path_.clear();
  return {};
}

}  // namespace sublet
