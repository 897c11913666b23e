// Any bytes as a request's body: refused, or read into a prefix that keeps what its header says.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "kvcache/request_prefix.h"

namespace {

void CheckPrefix(const sublet::RequestPrefix& prefix, std::size_t body_bytes) {
  CHECK(prefix.model.size() <= sublet::kRequestNameBytesMax);
  CHECK(prefix.session.size() <= sublet::kRequestNameBytesMax);
  CHECK(prefix.choices >= 1 && prefix.prompts >= 1);
  CHECK(!prefix.output_tokens_max || *prefix.output_tokens_max >= 0);
  CHECK(prefix.text.size() == prefix.text_bytes / sublet::kTextBlockBytes);
  CHECK(prefix.token_ids.size() <= body_bytes);
  if (prefix.known) return;
  CHECK(prefix.text.empty() && prefix.token_ids.empty() && prefix.text_bytes == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static sublet::RequestScanner* const kScanner = new sublet::RequestScanner;
  const auto kind = static_cast<sublet::RequestKind>(data[0] % 4);
  std::string body(reinterpret_cast<const char*>(data + 1), size - 1);
  body.shrink_to_fit();
  const auto prefix = kScanner->Scan(kind, body);
  // The same with room behind it, and by a scanner that has read nothing before.
  std::string roomy = body;
  roomy.reserve(body.size() + sublet::kScanPadding);
  sublet::RequestScanner fresh;
  const auto again = fresh.Scan(kind, roomy);
  CHECK(prefix.has_value() == again.has_value());
  if (!prefix) {
    CHECK(prefix.error().code == sublet::ErrorCode::kInvalid);
    return 0;
  }
  CheckPrefix(*prefix, size);
  CHECK(prefix->text == again->text && prefix->token_ids == again->token_ids);
  return 0;
}
