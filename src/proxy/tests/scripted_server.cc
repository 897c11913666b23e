#include "proxy/tests/scripted_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>

#include "base/check.h"

namespace sublet {

std::string ScriptedRequest::Target() const {
  const std::size_t begin = line.find(' ');
  const std::size_t end = line.rfind(' ');
  return begin == end ? "" : line.substr(begin + 1, end - begin - 1);
}

bool ScriptedPeer::Say(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

void ScriptedPeer::Stay() {
  char byte = 0;
  while (::recv(socket_, &byte, 1, 0) > 0) {
  }
}

class ScriptedServer::Impl {
 public:
  explicit Impl(Script script) : script_(std::move(script)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(listener_ >= 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    CHECK(::listen(listener_, 128) == 0);
    socklen_t size = sizeof address;
    CHECK(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { Accept(); });
  }

  ~Impl() {
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    {
      const std::scoped_lock lock(mutex_);
      for (const int socket : sockets_) ::shutdown(socket, SHUT_RDWR);
    }
    for (std::thread& thread : threads_) thread.join();
    for (const int socket : sockets_) ::close(socket);
    ::close(listener_);
  }

  int port() const { return port_; }
  std::vector<ScriptedRequest> requests() const {
    const std::scoped_lock lock(mutex_);
    return requests_;
  }

 private:
  void Accept() {
    for (;;) {
      const int socket = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (socket < 0) return;
      const std::scoped_lock lock(mutex_);
      const int number = static_cast<int>(sockets_.size());
      sockets_.push_back(socket);
      threads_.emplace_back([this, socket, number] { Serve(socket, number); });
    }
  }

  void Serve(int socket, int number) {
    std::string pending;
    while (const std::optional<ScriptedRequest> request = Read(socket, number, pending)) {
      {
        const std::scoped_lock lock(mutex_);
        requests_.push_back(*request);
      }
      ScriptedPeer peer(socket);
      if (!script_(*request, peer)) break;
    }
    ::shutdown(socket, SHUT_RDWR);
  }

  static std::size_t LengthIn(const std::string& head) {
    const auto at = std::search(
        head.begin(), head.end(), std::begin(kLength), std::end(kLength) - 1,
        [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; });
    if (at == head.end()) return 0;
    return std::stoul(
        std::string(at + static_cast<std::ptrdiff_t>(sizeof kLength - 1), head.end()));
  }

  static std::optional<ScriptedRequest> Read(int socket, int number, std::string& pending) {
    char bytes[4096];
    for (;;) {
      const std::size_t end = pending.find("\r\n\r\n");
      if (end != std::string::npos) {
        ScriptedRequest request;
        request.head = pending.substr(0, end);
        request.line = request.head.substr(0, request.head.find("\r\n"));
        request.connection = number;
        const std::size_t length = LengthIn(request.head);
        if (pending.size() >= end + 4 + length) {
          request.body = pending.substr(end + 4, length);
          pending.erase(0, end + 4 + length);
          return request;
        }
      }
      const ssize_t got = ::recv(socket, bytes, sizeof bytes, 0);
      if (got <= 0) return std::nullopt;
      pending.append(bytes, static_cast<std::size_t>(got));
    }
  }

  static constexpr char kLength[] = "content-length: ";
  const Script script_;
  int listener_ = -1;
  int port_ = 0;
  std::thread acceptor_;
  mutable std::mutex mutex_;
  std::vector<int> sockets_;
  std::vector<std::thread> threads_;
  std::vector<ScriptedRequest> requests_;
};

ScriptedServer::ScriptedServer(Script script)
    : impl_(std::make_unique<Impl>(std::move(script))), port_(impl_->port()) {}
ScriptedServer::~ScriptedServer() = default;

std::vector<ScriptedRequest> ScriptedServer::requests() const {
  return impl_->requests();
}

std::string Answer(int status, std::string_view body, std::string_view content_type) {
  return fmt::format("HTTP/1.1 {} Said\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n{}", status,
                     content_type, body.size(), body);
}

std::string ChunkedHead(std::string_view content_type) {
  return fmt::format("HTTP/1.1 200 OK\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
                     content_type);
}

std::string Chunk(std::string_view bytes) {
  return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
}

}  // namespace sublet
