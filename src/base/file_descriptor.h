// base/file_descriptor.h
//
// An open file descriptor that is closed when its owner goes.
//
//   const FileDescriptor events(::eventfd(0, EFD_CLOEXEC));
//   if (!events.valid()) return FailFromErrno(errno, "making an eventfd");
//
// Thread safety: one thread at a time.
#pragma once

#include <unistd.h>

#include <utility>

namespace sublet {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { Close(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Leaves it open; whoever takes it closes it.
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }
  void Close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

}  // namespace sublet
