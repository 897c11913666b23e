// Any bytes as what Kubernetes' API answers: a list, and then the lines of a watch. They are
// refused with a message, or become replicas that a router can take.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "base/check.h"
#include "model/http_url.h"
#include "proxy/endpoint_slices.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  sublet::EndpointSlices slices;
  bool first = true;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (first) {
      if (const auto taken = slices.TakePage(line); !taken) CHECK(!taken.error().message.empty());
    } else if (const auto event = slices.TakeEvent(line); !event) {
      CHECK(!event.error().message.empty());
    }
    first = false;
  }
  sublet::KubernetesDiscovery wanted;
  for (const char* port : {"", "http", "8000"}) {
    wanted.port = port;
    std::string why;
    std::set<std::string> names;
    for (const sublet::ReplicaSpec& spec : slices.Replicas(wanted, why)) {
      CHECK(names.insert(spec.name).second);
      CHECK(sublet::ParseHttpUrl(spec.url).has_value());
    }
  }
  return 0;
}
