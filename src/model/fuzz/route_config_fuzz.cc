// Any bytes as a route file or as one replica of it: they are refused with a message, or read into
// something that can be served, and whose texts are safe in a header and in a log.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>

#include "base/check.h"
#include "model/http_url.h"
#include "model/route_config.h"

namespace {

void CheckReplica(const sublet::RouteReplica& replica) {
  const sublet::ReplicaSpec& spec = replica.spec;
  CHECK(!spec.name.empty());
  CHECK(std::all_of(spec.name.begin(), spec.name.end(),
                    [](char c) { return c > ' ' && c < '\x7f'; }));
  CHECK(spec.url.empty() == replica.simulate.has_value());
  if (spec.url.empty()) return;
  const auto url = sublet::ParseHttpUrl(spec.url);
  CHECK(url.has_value());
  CHECK(url->Text() == spec.url);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto replica = sublet::ParseRouteReplica(text, "fuzz")) CheckReplica(*replica);
  auto config = sublet::ParseRouteConfig(text, "fuzz");
  if (!config) {
    CHECK(!config.error().message.empty());
    return 0;
  }
  std::set<std::string> names;
  for (const sublet::RouteReplica& replica : config->replicas) {
    CheckReplica(replica);
    CHECK(names.insert(replica.spec.name).second);
  }
  CHECK(config->listen.port >= 0 && config->listen.port <= 65535);
  CHECK(config->limits.body_bytes_max <= config->limits.bodies_bytes_max);
  sublet::ResolvePaths(*config, "/etc");
  CHECK(config->keys_file.empty() || config->keys_file[0] == '/' || config->keys_file == "-");
  return 0;
}
