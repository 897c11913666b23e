#include "http/http_connection.h"

#include <fmt/format.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <boost/beast/http/status.hpp>
#include <exception>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "http/http_request.h"

namespace sublet::internal {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;

constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);
// How long a client that was refused may go on sending what it had begun. Closing at once would
// make its kernel drop our answer.
constexpr double kLingerSeconds = 2;

struct Refusal {
  int status = 400;
  ErrorCode code = ErrorCode::kInvalid;
};

Refusal RefusalOf(const error_code& error) {
  if (error == http::error::header_limit) return {431, ErrorCode::kInvalid};
  if (error == http::error::body_limit) return {413, ErrorCode::kInvalid};
  if (error == http::error::bad_version) return {505, ErrorCode::kUnsupported};
  return {};
}

std::string_view ReasonPhrase(int status) {
  const auto phrase = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  return {phrase.data(), phrase.size()};
}

}  // namespace

HttpConnection::HttpConnection(Socket socket, Peer peer, std::shared_ptr<const HttpServing> serving,
                               std::string token)
    : socket_(std::move(socket)),
      peer_(std::move(peer)),
      serving_(std::move(serving)),
      token_(std::move(token)),
      arrived_(socket_.get_executor(), asio::steady_timer::time_point::max()) {}

Task<void> HttpConnection::Run() {
  // The frame of this coroutine may be all that keeps the connection.
  const std::shared_ptr<HttpConnection> self = shared_from_this();
  while (!last_request_ && !gone_) {
    Parser parser;
    Reading reading = co_await ReadRequest(parser);
    if (reading.outcome == Reading::Outcome::kRefused) co_await RefuseAndClose(std::move(reading));
    if (reading.outcome != Reading::Outcome::kRead) break;
    const bool whole = co_await Handle(parser);
    if (!whole) break;
  }
  Close();
}

// ---- reading -----------------------------------------------------------------------------------

Task<HttpConnection::Reading> HttpConnection::ReadRequest(Parser& parser) {
  const HttpServerOptions& options = serving_->options;
  parser.header_limit(static_cast<std::uint32_t>(options.header_bytes_max));
  parser.body_limit(options.body_bytes_max);
  between_requests_ = true;
  begun_ = false;
  SetLimit(options.idle_s);
  while (buffer_.empty()) {
    const bool more = co_await MoreInput();
    if (!more) co_return Reading{};
  }
  between_requests_ = false;
  SetLimit(options.request_s);
  bool header_seen = false;
  while (true) {
    error_code error;
    const std::size_t taken = parser.put(asio::buffer(buffer_), error);
    buffer_.erase(0, taken);
    if (error && error != http::error::need_more) {
      const Refusal refusal = RefusalOf(error);
      const std::string message = fmt::format("not a request: {}", error.message());
      co_return Reading{Reading::Outcome::kRefused, refusal.status, {refusal.code, message, ""}};
    }
    if (parser.is_header_done() && !header_seen) {
      header_seen = true;
      parser.eager(true);
      Reading checked = co_await CheckHeader(parser);
      if (checked.outcome != Reading::Outcome::kRead) co_return checked;
      if (!parser.is_done() && !buffer_.empty()) continue;
    }
    if (parser.is_done()) break;
    const bool more = co_await MoreInput();
    if (!more) co_return Reading{};
  }
  limit_ns_ = kNoLimit;
  co_return Reading{.outcome = Reading::Outcome::kRead};
}

// Before the body is waited for: whether the client may ask at all, and the permission to send it
// that a client like curl waits for.
Task<HttpConnection::Reading> HttpConnection::CheckHeader(const Parser& parser) {
  const auto& header = parser.get();
  if (!token_.empty() && !BearerIs(header[http::field::authorization], token_)) {
    co_return Reading{Reading::Outcome::kRefused,
                      401,
                      {ErrorCode::kPermission, "the token is missing or wrong",
                       "send \"Authorization: Bearer TOKEN\""}};
  }
  if (boost::beast::iequals(header[http::field::expect], "100-continue") && !parser.is_done()) {
    constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    std::vector<asio::const_buffer> parts = {asio::buffer(kContinue)};
    const bool told = co_await WriteAll(std::move(parts));
    if (!told) co_return Reading{};
    SetLimit(serving_->options.request_s);
  }
  co_return Reading{.outcome = Reading::Outcome::kRead};
}

// False: the client is gone, and no more will come.
Task<bool> HttpConnection::MoreInput() {
  const std::size_t before = buffer_.size();
  Pump();
  if (pumping_) co_await arrived_.async_wait(kAsTuple);
  co_return buffer_.size() > before;
}

void HttpConnection::Pump() {
  // What a client sends ahead has a limit: beyond it we stop reading, and no longer see its end.
  const std::size_t ahead_max = serving_->options.header_bytes_max + inbox_.size();
  if (pumping_ || gone() || buffer_.size() >= ahead_max) return;
  pumping_ = true;
  socket_.async_read_some(asio::buffer(inbox_),
                          [self = shared_from_this()](const error_code& error, std::size_t bytes) {
                            self->Pumped(error, bytes);
                          });
}

void HttpConnection::Pumped(const error_code& error, std::size_t bytes) {
  pumping_ = false;
  buffer_.append(inbox_.data(), bytes);
  if (error) input_ended_ = true;
  arrived_.cancel();
  if (gone() && cancel_when_gone_) cancel_.emit(asio::cancellation_type::terminal);
  if (handling_) Pump();
}

// ---- handling ----------------------------------------------------------------------------------

// False: the connection can't be used for another request.
Task<bool> HttpConnection::Handle(Parser& parser) {
  auto& message = parser.get();
  last_request_ = last_request_ || !parser.keep_alive();
  begun_ = ended_ = cancel_when_gone_ = false;
  head_only_ = message.method() == http::verb::head;
  chunked_ = message.version() >= 11;
  const Result<RequestTarget> target = ParseTarget(std::string_view(message.target()));
  if (!target) {
    Reading wrong{Reading::Outcome::kRefused, 400, target.error()};
    co_await RefuseAndClose(std::move(wrong));
    co_return false;
  }
  HttpRequest request{.method = std::string(message.method_string()),
                      .path = target->path,
                      .query = target->query,
                      .headers = {},
                      .body = std::move(message.body()),
                      .peer = peer_};
  for (const auto& field : message) {
    request.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  }
  Responder responder(*this);
  std::string failure = "the request was not answered";
  handling_ = true;
  Pump();
  try {
    co_await serving_->handler(std::move(request), responder);
  } catch (const std::exception& exception) {
    failure = exception.what();
  }
  handling_ = false;
  cancel_when_gone_ = false;
  if (gone_ || begun_) co_return ended_ && !gone_;
  Reading unanswered{Reading::Outcome::kRefused, 500, {ErrorCode::kInternal, failure, ""}};
  co_await RefuseAndClose(std::move(unanswered));
  co_return false;
}

Task<void> HttpConnection::RefuseAndClose(Reading reading) {
  begun_ = ended_ = false;
  last_request_ = true;
  const bool sent = co_await Send(reading.status, kJsonType, ErrorBody(reading.error));
  if (!sent) co_return;
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  SetLimit(kLingerSeconds);
  bool more = true;
  do {
    buffer_.clear();
    more = co_await MoreInput();
  } while (more);
}

// ---- answering ---------------------------------------------------------------------------------

std::string HttpConnection::Head(int status, std::string_view content_type,
                                 std::string_view framing) const {
  return fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\n{}{}{}\r\n", status,
                     ReasonPhrase(status), content_type, framing,
                     status == 401 ? "WWW-Authenticate: Bearer\r\n" : "",
                     last_request_ ? "Connection: close\r\n" : "");
}

Task<bool> HttpConnection::WriteAll(std::vector<asio::const_buffer> parts) {
  if (gone_) co_return false;
  SetLimit(serving_->options.write_s);
  const auto [error, bytes] = co_await asio::async_write(socket_, parts, kAsTuple);
  limit_ns_ = kNoLimit;
  gone_ = gone_ || error;
  co_return !error;
}

Task<bool> HttpConnection::Send(int status, std::string_view content_type, std::string body) {
  CHECK(!begun_);
  begun_ = true;
  const std::string head =
      Head(status, content_type, fmt::format("Content-Length: {}\r\n", body.size()));
  std::vector<asio::const_buffer> parts = {asio::buffer(head)};
  if (!head_only_) parts.push_back(asio::buffer(body));
  const bool written = co_await WriteAll(std::move(parts));
  ended_ = written;
  co_return written;
}

Task<bool> HttpConnection::Begin(int status, std::string_view content_type,
                                 WhenPeerGone when_gone) {
  CHECK(!begun_);
  begun_ = true;
  // HTTP/1.0 knows no chunks: the connection's end is the answer's.
  if (!chunked_) last_request_ = true;
  const std::string head =
      Head(status, content_type, chunked_ ? "Transfer-Encoding: chunked\r\n" : "");
  std::vector<asio::const_buffer> parts = {asio::buffer(head)};
  const bool written = co_await WriteAll(std::move(parts));
  cancel_when_gone_ = when_gone == WhenPeerGone::kCancel;
  if (cancel_when_gone_ && gone()) cancel_.emit(asio::cancellation_type::terminal);
  co_return written;
}

Task<bool> HttpConnection::Write(std::string chunk) {
  CHECK(begun_ && !ended_);
  if (chunk.empty() || head_only_) co_return true;
  const std::string size = fmt::format("{:x}\r\n", chunk.size());
  std::vector<asio::const_buffer> parts = {asio::buffer(chunk)};
  if (chunked_) parts = {asio::buffer(size), asio::buffer(chunk), asio::buffer("\r\n", 2)};
  const bool written = co_await WriteAll(std::move(parts));
  co_return written;
}

Task<bool> HttpConnection::End() {
  CHECK(begun_ && !ended_);
  cancel_when_gone_ = false;
  bool written = true;
  if (chunked_ && !head_only_) {
    constexpr std::string_view kLastChunk = "0\r\n\r\n";
    std::vector<asio::const_buffer> parts = {asio::buffer(kLastChunk)};
    written = co_await WriteAll(std::move(parts));
  }
  ended_ = written;
  co_return written;
}

// ---- the end -----------------------------------------------------------------------------------

void HttpConnection::SetLimit(double seconds) {
  limit_ns_ = MonotonicNanoseconds() + static_cast<std::int64_t>(seconds * 1e9);
}

void HttpConnection::Expire(std::int64_t now_ns) {
  if (now_ns < limit_ns_) return;
  if (!between_requests_ && !handling_ && !begun_) {
    // Nobody waits for this to be taken: it fits the socket's buffer, which is empty.
    last_request_ = true;
    const std::string late = Head(408, kJsonType, "Content-Length: 0\r\n");
    error_code ignored;
    socket_.non_blocking(true, ignored);
    socket_.send(asio::buffer(late), 0, ignored);
  }
  Close();
}

void HttpConnection::FinishUp() {
  last_request_ = true;
  if (between_requests_) Close();
}

void HttpConnection::Cut() {
  Close();
  cancel_.emit(asio::cancellation_type::terminal);
}

void HttpConnection::Close() {
  gone_ = true;
  limit_ns_ = kNoLimit;
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace sublet::internal
