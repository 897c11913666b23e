// kube/api_transport.h
//
// HTTP to the API server by libcurl: whole answers, and answers that go on for minutes as lines.
//
//   ASSIGN_OR_RETURN(ApiPlace place, InClusterApi(environment));
//   ApiTransport transport(place, {});
//   ASSIGN_OR_RETURN(const ApiResponse response, transport.Send({.path = "/api/v1/nodes/gpu-1"}));
//   if (response.status != 200) ...
//
//   ASSIGN_OR_RETURN(ApiStream stream, transport.Begin({.path = "/api/v1/nodes?watch=1"}));
//   ASSIGN_OR_RETURN(const auto line, stream.NextLine(Deadline::In(60), InterruptFd()));
//
// The token's file is read for each request, so a rotated token is used from then on; kubelet
// replaces it well before the old one ends.
//
// What may surprise:
// - An HTTP status is no error here, that there is none is: kUnavailable.
// - Redirects are not followed: a token goes to the server that it was given for, and nowhere else.
// - A stream ends with kUnavailable, however politely the server closes it.
//
// Thread safety: one thread at a time for each object; objects share nothing.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/result.h"

namespace sublet {

struct ApiPlace {
  std::string server = {};      // "https://10.96.0.1:443", without a path.
  std::string token_file = {};  // Empty: no token is sent.
  std::string ca_file = {};     // Empty: the system's.
  std::string name_space = {};  // Of this pod; empty where it isn't known.
};

using EnvironmentOf = std::function<std::optional<std::string>(const char* name)>;

inline constexpr std::string_view kServiceAccountFolder =
    "/var/run/secrets/kubernetes.io/serviceaccount";

// As a pod finds it: KUBERNETES_SERVICE_HOST and _PORT, and the service account's folder. Fails
// with kNotFound outside of a cluster.
Result<ApiPlace> InClusterApi(const EnvironmentOf& environment,
                              const std::string& folder = std::string(kServiceAccountFolder));

// Fails with kUsage for an address that isn't http:// or https:// and a host, and where a token
// would travel in the clear to another machine.
Status CheckApiPlace(const ApiPlace& place);

struct ApiLimits {
  double connect_s = 10;
  double answer_s = 30;               // A whole answer.
  std::size_t bytes_max = 16u << 20;  // Of an answer, and of a stream's line.
};

struct ApiRequest {
  std::string method = "GET";
  std::string path = {};  // With its query, encoded: "/api/v1/nodes?limit=1".
  std::string body = {};
  std::string content_type = "application/json";  // Of the body.
};

struct ApiResponse {
  int status = 0;
  std::string body;
  std::optional<double> retry_after_s;
};

class ApiStream {
 public:
  ApiStream(ApiStream&&) noexcept;
  ApiStream& operator=(ApiStream&&) noexcept;
  ~ApiStream();

  // The status, once the server has answered; waits for it. Absent where it hasn't by then, or
  // `wake_fd` is readable.
  Result<std::optional<int>> HttpStatus(Deadline deadline, int wake_fd);
  // The next line, without its end. Absent at `deadline`, or as soon as `wake_fd` (-1: none) is
  // readable. Fails with kUnavailable at the stream's end, whatever has come of a last line, and
  // with kInvalid for a line that is too long.
  Result<std::optional<std::string>> NextLine(Deadline deadline, int wake_fd);
  // What of the body nobody has read yet, as much as comes until then: an error's text.
  std::string Rest(Deadline deadline, int wake_fd);

 private:
  friend class ApiTransport;
  class Impl;
  explicit ApiStream(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class ApiTransport {
 public:
  ApiTransport(ApiPlace place, ApiLimits limits) : place_(std::move(place)), limits_(limits) {}

  // Fails with kUnavailable where no answer came, kInvalid for one that is too long, kIo,
  // kPermission or kNotFound where the token can't be read.
  Result<ApiResponse> Send(const ApiRequest& request) const;
  Result<ApiStream> Begin(const ApiRequest& request) const;

  const ApiPlace& place() const { return place_; }

 private:
  ApiPlace place_;
  ApiLimits limits_;
};

// Percent-encoded, for a query's value or a path's part.
std::string UrlEncoded(std::string_view text);

}  // namespace sublet
