// Any bytes as a device plugin's configuration: they are refused with a message, or read into a
// value that keeps what the header promises.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/device_plugin_config.h"

namespace sublet {
namespace {

void CheckShared(const std::optional<ReplicatedResources>& shared) {
  if (!shared) return;
  CHECK(!shared->resources.empty());
  for (const ReplicatedResource& resource : shared->resources) {
    CHECK(FullResourceName(resource.name) == resource.name);
    CHECK(resource.rename.empty() || FullResourceName(resource.rename) == resource.rename);
    CHECK(resource.replicas >= 2 && resource.replicas <= kReplicasMax);
    CHECK(!resource.devices.count || *resource.devices.count > 0);
  }
}

}  // namespace
}  // namespace sublet

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = sublet::ParseDevicePluginConfig(text, "fuzz");
  if (!config) {
    CHECK(!config.error().message.empty());
    return 0;
  }
  sublet::CheckShared(config->time_slicing);
  sublet::CheckShared(config->mps);
  for (const sublet::ShareRule& rule : config->sublet.shares) {
    CHECK(sublet::FullResourceName(rule.resource, true) == rule.resource);
    CHECK(rule.count >= 1);
  }
  CHECK(!config->flags.device_list_strategy.empty());
  return 0;
}
