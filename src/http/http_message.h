// http/http_message.h
//
// What client and server of the daemon's API say to each other besides values: errors in JSON.
//
//   co_await responder.Send(HttpStatusOf(error.code), kJsonType, ErrorBody(error));   // Server.
//   if (response.status >= 400) return ErrorFromBody(response.status, response.body); // Client.
//
// An error travels whole: code, message and hint come out as they went in.
//
// Thread safety: values; nothing is shared.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

inline constexpr std::string_view kJsonType = "application/json";
inline constexpr std::string_view kNdjsonType = "application/x-ndjson";
inline constexpr std::string_view kTextType = "text/plain; charset=utf-8";

// {"error":{"code":"not-found","message":"...","hint":"..."}} and a line's end. What isn't UTF-8 in
// a message is replaced, never a reason to fail.
std::string ErrorBody(const Error& error);

// Infeasible and conflict are 409, since the request may succeed later; usage and invalid 400, not
// found 404, permission 403, unsupported 501, unavailable 503, io and internal 500.
int HttpStatusOf(ErrorCode code);

// The error that an answer carries. Where the body isn't ours (a proxy's, another service's), the
// status decides the code and the message says what came.
Error ErrorFromBody(int status, std::string_view body);

}  // namespace sublet
