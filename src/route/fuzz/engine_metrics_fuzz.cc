// Any bytes as an engine's /metrics: what is read of them is what route/engine_metrics.h promises,
// and nothing of it depends on where a text ends beyond its last line.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "route/engine_metrics.h"

namespace {

void CheckCount(const std::optional<double>& value) {
  if (value) CHECK(std::isfinite(*value) && *value >= 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const sublet::EngineMetrics metrics = sublet::ParseEngineMetrics(text);
  const sublet::EngineLoad& load = metrics.load;
  CheckCount(load.waiting);
  CheckCount(load.running);
  CheckCount(metrics.prefix_queries);
  CheckCount(metrics.prefix_hits);
  CheckCount(metrics.preemptions);
  if (load.kv_used) CHECK(*load.kv_used >= 0 && *load.kv_used <= 1);
  if (load.block_tokens) CHECK(*load.block_tokens >= 1);
  if (load.blocks) CHECK(*load.blocks >= 1);
  const bool any = load.waiting || load.running || load.kv_used || load.block_tokens ||
                   load.blocks || metrics.prefix_queries || metrics.prefix_hits ||
                   metrics.preemptions;
  CHECK(any == metrics.engine.has_value());
  // A line of somebody else's changes nothing.
  const sublet::EngineMetrics more = sublet::ParseEngineMetrics(std::string(text) + "\nother 1\n");
  CHECK(more.load.waiting == load.waiting && more.load.blocks == load.blocks);
  CHECK(more.engine == metrics.engine);
  return 0;
}
