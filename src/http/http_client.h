// http/http_client.h
//
// The other end of http/http_server.h, for a program that has nothing to do but wait.
//
//   ASSIGN_OR_RETURN(HttpClient client, HttpClient::ConnectUnix("/run/sublet/sublet.sock", 2));
//   ASSIGN_OR_RETURN(const HttpResponse response, client.Send({.target = "/v1/status"}));
//   return client.Stream({.method = "PUT", .target = "/v1/plan", .body = plan},
//                        [&](std::string_view line) { return Print(line); });
//
// One connection, one request at a time; a second Send uses it again. Where the server has closed
// it meanwhile (it does after a minute), the client connects once more by itself, but only when the
// request can't have been read: a request is never done twice.
//
// An answer with a status of 400 and above is an Error (ErrorFromBody in http/http_message.h), so
// that a caller has one place for what went wrong.
//
// Every wait ends at an interrupt (base/interrupt.h), with kUnavailable and "interrupted".
//
// Thread safety: one thread at a time for each client.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/file_descriptor.h"
#include "base/result.h"
#include "http/http_message.h"

namespace sublet {

struct ClientRequest {
  std::string method = "GET";
  std::string target;  // Path and query, encoded (EncodeComponent).
  std::string body = {};
  std::string content_type = std::string(kJsonType);
  // For the whole answer of Send(), for the answer's header in Stream(); absent: as long as it
  // takes.
  std::optional<double> timeout_s = 30;
  // For all of Stream(); absent: as long as it takes.
  std::optional<double> stream_timeout_s = std::nullopt;
  // Off for what must be said even after a Ctrl-C: that a share is given back.
  bool interruptible = true;
};

struct HttpResponse {
  int status = 0;
  std::string content_type;
  std::string body;
};

// "chat/0" → "chat%2F0": what stands in a path's segment or in a query's value.
std::string EncodeComponent(std::string_view text);

class HttpClient {
 public:
  // Fails with kNotFound where there is no such file, with kUnavailable where nobody listens behind
  // it or none answers in time, with kPermission where the file's mode forbids it or the socket is
  // another user's: it must be root's or this user's, since the answer decides what is executed
  // next. kUsage: the path is too long for a socket.
  static Result<HttpClient> ConnectUnix(const std::string& path, double timeout_s);
  // kUnavailable where nobody listens or the name isn't known.
  static Result<HttpClient> ConnectTcp(const std::string& host, int port, const std::string& token,
                                       double timeout_s);

  // The whole answer, at most 64 MiB.
  Result<HttpResponse> Send(const ClientRequest& request);
  // Each line of the answer's body, without its end, as it arrives. `on_line` returns false to stop
  // there; that closes the connection, and isn't an error. A line has at most 8 MiB. An answer that
  // breaks off fails with kUnavailable after its last whole line.
  Status Stream(const ClientRequest& request,
                const std::function<bool(std::string_view line)>& on_line);

 private:
  struct Address {
    std::string path;  // Of a UNIX socket; empty: TCP.
    std::string host;
    int port = 0;
    std::string token;
    double timeout_s = 0;
    // For messages: "/run/sublet/sublet.sock", "localhost:7777".
    std::string Text() const;
  };
  explicit HttpClient(Address address, FileDescriptor socket)
      : address_(std::move(address)), socket_(std::move(socket)) {}
  static Result<FileDescriptor> Dial(const Address& address);
  Status Ask(const ClientRequest& request, Deadline deadline);

  Address address_;
  FileDescriptor socket_;  // None where the last answer ended the connection.
};

}  // namespace sublet
