#include "model/http_url.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

namespace sublet {
namespace {

constexpr std::size_t kUrlBytesMax = 2048;  // What browsers and proxies take at least.
constexpr std::size_t kHostBytesMax = 253;  // A name of DNS.
constexpr int kPortMax = 65535;

bool IsHostCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

bool IsHost(std::string_view host) {
  return !host.empty() && host.size() <= kHostBytesMax &&
         std::all_of(host.begin(), host.end(), IsHostCharacter);
}

bool IsAddress6(std::string_view host) {
  return host.find(':') != std::string_view::npos && host.size() <= kHostBytesMax &&
         host.find_first_not_of("0123456789abcdef:.") == std::string_view::npos;
}

std::optional<int> PortOf(std::string_view digits) {
  int port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  if (!whole || port < 1 || port > kPortMax) return std::nullopt;
  return port;
}

tl::unexpected<Error> Refuse(std::string_view text, std::string_view why) {
  return Fail(ErrorCode::kInvalid, fmt::format("{}: '{}'", why, text.substr(0, 64)),
              "write it like http://10.0.0.7:8000");
}

// "host:port", "[::1]:port", "host" into `url`; false where it is none.
bool ReadAuthority(std::string_view authority, HttpUrl& url) {
  std::string_view host = authority;
  std::string_view after;
  if (authority.starts_with('[')) {
    const std::size_t end = authority.find(']');
    if (end == std::string_view::npos) return false;
    host = authority.substr(1, end - 1);
    after = authority.substr(end + 1);
  } else if (const std::size_t colon = authority.find(':'); colon != std::string_view::npos) {
    host = authority.substr(0, colon);
    after = authority.substr(colon);
  }
  url.host.assign(host);
  std::transform(url.host.begin(), url.host.end(), url.host.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  if (authority.starts_with('[') ? !IsAddress6(url.host) : !IsHost(url.host)) return false;
  if (after.empty()) return true;
  const std::optional<int> port = after.starts_with(':') ? PortOf(after.substr(1)) : std::nullopt;
  if (!port) return false;
  url.port = *port;
  return true;
}

}  // namespace

std::string HttpUrl::Authority() const {
  const bool address6 = host.find(':') != std::string::npos;
  return address6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

std::string HttpUrl::Text() const {
  return fmt::format("{}://{}{}", tls ? "https" : "http", Authority(), path);
}

Result<HttpUrl> ParseHttpUrl(std::string_view text) {
  if (text.size() > kUrlBytesMax) return Refuse(text, "longer than a URL may be");
  const bool printable = std::all_of(text.begin(), text.end(), [](char c) {
    return c > ' ' && c < '\x7f' && std::string_view("\"<>\\^`{|}").find(c) == std::string::npos;
  });
  if (!printable) return Refuse(text, "not a URL");
  HttpUrl url;
  std::string_view rest = text;
  if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
  } else if (rest.starts_with("https://")) {
    rest.remove_prefix(8);
    url.tls = true;
  } else {
    return Refuse(text, "not a URL that begins with http:// or https://");
  }
  url.port = url.tls ? 443 : 80;
  if (rest.find_first_of("?#") != std::string_view::npos) {
    return Refuse(text, "a replica's URL has neither query nor fragment");
  }
  const std::size_t slash = rest.find('/');
  const std::string_view authority = rest.substr(0, slash);
  if (authority.find('@') != std::string_view::npos) {
    // The text isn't shown: it has a password in it.
    return Fail(ErrorCode::kInvalid, "a replica's URL has no user and no password");
  }
  if (!ReadAuthority(authority, url)) return Refuse(text, "not a URL with a host and a port");
  if (slash != std::string_view::npos) url.path.assign(rest.substr(slash));
  while (url.path.ends_with('/')) url.path.pop_back();
  return url;
}

}  // namespace sublet
