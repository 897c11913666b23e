#include "proxy/fetch.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <chrono>
#include <optional>
#include <variant>

namespace sublet {
namespace {

namespace beast = boost::beast;
namespace beast_http = boost::beast::http;
namespace ssl = boost::asio::ssl;
using boost::system::error_code;
using Tcp = asio::ip::tcp;
using PlainStream = beast::basic_stream<asio::generic::stream_protocol>;
using TlsStream = ssl::stream<PlainStream>;

constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);
constexpr std::uint32_t kHeaderBytesMax = 64u << 10;
constexpr std::size_t kLineBytesMax = 4u << 20;  // An EndpointSlice of 1,000 pods has 600 KiB.
constexpr std::string_view kAgent = "sublet-route";

std::chrono::nanoseconds Nanoseconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

tl::unexpected<Error> FailedAt(const FetchTarget& target, const error_code& error) {
  if (error == beast::error::timeout) {
    return Fail(ErrorCode::kUnavailable, fmt::format("no answer in time from {}", target.Text()));
  }
  if (error == beast_http::error::body_limit) {
    return Fail(ErrorCode::kInvalid, fmt::format("the answer is too large from {}", target.Text()));
  }
  const bool garbage = error.category() == make_error_code(beast_http::error::bad_value).category();
  if (garbage && error != beast_http::error::end_of_stream &&
      error != beast_http::error::partial_message) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("no HTTP ({}) from {}", error.message(), target.Text()));
  }
  return Fail(ErrorCode::kUnavailable, fmt::format("{}: {}", error.message(), target.Text()));
}

// The other side had closed the connection before it saw the request: it can be sent again.
bool WasStale(const error_code& error) {
  return error == beast_http::error::end_of_stream || error == asio::error::connection_reset ||
         error == asio::error::broken_pipe || error == asio::error::eof ||
         error == ssl::error::stream_truncated;
}

}  // namespace

FetchTrust::FetchTrust(FetchTls tls) : tls_(std::move(tls)) {}
FetchTrust::~FetchTrust() = default;

// Made anew where the file has changed, as Kubernetes rotates it.
Result<std::shared_ptr<ssl::context>> FetchTrust::Context() {
  std::int64_t changed_ns = 0;
  if (!tls_.ca_file.empty()) {
    struct stat info {};
    if (::stat(tls_.ca_file.c_str(), &info) == 0) {
      changed_ns = info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec;
    }
  }
  if (context_ != nullptr && changed_ns == changed_ns_) return context_;
  auto context = std::make_shared<ssl::context>(ssl::context::tls_client);
  error_code error;
  context->set_options(ssl::context::default_workarounds | ssl::context::no_tlsv1 |
                       ssl::context::no_tlsv1_1);
  if (!tls_.verify) {
    // Nothing to read.
  } else if (tls_.ca_file.empty()) {
    context->set_default_verify_paths(error);
  } else {
    context->load_verify_file(tls_.ca_file, error);
  }
  if (error) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("certificates can't be read ({}): {}", error.message(), tls_.ca_file));
  }
  changed_ns_ = changed_ns;
  return context_ = std::move(context);
}

FetchTarget FetchTarget::At(HttpUrl url, FetchTls tls) {
  auto trust = url.tls ? std::make_shared<FetchTrust>(std::move(tls)) : nullptr;
  return At(std::move(url), std::move(trust));
}

FetchTarget FetchTarget::At(HttpUrl url, std::shared_ptr<FetchTrust> trust) {
  return {.url = std::move(url), .socket = {}, .trust = std::move(trust)};
}

FetchTarget FetchTarget::OfSocket(std::string path) {
  return {
      .url = {.host = "localhost", .port = 80, .path = {}}, .socket = std::move(path), .trust = {}};
}

std::string FetchTarget::Text() const {
  return socket.empty() ? url.Text() : socket;
}

class FetchConnection::Impl {
 public:
  Impl(asio::io_context& loop, FetchTarget target)
      : loop_(loop), target_(std::move(target)), resolver_(loop) {}

  Task<Result<FetchResponse>> Send(const FetchRequest& request);
  Task<Result<FetchResponse>> Stream(const FetchRequest& request,
                                     std::function<bool(std::string_view)> on_line);
  void Close() {
    stream_ = std::monostate();
    buffer_.clear();
  }

 private:
  using Head = beast_http::request<beast_http::string_body>;
  using Body = beast_http::response_parser<beast_http::string_body>;

  bool connected() const { return !std::holds_alternative<std::monostate>(stream_); }
  Task<Status> Connect(double timeout_s);
  Task<error_code> ConnectPlain(PlainStream& stream, double timeout_s);
  Head MakeHead(const FetchRequest& request) const;
  template <typename S>
  static Task<error_code> Exchange(S& stream, beast::flat_buffer& buffer, Head& head, Body& parser);
  template <typename S>
  Task<Result<FetchResponse>> ReadLines(S& stream, Head& head, const FetchRequest& request,
                                        const std::function<bool(std::string_view)>& on_line);
  PlainStream& Lowest();

  asio::io_context& loop_;
  const FetchTarget target_;
  Tcp::resolver resolver_;
  std::shared_ptr<ssl::context> context_;  // Of the stream.
  // The socket is in a box of its own: a move of it isn't one of what waits on it.
  std::variant<std::monostate, std::unique_ptr<PlainStream>, std::unique_ptr<TlsStream>> stream_;
  beast::flat_buffer buffer_;
};

Task<error_code> FetchConnection::Impl::ConnectPlain(PlainStream& stream, double timeout_s) {
  stream.expires_after(Nanoseconds(timeout_s));
  if (!target_.socket.empty()) {
    const asio::local::stream_protocol::endpoint endpoint(target_.socket);
    const asio::generic::stream_protocol::endpoint generic(endpoint);
    const auto [error] = co_await stream.async_connect(generic, kAsTuple);
    co_return error;
  }
  const std::string port = std::to_string(target_.url.port);
  const auto [failed, found] = co_await resolver_.async_resolve(
      target_.url.host, port, Tcp::resolver::numeric_service, kAsTuple);
  if (failed) co_return failed;
  error_code last = asio::error::host_not_found;
  for (const auto& entry : found) {
    const asio::generic::stream_protocol::endpoint generic(entry.endpoint());
    stream.expires_after(Nanoseconds(timeout_s));
    const auto [error] = co_await stream.async_connect(generic, kAsTuple);
    last = error;
    if (!error) break;
    stream.close();
  }
  co_return last;
}

Task<Status> FetchConnection::Impl::Connect(double timeout_s) {
  Close();
  const bool tls = target_.url.tls && target_.socket.empty();
  if (!tls) {
    auto plain = std::make_unique<PlainStream>(loop_);
    const error_code error = co_await ConnectPlain(*plain, timeout_s);
    if (error) co_return FailedAt(target_, error);
    stream_ = std::move(plain);
    co_return Status();
  }
  Result<std::shared_ptr<ssl::context>> context = target_.trust->Context();
  if (!context) co_return tl::unexpected<Error>(context.error());
  context_ = std::move(*context);
  auto stream = std::make_unique<TlsStream>(PlainStream(loop_), *context_);
  const error_code error = co_await ConnectPlain(stream->next_layer(), timeout_s);
  if (error) co_return FailedAt(target_, error);
  const std::string& host = target_.url.host;
  // Server name indication; an address isn't allowed in it.
  error_code not_address;
  static_cast<void>(asio::ip::make_address(host, not_address));
  if (not_address) SSL_set_tlsext_host_name(stream->native_handle(), host.c_str());
  if (target_.trust->tls().verify) {
    stream->set_verify_mode(ssl::verify_peer);
    stream->set_verify_callback(ssl::host_name_verification(host));
  }
  stream->next_layer().expires_after(Nanoseconds(timeout_s));
  const auto [failed] = co_await stream->async_handshake(TlsStream::client, kAsTuple);
  if (failed) co_return FailedAt(target_, failed);
  stream_ = std::move(stream);
  co_return Status();
}

FetchConnection::Impl::Head FetchConnection::Impl::MakeHead(const FetchRequest& request) const {
  Head head(beast_http::string_to_verb(request.method), target_.url.path + request.target, 11);
  head.set(beast_http::field::host, target_.url.Authority());
  head.set(beast_http::field::user_agent, kAgent);
  head.set(beast_http::field::accept, "*/*");
  for (const auto& [name, value] : request.headers) head.set(name, value);
  if (!request.body.empty()) head.set(beast_http::field::content_type, "application/json");
  head.body() = request.body;
  head.prepare_payload();
  return head;
}

PlainStream& FetchConnection::Impl::Lowest() {
  if (auto* plain = std::get_if<std::unique_ptr<PlainStream>>(&stream_)) return **plain;
  return std::get<std::unique_ptr<TlsStream>>(stream_)->next_layer();
}

template <typename S>
Task<error_code> FetchConnection::Impl::Exchange(S& stream, beast::flat_buffer& buffer, Head& head,
                                                 Body& parser) {
  const auto [unsent, sent] = co_await beast_http::async_write(stream, head, kAsTuple);
  if (unsent) co_return unsent;
  const auto [unread, bytes] = co_await beast_http::async_read(stream, buffer, parser, kAsTuple);
  co_return unread;
}

Task<Result<FetchResponse>> FetchConnection::Impl::Send(const FetchRequest& request) {
  Head head = MakeHead(request);
  for (int attempt = 0;; ++attempt) {
    const bool reused = connected();
    if (!reused) {
      const Status status = co_await Connect(request.timeout_s);
      if (!status) co_return tl::unexpected<Error>(status.error());
    }
    Body parser;
    parser.header_limit(kHeaderBytesMax);
    parser.body_limit(request.bytes_max);
    if (request.method == "HEAD") parser.skip(true);
    Lowest().expires_after(Nanoseconds(request.timeout_s));
    error_code error;
    if (auto* plain = std::get_if<std::unique_ptr<PlainStream>>(&stream_)) {
      error = co_await Exchange(**plain, buffer_, head, parser);
    } else {
      error =
          co_await Exchange(*std::get<std::unique_ptr<TlsStream>>(stream_), buffer_, head, parser);
    }
    if (error) {
      Close();
      if (reused && attempt == 0 && WasStale(error)) continue;
      co_return FailedAt(target_, error);
    }
    FetchResponse response;
    response.status = parser.get().result_int();
    response.content_type = std::string(parser.get()[beast_http::field::content_type]);
    response.body = std::move(parser.get().body());
    if (!parser.get().keep_alive()) Close();
    co_return response;
  }
}

namespace {

// Takes whole lines out of `pending`; false where `on_line` wants no more.
bool GiveLines(std::string& pending, const std::function<bool(std::string_view)>& on_line) {
  std::size_t begin = 0;
  bool more = true;
  for (std::size_t end = pending.find('\n'); more && end != std::string::npos;
       end = pending.find('\n', begin)) {
    more = on_line(std::string_view(pending).substr(begin, end - begin));
    begin = end + 1;
  }
  pending.erase(0, begin);
  return more;
}

}  // namespace

template <typename S>
Task<Result<FetchResponse>> FetchConnection::Impl::ReadLines(
    S& stream, Head& head, const FetchRequest& request,
    const std::function<bool(std::string_view)>& on_line) {
  Lowest().expires_after(Nanoseconds(request.timeout_s));
  const auto [unsent, sent] = co_await beast_http::async_write(stream, head, kAsTuple);
  if (unsent) co_return FailedAt(target_, unsent);
  beast_http::response_parser<beast_http::buffer_body> parser;
  parser.header_limit(kHeaderBytesMax);
  parser.body_limit(boost::none);
  const auto [unread, bytes] =
      co_await beast_http::async_read_header(stream, buffer_, parser, kAsTuple);
  if (unread) co_return FailedAt(target_, unread);
  FetchResponse response;
  response.status = parser.get().result_int();
  response.content_type = std::string(parser.get()[beast_http::field::content_type]);
  std::string pending;
  std::array<char, 16384> chunk;
  while (!parser.is_done()) {
    parser.get().body().data = chunk.data();
    parser.get().body().size = chunk.size();
    Lowest().expires_after(Nanoseconds(request.timeout_s));
    const auto [error, read] =
        co_await beast_http::async_read_some(stream, buffer_, parser, kAsTuple);
    if (error && error != beast_http::error::need_buffer) co_return FailedAt(target_, error);
    pending.append(chunk.data(), chunk.size() - parser.get().body().size);
    if (response.status == 200 && !GiveLines(pending, on_line)) co_return response;
    const std::size_t most = response.status == 200 ? kLineBytesMax : request.bytes_max;
    if (pending.size() > most) {
      co_return Fail(ErrorCode::kInvalid,
                     fmt::format("a line is too long from {}", target_.Text()));
    }
  }
  response.body = std::move(pending);
  co_return response;
}

Task<Result<FetchResponse>> FetchConnection::Impl::Stream(
    const FetchRequest& request, std::function<bool(std::string_view)> on_line) {
  Head head = MakeHead(request);
  const Status status = co_await Connect(request.timeout_s);
  if (!status) co_return tl::unexpected<Error>(status.error());
  if (auto* plain = std::get_if<std::unique_ptr<PlainStream>>(&stream_)) {
    Result<FetchResponse> response = co_await ReadLines(**plain, head, request, on_line);
    Close();
    co_return response;
  }
  auto& tls = *std::get<std::unique_ptr<TlsStream>>(stream_);
  Result<FetchResponse> response = co_await ReadLines(tls, head, request, on_line);
  Close();
  co_return response;
}

FetchConnection::FetchConnection(asio::io_context& loop, FetchTarget target)
    : impl_(std::make_unique<Impl>(loop, std::move(target))) {}
FetchConnection::~FetchConnection() = default;

Task<Result<FetchResponse>> FetchConnection::Send(const FetchRequest& request) {
  return impl_->Send(request);
}

Task<Result<FetchResponse>> FetchConnection::Stream(const FetchRequest& request,
                                                    std::function<bool(std::string_view)> on_line) {
  return impl_->Stream(request, std::move(on_line));
}

void FetchConnection::Close() {
  impl_->Close();
}

}  // namespace sublet
