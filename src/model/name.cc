#include "model/name.h"

#include <fmt/format.h>

#include "model/document.h"

namespace sublet {
namespace {

bool IsName(std::string_view text) {
  const auto is_alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
  };
  if (text.empty() || text.size() > kNameMax) return false;
  char before = '.';
  for (const char c : text) {
    if (c == '.' ? !is_alphanumeric(before) : !is_alphanumeric(c) && !(c == '-' && before != '.')) {
      return false;
    }
    before = c;
  }
  return is_alphanumeric(before);
}

}  // namespace

Result<std::string> ReadName(const Node& node) {
  ASSIGN_OR_RETURN(std::string name, ReadString(node));
  if (IsName(name)) return name;
  return FailAt(node, fmt::format("not a name: '{}'", name.substr(0, kNameMax)),
                "use at most 63 of a-z, 0-9, '-' and '.', with a letter or digit at both ends and "
                "beside every dot");
}

}  // namespace sublet
