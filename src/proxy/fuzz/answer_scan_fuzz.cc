// What is learnt from an answer doesn't depend on how the network cut it, and nothing in it does
// harm.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "proxy/answer_scan.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sublet;            // NOLINT(google-build-using-namespace)
  using namespace sublet::internal;  // NOLINT(google-build-using-namespace)
  if (size < 2) return 0;
  std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto kind = static_cast<RequestKind>(data[0] % 5);
  const bool stream = (data[0] & 16) != 0;
  AnswerScan whole;
  AnswerScan cut;
  whole.Begin(kind, stream);
  cut.Begin(kind, stream);
  whole.Take(text);
  for (const std::size_t piece = 1 + data[1] % 64; !text.empty();) {
    cut.Take(text.substr(0, piece));
    text.remove_prefix(std::min(piece, text.size()));
  }
  if (whole.events() != cut.events() || whole.first_token() != cut.first_token() ||
      whole.at_event_end() != cut.at_event_end()) {
    std::abort();
  }
  static_cast<void>(whole.FindUsage());
  static_cast<void>(cut.FindUsage());
  return 0;
}
