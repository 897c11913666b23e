// Any bytes as a body in which a model's name may be another one's: the body changes by exactly the
// name, and what is JSON stays JSON with the new name in it.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/check.h"
#include "proxy/model_alias.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string before(reinterpret_cast<const char*>(data), size);
  const sublet::ModelAliases aliases{{"a", "the model"}, {"gpt-4o", "b"}};
  std::string body = before;
  const bool changed = sublet::ApplyAliases(aliases, body);
  CHECK(changed == (body != before));
  const auto was = nlohmann::json::parse(before, nullptr, false);
  if (!was.is_object()) return 0;
  const auto now = nlohmann::json::parse(body, nullptr, false);
  CHECK(now.is_object());
  if (!changed) return 0;
  auto expected = was;
  expected["model"] = aliases.at(was["model"].get<std::string>());
  CHECK(now == expected);
  return 0;
}
