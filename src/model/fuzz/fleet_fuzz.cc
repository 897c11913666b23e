// Any bytes as a fleet file: they are refused with a message that has a place, or read into a fleet
// that keeps what model/fleet.h promises.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "model/fleet.h"

namespace {

void CheckWorkload(const sublet::Workload& workload) {
  CHECK(!workload.name.empty() && workload.name.size() <= 63);
  CHECK(!workload.tenant.empty());
  CHECK(workload.replicas >= 1);
  CHECK(workload.memory >= sublet::Bytes::FromMib(1));
  CHECK(!workload.memory_how.empty());
  CHECK(workload.compute.sm_percent > 0 && workload.compute.sm_percent <= 100);
  CHECK(workload.compute.bandwidth_percent >= 0 && workload.compute.bandwidth_percent <= 100);
  if (workload.load) CHECK(std::isfinite(workload.load->service_ms));
  if (workload.latency.p50_ms || workload.latency.p99_ms) CHECK(workload.load.has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto fleet = sublet::ParseFleet(text, "fuzz");
  if (!fleet) {
    CHECK(fleet.error().code == sublet::ErrorCode::kInvalid);
    CHECK(fleet.error().message.starts_with("fuzz:"));
    CHECK(fleet.error().message.size() < 1000);
    return 0;
  }
  CHECK(!fleet->workloads.empty());
  CHECK(fleet->ReplicaCount() >= 1 && fleet->ReplicaCount() <= sublet::kReplicasMax);
  for (const sublet::Workload& workload : fleet->workloads) CheckWorkload(workload);
  return 0;
}
