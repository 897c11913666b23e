// http/tests/running_server.h
//
// A server with a loop and a thread of its own, at a socket in a folder that goes with it; and a
// client that sends whatever bytes a test wants sent.
//
//   RunningServer server([](HttpRequest request, Responder& to) -> Task<void> { ... });
//   RawClient client(server.path());
//   client.Say("GET / HTTP/1.1\r\n\r\n");
//   EXPECT_THAT(client.Hear(), StartsWith("HTTP/1.1 200"));
//
// Thread safety: one thread, apart from what the server runs.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/use_future.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "http/http_server.h"

namespace sublet {

// A folder of its own below the temporary one, with a path short enough for sockets.
class SocketFolder {
 public:
  SocketFolder() {
    std::string path = "/tmp/sublet-http-XXXXXX";
    EXPECT_NE(::mkdtemp(path.data()), nullptr);
    path_ = path;
  }
  ~SocketFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  SocketFolder(const SocketFolder&) = delete;
  SocketFolder& operator=(const SocketFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

class RunningServer {
 public:
  explicit RunningServer(HttpHandler handler, const HttpServerOptions& options = {},
                         mode_t mode = 0600)
      : guard_(asio::make_work_guard(loop_)) {
    server_ = HttpServer::Open(loop_, options, std::move(handler)).value();
    const Status listens =
        server_->AddUnixListener({.path = path(), .mode = mode, .group = std::nullopt});
    EXPECT_TRUE(listens) << listens.error().message;
  }
  // Before any request; a listener can only be added while the loop stands still.
  HttpServer& server() { return *server_; }
  void Start() {
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~RunningServer() { Stop(0); }

  void Stop(double drain_s) {
    if (!thread_.joinable()) return;
    CloseInBackground(drain_s).get();
    asio::post(loop_, asio::use_future([this] { server_.reset(); })).get();
    guard_.reset();
    thread_.join();
  }
  std::future<void> CloseInBackground(double drain_s) {
    return asio::co_spawn(loop_, server_->Close(drain_s), asio::use_future);
  }
  std::string path() const { return folder_ / "s"; }
  const SocketFolder& folder() const { return folder_; }
  asio::io_context& loop() { return loop_; }

 private:
  SocketFolder folder_;
  asio::io_context loop_{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

// Waits for what must come; a test that waits this long has failed.
inline constexpr double kPatienceSeconds = 20;

class RawClient {
 public:
  explicit RawClient(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    connect_error_ = Connect(&address, sizeof address);
  }
  explicit RawClient(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connect_error_ = Connect(&address, sizeof address);
  }

  int connect_error() const { return connect_error_; }
  int fd() const { return socket_.get(); }
  void Leave() { socket_.Close(); }
  void ShutdownSending() { ::shutdown(socket_.get(), SHUT_WR); }

  // False where the server takes no more.
  bool Say(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }
  // What comes until the server closes, or until `end` has come.
  std::string Hear(std::string_view end = "") {
    std::string heard;
    const Deadline deadline = Deadline::In(kPatienceSeconds);
    while (end.empty() || heard.find(end) == std::string::npos) {
      pollfd fds = {socket_.get(), POLLIN, 0};
      if (::poll(&fds, 1, deadline.PollMilliseconds()) <= 0) return heard + "<nothing more>";
      char chunk[4096];
      const ssize_t got = ::recv(socket_.get(), chunk, sizeof chunk, 0);
      if (got <= 0) return heard + "<closed>";
      heard.append(chunk, static_cast<std::size_t>(got));
    }
    return heard;
  }

 private:
  int Connect(const void* address, socklen_t size) {
    return ::connect(socket_.get(), static_cast<const sockaddr*>(address), size) == 0 ? 0 : errno;
  }

  FileDescriptor socket_;
  int connect_error_ = 0;
};

}  // namespace sublet
