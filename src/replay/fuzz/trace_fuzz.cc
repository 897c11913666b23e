// Any bytes as a trace: they are refused with a message that names a line, or read into requests in
// order whose pieces make up their prompts.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "replay/trace_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto trace = sublet::ParseTrace(text, "fuzz");
  if (!trace) {
    CHECK(!trace.error().message.empty());
    return 0;
  }
  std::int64_t before_ns = 0;
  for (const sublet::TraceRequest& request : trace->requests) {
    std::uint64_t tokens = 0;
    for (const sublet::PromptPiece& piece : trace->PiecesOf(request)) tokens += piece.tokens;
    CHECK(tokens == request.prompt_tokens && tokens > 0);
    CHECK(request.output_tokens > 0);
    if (request.after) continue;
    CHECK(request.at_ns >= before_ns);
    before_ns = request.at_ns;
  }
  return 0;
}
