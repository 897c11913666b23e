// http/http_server.h
//
// An HTTP/1.1 server on an event loop, for few and trusted clients: it knows who is at the other
// end of a UNIX socket, bounds what anyone can make it hold, and streams.
//
//   Task<void> Answer(Node& node, HttpRequest request, Responder& responder) {
//     if (request.path != "/v1/status") co_return co_await responder.Refuse(kNotFound, ...);
//     co_await responder.Send(200, kJsonType, NodeStatusToJson(node.Status()).dump());
//   }
//   ASSIGN_OR_RETURN(auto server, HttpServer::Open(loop, {}, [&](HttpRequest r, Responder& to) {
//     return Answer(node, std::move(r), to);
//   }));
//   RETURN_IF_ERROR(server->AddUnixListener({.path = "/run/sublet/sublet.sock", .mode = 0660}));
//   loop.run();
//
// A long answer:
//
//   co_await responder.Begin(200, kNdjsonType);
//   while (auto line = co_await events.Next()) co_await responder.Write(*line);
//   co_await responder.End();
//
// Write() returns when the kernel took the bytes, so a client that reads slowly slows its handler
// down and nothing piles up.
//
// What may surprise:
// - After Begin() a client that goes away cancels its handler, even one that writes nothing at the
//   time: its co_await throws system_error. A handler that has something to finish says
//   WhenPeerGone::kGoOn, and asks PeerGone(). Before Begin() nothing is cancelled: what changes the
//   node runs to its end whoever listens. A client that shuts down its sending half counts as gone,
//   but an answer by Send() still reaches it.
// - An exception out of a handler is answered with 500 where no answer was begun, else by cutting
//   the connection, so that nobody takes half an answer for a whole one.
// - A handler that returns without an answer is our fault: 500.
// - Only Close() unlinks the socket's file. A file left by a server that was killed is replaced by
//   the next one, because nobody listens behind it.
//
// Thread safety: everything on the loop's thread.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file_descriptor.h"
#include "base/result.h"
#include "http/event_loop.h"
#include "http/http_message.h"
#include "http/unix_socket.h"

namespace sublet {

struct HttpRequest {
  std::string method;                        // "GET"
  std::string path;                          // Decoded, no "." or ".." in it: "/v1/logs/chat/0"
  std::map<std::string, std::string> query;  // Decoded; the last of two of one name.
  std::vector<std::pair<std::string, std::string>> headers;  // As sent.
  std::string body;
  Peer peer;

  // The value of the first header of that name, whatever its case; empty where there is none.
  std::string_view Header(std::string_view name) const;
};

enum class WhenPeerGone { kCancel, kGoOn };

namespace internal {
class HttpConnection;
}

// The answer to one request; it lives as long as the handler runs. Each call, one at a time,
// returns false where the client is gone or reads nothing for too long; a handler that has only one
// thing to say needn't look.
class Responder {
 public:
  // A whole answer.
  Task<bool> Send(int status, std::string_view content_type, std::string body);
  // The error as JSON, with its status. There is no Refuse({code, "...", "..."}): GCC 12 destroys
  // an aggregate twice that is made inside a co_await.
  Task<bool> Refuse(ErrorCode code, std::string message, std::string hint = "");
  Task<bool> Refuse(const Error& error);
  Task<bool> Refuse(Error&& error) = delete;

  // An answer in parts: Begin, any number of Write, End. An empty Write writes nothing.
  Task<bool> Begin(int status, std::string_view content_type,
                   WhenPeerGone when_gone = WhenPeerGone::kCancel);
  Task<bool> Write(std::string chunk);
  Task<bool> End();

  bool PeerGone() const;
  bool Begun() const;  // Send or Begin was called.

 private:
  friend class internal::HttpConnection;
  explicit Responder(internal::HttpConnection& connection) : connection_(connection) {}
  internal::HttpConnection& connection_;
};

using HttpHandler = std::function<Task<void>(HttpRequest, Responder&)>;

struct HttpServerOptions {
  std::size_t body_bytes_max = 8u << 20;  // A plan of 20,000 replicas has 8 MB.
  // Ours send under 1 KiB; a browser with cookies of other pages on localhost needs the rest.
  std::size_t header_bytes_max = 16u << 10;
  // Of all listeners: 200 replicas' `logs -f` and room for the rest. Each costs a descriptor, and
  // 16 KiB at most while it is idle. One more is told so (503) and closed.
  std::size_t connections_max = 256;
  double idle_s = 60;     // Between two requests of one connection.
  double request_s = 30;  // From a request's first byte to its last, however slowly they drip.
  // For one Write to be taken. Long, because `sublet logs -f | less` stops reading at a full
  // screen.
  double write_s = 600;
};

struct TcpListenerOptions {
  std::string address = "127.0.0.1";  // Numeric.
  int port = 0;                       // 0: any free one; AddTcpListener() returns which.
  std::string token;  // "Authorization: Bearer TOKEN" is asked of every request; 16 bytes at least.
  // Whoever reaches the port may ask, without a token: for what may only be read and is no secret.
  bool open_to_all = false;
  // Off: an address that isn't loopback fails, since the token travels in the clear.
  bool beyond_this_machine = false;
};

class HttpServer {
 public:
  // Nothing is accepted before a listener is added. `loop` must outlive the server. Fails with
  // kUsage where a limit is 0.
  static Result<std::unique_ptr<HttpServer>> Open(asio::io_context& loop,
                                                  const HttpServerOptions& options,
                                                  HttpHandler handler);
  // Cuts every connection and unlinks the sockets' files; Close() first to be polite.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Fails with kConflict where a server listens there already or the file is no socket, with kUsage
  // for a path that is relative or too long, with kPermission where the folder is one in which
  // another user could put a file of his in place of ours, kNotFound where it is missing.
  //
  // Who connects must be root, this user, or, as `mode` has it, of the group or anyone: the kernel
  // checks that by the file, and the server again by the credentials.
  Status AddUnixListener(const UnixListenerOptions& options);
  // A listening socket that was made by another: systemd's (base/service_notification.h). Its file
  // stays when the server closes.
  Status AdoptUnixListener(FileDescriptor socket);
  // Returns the port. Fails with kUsage for a short token or an address that isn't loopback, with
  // kConflict where the port is taken.
  Result<int> AddTcpListener(const TcpListenerOptions& options);

  // Accepts no more, unlinks the sockets' files, lets requests that run come to their end for
  // `drain_s` seconds and then cancels them. Returns when no connection is left.
  Task<void> Close(double drain_s);

  // How many are connected.
  std::size_t Connections() const;

 private:
  class Impl;
  explicit HttpServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace sublet
