#include "proxy/key_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/files.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

constexpr const char* kHead = "version: sublet.route-keys/v1\nkeys:\n";
constexpr const char* kHashed =
    "  - {name: a, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}\n";
constexpr const char* kPlain =
    "  - {name: b, key: sk-0123456789abcdef, tenant: shop, admin: true}\n";

class KeyFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "key_file.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string File(const std::string& content, unsigned mode) const {
    const std::string path = folder_ + "/keys";
    EXPECT_TRUE(WriteFileAtomically(path, content, mode));
    ::chmod(path.c_str(), mode);
    return path;
  }

  std::string folder_;
};

TEST_F(KeyFileTest, ReadsKeysThatAreItsOwners) {
  const auto keys = ReadKeyFile(File(std::string(kHead) + kHashed + kPlain, 0600));
  ASSERT_TRUE(keys) << keys.error().message;
  KeyRateBook rates;
  const std::vector<ApiKey> list = ApiKeysOf(*keys, rates);
  ASSERT_EQ(list.size(), 2u);
  // "test" has this hash.
  EXPECT_EQ(list[0].sha256, MakeApiKey("test", "").sha256);
  EXPECT_EQ(list[0].tenant, "default");
  EXPECT_EQ(list[1].sha256, MakeApiKey("sk-0123456789abcdef", "").sha256);
  EXPECT_EQ(list[1].tenant, "shop");
  EXPECT_TRUE(list[1].admin);
  EXPECT_EQ(list[1].priority, PriorityClass::kNormal);
  EXPECT_EQ(list[1].rates, nullptr);
}

TEST(KeyRateBook, KeepsWhatIsLeftWhileTheLimitsAreTheSame) {
  KeyRateBook book;
  RouteKey key;
  key.name = "web";
  EXPECT_EQ(book.For(key), nullptr);
  key.requests_per_minute = 60;
  const auto rates = book.For(key);
  ASSERT_NE(rates, nullptr);
  EXPECT_NE(rates->requests, nullptr);
  EXPECT_EQ(rates->tokens, nullptr);
  EXPECT_EQ(book.For(key), rates);
  key.requests_per_minute = 120;
  EXPECT_NE(book.For(key), rates);
}

TEST_F(KeyFileTest, LetsOthersReadHashesOnly) {
  EXPECT_TRUE(ReadKeyFile(File(std::string(kHead) + kHashed, 0644)));
  const auto keys = ReadKeyFile(File(std::string(kHead) + kPlain, 0640));
  ASSERT_FALSE(keys);
  EXPECT_EQ(keys.error().code, ErrorCode::kPermission);
  EXPECT_THAT(keys.error().hint, HasSubstr("chmod 600"));
}

TEST_F(KeyFileTest, LetsNobodyElseWrite) {
  EXPECT_EQ(ReadKeyFile(File(std::string(kHead) + kHashed, 0664)).error().code,
            ErrorCode::kPermission);
  EXPECT_EQ(ReadKeyFile(File(std::string(kHead) + kHashed, 0606)).error().code,
            ErrorCode::kPermission);
  EXPECT_EQ(ReadKeyFile(folder_ + "/none").error().code, ErrorCode::kNotFound);
}

TEST_F(KeyFileTest, ReadsASecretAlone) {
  EXPECT_EQ(ReadSecretFile(File("  sk-upstream\n", 0600)).value_or(""), "sk-upstream");
  EXPECT_FALSE(ReadSecretFile(File("two words", 0600)));
  EXPECT_FALSE(ReadSecretFile(File("\n", 0600)));
  EXPECT_FALSE(ReadSecretFile(File("sk-upstream", 0644)));
}

}  // namespace
}  // namespace sublet
