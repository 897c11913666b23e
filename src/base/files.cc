#include "base/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace sublet {
namespace {

// Closes the descriptor when the scope ends.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ > STDERR_FILENO) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

Status WriteAll(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FailFromErrno(errno, fmt::format("writing {}", path));
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

}  // namespace

std::string OwnProgramPath() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).string();
}

tl::unexpected<Error> FailFromErrno(int error_number, std::string_view what) {
  ErrorCode code = ErrorCode::kIo;
  if (error_number == ENOENT || error_number == ENOTDIR) code = ErrorCode::kNotFound;
  if (error_number == EACCES || error_number == EPERM || error_number == EROFS) {
    code = ErrorCode::kPermission;
  }
  return Fail(code, fmt::format("{}: {}", what, std::strerror(error_number)));
}

Result<std::string> ReadFile(const std::string& path, std::size_t bytes_max) {
  const Descriptor file(path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return FailFromErrno(errno, fmt::format("reading {}", path));
  struct stat status {};
  if (::fstat(file.get(), &status) == 0 && S_ISDIR(status.st_mode)) {
    return Fail(ErrorCode::kInvalid, fmt::format("reading {}: it is a folder", path));
  }
  std::string content;
  // Most files are small, those of /proc above all, and what is asked for is filled with zeros.
  constexpr std::size_t kChunkMin = 1 << 12;
  constexpr std::size_t kChunkMax = 1 << 16;
  while (content.size() <= bytes_max) {
    const std::size_t before = content.size();
    const std::size_t chunk = std::clamp(before, kChunkMin, kChunkMax);
    content.resize(before + chunk);
    const ssize_t got = ::read(file.get(), content.data() + before, chunk);
    content.resize(before + static_cast<std::size_t>(got < 0 ? 0 : got));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FailFromErrno(errno, fmt::format("reading {}", path));
    if (got == 0) return content;
  }
  return Fail(ErrorCode::kInvalid, fmt::format("reading {}: more than {} bytes", path, bytes_max));
}

Status WriteFileAtomically(const std::string& wanted, std::string_view content, unsigned mode) {
  if (wanted == "-") return WriteAll(STDOUT_FILENO, content, "standard output");
  // A link stays a link: what it points to is replaced. A device or pipe is written to as it is.
  std::string path = wanted;
  if (char* target = ::realpath(wanted.c_str(), nullptr); target != nullptr) {
    path = target;
    ::free(target);
  }
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    const Descriptor special(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (special.get() < 0) return FailFromErrno(errno, fmt::format("writing {}", path));
    return WriteAll(special.get(), content, path);
  }
  std::string temporary = path + ".XXXXXX";
  Descriptor file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (file.get() < 0) return FailFromErrno(errno, fmt::format("writing {}", path));
  const auto give_up = [&](Error error) -> Status {
    ::unlink(temporary.c_str());
    return tl::unexpected<Error>(std::move(error));
  };
  if (Status written = WriteAll(file.get(), content, path); !written) {
    return give_up(std::move(written).error());
  }
  // The content must be on the disk before the name points to it, or a power cut leaves an empty
  // file.
  if (::fchmod(file.get(), mode) != 0 || ::fsync(file.get()) != 0 || ::close(file.Release()) != 0 ||
      ::rename(temporary.c_str(), path.c_str()) != 0) {
    return give_up(FailFromErrno(errno, fmt::format("writing {}", path)).value());
  }
  return {};
}

}  // namespace sublet
