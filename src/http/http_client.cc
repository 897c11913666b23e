#include "http/http_client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/url/encode.hpp>
#include <boost/url/rfc/unreserved_chars.hpp>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/interrupt.h"
#include "http/unix_socket.h"

namespace sublet {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;
using Parser = http::response_parser<http::string_body>;

constexpr std::size_t kAnswerBytesMax = 64u << 20;  // The largest plan that is read at all.
constexpr std::size_t kLineBytesMax = 8u << 20;     // As the server's limit for a request.

Deadline DeadlineOf(const std::optional<double>& seconds) {
  return seconds ? Deadline::In(*seconds) : Deadline::Never();
}

// Returns once `socket` is ready for `events`.
Status WaitFor(int socket, short events, Deadline deadline, bool interruptible) {
  while (true) {
    pollfd fds[] = {{socket, events, 0}, {interruptible ? InterruptFd() : -1, POLLIN, 0}};
    const int ready = ::poll(fds, std::size(fds), deadline.PollMilliseconds());
    if (ready < 0 && errno != EINTR) return FailFromErrno(errno, "waiting for the server");
    if (fds[0].revents != 0) return {};
    if (fds[1].revents != 0) return Fail(ErrorCode::kUnavailable, "interrupted");
    if (ready == 0) return Fail(ErrorCode::kUnavailable, "the server didn't answer in time");
  }
}

// The server has closed, or has sent something that nobody asked for. Either way this connection
// is of no more use.
bool IsUsedUp(int socket) {
  char byte = 0;
  const ssize_t got = ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got >= 0 || (errno != EAGAIN && errno != EINTR);
}

struct Sending {
  int error = 0;        // 0: all is sent.
  bool nothing = true;  // Not a byte left this process.
  Status waited = {};
};

Sending SendAll(int socket, std::string_view bytes, Deadline deadline, bool interruptible) {
  Sending sending;
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
      sending.nothing = false;
    } else if (errno == EAGAIN) {
      sending.waited = WaitFor(socket, POLLOUT, deadline, interruptible);
      if (!sending.waited) return sending;
    } else if (errno != EINTR) {
      sending.error = errno;
      return sending;
    }
  }
  return sending;
}

// An answer as it arrives.
class Answer {
 public:
  explicit Answer(int socket, bool interruptible) : socket_(socket), interruptible_(interruptible) {
    parser_.body_limit(boost::none);
    parser_.header_limit(64u << 10);
  }

  // Reads until the header is there.
  Status ReadHeader(Deadline deadline) {
    while (!parser_.is_header_done()) RETURN_IF_ERROR(ReadMore(deadline));
    return {};
  }
  // Reads a part of the body, which is empty at the answer's end only.
  Result<std::string> ReadBody(Deadline deadline) {
    parser_.eager(true);
    while (body().empty() && !parser_.is_done()) {
      if (unparsed_.empty()) {
        RETURN_IF_ERROR(ReadMore(deadline));
      } else {
        RETURN_IF_ERROR(Parse());
        if (body().empty() && !parser_.is_done()) RETURN_IF_ERROR(ReadMore(deadline));
      }
    }
    return std::exchange(body(), {});
  }

  int status() { return parser_.get().result_int(); }
  std::string content_type() { return std::string(parser_.get()[http::field::content_type]); }
  bool keeps_connection() { return parser_.is_done() && parser_.keep_alive(); }

 private:
  std::string& body() { return parser_.get().body(); }

  Status ReadMore(Deadline deadline) {
    std::array<char, 16384> chunk;
    ssize_t got = -1;
    while (got < 0) {
      got = ::recv(socket_, chunk.data(), chunk.size(), 0);
      if (got >= 0 || errno == EINTR) continue;
      if (errno != EAGAIN) {
        return Fail(ErrorCode::kUnavailable,
                    fmt::format("the server broke off: {}", std::strerror(errno)));
      }
      RETURN_IF_ERROR(WaitFor(socket_, POLLIN, deadline, interruptible_));
    }
    if (got == 0) return ReadEnd();
    unparsed_.append(chunk.data(), static_cast<std::size_t>(got));
    return Parse();
  }

  Status ReadEnd() {
    error_code error;
    if (parser_.got_some()) parser_.put_eof(error);
    if (parser_.is_done() && !error) return {};
    return Fail(ErrorCode::kUnavailable, parser_.is_header_done()
                                             ? "the server broke off its answer"
                                             : "the server closed before it answered");
  }

  Status Parse() {
    error_code error;
    unparsed_.erase(0, parser_.put(asio_buffer(), error));
    if (!error || error == http::error::need_more) return {};
    return Fail(ErrorCode::kUnavailable,
                fmt::format("the server's answer isn't HTTP: {}", error.message()));
  }
  boost::asio::const_buffer asio_buffer() const { return boost::asio::buffer(unparsed_); }

  int socket_;
  bool interruptible_;
  Parser parser_;
  std::string unparsed_;
};

// Cuts a stream of bytes into lines.
class LineCutter {
 public:
  explicit LineCutter(const std::function<bool(std::string_view)>& on_line) : on_line_(on_line) {}

  // False once on_line wanted no more.
  Result<bool> Take(std::string_view bytes) {
    pending_ += bytes;
    std::size_t begin = 0;
    for (std::size_t end; (end = pending_.find('\n', begin)) != std::string::npos;) {
      if (!on_line_(std::string_view(pending_).substr(begin, end - begin))) return false;
      begin = end + 1;
    }
    pending_.erase(0, begin);
    if (pending_.size() <= kLineBytesMax) return true;
    return Fail(ErrorCode::kUnavailable,
                fmt::format("the server sent a line of more than {} bytes", kLineBytesMax));
  }
  void Finish() {
    if (!pending_.empty()) on_line_(pending_);
  }

 private:
  const std::function<bool(std::string_view)>& on_line_;
  std::string pending_;
};

std::string Head(const ClientRequest& request, const std::string& token) {
  std::string head =
      fmt::format("{} {} HTTP/1.1\r\nHost: sublet\r\n", request.method, request.target);
  if (!token.empty()) head += fmt::format("Authorization: Bearer {}\r\n", token);
  if (!request.body.empty() || request.method != "GET") {
    head += fmt::format("Content-Length: {}\r\n", request.body.size());
  }
  if (!request.body.empty()) head += fmt::format("Content-Type: {}\r\n", request.content_type);
  return head + "\r\n";
}

// Connects without waiting longer than until `deadline`.
Result<FileDescriptor> DialAddress(const addrinfo& address, Deadline deadline) {
  FileDescriptor socket(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return FailFromErrno(errno, "making a socket");
  int error = ::connect(socket.get(), address.ai_addr, address.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    RETURN_IF_ERROR(WaitFor(socket.get(), POLLOUT, deadline, /*interruptible=*/true));
    socklen_t size = sizeof error;
    ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error != 0) return Fail(ErrorCode::kUnavailable, std::strerror(error));
  const int on = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return socket;
}

Result<FileDescriptor> DialTcp(const std::string& host, int port, Deadline deadline) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
      error != 0) {
    return Fail(ErrorCode::kUnavailable, ::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  Result<FileDescriptor> socket = Fail(ErrorCode::kUnavailable, "the name has no address");
  for (const addrinfo* each = found; each != nullptr && !socket; each = each->ai_next) {
    socket = DialAddress(*each, deadline);
  }
  return socket;
}

}  // namespace

std::string EncodeComponent(std::string_view text) {
  return boost::urls::encode(text, boost::urls::unreserved_chars);
}

std::string HttpClient::Address::Text() const {
  return path.empty() ? fmt::format("{}:{}", host, port) : path;
}

Result<FileDescriptor> HttpClient::Dial(const Address& address) {
  const Deadline deadline = Deadline::In(address.timeout_s);
  if (!address.path.empty()) return ConnectToUnixSocket(address.path, deadline);
  Result<FileDescriptor> socket = DialTcp(address.host, address.port, deadline);
  if (socket) return socket;
  return tl::unexpected<Error>(
      std::move(socket).error().Prefixed(fmt::format("connecting to {}", address.Text())));
}

Result<HttpClient> HttpClient::ConnectUnix(const std::string& path, double timeout_s) {
  Address address{.path = path, .host = "", .port = 0, .token = "", .timeout_s = timeout_s};
  ASSIGN_OR_RETURN(FileDescriptor socket, Dial(address));
  return HttpClient(std::move(address), std::move(socket));
}

Result<HttpClient> HttpClient::ConnectTcp(const std::string& host, int port,
                                          const std::string& token, double timeout_s) {
  Address address{.path = "", .host = host, .port = port, .token = token, .timeout_s = timeout_s};
  ASSIGN_OR_RETURN(FileDescriptor socket, Dial(address));
  return HttpClient(std::move(address), std::move(socket));
}

// Sends the request, by a new connection where the old one is used up.
Status HttpClient::Ask(const ClientRequest& request, Deadline deadline) {
  // What comes from outside is encoded (EncodeComponent); so nobody can smuggle in a header.
  CHECK(request.target.find_first_of(" \r\n") == std::string::npos);
  std::string bytes = Head(request, address_.token);
  bytes += request.body;
  const bool reused = socket_.valid();
  if (!reused || IsUsedUp(socket_.get())) {
    ASSIGN_OR_RETURN(socket_, Dial(address_));
  }
  Sending sending = SendAll(socket_.get(), bytes, deadline, request.interruptible);
  if (sending.error != 0 && sending.nothing) {
    // Closed between the two lines above: not a byte of it was read.
    ASSIGN_OR_RETURN(socket_, Dial(address_));
    sending = SendAll(socket_.get(), bytes, deadline, request.interruptible);
  }
  // A server that refuses a request may close before it has read all of it. Its answer is there.
  return std::move(sending.waited);
}

Result<HttpResponse> HttpClient::Send(const ClientRequest& request) {
  const Deadline deadline = DeadlineOf(request.timeout_s);
  const auto ask = [&]() -> Result<HttpResponse> {
    RETURN_IF_ERROR(Ask(request, deadline));
    Answer answer(socket_.get(), request.interruptible);
    RETURN_IF_ERROR(answer.ReadHeader(deadline));
    HttpResponse response{answer.status(), answer.content_type(), ""};
    while (true) {
      ASSIGN_OR_RETURN(const std::string part, answer.ReadBody(deadline));
      if (part.empty()) break;
      response.body += part;
      if (response.body.size() > kAnswerBytesMax) {
        return Fail(ErrorCode::kUnavailable,
                    fmt::format("the answer has more than {} bytes", kAnswerBytesMax));
      }
    }
    if (!answer.keeps_connection()) socket_.Close();
    return response;
  };
  Result<HttpResponse> response = ask();
  if (!response) {
    socket_.Close();  // What may still arrive by it would be taken for the next answer.
    return tl::unexpected<Error>(std::move(response).error().Prefixed(address_.Text()));
  }
  if (response->status >= 400) {
    return tl::unexpected<Error>(ErrorFromBody(response->status, response->body));
  }
  return response;
}

Status HttpClient::Stream(const ClientRequest& request,
                          const std::function<bool(std::string_view line)>& on_line) {
  std::optional<Error> refusal;
  const Deadline whole = DeadlineOf(request.stream_timeout_s);
  const auto ask = [&]() -> Status {
    const Deadline deadline = Earlier(DeadlineOf(request.timeout_s), whole);
    RETURN_IF_ERROR(Ask(request, deadline));
    Answer answer(socket_.get(), request.interruptible);
    RETURN_IF_ERROR(answer.ReadHeader(deadline));
    std::string error_body;
    LineCutter cutter(on_line);
    while (true) {
      ASSIGN_OR_RETURN(const std::string part, answer.ReadBody(whole));
      if (part.empty()) break;
      if (answer.status() >= 400) {
        if (error_body.size() < kLineBytesMax) error_body += part;
        continue;
      }
      ASSIGN_OR_RETURN(const bool more, cutter.Take(part));
      if (!more) {
        socket_.Close();
        return {};
      }
    }
    if (answer.status() >= 400) refusal = ErrorFromBody(answer.status(), error_body);
    cutter.Finish();
    if (!answer.keeps_connection()) socket_.Close();
    return {};
  };
  Status done = ask();
  if (!done) {
    socket_.Close();
    return tl::unexpected<Error>(std::move(done).error().Prefixed(address_.Text()));
  }
  if (refusal) return tl::unexpected<Error>(std::move(*refusal));
  return {};
}

}  // namespace sublet
