#include "node/tenancy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sublet {
namespace {

using ::testing::HasSubstr;

Requester User(const std::string& name, uid_t uid, bool own_daemon = false) {
  Requester requester;
  requester.user = name;
  requester.uid = uid;
  requester.own_daemon = own_daemon;
  return requester;
}

std::vector<TenantConfig> Tenants() {
  std::vector<TenantConfig> tenants(3);
  tenants[0].name = "search";
  tenants[0].users = {"alice", "1001"};
  tenants[1].name = "lab";
  tenants[1].users = {"alice"};
  tenants[2].name = "ops";
  return tenants;
}

TEST(Tenancy, WithoutConfigurationEachUserIsATenant) {
  EXPECT_EQ(*TenantFor({}, User("bob", 1002), ""), "bob");
  EXPECT_EQ(*TenantFor({}, User("bob", 1002), "bob"), "bob");
  EXPECT_EQ(*TenantFor({}, User("", 1002), ""), "1002");
  const Result<std::string> other = TenantFor({}, User("bob", 1002), "alice");
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::kPermission);
  EXPECT_EQ(*TenantFor({}, User("root", 0, true), ""), "default");
  EXPECT_EQ(*TenantFor({}, User("root", 0, true), "search"), "search");
}

TEST(Tenancy, AUserActsForThoseThatListHim) {
  EXPECT_EQ(*TenantFor(Tenants(), User("carol", 1001), ""), "search") << "by number";
  EXPECT_EQ(*TenantFor(Tenants(), User("alice", 1000), "lab"), "lab");
  const Result<std::string> several = TenantFor(Tenants(), User("alice", 1000), "");
  ASSERT_FALSE(several);
  EXPECT_EQ(several.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(several.error().message, HasSubstr("several tenants: search, lab"));
  EXPECT_THAT(several.error().hint, HasSubstr("--tenant search"));
  for (const char* asked : {"ops", "lab"}) {
    const Result<std::string> foreign = TenantFor(Tenants(), User("carol", 1001), asked);
    ASSERT_FALSE(foreign);
    EXPECT_EQ(foreign.error().code, ErrorCode::kPermission);
  }
  EXPECT_EQ(TenantFor(Tenants(), User("bob", 1002), "").error().code, ErrorCode::kPermission);
  EXPECT_EQ(TenantFor(Tenants(), User("", 1002), "").error().code, ErrorCode::kPermission);
}

TEST(Tenancy, TheDaemonsOwnUserActsForAll) {
  EXPECT_EQ(*TenantFor(Tenants(), User("root", 0, true), "ops"), "ops");
  EXPECT_EQ(TenantFor(Tenants(), User("root", 0, true), "").error().code, ErrorCode::kInvalid);
}

TEST(Tenancy, SaysWhichTenantsThereAre) {
  for (const Requester& user : {User("alice", 1000), User("root", 0, true)}) {
    const Result<std::string> unknown = TenantFor(Tenants(), user, "serach");
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().code, ErrorCode::kNotFound);
    EXPECT_THAT(unknown.error().hint, HasSubstr("search"));
  }
}

}  // namespace
}  // namespace sublet
