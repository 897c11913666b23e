// kube/api_client.h
//
// The API server as values: a request's JSON, or an Error that says what the server said.
//
//   ApiClient api(ApiTransport(place, {}), {});
//   ASSIGN_OR_RETURN(const nlohmann::json node, api.Send({.path = "/api/v1/nodes/gpu-1"}));
//   RETURN_IF_ERROR(api.Send(ApplyRequest(path, "sublet-labels", object)));
//
// What may heal within moments is tried again, a few times and with pauses that grow and differ
// from node to node: no answer, 429, 5xx, and 401, which a token that was just rotated gives. All
// requests here are such that twice is as good as once.
//
// What an HTTP status becomes:
//
//   400, 413, 422   kInvalid        409, 410   kConflict
//   401, 403        kPermission     415        kUnsupported
//   404             kNotFound       others     kUnavailable
//
// Thread safety: one thread at a time.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "kube/api_transport.h"

namespace sublet {

// How long who failed waits before he tries again.
struct ApiPatience {
  double first_s = 0.2;
  double most_s = 30;
  int attempts = 4;  // Of one request, the first included.
  // Of whose the pauses are: those of several nodes aren't in step.
  std::string who = {};
  // Waits so many seconds; false: stop. Absent: waits on InterruptFd() (base/interrupt.h).
  std::function<bool(double seconds)> wait = {};

  // After `failures` in a row, 1 or more.
  double Pause(int failures) const;
  bool Wait(double seconds) const;
};

class ApiClient {
 public:
  ApiClient(ApiTransport transport, ApiPatience patience)
      : transport_(std::move(transport)), patience_(std::move(patience)) {}

  // The JSON of a successful answer.
  Result<nlohmann::json> Send(const ApiRequest& request);

  const ApiTransport& transport() const { return transport_; }
  const ApiPatience& patience() const { return patience_; }

 private:
  ApiTransport transport_;
  ApiPatience patience_;
};

// Server-side apply: the object's fields become ours, and those that were ours by `manager` and
// aren't in it any more go. Fields of others stay, but for those that we, too, set.
ApiRequest ApplyRequest(std::string path, std::string_view manager, const nlohmann::json& object);
// JSON merge patch: null removes a member.
ApiRequest MergeRequest(std::string path, std::string_view manager, const nlohmann::json& change);

// The error of an answer with another status than 2xx.
Error ApiErrorOf(int status, std::string_view body, std::string_view what);

}  // namespace sublet
