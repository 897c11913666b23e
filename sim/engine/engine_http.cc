#include "engine/engine_http.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/status.hpp>
#include <utility>
#include <vector>

#include "base/check.h"

namespace sublet {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::size_t kReadBytes = 64u << 10;
constexpr std::size_t kBodyBytesMax = 128u << 20;  // Twice what a router lets through.
constexpr std::size_t kHeaderBytesMax = 64u << 10;
// What a client may send ahead of an answer before we stop looking.
constexpr std::size_t kAheadBytesMax = 1u << 20;

std::string_view StatusText(int status) {
  const auto text = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  return {text.data(), text.size()};
}

}  // namespace

EngineExchange::EngineExchange(tcp::socket socket, std::shared_ptr<const Handler> handler,
                               std::string server_name)
    : socket_(std::move(socket)),
      handler_(std::move(handler)),
      server_name_(std::move(server_name)) {}

std::string_view EngineExchange::method() const {
  return std::string_view(parser_->get().method_string());
}

std::string_view EngineExchange::path() const {
  const std::string_view target(parser_->get().target());
  return target.substr(0, target.find('?'));
}

std::string_view EngineExchange::Header(std::string_view name) const {
  const auto found = parser_->get().find(boost::beast::string_view(name.data(), name.size()));
  return found == parser_->get().end() ? std::string_view() : std::string_view(found->value());
}

// ---- reading -----------------------------------------------------------------------------------

void EngineExchange::Start() {
  error_code ignored;
  socket_.non_blocking(true, ignored);
  Read();
}

// One wait is under way at all times, while a request is answered too, so that a client's end is
// seen when it comes. A connection that is idle has no buffer.
void EngineExchange::Read() {
  if (reading_ || gone_ || close_when_sent_ || in_.size() > kAheadBytesMax) return;
  reading_ = true;
  socket_.async_wait(
      tcp::socket::wait_read, [self = shared_from_this()](const error_code& waiting) {
        self->reading_ = false;
        if (waiting || self->gone_) return;
        thread_local std::array<char, kReadBytes> inbox;
        error_code error;
        const std::size_t bytes = self->socket_.read_some(asio::buffer(inbox), error);
        if (error && error != asio::error::would_block) return self->Close();
        self->TakeInput({inbox.data(), bytes});
        self->Read();
      });
}

void EngineExchange::TakeInput(std::string_view fresh) {
  if (in_.empty()) {
    fresh.remove_prefix(Parse(fresh));
    in_ = fresh;
    return;
  }
  in_ += fresh;
  in_.erase(0, Parse(in_));
}

// Hands over each request that is whole, one after the other has been answered. Returns how much of
// `data` is done with.
std::size_t EngineExchange::Parse(std::string_view data) {
  const std::size_t size = data.size();
  parsing_ = true;
  while (!answering_ && !gone_ && !close_when_sent_ && !data.empty()) {
    if (!parser_) {
      parser_.emplace();
      parser_->eager(true);
      parser_->header_limit(kHeaderBytesMax);
      parser_->body_limit(kBodyBytesMax);
    }
    error_code error;
    const std::size_t taken = parser_->put(asio::buffer(data), error);
    data.remove_prefix(taken);
    if (error && error != http::error::need_more) {
      Refuse(error == http::error::body_limit ? 413 : 400, error.message());
    } else if (parser_->is_done()) {
      keep_alive_ = parser_->keep_alive();
      answering_ = true;
      (*handler_)(shared_from_this());
    } else if (taken == 0) {
      break;
    }
  }
  parsing_ = false;
  return size - data.size();
}

void EngineExchange::Refuse(int status, std::string_view message) {
  answering_ = true;
  keep_alive_ = false;
  Answer(status, "text/plain", message);
}

// ---- writing -----------------------------------------------------------------------------------

void EngineExchange::Answer(int status, std::string_view content_type, std::string_view body,
                            std::string_view headers) {
  if (gone_) return;
  fmt::format_to(std::back_inserter(out_),
                 "HTTP/1.1 {} {}\r\ncontent-type: {}\r\ncontent-length: {}\r\nx-sim-engine: {}\r\n"
                 "{}{}\r\n",
                 status, StatusText(status), content_type, body.size(), server_name_,
                 keep_alive_ ? "" : "connection: close\r\n", headers);
  out_ += body;
  Done();
}

void EngineExchange::AnswerRaw(std::string_view bytes) {
  if (gone_) return;
  out_ += bytes;
  Done();
}

void EngineExchange::Begin(std::string_view content_type) {
  if (gone_) return;
  fmt::format_to(std::back_inserter(out_),
                 "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncache-control: no-cache\r\n"
                 "x-sim-engine: {}\r\n{}transfer-encoding: chunked\r\n\r\n",
                 content_type, server_name_, keep_alive_ ? "" : "connection: close\r\n");
  Flush();
}

void EngineExchange::Write(std::string_view data) {
  if (gone_ || data.empty()) return;
  fmt::format_to(std::back_inserter(out_), "{:x}\r\n{}\r\n", data.size(), data);
  Flush();
}

void EngineExchange::End() {
  if (gone_) return;
  out_ += "0\r\n\r\n";
  Done();
}

void EngineExchange::Done() {
  CHECK(answering_);
  answering_ = false;
  on_gone_ = nullptr;
  parser_.reset();
  if (!keep_alive_) close_when_sent_ = true;
  Flush();
  if (parsing_ || gone_) return;  // Parse() goes on by itself.
  TakeInput({});
  Read();
}

void EngineExchange::Flush() {
  if (writing_ || gone_) return;
  if (out_.empty()) {
    if (!close_when_sent_) return;
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    return Close();
  }
  writing_ = true;
  sending_.swap(out_);
  asio::async_write(socket_, asio::buffer(sending_),
                    [self = shared_from_this()](const error_code& error, std::size_t) {
                      self->writing_ = false;
                      self->sending_.clear();
                      if (error) return self->Close();
                      self->Flush();
                    });
}

// ---- the end -----------------------------------------------------------------------------------

void EngineExchange::Reset() {
  error_code ignored;
  socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  Close();
}

void EngineExchange::Truncate() {
  close_when_sent_ = true;
  Flush();
}

void EngineExchange::WriteGarbage(std::string_view bytes) {
  if (gone_) return;
  out_ += bytes;
  Truncate();
}

void EngineExchange::Cut() {
  on_gone_ = nullptr;
  Close();
}

void EngineExchange::Close() {
  if (gone_) return;
  gone_ = true;
  error_code ignored;
  socket_.close(ignored);
  if (const auto on_gone = std::exchange(on_gone_, nullptr)) on_gone();
}

// ---- the listener ------------------------------------------------------------------------------

class EngineHttp::Impl : public std::enable_shared_from_this<EngineHttp::Impl> {
 public:
  Impl(asio::io_context& loop, std::string name, EngineExchange::Handler handler)
      : acceptor(loop),
        name_(std::move(name)),
        handler_(std::make_shared<const EngineExchange::Handler>(std::move(handler))) {}

  void Accept() {
    acceptor.async_accept([self = shared_from_this()](const error_code& error, tcp::socket socket) {
      if (!self->acceptor.is_open()) return;
      if (!error) self->Admit(std::move(socket));
      self->Accept();
    });
  }

  void ForEach(void (EngineExchange::*what)()) {
    for (const std::weak_ptr<EngineExchange>& each : std::exchange(exchanges_, {})) {
      if (const auto exchange = each.lock()) ((*exchange).*what)();
    }
  }

  tcp::acceptor acceptor;

 private:
  void Admit(tcp::socket socket) {
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    auto exchange = std::make_shared<EngineExchange>(std::move(socket), handler_, name_);
    // Those that are gone are forgotten when as many have come since.
    if (exchanges_.size() >= sweep_at_) {
      std::erase_if(exchanges_, [](const auto& each) { return each.expired(); });
      sweep_at_ = std::max<std::size_t>(64, 2 * exchanges_.size());
    }
    exchanges_.push_back(exchange);
    exchange->Start();
  }

  const std::string name_;
  const std::shared_ptr<const EngineExchange::Handler> handler_;
  std::vector<std::weak_ptr<EngineExchange>> exchanges_;
  std::size_t sweep_at_ = 64;
};

Result<std::unique_ptr<EngineHttp>> EngineHttp::Open(asio::io_context& loop,
                                                     const std::string& address, int port,
                                                     std::string name,
                                                     EngineExchange::Handler handler) {
  error_code error;
  const asio::ip::address where = asio::ip::make_address(address, error);
  if (error || port < 0 || port > 65535) {
    return Fail(ErrorCode::kUsage, fmt::format("not an address and a port: {} {}", address, port));
  }
  auto impl = std::make_shared<Impl>(loop, std::move(name), std::move(handler));
  const tcp::endpoint endpoint(where, static_cast<std::uint16_t>(port));
  tcp::acceptor& acceptor = impl->acceptor;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    const bool taken = error == asio::error::address_in_use;
    return Fail(taken ? ErrorCode::kConflict : ErrorCode::kIo,
                fmt::format("can't listen at {} port {}: {}", address, port, error.message()));
  }
  impl->Accept();
  return std::unique_ptr<EngineHttp>(new EngineHttp(std::move(impl)));
}

EngineHttp::EngineHttp(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

EngineHttp::~EngineHttp() {
  error_code ignored;
  impl_->acceptor.close(ignored);
  impl_->ForEach(&EngineExchange::Cut);
}

int EngineHttp::port() const {
  error_code ignored;
  return impl_->acceptor.local_endpoint(ignored).port();
}

void EngineHttp::ResetAll() {
  impl_->ForEach(&EngineExchange::Reset);
}

}  // namespace sublet
