#include "proxy/key_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "model/document.h"

namespace sublet {
namespace {

constexpr std::size_t kSecretBytesMax = 4096;

Result<struct stat> LookAt(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return FailFromErrno(errno, "reading " + path);
  if (info.st_uid != 0 && info.st_uid != ::geteuid()) {
    return Fail(ErrorCode::kPermission,
                fmt::format("secrets are in a file of another user, {}: {}", info.st_uid, path));
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return Fail(ErrorCode::kPermission, fmt::format("others could write secrets into: {}", path),
                "chmod 600 " + path);
  }
  return info;
}

PriorityClass ClassOf(KeyPriority priority) {
  switch (priority) {
    case KeyPriority::kInteractive:
      return PriorityClass::kInteractive;
    case KeyPriority::kNormal:
      return PriorityClass::kNormal;
    case KeyPriority::kBatch:
      break;
  }
  return PriorityClass::kBatch;
}

Status OnlyItsOwners(const struct stat& info, const std::string& path, const char* hint) {
  if ((info.st_mode & (S_IRGRP | S_IROTH)) == 0) return {};
  return Fail(ErrorCode::kPermission, fmt::format("others could read the secrets in: {}", path),
              fmt::format("chmod 600 {}{}", path, hint));
}

}  // namespace

Result<RouteKeys> ReadKeyFile(const std::string& path) {
  ASSIGN_OR_RETURN(const struct stat info, LookAt(path));
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kYamlBytesMax));
  ASSIGN_OR_RETURN(RouteKeys keys, ParseRouteKeys(text, path));
  if (keys.HasPlain()) RETURN_IF_ERROR(OnlyItsOwners(info, path, ", or give each key's sha256"));
  return keys;
}

Result<std::string> ReadSecretFile(const std::string& path) {
  ASSIGN_OR_RETURN(const struct stat info, LookAt(path));
  RETURN_IF_ERROR(OnlyItsOwners(info, path, ""));
  ASSIGN_OR_RETURN(std::string secret, ReadFile(path, kSecretBytesMax));
  secret.erase(secret.find_last_not_of(" \n\r\t") + 1);
  secret.erase(0, secret.find_first_not_of(" \n\r\t"));
  const bool clean = secret.find_first_of(" \n\r\t") == std::string::npos && !secret.empty();
  if (!clean) return Fail(ErrorCode::kInvalid, fmt::format("not one secret alone: {}", path));
  return secret;
}

std::shared_ptr<KeyRates> KeyRateBook::For(const RouteKey& key) {
  if (!key.requests_per_minute && !key.tokens_per_minute) {
    entries_.erase(key.name);
    return nullptr;
  }
  Entry& entry = entries_[key.name];
  const bool same = entry.rates != nullptr &&
                    entry.requests_per_minute == key.requests_per_minute &&
                    entry.tokens_per_minute == key.tokens_per_minute;
  if (same) return entry.rates;
  auto rates = std::make_shared<KeyRates>();
  if (key.requests_per_minute) {
    rates->requests = std::make_unique<KeyRate>(*key.requests_per_minute);
  }
  if (key.tokens_per_minute) rates->tokens = std::make_unique<KeyRate>(*key.tokens_per_minute);
  entry = {key.requests_per_minute, key.tokens_per_minute, rates};
  return rates;
}

std::vector<ApiKey> ApiKeysOf(const RouteKeys& keys, KeyRateBook& rates) {
  std::vector<ApiKey> list;
  list.reserve(keys.keys.size());
  for (const RouteKey& key : keys.keys) {
    ApiKey api_key = MakeApiKey(key.plain, key.tenant, key.admin);
    if (key.plain.empty()) {
      // The reader of the file has seen to it that these are 64 digits.
      const Result<ApiKey> hashed = MakeApiKeyFromHash(key.sha256, key.tenant, key.admin);
      if (!hashed) continue;
      api_key = *hashed;
    }
    api_key.priority = ClassOf(key.priority);
    api_key.rates = rates.For(key);
    list.push_back(std::move(api_key));
  }
  return list;
}

}  // namespace sublet
