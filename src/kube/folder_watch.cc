#include "kube/folder_watch.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/files.h"

namespace sublet {
namespace {

constexpr double kMissingLookSeconds = 1;
constexpr std::size_t kNotesBytes = 16384;  // Read at once; a note has less than 300.
constexpr std::uint32_t kGone = IN_DELETE | IN_MOVED_FROM;
constexpr std::uint32_t kThere = IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE;
constexpr std::uint32_t kFolderItself = IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED | IN_UNMOUNT;

}  // namespace

FolderWatch::FolderWatch(asio::io_context& loop, std::function<void(const FolderChange&)> report)
    : loop_(loop), report_(std::move(report)), bell_(loop) {}

Status FolderWatch::Start() {
  notes_ = FileDescriptor(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!notes_.valid()) return FailFromErrno(errno, "watching folders");
  asio::co_spawn(loop_, Read(), EndsTheProgram);
  asio::co_spawn(loop_, LookForMissing(), EndsTheProgram);
  return {};
}

void FolderWatch::Watch(const std::string& folder) {
  if (!Add(folder)) missing_.insert(folder);
  bell_.Ring();
}

void FolderWatch::Stop() {
  stopped_ = true;
  bell_.Ring();
  // Ends the wait for it: each removal is a note.
  for (const auto& [number, folder] : folders_) ::inotify_rm_watch(notes_.get(), number);
  const int last = ::inotify_add_watch(notes_.get(), "/", IN_CREATE);
  if (last >= 0) ::inotify_rm_watch(notes_.get(), last);
}

bool FolderWatch::Add(const std::string& folder) {
  const int number = ::inotify_add_watch(
      notes_.get(), folder.c_str(), kGone | kThere | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
  if (number < 0) return false;
  folders_[number] = folder;
  return true;
}

Task<void> FolderWatch::Read() {
  const auto self = shared_from_this();
  std::array<char, kNotesBytes> buffer{};
  while (!stopped_ && co_await WaitReadable(notes_.get())) {
    const ssize_t size = ::read(notes_.get(), buffer.data(), buffer.size());
    if (size > 0) Tell(std::string_view(buffer.data(), static_cast<std::size_t>(size)));
  }
}

// inotify(7): notes follow each other, each with its name behind it, filled up with zeros.
void FolderWatch::Tell(std::string_view notes) {
  while (!stopped_ && notes.size() >= sizeof(inotify_event)) {
    inotify_event note{};
    std::memcpy(&note, notes.data(), sizeof(note));
    const std::string_view padded = notes.substr(sizeof(note), note.len);
    notes.remove_prefix(std::min(sizeof(note) + note.len, notes.size()));
    TellOne(note.wd, note.mask, std::string(padded.substr(0, padded.find('\0'))));
  }
}

void FolderWatch::TellOne(int number, std::uint32_t mask, const std::string& name) {
  if ((mask & IN_Q_OVERFLOW) != 0) {
    for (const auto& [other, folder] : std::map(folders_)) report_(FolderChange{folder});
    return;
  }
  const auto found = folders_.find(number);
  if (found == folders_.end()) return;
  const std::string folder = found->second;
  if ((mask & kFolderItself) == 0) {
    report_({.folder = folder, .name = name, .is_gone = (mask & kGone) != 0});
    return;
  }
  folders_.erase(found);
  ::inotify_rm_watch(notes_.get(), number);
  missing_.insert(folder);
  bell_.Ring();
  report_({.folder = folder, .name = "", .is_gone = true});
}

Task<void> FolderWatch::LookForMissing() {
  const auto self = shared_from_this();
  while (!stopped_) {
    for (const std::string& folder : std::vector(missing_.begin(), missing_.end())) {
      if (!Add(folder)) continue;
      missing_.erase(folder);
      report_(FolderChange{folder});
    }
    const Moment next = missing_.empty() ? kNever : MomentIn(kMissingLookSeconds);
    co_await bell_.Wait(next);
  }
}

}  // namespace sublet
