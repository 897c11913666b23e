#include "node/share_environment.h"

#include <fmt/format.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

namespace sublet {

std::optional<Bytes> PinnedLimit(const Share& share) {
  if (!share.memory_limit) return std::nullopt;
  return Bytes::FromMib(share.memory.mib_rounded_up());
}

EnvironmentChanges EnvironmentOf(const NodeSettings& settings, const Share& share,
                                 const std::string& pipe_directory, std::string record) {
  EnvironmentChanges changes;
  const auto set = [&](std::string_view name, std::optional<std::string> value) {
    changes.emplace_back(name, std::move(value));
  };
  set("CUDA_VISIBLE_DEVICES", share.device_uuid());
  set("NVIDIA_VISIBLE_DEVICES", share.device_uuid());
  set("CUDA_MPS_LOG_DIRECTORY", std::nullopt);
  set("CUDA_MPS_CLIENT_PRIORITY", std::nullopt);
  set("CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING", std::nullopt);
  if (share.mode == SharingMode::kMps) {
    set("CUDA_MPS_PIPE_DIRECTORY", pipe_directory);
    set("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
        share.sm_percent ? std::optional(std::to_string(*share.sm_percent)) : std::nullopt);
    const std::optional<Bytes> limit = PinnedLimit(share);
    set("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
        limit ? std::optional(fmt::format("0={}M", limit->mib())) : std::nullopt);
  } else {
    set("CUDA_MPS_PIPE_DIRECTORY", settings.run + "/no-mps");
    set("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", std::nullopt);
    set("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", std::nullopt);
  }
  set(kShareVariable, share.id);
  set("SUBLET_TENANT", share.tenant);
  set(kStateVariable, settings.state);
  set(kRecordVariable, record.empty() ? ShareToJson(share).dump() : std::move(record));
  if (!settings.libraries.empty()) {
    const char* const path = std::getenv("LD_LIBRARY_PATH");
    const bool more = path != nullptr && *path != '\0';
    set("LD_LIBRARY_PATH",
        more ? fmt::format("{}:{}", settings.libraries, path) : settings.libraries);
  }
  return changes;
}

}  // namespace sublet
