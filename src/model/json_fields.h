// model/json_fields.h
//
// What the codecs here need to write JSON: optional fields, lists, the words of an enum.
//
//   Json json{{"name", share.name}};
//   PutField(json, "sm_percent", share.sm_percent);     // Left out where it is absent.
//   PutField(json, "memory_limit_mib", share.memory_limit);
//   json["enforcement"] = ListToJson(share.enforcement, EnforcementToJson);
//
// Reading is model/document.h's.
//
// Thread safety: functions of values.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "model/plan.h"

namespace sublet {

// The word that stands for `value` in files. REQUIRES: there is one.
template <typename Enum>
std::string_view WordOf(const EnumWords<Enum>& words, Enum value) {
  for (const auto& [name, known] : words) {
    if (known == value) return name;
  }
  CHECK(false);
}

template <typename T>
void PutField(nlohmann::ordered_json& json, const char* key, const std::optional<T>& value) {
  if (value) json[key] = *value;
}

// A field named *_mib: rounded up.
inline void PutField(nlohmann::ordered_json& json, const char* key,
                     const std::optional<Bytes>& value) {
  if (value) json[key] = value->mib_rounded_up();
}

// Text is left out where it is empty.
inline void PutField(nlohmann::ordered_json& json, const char* key, const std::string& text) {
  if (!text.empty()) json[key] = text;
}

template <typename T, typename Write>
nlohmann::ordered_json ListToJson(const std::vector<T>& list, const Write& write) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const T& item : list) json.push_back(write(item));
  return json;
}

}  // namespace sublet
