// kube/api_json.h
//
// JSON that comes from the API server: parsed within limits, and looked into without surprises.
//
//   ASSIGN_OR_RETURN(const nlohmann::json list, ParseApiJson(body, "list of nodes"));
//   const std::string_view version = TextAt(list, {"metadata", "resourceVersion"});
//
// Unknown fields are passed over: the server may be newer than this program.
//
// Thread safety: pure functions.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace sublet {

// etcd takes objects of 1.5 MiB, and what is listed here is one node, or the pods of one.
inline constexpr std::size_t kApiBytesMax = 16u << 20;
inline constexpr int kApiDepthMax = 64;  // A pod nests 12 levels.

// Fails with kInvalid, `what` in front: no JSON, too long, nested too deeply.
Result<nlohmann::json> ParseApiJson(std::string_view text, std::string_view what);

// The value at that path; nullptr where one of its members isn't there.
const nlohmann::json* ValueAt(const nlohmann::json& from,
                              std::initializer_list<std::string_view> path);
// The text there; empty where it isn't there or no text.
std::string TextAt(const nlohmann::json& from, std::initializer_list<std::string_view> path);

// Compact; text that isn't UTF-8, as a driver's message may be, is mended.
std::string ApiJsonText(const nlohmann::json& value);

}  // namespace sublet
