#include "node/replica_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/file_descriptor.h"
#include "base/files.h"

namespace sublet {
namespace {

constexpr std::uint64_t kTailBytesMax = 1u << 20;  // Of each file; 10,000 lines as a rule.
// Of the filesystems that can take blocks off a file: no larger than a page of memory.
constexpr std::uint64_t kBlockBytes = 4096;
constexpr std::uint64_t kReadBytesMax = 256u << 10;  // More than a terminal shows in a second.

// The files are in a folder of ours, but the log itself is the replica's user's: no link is
// followed that this user may have made there by some way.
FileDescriptor OpenFile(const std::string& path, int flags) {
  return FileDescriptor(::open(path.c_str(), flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
}

std::uint64_t SizeOf(int file) {
  struct stat status {};
  return ::fstat(file, &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

// At most `bytes` from `offset` on; fewer at the end of the file.
Result<std::string> ReadPart(int file, std::uint64_t offset, std::uint64_t bytes) {
  std::string text(bytes, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got =
        ::pread(file, text.data() + size, text.size() - size, static_cast<off_t>(offset + size));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FailFromErrno(errno, "reading a log");
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  text.resize(size);
  return text;
}

// Copies from `begin` to `end`, or to where the file ends.
Status CopyPart(int from, int to, std::uint64_t begin, std::uint64_t end) {
  off_t position = static_cast<off_t>(begin);
  while (static_cast<std::uint64_t>(position) < end) {
    const ssize_t sent =
        ::sendfile(to, from, &position, end - static_cast<std::uint64_t>(position));
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return FailFromErrno(errno, "copying a log");
    if (sent == 0) break;
  }
  return {};
}

std::string_view LastLines(std::string_view text, std::size_t lines) {
  if (lines == 0) return {};
  // The end of the last line doesn't begin another.
  std::size_t at = text.size() - (text.ends_with('\n') ? 1 : 0);
  for (; lines > 0; --lines) {
    at = at == 0 ? std::string_view::npos : text.rfind('\n', at - 1);
    if (at == std::string_view::npos) return text;
  }
  return text.substr(at + 1);
}

}  // namespace

ReplicaLog::ReplicaLog(const std::string& folder, const std::string& share)
    : ReplicaLog(folder, share, kReplicaLogBytesMax) {}

ReplicaLog::ReplicaLog(const std::string& folder, const std::string& share, std::uint64_t bytes_max)
    : path_(fmt::format("{}/{}.log", folder, share)), bytes_max_(bytes_max) {}

std::string ReplicaLog::OldPath(int age) const {
  return fmt::format("{}.{}", path_, age);
}

Result<bool> ReplicaLog::RotateIfLarge() {
  const std::lock_guard lock(mutex_);
  const FileDescriptor live = OpenFile(path_, O_RDWR);
  if (!live.valid() && errno == ENOENT) return false;
  if (!live.valid()) return FailFromErrno(errno, fmt::format("opening log {}", path_));
  const std::uint64_t size = SizeOf(live.get());
  if (size <= bytes_max_) return false;
  const std::uint64_t skipped = size - std::min(size, bytes_max_ * kLogOvergrown);
  // Whole blocks, and not to the end: so much can be taken off in one step.
  const std::uint64_t whole = std::max(skipped, (size - 1) / kBlockBytes * kBlockBytes);
  const Result<FileDescriptor> copy = KeepCopy(live.get(), skipped, whole);
  if (!copy && skipped == 0) {
    return tl::unexpected<Error>(Error(copy.error()).Prefixed(path_));
  }
  const bool cut =
      copy && ::fallocate(live.get(), FALLOC_FL_COLLAPSE_RANGE, 0, static_cast<off_t>(whole)) == 0;
  // A failure to copy the rest loses as much as no attempt would. A replica that prints faster than
  // this copies must not keep it busy.
  if (!cut && copy) {
    static_cast<void>(CopyPart(live.get(), copy->get(), whole, size + bytes_max_));
  }
  if (!cut && ::ftruncate(live.get(), 0) != 0) {
    return FailFromErrno(errno, fmt::format("cutting log {}", path_));
  }
  // Whoever follows can't find what wasn't copied: for them it is two rotations.
  rotations_ += copy && skipped == 0 ? 1 : 2;
  return true;
}

// Makes the copy the first of the old files, and returns it.
Result<FileDescriptor> ReplicaLog::KeepCopy(int live, std::uint64_t begin, std::uint64_t end) {
  const std::string next = fmt::format("{}.new", path_);
  // The oldest goes first: on a full disk its room is needed.
  ::unlink(OldPath(kOldLogs).c_str());
  ::unlink(next.c_str());  // Of a program that was killed while it copied.
  FileDescriptor copy = OpenFile(next, O_WRONLY | O_CREAT | O_EXCL);
  if (!copy.valid()) return FailFromErrno(errno, fmt::format("making {}", next));
  struct stat status {};
  Status copied;
  if (::fstat(live, &status) != 0 || ::fchown(copy.get(), status.st_uid, status.st_gid) != 0 ||
      ::fchmod(copy.get(), status.st_mode & 0777) != 0) {
    copied = FailFromErrno(errno, fmt::format("making {}", next));
  }
  if (copied) copied = CopyPart(live, copy.get(), begin, end);
  if (!copied) {
    ::unlink(next.c_str());
    return tl::unexpected<Error>(std::move(copied).error());
  }
  for (int age = kOldLogs; age > 1; --age) {
    ::rename(OldPath(age - 1).c_str(), OldPath(age).c_str());
  }
  if (::rename(next.c_str(), OldPath(1).c_str()) != 0) {
    return FailFromErrno(errno, fmt::format("renaming {}", next));
  }
  return copy;
}

Result<LogText> ReplicaLog::Tail(std::size_t lines) const {
  const std::lock_guard lock(mutex_);
  LogText tail;
  tail.next.rotations = rotations_;
  const FileDescriptor live = OpenFile(path_, O_RDONLY);
  if (!live.valid() && errno == ENOENT) return tail;
  if (!live.valid()) return FailFromErrno(errno, fmt::format("opening log {}", path_));
  const std::uint64_t size = SizeOf(live.get());
  const std::uint64_t begin = size - std::min(size, kTailBytesMax);
  ASSIGN_OR_RETURN(std::string text, ReadPart(live.get(), begin, size - begin));
  tail.next.offset = begin + text.size();
  const std::size_t room = kTailBytesMax - std::min<std::size_t>(kTailBytesMax, text.size());
  const auto found = static_cast<std::size_t>(std::ranges::count(text, '\n'));
  // One more than asked for, since the oldest may have begun in the file before.
  if (const FileDescriptor old = OpenFile(OldPath(1), O_RDONLY); found <= lines && old.valid()) {
    const std::uint64_t old_size = SizeOf(old.get());
    const std::uint64_t bytes = std::min<std::uint64_t>(old_size, room);
    ASSIGN_OR_RETURN(const std::string before, ReadPart(old.get(), old_size - bytes, bytes));
    text.insert(0, before);
  }
  tail.text = LastLines(text, lines);
  return tail;
}

Result<LogText> ReplicaLog::ReadFrom(LogPosition position) const {
  const std::lock_guard lock(mutex_);
  if (position.rotations + 1 == rotations_) {
    const FileDescriptor old = OpenFile(OldPath(1), O_RDONLY);
    const std::uint64_t old_size = old.valid() ? SizeOf(old.get()) : 0;
    if (position.offset < old_size) {
      ASSIGN_OR_RETURN(std::string text, ReadPart(old.get(), position.offset, kReadBytesMax));
      const std::uint64_t next = position.offset + text.size();
      return LogText{std::move(text), {next, position.rotations}};
    }
    // What wasn't taken off has moved to the beginning.
    position = {position.offset - old_size, rotations_};
  }
  if (position.rotations != rotations_) position = {0, rotations_};
  const FileDescriptor live = OpenFile(path_, O_RDONLY);
  if (!live.valid() && errno == ENOENT) return LogText{"", {0, rotations_}};
  if (!live.valid()) return FailFromErrno(errno, fmt::format("opening log {}", path_));
  // Somebody else has cut it.
  if (position.offset > SizeOf(live.get())) position.offset = 0;
  ASSIGN_OR_RETURN(std::string text, ReadPart(live.get(), position.offset, kReadBytesMax));
  const std::uint64_t next = position.offset + text.size();
  return LogText{std::move(text), {next, rotations_}};
}

void ReplicaLog::Remove() {
  const std::lock_guard lock(mutex_);
  ::unlink(path_.c_str());
  ::unlink(fmt::format("{}.new", path_).c_str());
  for (int age = 1; age <= kOldLogs; ++age) ::unlink(OldPath(age).c_str());
}

}  // namespace sublet
