// Any bytes as a batch of KV events: refused, or read into one that writing and reading again
// gives back.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "kvcache/kv_event.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto batch = sublet::DecodeKvEventBatch(bytes);
  if (!batch) {
    CHECK(batch.error().code == sublet::ErrorCode::kInvalid);
    return 0;
  }
  CHECK(batch->events.size() <= size);
  for (const sublet::KvEvent& event : batch->events) {
    CHECK(event.tokens.empty() ||
          event.tokens.size() ==
              event.blocks.size() * static_cast<std::size_t>(event.block_tokens));
    CHECK(event.extra.empty() || event.extra.size() == event.blocks.size());
  }
  batch->unknown_events = 0;
  if (batch->time_s != batch->time_s) batch->time_s = 0;  // NaN equals nothing.
  for (const auto encoding :
       {sublet::KvEncoding::kArrays, sublet::KvEncoding::kArrayOfMaps, sublet::KvEncoding::kMaps}) {
    const auto again = sublet::DecodeKvEventBatch(sublet::EncodeKvEventBatch(*batch, encoding));
    CHECK(again.has_value());
    CHECK(*again == *batch);
  }
  return 0;
}
