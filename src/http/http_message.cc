#include "http/http_message.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace sublet {
namespace {

constexpr std::array kCodes = {
    ErrorCode::kInfeasible,  ErrorCode::kUsage,       ErrorCode::kInvalid,  ErrorCode::kNotFound,
    ErrorCode::kUnavailable, ErrorCode::kUnsupported, ErrorCode::kConflict, ErrorCode::kIo,
    ErrorCode::kPermission,  ErrorCode::kInternal};
// The codes are an exit status each, so they count up from 0; a new one must come in here too.
static_assert(static_cast<std::size_t>(ErrorCode::kInternal) + 1 == kCodes.size());

// What a body that isn't ours may add to a message: its first words, in one line.
constexpr std::size_t kForeignBytesMax = 200;

ErrorCode CodeOfStatus(int status) {
  switch (status) {
    case 401:
    case 403:
      return ErrorCode::kPermission;
    case 404:
      return ErrorCode::kNotFound;
    case 409:
      return ErrorCode::kConflict;
    case 405:
    case 501:
      return ErrorCode::kUnsupported;
    default:
      return status < 500 ? ErrorCode::kInvalid : ErrorCode::kUnavailable;
  }
}

std::string StringOf(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

std::string ErrorBody(const Error& error) {
  nlohmann::ordered_json inner;
  inner["code"] = ErrorCodeName(error.code);
  inner["message"] = error.message;
  if (!error.hint.empty()) inner["hint"] = error.hint;
  const nlohmann::ordered_json outer = {{"error", inner}};
  return outer.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

int HttpStatusOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInfeasible:
    case ErrorCode::kConflict:
      return 409;
    case ErrorCode::kUsage:
    case ErrorCode::kInvalid:
      return 400;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kPermission:
      return 403;
    case ErrorCode::kUnsupported:
      return 501;
    case ErrorCode::kUnavailable:
      return 503;
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      break;
  }
  return 500;
}

Error ErrorFromBody(int status, std::string_view body) {
  const auto outer = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (outer.is_object() && outer.contains("error") && outer["error"].is_object()) {
    const nlohmann::json& inner = outer["error"];
    const std::string name = StringOf(inner, "code");
    const auto code = std::find_if(kCodes.begin(), kCodes.end(),
                                   [&](ErrorCode each) { return ErrorCodeName(each) == name; });
    const ErrorCode meant = code != kCodes.end() ? *code : CodeOfStatus(status);
    return Error{meant, StringOf(inner, "message"), StringOf(inner, "hint")};
  }
  std::string words(body.substr(0, kForeignBytesMax));
  std::replace_if(
      words.begin(), words.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return Error{CodeOfStatus(status), fmt::format("the answer has status {}: {}", status, words),
               "is this a Sublet daemon, of this version?"};
}

}  // namespace sublet
