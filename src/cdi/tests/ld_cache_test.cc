#include "cdi/ld_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "base/files.h"
#include "cdi/tests/driver_tree.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const LdCacheEntry kCuda{"libcuda.so.1", "/lib/x86_64-linux-gnu/libcuda.so.1"};
const LdCacheEntry kNvml{"libnvidia-ml.so.1", "/usr/lib64/libnvidia-ml.so.1"};

std::string Sample(bool old_too = false) {
  return LdCacheBytes({{kCuda.name, kCuda.path}, {kNvml.name, kNvml.path}}, old_too);
}

TEST(LdCache, ReadsNamesAndPaths) {
  const auto entries = ParseLdCache(Sample());
  ASSERT_TRUE(entries) << entries.error().message;
  EXPECT_THAT(*entries, ElementsAre(kCuda, kNvml));
}

TEST(LdCache, ReadsTheNewFormatBehindTheOld) {
  const auto entries = ParseLdCache(Sample(true));
  ASSERT_TRUE(entries) << entries.error().message;
  EXPECT_THAT(*entries, ElementsAre(kCuda, kNvml));
}

TEST(LdCache, RefusesEveryBeginningOfACache) {
  const std::string whole = Sample(true);
  for (std::size_t length = 0; length + 1 < whole.size(); ++length) {
    EXPECT_FALSE(ParseLdCache(whole.substr(0, length))) << length;
  }
}

TEST(LdCache, SurvivesEveryChangedByte) {
  const std::string whole = Sample();
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const char byte : {'\0', '\x7f', '\xff'}) {
      std::string bytes = whole;
      bytes[at] = byte;
      const auto entries = ParseLdCache(bytes);
      EXPECT_TRUE(!entries || entries->size() <= 2);
    }
  }
}

TEST(LdCache, RefusesAnotherByteOrder) {
  std::string bytes = Sample();
  bytes[28] = '\3';
  const auto entries = ParseLdCache(bytes);
  ASSERT_FALSE(entries);
  EXPECT_THAT(entries.error().message, HasSubstr("byte order"));
}

TEST(LdCache, RefusesEntriesThatStandForMoreThanAnyCacheHas) {
  const std::string path(4000, 'a');
  std::string bytes =
      LdCacheBytes(std::vector<std::pair<std::string, std::string>>(1, {path, path}));
  // 8,000 entries that all point to one text.
  const std::string entry = bytes.substr(48, 24);
  constexpr std::uint32_t kCount = 8000;
  std::string many = bytes.substr(0, 20) + BytesOf(kCount) + bytes.substr(24, 24);
  std::string shifted = entry;
  const std::uint32_t text_at = 48 + kCount * 24;
  shifted.replace(4, 8, BytesOf(text_at) + BytesOf(text_at));
  for (std::uint32_t i = 0; i < kCount; ++i) many += shifted;
  many += path + '\0';
  const auto entries = ParseLdCache(many);
  ASSERT_FALSE(entries);
  EXPECT_THAT(entries.error().message, HasSubstr("longer"));
}

TEST(LdCache, ReadsThisMachines) {
  const auto bytes = ReadFile("/etc/ld.so.cache", kLdCacheBytesMax);
  if (!bytes) GTEST_SKIP() << bytes.error().message;
  const auto entries = ParseLdCache(*bytes);
  ASSERT_TRUE(entries) << entries.error().message;
  EXPECT_TRUE(std::ranges::any_of(*entries, [](const LdCacheEntry& entry) {
    return entry.name == "libc.so.6" && entry.path.ends_with("/libc.so.6");
  }));
}

}  // namespace
}  // namespace sublet
