#include "base/html_page.h"

#include <cstddef>

#include "base/check.h"

namespace sublet {
namespace {

// Where a page of web/ wants the data.
constexpr std::string_view kPlaceholder = "__SUBLET_DATA__";

// JSON that can stand in a <script> element. In JSON these characters occur only in strings, where
// \uXXXX means the same: "</script" can't end the element, "<!--" can't start a comment, and the
// line separators U+2028 and U+2029, which JavaScript once didn't allow in strings, are harmless to
// whatever reads the file.
std::string EscapeForScript(std::string_view json) {
  constexpr std::string_view kSeparatorStart = "\xE2\x80";
  std::string escaped;
  escaped.reserve(json.size() + json.size() / 16);
  for (std::size_t i = 0; i < json.size(); ++i) {
    const bool separator = json.substr(i, 2) == kSeparatorStart && i + 2 < json.size() &&
                           (json[i + 2] == '\xA8' || json[i + 2] == '\xA9');
    if (separator) {
      escaped += json[i + 2] == '\xA8' ? "\\u2028" : "\\u2029";
      i += 2;
    } else if (json[i] == '<') {
      escaped += "\\u003c";
    } else if (json[i] == '>') {
      escaped += "\\u003e";
    } else if (json[i] == '&') {
      escaped += "\\u0026";
    } else {
      escaped += json[i];
    }
  }
  return escaped;
}

}  // namespace

std::string PutIntoPage(std::string_view page, std::string_view json) {
  const std::size_t at = page.find(kPlaceholder);
  CHECK(at != std::string_view::npos);
  CHECK(page.find(kPlaceholder, at + 1) == std::string_view::npos);

  std::string filled(page.substr(0, at));
  filled += EscapeForScript(json);
  filled += page.substr(at + kPlaceholder.size());
  return filled;
}

}  // namespace sublet
