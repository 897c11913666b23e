// Anything as what the API server sends: a line of a watch, an object, an error's text; and as a
// PCI device's configuration.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/check.h"
#include "kube/api_client.h"
#include "kube/api_json.h"
#include "kube/feature_facts.h"
#include "kube/feature_labels.h"
#include "kube/node_object.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto json = sublet::ParseApiJson(text, "input")) {
    static_cast<void>(sublet::ApiJsonText(*json));
    static_cast<void>(sublet::TextAt(*json, {"metadata", "resourceVersion"}));
    if (const auto node = sublet::ReadNodeObject(*json)) {
      CHECK(!node->name.empty());
      const auto patch = sublet::NodePatchJson(
          {.labels = {{"a", "b"}}, .resource_version = node->resource_version});
      static_cast<void>(sublet::ApiJsonText(patch));
    }
    if (const auto* const object = sublet::ValueAt(*json, {"object"})) {
      static_cast<void>(sublet::ReadNodeObject(*object));
    }
  }
  static_cast<void>(sublet::ApiErrorOf(500, text, "GET /x"));
  static_cast<void>(sublet::VgpuHostIn(text));
  CHECK(sublet::IsLabelValue(sublet::LabelValue(text)));
  return 0;
}
