// proxy/openai_error.h
//
// What goes wrong, told in the words that OpenAI's clients understand.
//
//   out += OpenAiErrorBody({404, "model_not_found", "no replica serves the model: x"});
//   // {"error":{"message":"...","type":"invalid_request_error","param":null,"code":"..."}}
//
// The official clients decide by the status whether to try again (408, 409, 429, 5xx), show
// `message`, and let programs ask for `code` and `type`. In a stream, whose status is sent already,
// they raise an error for an event that has a field `error`.
//
// Thread safety: pure.
#pragma once

#include <string>
#include <string_view>

#include "kvcache/request_prefix.h"

namespace sublet::internal {

struct OpenAiError {
  int status = 0;
  std::string_view code;  // "model_not_found": for programs.
  std::string message;    // For people. What isn't UTF-8 in it is replaced.
};

// By status: "invalid_request_error", "authentication_error", "permission_error",
// "rate_limit_error", "server_error".
std::string_view OpenAiErrorType(int status);

std::string OpenAiErrorBody(const OpenAiError& error);

// The last events of a stream that breaks, in the form of the API that the client speaks.
// `inside_event`: the last one that was passed on isn't complete; it is ended first.
std::string OpenAiErrorEvents(RequestKind kind, const OpenAiError& error, bool inside_event);

// "Bad Gateway" for 502. "Unknown" for what isn't in the registry.
std::string_view StatusPhrase(int status);

}  // namespace sublet::internal
