// proxy/tests/fake_replica.h
//
// A replica made of plain sockets, so that it can do all that a real one shouldn't.
//
//   FakeReplica replica([](ReplicaPeer& peer) {
//     const std::string request = peer.ReadRequest();
//     peer.Say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
//   });
//   replica.url()   // "http://127.0.0.1:40001"
//
// The script runs once for each connection, on a thread of its own; the connection closes when it
// returns. Whoever waits here does so with patience, and fails the test when it is over.
//
// Thread safety: the counters and the scripts' own business, from any thread.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file_descriptor.h"

namespace sublet {

inline constexpr double kReplicaPatienceSeconds = 20;

// A moment that one thread brings about and others wait for.
class Moment {
 public:
  void Come() {
    const std::lock_guard lock(mutex_);
    come_ = true;
    changed_.notify_all();
  }
  // False: it didn't come.
  bool Wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::duration<double>(kReplicaPatienceSeconds),
                             [this] { return come_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool come_ = false;
};

class ReplicaPeer {
 public:
  explicit ReplicaPeer(FileDescriptor socket) : socket_(std::move(socket)) {}

  // The next request, head and body; "" where the other side has closed.
  std::string ReadRequest() {
    const std::size_t head = ReadUntil([this] { return in_.find("\r\n\r\n"); });
    if (head == std::string::npos) return "";
    const std::size_t length_at = in_.find("content-length: ");
    const std::size_t body =
        length_at < head ? std::strtoull(in_.c_str() + length_at + 16, nullptr, 10) : 0;
    const std::size_t end = head + 4 + body;
    ReadUntil([&] { return in_.size() >= end ? std::size_t{0} : std::string::npos; });
    const std::string request = in_.substr(0, end);
    in_.erase(0, end);
    return request;
  }
  // The head alone; what has come of the body is left.
  std::string ReadHead() {
    const std::size_t head = ReadUntil([this] { return in_.find("\r\n\r\n"); });
    return head == std::string::npos ? "" : in_.substr(0, head + 4);
  }
  // False: the other side takes no more.
  bool Say(std::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = ::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (sent < 0) return false;
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }
  // Whether the other side closes; what it says before is dropped.
  bool WaitClosed() {
    return ReadUntil([this] {
             in_.clear();
             return std::string::npos;
           }) == std::string::npos &&
           closed_;
  }
  void ShutdownSending() { ::shutdown(socket_.get(), SHUT_WR); }
  void Reset() {
    const linger now{1, 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    socket_.Close();
  }
  void Close() { socket_.Close(); }
  int fd() const { return socket_.get(); }

 private:
  template <typename Found>
  std::size_t ReadUntil(Found found) {
    const Deadline deadline = Deadline::In(kReplicaPatienceSeconds);
    while (true) {
      const std::size_t at = found();
      if (at != std::string::npos) return at;
      pollfd fds = {socket_.get(), POLLIN, 0};
      if (::poll(&fds, 1, deadline.PollMilliseconds()) <= 0) return std::string::npos;
      char chunk[65536];
      const ssize_t got = ::recv(socket_.get(), chunk, sizeof chunk, 0);
      if (got <= 0) {
        closed_ = true;
        return std::string::npos;
      }
      in_.append(chunk, static_cast<std::size_t>(got));
    }
  }

  FileDescriptor socket_;
  std::string in_;
  bool closed_ = false;
};

class FakeReplica {
 public:
  using Script = std::function<void(ReplicaPeer&)>;

  explicit FakeReplica(Script script)
      : script_(std::move(script)), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(listener_.get(), 256) != 0 ||
        ::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      std::abort();
    }
    port_ = ntohs(address.sin_port);
    accepting_ = std::thread([this] { Accept(); });
  }
  // The other side must have closed its connections, or let the scripts end otherwise.
  ~FakeReplica() { Stop(); }

  void Stop() {
    if (!accepting_.joinable()) return;
    ::shutdown(listener_.get(), SHUT_RDWR);
    accepting_.join();
    listener_.Close();
    for (std::thread& thread : threads_) thread.join();
  }

  int port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  int connections() const { return connections_; }

 private:
  void Accept() {
    while (true) {
      FileDescriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket.valid()) return;
      ++connections_;
      threads_.emplace_back([this, fd = socket.Release()] {
        ReplicaPeer peer{FileDescriptor(fd)};
        script_(peer);
      });
    }
  }

  const Script script_;
  FileDescriptor listener_;
  int port_ = 0;
  std::atomic<int> connections_ = 0;
  std::thread accepting_;
  std::list<std::thread> threads_;
};

// Answers each request of a connection with the same text.
inline FakeReplica::Script Always(std::string answer) {
  return [answer = std::move(answer)](ReplicaPeer& peer) {
    while (!peer.ReadRequest().empty()) peer.Say(answer);
  };
}

// The request said back, as the body of an answer.
inline FakeReplica::Script EchoRequest() {
  return [](ReplicaPeer& peer) {
    for (std::string request = peer.ReadRequest(); !request.empty(); request = peer.ReadRequest()) {
      peer.Say("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: " +
               std::to_string(request.size()) + "\r\n\r\n" + request);
    }
  };
}

}  // namespace sublet
