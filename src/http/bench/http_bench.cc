// What the API costs over a UNIX socket, beside the same bytes said back by a bare echo on the same
// kind of socket in the same run: `times_raw` is the price of HTTP, the loop and the coroutines.
//
//   ./dev bench http_bench

#include <benchmark/benchmark.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <boost/asio/executor_work_guard.hpp>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "http/http_client.h"
#include "http/http_server.h"

namespace sublet {
namespace {

constexpr std::string_view kRequest = "GET /v1/health HTTP/1.1\r\nHost: sublet\r\n\r\n";
constexpr std::string_view kBody = "{\"healthy\":true}\n";
constexpr std::string_view kEnd = "true}\n";  // Of an answer.

class Folder {
 public:
  Folder() { CHECK(::mkdtemp(path_.data()) != nullptr); }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_ = "/tmp/sublet-bench-XXXXXX";
};

Task<void> Answer(HttpRequest, Responder& responder) {
  const bool sent = co_await responder.Send(200, kJsonType, std::string(kBody));
  CHECK(sent);
}

class HttpEnd {
 public:
  HttpEnd() : server_(HttpServer::Open(loop_, {}, Answer).value()) {
    CHECK(server_->AddUnixListener({.path = path()}).has_value());
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~HttpEnd() {
    loop_.stop();
    thread_.join();
  }
  std::string path() const { return folder_ / "s"; }

 private:
  Folder folder_;
  asio::io_context loop_{1};
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

// Answers whatever comes with the bytes that the server answers: what the kernel takes for it, and
// no more.
class RawEnd {
 public:
  explicit RawEnd(std::size_t clients) : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    answer_ = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n";
    answer_ += kBody;
    Watch(stop_.get());
    for (std::size_t i = 0; i < clients; ++i) {
      int pair[2];
      CHECK(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
      ours_.emplace_back(pair[0]);
      theirs_.emplace_back(pair[1]);
      Watch(pair[1]);
    }
    thread_ = std::thread([this] { Run(); });
  }
  ~RawEnd() {
    const std::uint64_t one = 1;
    CHECK(::write(stop_.get(), &one, sizeof one) == sizeof one);
    thread_.join();
  }
  std::vector<int> clients() const {
    std::vector<int> fds;
    for (const FileDescriptor& socket : ours_) fds.push_back(socket.get());
    return fds;
  }

 private:
  void Watch(int fd) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    CHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0);
  }
  void Run() {
    std::array<epoll_event, 128> events;
    std::array<char, 4096> request;
    while (true) {
      const int ready = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
      for (int i = 0; i < ready; ++i) {
        const int fd = events[static_cast<std::size_t>(i)].data.fd;
        if (fd == stop_.get()) return;
        if (::recv(fd, request.data(), request.size(), 0) <= 0) return;
        if (::send(fd, answer_.data(), answer_.size(), MSG_NOSIGNAL) < 0) return;
      }
    }
  }

  FileDescriptor epoll_;
  FileDescriptor stop_{::eventfd(0, EFD_CLOEXEC)};
  std::string answer_;
  std::vector<FileDescriptor> ours_;
  std::vector<FileDescriptor> theirs_;
  std::thread thread_;
};

// Each of `clients` asks once, all at the same time, and all answers are read.
void AskAll(const std::vector<int>& clients) {
  for (const int fd : clients) {
    CHECK(::send(fd, kRequest.data(), kRequest.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(kRequest.size()));
  }
  std::array<char, 4096> answer;
  for (const int fd : clients) {
    std::string_view got;
    std::size_t size = 0;
    while (!got.ends_with(kEnd)) {
      const ssize_t more = ::recv(fd, answer.data() + size, answer.size() - size, 0);
      CHECK(more > 0);
      size += static_cast<std::size_t>(more);
      got = std::string_view(answer.data(), size);
    }
  }
}

double SecondsARound(const std::vector<int>& clients, std::int64_t rounds) {
  const std::int64_t begin = MonotonicNanoseconds();
  for (std::int64_t i = 0; i < rounds; ++i) AskAll(clients);
  return static_cast<double>(MonotonicNanoseconds() - begin) * 1e-9 / static_cast<double>(rounds);
}

FileDescriptor Connect(const std::string& path) {
  FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  CHECK(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return socket;
}

// Requests by connections that stay, as `sublet top` or a scraper makes them.
void BM_Requests(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const HttpEnd server;
  std::vector<FileDescriptor> sockets;
  std::vector<int> clients;
  for (std::size_t i = 0; i < count; ++i) {
    sockets.push_back(Connect(server.path()));
    clients.push_back(sockets.back().get());
  }
  AskAll(clients);
  const std::int64_t begin = MonotonicNanoseconds();
  for (auto _ : state) AskAll(clients);
  const double http_s = static_cast<double>(MonotonicNanoseconds() - begin) * 1e-9 /
                        static_cast<double>(state.iterations());
  const RawEnd raw(count);
  AskAll(raw.clients());
  const double raw_s = SecondsARound(raw.clients(), state.iterations());
  const auto requests = static_cast<double>(count);
  state.counters["requests_per_s"] = requests / http_s;
  state.counters["raw_per_s"] = requests / raw_s;
  state.counters["times_raw"] = http_s / raw_s;
}
BENCHMARK(BM_Requests)->Arg(1)->Arg(100)->UseRealTime()->Unit(benchmark::kMicrosecond);

// What `sublet run` adds to the start of a process: connect, ask, hear.
void BM_ConnectAndAsk(benchmark::State& state) {
  const HttpEnd server;
  for (auto _ : state) {
    auto client = HttpClient::ConnectUnix(server.path(), 5);
    CHECK(client.has_value());
    const auto response = client->Send({.target = "/v1/health"});
    CHECK(response.has_value());
    benchmark::DoNotOptimize(response->body.data());
  }
}
BENCHMARK(BM_ConnectAndAsk)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
