// proxy/file_watch.h
//
// Tells when files may have changed, by the kernel (inotify).
//
//   ASSIGN_OR_RETURN(auto watch, FileWatch::Open(loop));
//   watch->Follow({"/etc/sublet/route.yaml", "/etc/sublet/keys.yaml"});
//   while (co_await watch->Changed()) Reload();
//
// The folders are watched, not the files: an editor puts a new file in the old one's place, and
// Kubernetes swaps a link beside it (..data). So a file may be named that isn't there yet, and a
// change that is told may be none: who cares compares what it reads.
//
// Thread safety: the loop's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/event_loop.h"

namespace sublet {

class FileWatch {
 public:
  // Fails with kUnavailable where the kernel has no more watches for this user.
  static Result<std::unique_ptr<FileWatch>> Open(asio::io_context& loop);
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

  // These from now on, absolute or from the working folder. A folder that isn't there is left out
  // and named in the answer.
  std::vector<std::string> Follow(const std::vector<std::string>& paths);
  // True at the next change; changes that come together count as one.
  Task<bool> Changed();

 private:
  class Impl;
  explicit FileWatch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
