#include "proxy/api_key_ring.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <utility>

#include "proxy/message_head.h"

namespace sublet {
namespace {

std::array<unsigned char, 32> Sha256(std::string_view text) {
  std::array<unsigned char, 32> hash;
  ::SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash.data());
  return hash;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

ApiKey MakeApiKey(std::string_view secret, std::string tenant, bool admin) {
  return {.sha256 = Sha256(secret), .tenant = std::move(tenant), .admin = admin};
}

Result<ApiKey> MakeApiKeyFromHash(std::string_view sha256_hex, std::string tenant, bool admin) {
  ApiKey key{.sha256 = {}, .tenant = std::move(tenant), .admin = admin};
  bool valid = sha256_hex.size() == 2 * key.sha256.size();
  for (std::size_t i = 0; valid && i < key.sha256.size(); ++i) {
    const int high = HexDigit(sha256_hex[2 * i]);
    const int low = HexDigit(sha256_hex[2 * i + 1]);
    valid = high >= 0 && low >= 0;
    key.sha256[i] = static_cast<unsigned char>((high << 4) | low);
  }
  // It isn't quoted: who takes a key for its hash would find it in a log.
  if (!valid) return Fail(ErrorCode::kInvalid, "a key's sha256 needs 64 hexadecimal digits");
  return key;
}

namespace internal {

ApiKeyRing::ApiKeyRing(std::vector<ApiKey> keys) : keys_(std::move(keys)) {
  std::sort(keys_.begin(), keys_.end(),
            [](const ApiKey& a, const ApiKey& b) { return a.sha256 < b.sha256; });
}

const ApiKey* ApiKeyRing::Find(std::string_view authorization) const {
  constexpr std::string_view kScheme = "Bearer ";
  if (!EqualsIgnoringCase(authorization.substr(0, kScheme.size()), kScheme)) return nullptr;
  const std::array<unsigned char, 32> hash = Sha256(authorization.substr(kScheme.size()));
  const auto at =
      std::lower_bound(keys_.begin(), keys_.end(), hash,
                       [](const ApiKey& key, const auto& wanted) { return key.sha256 < wanted; });
  if (at == keys_.end()) return nullptr;
  return ::CRYPTO_memcmp(at->sha256.data(), hash.data(), hash.size()) == 0 ? &*at : nullptr;
}

}  // namespace internal
}  // namespace sublet
