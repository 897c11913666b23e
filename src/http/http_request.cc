#include "http/http_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/core/string.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <cstddef>

#include "http/http_server.h"

namespace sublet {

std::string_view HttpRequest::Header(std::string_view name) const {
  const auto found = std::find_if(headers.begin(), headers.end(), [&](const auto& header) {
    return boost::beast::iequals(header.first, name);
  });
  return found != headers.end() ? std::string_view(found->second) : std::string_view();
}

namespace internal {

Result<RequestTarget> ParseTarget(std::string_view target) {
  const auto url = boost::urls::parse_origin_form(target);
  if (!url) {
    return Fail(ErrorCode::kInvalid, fmt::format("not a path with an optional query: {}", target));
  }
  RequestTarget parsed{.path = url->path(), .query = {}};
  // On the decoded path: an encoded slash would hide one from a look at the segments.
  const std::string closed = parsed.path + "/";
  if (closed.find("/./") != std::string::npos || closed.find("/../") != std::string::npos) {
    return Fail(ErrorCode::kInvalid, fmt::format("a path may not have dot segments: {}", target));
  }
  bool has_nul = parsed.path.find('\0') != std::string::npos;
  for (const auto param : url->params()) {
    has_nul |= param.key.find('\0') != std::string::npos;
    has_nul |= param.value.find('\0') != std::string::npos;
    parsed.query[param.key] = param.value;
  }
  if (has_nul) return Fail(ErrorCode::kInvalid, fmt::format("a NUL byte in a path: {}", target));
  return parsed;
}

bool BearerIs(std::string_view authorization, std::string_view token) {
  constexpr std::string_view kScheme = "Bearer ";
  if (!boost::beast::iequals(authorization.substr(0, kScheme.size()), kScheme)) return false;
  authorization.remove_prefix(kScheme.size());
  // The length of what was sent decides how long it takes, which tells the sender nothing new.
  unsigned difference = authorization.size() == token.size() ? 0 : 1;
  for (std::size_t i = 0; i < authorization.size(); ++i) {
    const char expected = token[i % token.size()];
    difference |=
        static_cast<unsigned char>(authorization[i]) ^ static_cast<unsigned char>(expected);
  }
  return difference == 0;
}

}  // namespace internal
}  // namespace sublet
