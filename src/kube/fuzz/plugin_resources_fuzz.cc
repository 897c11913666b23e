// Any bytes as a configuration, on a node with a whole GPU and one cut by MIG: what is advertised
// keeps what kubelet needs, and all of it can be preferred and handed out.
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "base/check.h"
#include "kube/allocation.h"
#include "kube/plugin_resources.h"
#include "kube/preferred_allocation.h"
#include "model/tests/board_gpu.h"

namespace sublet {
namespace {

Inventory SampleOfFuzz() {
  Inventory node;
  for (int i = 0; i < 3; ++i) {
    Gpu gpu = GpuOfBoard("a100-80gb");
    gpu.index = i;
    gpu.uuid = "GPU-00000000-0000-0000-0000-00000000000" + std::to_string(i);
    gpu.memory = 80_GiB;
    node.gpus.push_back(std::move(gpu));
  }
  Gpu& cut = node.gpus[2];
  const auto target = ResolveTarget(
      cut, {.gpu_uuid = cut.uuid,
            .mig = true,
            .instances = {{.profile = "3g.40gb", .start = 4}, {.profile = "1g.10gb", .start = 0}}});
  CHECK(target.has_value());
  SetInstances(target->instances, cut);
  for (GpuInstance& instance : cut.instances) {
    instance.compute_instances[0].uuid = "MIG-" + std::to_string(instance.id);
  }
  return node;
}

void CheckResource(const Inventory& node, const DevicePluginConfig& config,
                   const AdvertisedResource& resource) {
  CHECK(FullResourceName(resource.name, true) == resource.name);
  CHECK(!resource.replicas.empty());
  const ReplicaIndex index(resource);  // Ids are unique, or this ends.
  PreferenceRequest request;
  for (const AdvertisedReplica& replica : resource.replicas) {
    CHECK(PhysicalId(replica.id) == resource.devices[replica.device].uuid);
    request.available.push_back(replica.id);
  }
  request.size = 1;
  const auto ids = PreferDevices(node, index, request);
  CHECK(ids.has_value() && ids->size() == 1);
  AllocationContext context{.flags = config.flags, .imex = config.imex};
  context.mps = ResourceMpsFolder(config.flags, resource);
  context.fail_closed = false;
  CHECK(AllocateContainer(index, {*ids, "id"}, context).has_value());
}

}  // namespace
}  // namespace sublet

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const sublet::Inventory kNode = sublet::SampleOfFuzz();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = sublet::ParseDevicePluginConfig(text, "fuzz");
  if (!config) return 0;
  const auto node = sublet::AdvertiseNode({.inventory = kNode, .config = *config});
  if (!node) {
    CHECK(!node.error().message.empty());
    return 0;
  }
  for (const sublet::AdvertisedResource& resource : node->resources) {
    sublet::CheckResource(kNode, *config, resource);
  }
  return 0;
}
