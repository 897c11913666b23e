// Any bytes as a fleet file: they are refused with a message that has a place, or read into a fleet
// that keeps what model/fleet.h promises.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
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

// The profile's file is not what is fuzzed here: "p" has one, and nothing else exists.
sublet::Result<std::string> Load(const std::string& path) {
  if (path != "p") return sublet::Fail(sublet::ErrorCode::kNotFound, "no such file");
  return R"({"version": "sublet.profile/v1", "name": "x", "board": "h200", "source": "s",
             "unit": "u", "service_ms": 1, "memory_mib": 0, "points": [{"sm_percent": 100,
             "alone_per_s": 1, "latency_ms_p50": 1, "latency_ms_p99": 1, "context_mib": 9}]})";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto fleet = sublet::ParseFleet(text, "fuzz", Load);
  if (!fleet) {
    CHECK(fleet.error().code == sublet::ErrorCode::kInvalid ||
          fleet.error().code == sublet::ErrorCode::kNotFound);
    CHECK(fleet.error().message.starts_with("fuzz:"));
    CHECK(fleet.error().message.size() < 1000);
    return 0;
  }
  CHECK(!fleet->workloads.empty());
  CHECK(fleet->ReplicaCount() >= 1 && fleet->ReplicaCount() <= sublet::kReplicasMax);
  for (const sublet::Workload& workload : fleet->workloads) CheckWorkload(workload);
  return 0;
}
