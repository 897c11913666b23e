#include "model/route_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kHead = "version: sublet.route-keys/v1\nkeys:\n";
const std::string kDigest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

std::string Wrong(const std::string& entries) {
  const Result<RouteKeys> keys = ParseRouteKeys(kHead + entries, "keys.yaml");
  return keys ? "" : keys.error().message + " | " + keys.error().hint;
}

TEST(RouteKeys, ReadsKeysAndDigests) {
  const Result<RouteKeys> keys = ParseRouteKeys(
      kHead + "  - {name: web, sha256: " + kDigest + ", tenant: shop, priority: interactive}\n" +
          "  - {name: night, key: sk-0123456789abcdef, priority: batch,"
          " requests_per_minute: 60, tokens_per_minute: 1e6, admin: true}\n",
      "keys.yaml");
  ASSERT_TRUE(keys) << keys.error().message;
  ASSERT_EQ(keys->keys.size(), 2u);
  EXPECT_EQ(keys->keys[0].sha256, kDigest);
  EXPECT_EQ(keys->keys[0].tenant, "shop");
  EXPECT_EQ(keys->keys[0].priority, KeyPriority::kInteractive);
  EXPECT_EQ(keys->keys[1].plain, "sk-0123456789abcdef");
  EXPECT_EQ(keys->keys[1].tenant, "default");
  EXPECT_EQ(keys->keys[1].requests_per_minute, 60);
  EXPECT_EQ(keys->keys[1].tokens_per_minute, 1e6);
  EXPECT_TRUE(keys->keys[1].admin);
  EXPECT_TRUE(keys->HasPlain());
}

TEST(RouteKeys, NeverShowsAKey) {
  for (const char* entries :
       {"  - {name: a, key: tooshortsecret}\n", "  - {name: a, key: 'with a space secret'}\n",
        "  - {name: a, sha256: secret}\n",
        "  - {name: a, key: sk-secret-0123456789}\n  - {name: b, key: sk-secret-0123456789}\n"}) {
    const std::string wrong = Wrong(entries);
    EXPECT_NE(wrong, "") << entries;
    EXPECT_THAT(wrong, Not(HasSubstr("secret"))) << entries;
  }
}

TEST(RouteKeys, SaysWhatIsWrong) {
  EXPECT_THAT(Wrong("  - {name: a}\n"), HasSubstr("'sha256' or a 'key'"));
  EXPECT_THAT(Wrong("  - {name: a, key: sk-0123456789abcdef, sha256: " + kDigest + "}\n"),
              HasSubstr("both"));
  EXPECT_THAT(
      Wrong("  - {name: a, sha256: " + kDigest + "}\n  - {name: a, key: sk-0123456789abc}\n"),
      HasSubstr("two keys of one name"));
  EXPECT_THAT(Wrong("  - {name: a, sha256: " + kDigest + ", priority: high}\n"),
              HasSubstr("interactive"));
  EXPECT_THAT(Wrong("  - {name: a, sha256: " + kDigest + ", rate: 1}\n"), HasSubstr("rate"));
}

}  // namespace
}  // namespace sublet
