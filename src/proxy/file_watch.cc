#include "proxy/file_watch.h"

#include <sys/inotify.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <set>

#include "base/files.h"

namespace sublet {
namespace {

constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);
// Written in several steps, a file is whole when nothing has happened for so long.
constexpr std::chrono::milliseconds kSettles{50};
constexpr std::uint32_t kWhat =
    IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_ATTRIB;
constexpr std::string_view kKubernetesLink = "..data";

}  // namespace

class FileWatch::Impl {
 public:
  Impl(asio::io_context& loop, int fd) : events_(loop, fd), settles_(loop) {}

  std::vector<std::string> Follow(const std::vector<std::string>& paths) {
    for (const auto& [watch, names] : watched_) ::inotify_rm_watch(events_.native_handle(), watch);
    watched_.clear();
    std::vector<std::string> absent;
    for (const std::string& path : paths) {
      const std::size_t slash = path.rfind('/');
      const std::string folder = slash == std::string::npos ? "."
                                 : slash == 0               ? "/"
                                                            : path.substr(0, slash);
      const int watch = ::inotify_add_watch(events_.native_handle(), folder.c_str(), kWhat);
      if (watch < 0) {
        absent.push_back(folder);
      } else {
        watched_[watch].insert(slash == std::string::npos ? path : path.substr(slash + 1));
      }
    }
    return absent;
  }

  Task<bool> Changed() {
    for (bool changed = false; !changed;) {
      const auto [error, bytes] = co_await events_.async_read_some(asio::buffer(bytes_), kAsTuple);
      if (error) co_return false;
      changed = IsOurs(bytes);
    }
    settles_.expires_after(kSettles);
    co_await settles_.async_wait(kAsTuple);
    co_return true;
  }

 private:
  bool IsOurs(std::size_t bytes) const {
    bool ours = false;
    for (std::size_t at = 0; at + sizeof(inotify_event) <= bytes;) {
      const auto* const event = reinterpret_cast<const inotify_event*>(bytes_.data() + at);
      const std::string_view name = event->len > 0 ? event->name : "";
      const auto names = watched_.find(event->wd);
      const bool lost = (event->mask & IN_Q_OVERFLOW) != 0;
      ours = ours || lost ||
             (names != watched_.end() &&
              (name == kKubernetesLink || names->second.contains(std::string(name))));
      at += sizeof(inotify_event) + event->len;
    }
    return ours;
  }

  asio::posix::stream_descriptor events_;
  asio::steady_timer settles_;
  std::map<int, std::set<std::string>> watched_;
  alignas(inotify_event) std::array<char, 16384> bytes_;
};

Result<std::unique_ptr<FileWatch>> FileWatch::Open(asio::io_context& loop) {
  const int fd = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd < 0) {
    return Fail(ErrorCode::kUnavailable, "files can't be watched: no more of the kernel's watches",
                "raise fs.inotify.max_user_instances; until then send SIGHUP after a change");
  }
  return std::unique_ptr<FileWatch>(new FileWatch(std::make_unique<Impl>(loop, fd)));
}

FileWatch::FileWatch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FileWatch::~FileWatch() = default;

std::vector<std::string> FileWatch::Follow(const std::vector<std::string>& paths) {
  return impl_->Follow(paths);
}

Task<bool> FileWatch::Changed() {
  return impl_->Changed();
}

}  // namespace sublet
