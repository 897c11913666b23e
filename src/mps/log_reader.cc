#include "mps/log_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "base/file_descriptor.h"
#include "mps/pipe_folder.h"

namespace sublet {
namespace {

constexpr std::size_t kLineBytesMax = 4096;  // The longest has less than 300.

// A client has two contexts in the log: 0 from its cuInit on, 1 for its own.
constexpr std::string_view kClientMark = "Client {PID: ";
constexpr std::string_view kAtInit = "Context ID: 0}";

bool Has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// The number that follows the first `mark`; 0 where none does.
int NumberAfter(std::string_view text, std::string_view mark) {
  const std::size_t at = text.find(mark);
  if (at == std::string_view::npos) return 0;
  text.remove_prefix(at + mark.size());
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return std::max(number, 0);
}

// "[2026-11-21 10:00:00.123 Server  4711] text": the process that writes, and its text.
struct Origin {
  int pid = 0;
  std::string_view text;
};

Origin SplitOrigin(std::string_view line) {
  const std::size_t end = line.find("] ");
  if (!line.starts_with('[') || end == std::string_view::npos) return {0, line};
  const std::string_view head = line.substr(0, end);
  Origin origin{NumberAfter(head, head.substr(0, head.rfind(' ') + 1)), line.substr(end + 2)};
  return origin;
}

}  // namespace

MpsEvent ParseMpsLine(std::string_view line) {
  const Origin origin = SplitOrigin(line);
  const std::string_view text = origin.text;
  MpsEvent event{MpsEventKind::kOther, 0, origin.pid, std::string(text)};
  const auto is = [&](MpsEventKind kind, int pid) {
    event.kind = kind;
    event.pid = pid;
  };
  const int client = NumberAfter(text, "{PID: ");
  if (text.starts_with("Server is handling a fatal GPU error")) {
    is(MpsEventKind::kFault, 0);
  } else if (text.starts_with(kClientMark) && Has(text, " on device ") && Has(text, "torn down")) {
    is(MpsEventKind::kClientLost, client);
  } else if (text.starts_with("MPS server requesting client ")) {
    is(MpsEventKind::kClientTerminated, client);
  } else if (text.starts_with("Failed to accept ")) {
    is(MpsEventKind::kClientRefused, client);
  } else if (text.starts_with(kClientMark) && Has(text, kAtInit) && text.ends_with(" connected")) {
    is(MpsEventKind::kClientConnected, client);
  } else if (const int pid = NumberAfter(text, "Client process "); pid != 0) {
    if (text.ends_with(" disconnected")) is(MpsEventKind::kClientExited, pid);
  } else if (text.starts_with("NEW SERVER ")) {
    is(MpsEventKind::kServerStarted, NumberAfter(text, "NEW SERVER "));
  } else if (text.starts_with("Server ") && Has(text, " exited with status ")) {
    is(MpsEventKind::kServerExited, NumberAfter(text, "Server "));
  }
  return event;
}

LogTail::LogTail(std::string path, uid_t owner, From from) : path_(std::move(path)), owner_(owner) {
  if (from == From::kBegin) return;
  struct stat status {};
  const std::optional<FileDescriptor> file = OpenFileOf(owner_, path_);
  if (!file || ::fstat(file->get(), &status) != 0) return;
  inode_ = status.st_ino;
  offset_ = static_cast<std::uint64_t>(status.st_size);
}

std::vector<MpsEvent> LogTail::Read() {
  struct stat status {};
  const std::optional<FileDescriptor> file = OpenFileOf(owner_, path_);
  if (!file || ::fstat(file->get(), &status) != 0) return {};
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (status.st_ino != inode_ || size < offset_) {
    inode_ = status.st_ino;
    offset_ = 0;
    rest_.clear();
  }
  if (size - offset_ > kLogBytesMax) {
    offset_ = size - kLogBytesMax;
    rest_.clear();
  }
  std::string fresh(size - offset_, '\0');
  const ssize_t got = ::pread(file->get(), fresh.data(), fresh.size(), static_cast<off_t>(offset_));
  fresh.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  offset_ += fresh.size();
  rest_ += fresh;
  std::vector<MpsEvent> events;
  std::string_view left = rest_;
  for (std::size_t end = 0; (end = left.find('\n')) != std::string_view::npos;) {
    MpsEvent event = ParseMpsLine(left.substr(0, std::min(end, kLineBytesMax)));
    if (event.kind != MpsEventKind::kOther) events.push_back(std::move(event));
    left.remove_prefix(end + 1);
  }
  rest_ = std::string(left.substr(0, kLineBytesMax));
  GiveBackRoom(status.st_blocks * 512);
  return events;
}

// Cutting the file off instead would lose what is written between the last look and the cut.
void LogTail::GiveBackRoom(std::int64_t room_bytes) const {
  if (room_bytes <= std::int64_t{kLogBytesMax} || offset_ <= kLogBytesKept) return;
  const std::optional<FileDescriptor> file = OpenFileOf(owner_, path_, O_RDWR);
  if (!file) return;
  const auto old = static_cast<off_t>(offset_ - kLogBytesKept);
  // Where the file system can't do it, the log takes the room.
  static_cast<void>(::fallocate(file->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, old));
}

}  // namespace sublet
