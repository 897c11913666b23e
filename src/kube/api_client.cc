#include "kube/api_client.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>

#include "base/clock.h"
#include "base/interrupt.h"
#include "kube/api_json.h"
#include "node/back_off.h"

namespace sublet {
namespace {

constexpr std::size_t kMessageMax = 512;  // Of a server's message, in ours.
constexpr double kRetryAfterMax = 30;     // A server may say anything.
constexpr std::string_view kApplyType = "application/apply-patch+yaml";  // JSON is YAML.
constexpr std::string_view kMergeType = "application/merge-patch+json";

ErrorCode CodeOf(int status) {
  switch (status) {
    case 400:
    case 413:
    case 422:
      return ErrorCode::kInvalid;
    case 401:
    case 403:
      return ErrorCode::kPermission;
    case 404:
      return ErrorCode::kNotFound;
    case 409:
    case 410:
      return ErrorCode::kConflict;
    case 415:
      return ErrorCode::kUnsupported;
    default:
      return ErrorCode::kUnavailable;
  }
}

bool MayHeal(int status) {
  return status == 401 || status == 408 || status == 429 || status >= 500;
}

std::string WithManager(std::string path, std::string_view manager, std::string_view more) {
  const char first = path.find('?') == std::string::npos ? '?' : '&';
  return fmt::format("{}{}fieldManager={}{}", path, first, UrlEncoded(manager), more);
}

}  // namespace

double ApiPatience::Pause(int failures) const {
  return RestartDelay(failures, who, {.first_s = first_s, .most_s = most_s});
}

bool ApiPatience::Wait(double seconds) const {
  if (wait) return wait(seconds);
  pollfd interrupt{InterruptFd(), POLLIN, 0};
  const Deadline deadline = Deadline::In(seconds);
  while (!deadline.Passed() && !Interrupted()) {
    ::poll(&interrupt, 1, deadline.PollMilliseconds());
  }
  return !Interrupted();
}

Error ApiErrorOf(int status, std::string_view body, std::string_view what) {
  std::string message;
  // Kubernetes answers with an object of kind Status; a proxy before it may answer with anything.
  if (const auto json = ParseApiJson(body, "")) message = TextAt(*json, {"message"});
  message.resize(std::min(message.size(), kMessageMax));
  Error error;
  error.code = CodeOf(status);
  error.message = message.empty() ? fmt::format("{}: HTTP status {}", what, status)
                                  : fmt::format("{}: HTTP status {}: {}", what, status, message);
  if (status == 401) error.hint = "the service account's token isn't accepted";
  if (status == 403) error.hint = "the service account needs the rights of deploy/helm/sublet";
  return error;
}

Result<nlohmann::json> ApiClient::Send(const ApiRequest& request) {
  const std::string what =
      fmt::format("{} {}", request.method, request.path.substr(0, request.path.find('?')));
  for (int attempt = 1;; ++attempt) {
    const Result<ApiResponse> response = transport_.Send(request);
    if (response && response->status / 100 == 2) {
      if (response->body.empty()) return nlohmann::json::object();
      return ParseApiJson(response->body, what);
    }
    Error error = response ? ApiErrorOf(response->status, response->body, what) : response.error();
    const bool again = response ? MayHeal(response->status) : error.code == ErrorCode::kUnavailable;
    if (!again || attempt >= patience_.attempts) return tl::unexpected<Error>(std::move(error));
    double pause_s = patience_.Pause(attempt);
    if (response && response->retry_after_s) {
      pause_s = std::max(pause_s, std::min(*response->retry_after_s, kRetryAfterMax));
    }
    if (!patience_.Wait(pause_s)) return tl::unexpected<Error>(std::move(error));
  }
}

ApiRequest ApplyRequest(std::string path, std::string_view manager, const nlohmann::json& object) {
  return {.method = "PATCH",
          .path = WithManager(std::move(path), manager, "&force=true"),
          .body = ApiJsonText(object),
          .content_type = std::string(kApplyType)};
}

ApiRequest MergeRequest(std::string path, std::string_view manager, const nlohmann::json& change) {
  return {.method = "PATCH",
          .path = WithManager(std::move(path), manager, ""),
          .body = ApiJsonText(change),
          .content_type = std::string(kMergeType)};
}

}  // namespace sublet
