#include "ptx_entries.h"

#include <algorithm>
#include <cctype>

namespace sublet::sim {
namespace {

// With comments blanked, so that a name within one isn't taken for a kernel.
std::string WithoutComments(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    if (text.substr(i, 2) == "//") {
      i = std::min(text.find('\n', i), text.size());
    } else if (text.substr(i, 2) == "/*") {
      const std::size_t end = text.find("*/", i + 2);
      i = end == std::string_view::npos ? text.size() : end + 2;
      out += ' ';
    } else {
      out += text[i++];
    }
  }
  return out;
}

bool IsOfName(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$';
}

}  // namespace

std::vector<std::string> PtxEntries(std::string_view text) {
  std::vector<std::string> names;
  const std::string code = WithoutComments(text);
  if (code.find(".version") == std::string::npos) return names;
  constexpr std::string_view kEntry = ".entry";
  for (std::size_t at = code.find(kEntry); at != std::string::npos; at = code.find(kEntry, at)) {
    at += kEntry.size();
    std::size_t begin = at;
    while (begin < code.size() && std::isspace(static_cast<unsigned char>(code[begin])) != 0) {
      ++begin;
    }
    std::size_t end = begin;
    while (end < code.size() && IsOfName(code[end])) ++end;
    if (begin > at && end > begin) names.push_back(code.substr(begin, end - begin));
  }
  return names;
}

}  // namespace sublet::sim
