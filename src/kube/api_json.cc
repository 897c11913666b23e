#include "kube/api_json.h"

#include <fmt/format.h>

#include <algorithm>

namespace sublet {
namespace {

// How deep brackets nest outside of strings. Said beforehand, because a parser's memory grows with
// each level, and a value's destruction with it.
int DepthOf(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '{' || c == '[') deepest = std::max(deepest, ++depth);
    if (c == '}' || c == ']') --depth;
  }
  return deepest;
}

}  // namespace

Result<nlohmann::json> ParseApiJson(std::string_view text, std::string_view what) {
  if (text.size() > kApiBytesMax) {
    return Fail(ErrorCode::kInvalid, fmt::format("{}: more than {} bytes", what, kApiBytesMax));
  }
  if (DepthOf(text) > kApiDepthMax) {
    return Fail(ErrorCode::kInvalid,
                fmt::format("{}: nested more than {} levels", what, kApiDepthMax));
  }
  nlohmann::json value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) {
    return Fail(ErrorCode::kInvalid, fmt::format("{}: no JSON", what));
  }
  return value;
}

const nlohmann::json* ValueAt(const nlohmann::json& from,
                              std::initializer_list<std::string_view> path) {
  const nlohmann::json* at = &from;
  for (const std::string_view name : path) {
    if (!at->is_object()) return nullptr;
    const auto member = at->find(std::string(name));
    if (member == at->end()) return nullptr;
    at = &*member;
  }
  return at;
}

std::string TextAt(const nlohmann::json& from, std::initializer_list<std::string_view> path) {
  const nlohmann::json* const value = ValueAt(from, path);
  if (value == nullptr || !value->is_string()) return "";
  return value->get_ref<const std::string&>();
}

std::string ApiJsonText(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace sublet
