#include "base/user.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace sublet {
namespace {

TEST(FindUser, KnowsNamesAndNumbers) {
  const auto root = FindUser("root");
  ASSERT_TRUE(root.has_value());
  EXPECT_EQ(*root, (UserIds{0, 0}));
  EXPECT_EQ(FindUser("0").value(), *root);
  EXPECT_EQ(UserName(0), "root");
  EXPECT_EQ(HomeFolder(0), "/root");
}

TEST(FindUser, TakesANumberWithoutANameAsItIs) {
  const auto user = FindUser("3999999999");
  ASSERT_TRUE(user.has_value());
  EXPECT_EQ(*user, (UserIds{3'999'999'999, 3'999'999'999}));
  EXPECT_EQ(UserName(3'999'999'999), "3999999999");
  EXPECT_EQ(HomeFolder(3'999'999'999), "/");
}

TEST(FindUser, RefusesWhatIsNobody) {
  for (const std::string name :
       {"no-such-user-anywhere", "", "12x", "-1", "4294967295", "4294967296"}) {
    const auto user = FindUser(name);
    ASSERT_FALSE(user.has_value()) << name;
    EXPECT_EQ(user.error().code, ErrorCode::kNotFound) << name;
  }
}

TEST(CurrentUser, IsWhomThisProcessActsAs) {
  EXPECT_EQ(CurrentUser(), (UserIds{::geteuid(), ::getegid()}));
}

}  // namespace
}  // namespace sublet
