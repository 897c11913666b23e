// instant_upstream COUNT: an inference engine that takes no time, for measuring what stands before
// it.
//
// It listens on COUNT free ports of the loopback, prints them in one line, and answers every
// request as soon as it has it: with a completion in JSON, or, where the request has the header
// `X-Stream`, with one of kEvents server-sent events in chunks, each by a write of its own. One
// thread, one read and one write a request, no look into the body: what is measured through it is
// the proxy.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

constexpr int kEvents = 16;
constexpr std::size_t kReadBytes = 256 << 10;

std::string WholeAnswer() {
  const std::string body =
      R"({"id":"cmpl-1","object":"chat.completion","created":1,"model":"demo",)"
      R"("choices":[{"index":0,"message":{"role":"assistant",)"
      R"("content":"Hello there, how may I help you today?"},)"
      R"("finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":9,)"
      R"("total_tokens":18}})";
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

std::string Chunk(std::string_view text) {
  std::array<char, 16> size{};
  const auto end = std::to_chars(size.data(), size.data() + size.size(), text.size(), 16).ptr;
  return std::string(size.data(), end) + "\r\n" + std::string(text) + "\r\n";
}

std::vector<std::string> StreamedAnswer() {
  std::vector<std::string> parts = {
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"};
  for (int i = 0; i < kEvents; ++i) {
    parts.push_back(
        Chunk(R"(data: {"id":"cmpl-1","object":"chat.completion.chunk","created":1,"model":"demo",)"
              R"("choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]})"
              "\n\n"));
  }
  parts.push_back(Chunk("data: [DONE]\n\n") + "0\r\n\r\n");
  return parts;
}

struct Client {
  std::string input;
  std::size_t body_left = 0;  // Of the request that is being read.
  bool in_body = false;
  bool stream = false;
};

bool WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;  // The benchmark's clients always read.
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

// Takes the head of a request off the input; false where it isn't whole yet.
bool TakeHead(Client& client) {
  const std::size_t end = client.input.find("\r\n\r\n");
  if (end == std::string::npos) return false;
  std::string head = client.input.substr(0, end + 2);
  client.input.erase(0, end + 4);
  std::transform(head.begin(), head.end(), head.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  client.stream = head.find("\r\nx-stream:") != std::string::npos;
  const std::size_t length = head.find("\r\ncontent-length:");
  client.body_left =
      length == std::string::npos ? 0 : std::strtoull(head.c_str() + length + 17, nullptr, 10);
  client.in_body = true;
  return true;
}

// Answers what is whole of the input; false where the client is gone.
bool Serve(int fd, Client& client) {
  static const std::string kWhole = WholeAnswer();
  static const std::vector<std::string> kStreamed = StreamedAnswer();
  while (client.in_body || TakeHead(client)) {
    const std::size_t taken = std::min(client.body_left, client.input.size());
    client.input.erase(0, taken);
    client.body_left -= taken;
    if (client.body_left > 0) return true;
    client.in_body = false;
    if (!client.stream && !WriteAll(fd, kWhole)) return false;
    if (!client.stream) continue;
    for (const std::string& part : kStreamed) {
      if (!WriteAll(fd, part)) return false;
    }
  }
  return true;
}

int Listen() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd, 4096) != 0) {
    std::perror("instant_upstream");
    std::exit(1);
  }
  return fd;
}

int PortOf(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

void Watch(int epoll, int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

void Accept(int epoll, int listener) {
  const int fd = ::accept(listener, nullptr, nullptr);
  if (fd < 0) return;
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  Watch(epoll, fd);
}

[[noreturn]] void Run(int epoll, const std::vector<int>& listeners) {
  std::unordered_map<int, Client> clients;
  std::vector<char> buffer(kReadBytes);
  std::array<epoll_event, 256> events{};
  while (true) {
    const int count = ::epoll_wait(epoll, events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<std::size_t>(i)].data.fd;
      if (std::find(listeners.begin(), listeners.end(), fd) != listeners.end()) {
        Accept(epoll, fd);
        continue;
      }
      const ssize_t read = ::read(fd, buffer.data(), buffer.size());
      Client& client = clients[fd];
      if (read > 0) client.input.append(buffer.data(), static_cast<std::size_t>(read));
      if (read > 0 && Serve(fd, client)) continue;
      clients.erase(fd);
      ::close(fd);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc == 2 ? std::atoi(argv[1]) : 0;
  if (count < 1) {
    std::fprintf(stderr, "usage: instant_upstream COUNT\n");
    return 2;
  }
  const int epoll = ::epoll_create1(0);
  std::vector<int> listeners;
  for (int i = 0; i < count; ++i) {
    listeners.push_back(Listen());
    Watch(epoll, listeners.back());
    std::printf("%d%c", PortOf(listeners.back()), i + 1 < count ? ' ' : '\n');
  }
  std::fflush(stdout);
  Run(epoll, listeners);
}
