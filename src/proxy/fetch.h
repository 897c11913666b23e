// proxy/fetch.h
//
// Small HTTP requests of the router's own, on its control loop: health, metrics, the list of
// models, the node's daemon, Kubernetes' API.
//
//   FetchConnection replica(loop, FetchTarget::At(url, tls));
//   const FetchRequest request{.target = "/metrics"};
//   const Result<FetchResponse> answer = co_await replica.Send(request);
//   if (answer && answer->status == 200) ...
//
// A connection is kept and used again. Where the other side has closed it meanwhile, one more is
// made, once; so only what may be done twice is sent.
//
// Each status is an answer, 500 too. An Error is: no such host, refused, reset, not HTTP, TLS that
// isn't believed, an answer that is too large, or too late.
//
// Thread safety: the loop's thread; one request at a time for each connection.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "http/event_loop.h"
#include "model/http_url.h"

namespace sublet {

// Whose certificates are believed.
struct FetchTls {
  std::string ca_file;  // PEM, read again where it has changed; empty: the system's.
  bool verify = true;
  friend bool operator==(const FetchTls&, const FetchTls&) = default;
};

// The same, read: at the first connection that needs it, because the system's authorities take some
// 50 ms and 2 MB. Connections to many replicas share one.
class FetchTrust {
 public:
  explicit FetchTrust(FetchTls tls);
  ~FetchTrust();
  FetchTrust(const FetchTrust&) = delete;
  FetchTrust& operator=(const FetchTrust&) = delete;

  const FetchTls& tls() const { return tls_; }
  // Fails with kInvalid where the file can't be read.
  Result<std::shared_ptr<asio::ssl::context>> Context();

 private:
  const FetchTls tls_;
  std::shared_ptr<asio::ssl::context>
      context_;                   // A new one for a new file; connections keep theirs.
  std::int64_t changed_ns_ = -1;  // When the file had changed that was read.
};

struct FetchTarget {
  HttpUrl url;
  std::string socket;  // Path of a UNIX socket, which goes before the URL's host; empty: TCP.
  std::shared_ptr<FetchTrust> trust;  // For https; null for others.

  static FetchTarget At(HttpUrl url, FetchTls tls = {});
  static FetchTarget At(HttpUrl url, std::shared_ptr<FetchTrust> trust);
  static FetchTarget OfSocket(std::string path);
  std::string Text() const;  // For messages.
};

struct FetchRequest {
  std::string method = "GET";
  std::string target;  // Path and query, encoded; what the URL's own path has goes before it.
  std::string body = {};
  // Besides Host, Accept and Content-Type.
  std::vector<std::pair<std::string, std::string>> headers = {};
  double timeout_s = 5;  // For all of it; in Stream(), between two pieces.
  std::size_t bytes_max = 8u << 20;
};

struct FetchResponse {
  int status = 0;
  std::string content_type;
  std::string body;
};

class FetchConnection {
 public:
  FetchConnection(asio::io_context& loop, FetchTarget target);
  ~FetchConnection();
  FetchConnection(const FetchConnection&) = delete;
  FetchConnection& operator=(const FetchConnection&) = delete;

  // The whole answer.
  Task<Result<FetchResponse>> Send(const FetchRequest& request);
  // Each line of the answer's body as it comes, without its end, where the status is 200; the
  // answer's body otherwise. `on_line` returns false to stop there, which closes the connection and
  // is no error. An answer that breaks off fails with kUnavailable after its last whole line.
  Task<Result<FetchResponse>> Stream(const FetchRequest& request,
                                     std::function<bool(std::string_view)> on_line);
  void Close();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
