#include "proxy/openai_error.h"

#include <boost/beast/http/status.hpp>
#include <nlohmann/json.hpp>

namespace sublet::internal {
namespace {

nlohmann::ordered_json ErrorJson(const OpenAiError& error) {
  return {{"message", error.message},
          {"type", OpenAiErrorType(error.status)},
          {"param", nullptr},
          {"code", error.code}};
}

std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

std::string_view OpenAiErrorType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

std::string OpenAiErrorBody(const OpenAiError& error) {
  return Dump({{"error", ErrorJson(error)}}) + "\n";
}

std::string OpenAiErrorEvents(RequestKind kind, const OpenAiError& error, bool inside_event) {
  std::string events = inside_event ? "\n\n" : "";
  if (kind == RequestKind::kResponses) {
    nlohmann::ordered_json event = ErrorJson(error);
    event["type"] = "error";
    event["error"] = ErrorJson(error);
    return events + "event: error\ndata: " + Dump(event) + "\n\n";
  }
  events += "data: " + Dump({{"error", ErrorJson(error)}}) + "\n\n";
  if (kind == RequestKind::kChat || kind == RequestKind::kCompletion) events += "data: [DONE]\n\n";
  return events;
}

std::string_view StatusPhrase(int status) {
  const auto known = boost::beast::http::int_to_status(static_cast<unsigned>(status));
  const auto phrase = boost::beast::http::obsolete_reason(known);
  return {phrase.data(), phrase.size()};
}

}  // namespace sublet::internal
