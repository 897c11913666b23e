// http/http_connection.h
//
// One client of http/http_server.h: reads its requests, runs the handler for each, writes what the
// handler answers, and notices when the client goes.
//
//   auto connection = std::make_shared<HttpConnection>(std::move(socket), peer, serving, token);
//   asio::co_spawn(loop, connection->Run(), bind_cancellation_slot(connection->slot(), done));
//   connection->Expire(now_ns);    // Now and then; this is where the time limits come from.
//
// One read of the socket is under way at all times, while a handler runs too. So the client's end
// is seen when it happens, and what it sends ahead is kept, up to a limit, for the next request.
//
// Thread safety: the loop's thread.
#pragma once

#include <array>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "http/http_server.h"

namespace sublet::internal {

// What all connections of a server share.
struct HttpServing {
  HttpServerOptions options;
  HttpHandler handler;
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Socket =
      asio::basic_stream_socket<asio::generic::stream_protocol, asio::io_context::executor_type>;

  // `token` is asked of every request; empty: none.
  HttpConnection(Socket socket, Peer peer, std::shared_ptr<const HttpServing> serving,
                 std::string token);

  // Until the connection's end.
  Task<void> Run();
  // To be bound to Run().
  asio::cancellation_slot slot() { return cancel_.slot(); }

  // Ends what has taken too long by now.
  void Expire(std::int64_t now_ns);
  // Ends the connection after the request that runs, at once where none does.
  void FinishUp();
  // Ends the connection and cancels its handler.
  void Cut();

  // What Responder's calls do.
  Task<bool> Send(int status, std::string_view content_type, std::string body);
  Task<bool> Begin(int status, std::string_view content_type, WhenPeerGone when_gone);
  Task<bool> Write(std::string chunk);
  Task<bool> End();
  bool gone() const { return gone_ || input_ended_; }
  bool begun() const { return begun_; }

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  // What to do after an attempt to read a request: handle it, tell the client what was wrong with
  // it, or nothing, because the client is gone.
  struct Reading {
    enum class Outcome { kRead, kRefused, kOver };
    Outcome outcome = Outcome::kOver;
    int status = 0;
    Error error = {};
  };

  Task<Reading> ReadRequest(Parser& parser);
  Task<Reading> CheckHeader(const Parser& parser);
  Task<bool> Handle(Parser& parser);
  Task<void> RefuseAndClose(Reading reading);
  Task<bool> MoreInput();
  void Pump();
  void Pumped(const boost::system::error_code& error, std::size_t bytes);

  std::string Head(int status, std::string_view content_type, std::string_view framing) const;
  Task<bool> WriteAll(std::vector<asio::const_buffer> parts);
  void SetLimit(double seconds);
  void Close();

  Socket socket_;
  const Peer peer_;
  const std::shared_ptr<const HttpServing> serving_;
  const std::string token_;
  asio::cancellation_signal cancel_;

  std::string buffer_;  // Read, and not yet part of a request.
  std::array<char, 8192> inbox_;
  bool pumping_ = false;        // A read of the socket into inbox_ is under way.
  bool input_ended_ = false;    // The client has closed, or its sending half.
  bool gone_ = false;           // Writing failed, or we have closed.
  asio::steady_timer arrived_;  // Never fires; cancelled when something was read.

  static constexpr std::int64_t kNoLimit = INT64_MAX;
  std::int64_t limit_ns_ = kNoLimit;  // When what is being done has taken too long.
  bool between_requests_ = true;
  bool last_request_ = false;  // Close after it.

  // Of the request that is being answered.
  bool handling_ = false;
  bool begun_ = false;
  bool ended_ = false;
  bool head_only_ = false;  // HEAD: no body in the answer.
  bool chunked_ = false;
  bool cancel_when_gone_ = false;
};

}  // namespace sublet::internal
