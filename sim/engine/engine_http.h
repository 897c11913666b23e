// sim/engine/engine_http.h
//
// The HTTP/1.1 under a simulated engine: as little as it takes to be quick, and with a hand on the
// socket, so that answers can go wrong in all the ways in which they do.
//
//   ASSIGN_OR_RETURN(auto http, EngineHttp::Open(loop, "127.0.0.1", 0, [&](auto exchange) {
//     exchange->Answer(200, kJsonType, "{}");
//   }));
//   http->port()
//
// src/http isn't used here: it can't reset a connection on purpose, tells a handler that its client
// has gone only once an answer has begun, and costs a coroutine a request, which the benchmarks of
// a proxy in front of it would see.
//
// One request of a connection is answered at a time; what a client sends ahead waits. What is
// written and not yet taken by the kernel piles up in memory: answers are small here.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

// A client's connection, with the request that is to be answered. Whoever answers later keeps the
// pointer; after the answer's end the same object has the client's next request.
class EngineExchange : public std::enable_shared_from_this<EngineExchange> {
 public:
  using Handler = std::function<void(const std::shared_ptr<EngineExchange>& exchange)>;

  EngineExchange(boost::asio::ip::tcp::socket socket, std::shared_ptr<const Handler> handler,
                 std::string server_name);
  void Start();
  void Cut();

  std::string_view method() const;
  std::string_view path() const;  // Without the query.
  std::string_view Header(std::string_view name) const;
  const std::string& body() const { return parser_->get().body(); }
  std::string TakeBody() { return std::move(parser_->get().body()); }

  // Called once, when the client goes away before the answer has ended.
  void OnGone(std::function<void()> on_gone) { on_gone_ = std::move(on_gone); }
  bool gone() const { return gone_; }

  // A whole answer. `headers` are lines with their ends.
  void Answer(int status, std::string_view content_type, std::string_view body,
              std::string_view headers = {});
  // An answer in chunks.
  void Begin(std::string_view content_type);
  void Write(std::string_view data);
  void End();
  // All of an answer as it goes over the wire, for one that has been made before.
  void AnswerRaw(std::string_view bytes);

  // Going wrong. Each is the connection's end.
  void Reset();                               // RST, at once; what was written may be lost.
  void Truncate();                            // FIN, after what was written.
  void WriteGarbage(std::string_view bytes);  // And FIN.

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  void Read();
  void TakeInput(std::string_view fresh);
  std::size_t Parse(std::string_view data);
  void Refuse(int status, std::string_view message);
  void Done();
  void Flush();
  void Close();

  boost::asio::ip::tcp::socket socket_;
  const std::shared_ptr<const Handler> handler_;
  const std::string server_name_;
  std::optional<Parser> parser_;
  std::function<void()> on_gone_;
  std::string in_;   // Read, and not yet part of a request.
  std::string out_;  // Written, and not yet on its way.
  std::string sending_;
  bool reading_ = false;
  bool parsing_ = false;
  bool writing_ = false;
  bool answering_ = false;
  bool keep_alive_ = true;
  bool close_when_sent_ = false;
  bool gone_ = false;
};

class EngineHttp {
 public:
  // Fails with kConflict where the port is taken, kUsage for what isn't an address. `name` goes
  // with every answer as x-sim-engine.
  static Result<std::unique_ptr<EngineHttp>> Open(boost::asio::io_context& loop,
                                                  const std::string& address, int port,
                                                  std::string name,
                                                  EngineExchange::Handler handler);
  // Cuts all connections.
  ~EngineHttp();

  int port() const;
  // Resets all connections, as a process does that is killed.
  void ResetAll();

 private:
  class Impl;
  explicit EngineHttp(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace sublet
