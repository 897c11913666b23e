#include "proxy/replica_url.h"

#include <fmt/format.h>

#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <charconv>

#include "proxy/message_head.h"

namespace sublet::internal {

Result<ReplicaUrl> ParseReplicaUrl(std::string_view text) {
  const auto parsed = boost::urls::parse_uri(boost::urls::string_view(text.data(), text.size()));
  const auto invalid = [&](std::string_view why) {
    return Fail(ErrorCode::kInvalid, fmt::format("not a replica's URL, {}: {}", why, text));
  };
  if (!parsed) return invalid("which has a scheme, a host and perhaps a path");
  ReplicaUrl url;
  const std::string_view scheme(parsed->scheme().data(), parsed->scheme().size());
  if (EqualsIgnoringCase(scheme, "https")) {
    url.tls = true;
  } else if (!EqualsIgnoringCase(scheme, "http")) {
    return invalid("which begins with http:// or https://");
  }
  if (parsed->has_userinfo() || parsed->has_query() || parsed->has_fragment()) {
    return invalid("which has no user, query or fragment");
  }
  url.host = parsed->host_address();
  if (url.host.empty()) return invalid("which needs a host");
  url.port = url.tls ? 443 : 80;
  if (parsed->has_port()) {
    const auto digits = parsed->port();
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), url.port);
    if (read.ec != std::errc() || url.port == 0) return invalid("whose port is 1 to 65535");
  }
  const auto host_and_port = parsed->encoded_host_and_port();
  url.authority.assign(host_and_port.data(), host_and_port.size());
  const auto path = parsed->encoded_path();
  url.prefix.assign(path.data(), path.size());
  while (!url.prefix.empty() && url.prefix.back() == '/') url.prefix.pop_back();
  if (!url.prefix.empty() && !IsPlainTarget(url.prefix)) return invalid("whose path is plain");
  return url;
}

}  // namespace sublet::internal
