#include "model/daemon_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/files.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kHead = "version: sublet.daemon/v1\n";

Result<DaemonConfig> Parsed(const std::string& rest) {
  return ParseDaemonConfig(kHead + rest, "daemon.yaml");
}

std::string Wrong(const std::string& rest) {
  const Result<DaemonConfig> config = Parsed(rest);
  if (config) return "";
  EXPECT_EQ(config.error().code, ErrorCode::kInvalid);
  return config.error().message + " | " + config.error().hint;
}

TEST(DaemonConfig, ReadsAllThatThereIs) {
  const Result<DaemonConfig> config = Parsed(R"(
socket: {path: /srv/sublet.sock, group: gpu-users, mode: 0660}
listen: {address: "127.0.0.1:7771", token_file: /etc/sublet/token}
tenants:
  - name: search
    users: [alice, 1001]
    run_as: search-svc
    quota: {gpu_memory: 40GiB, sm_percent: 150, shares: 10}
  - name: lab
health:
  xids: {109: tenant, 500-599: ignore}
)");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->socket_path, "/srv/sublet.sock");
  EXPECT_EQ(config->socket_group, "gpu-users");
  EXPECT_EQ(config->socket_mode, 0660u);
  EXPECT_EQ(config->listen_address, "127.0.0.1");
  EXPECT_EQ(config->listen_port, 7771);
  EXPECT_EQ(config->token_file, "/etc/sublet/token");
  ASSERT_EQ(config->tenants.size(), 2u);
  EXPECT_EQ(config->tenants[0].name, "search");
  EXPECT_THAT(config->tenants[0].users, ElementsAre("alice", "1001"));
  EXPECT_EQ(config->tenants[0].run_as, "search-svc");
  EXPECT_EQ(config->tenants[0].quota.gpu_memory, 40_GiB);
  EXPECT_EQ(config->tenants[0].quota.sm_percent, 150);
  EXPECT_EQ(config->tenants[0].quota.shares, 10);
  EXPECT_EQ(config->tenants[1].quota, TenantQuota{});
  EXPECT_EQ(config->xids, "109=tenant, 500-599=ignore");
}

TEST(DaemonConfig, OfTheVersionAloneIsTheDefault) {
  const Result<DaemonConfig> config = Parsed("");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->socket_mode, 0600u);
  EXPECT_EQ(config->socket_path + config->listen_address + config->xids, "");
  EXPECT_TRUE(config->tenants.empty());
  EXPECT_EQ(Parsed("socket: {group: gpu}")->socket_mode, 0660u);
}

// Under the heading "## Example" of the page.
TEST(DaemonConfig, TakesTheExampleOfItsPage) {
  const Result<std::string> page =
      ReadFile(SUBLET_SOURCE_DIR "/docs/formats/daemon.md", std::size_t{1} << 20);
  ASSERT_TRUE(page);
  const std::size_t begin = page->find("```yaml\n");
  ASSERT_NE(begin, std::string::npos);
  const std::size_t end = page->find("```", begin + 8);
  const Result<DaemonConfig> config =
      ParseDaemonConfig(page->substr(begin + 8, end - begin - 8), "daemon.md");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_FALSE(config->tenants.empty());
}

TEST(DaemonConfig, SaysWhereAndWhatToDo) {
  EXPECT_THAT(Wrong("sockets: {}"), HasSubstr("daemon.yaml:2:1: unknown key"));
  EXPECT_THAT(Wrong("socket: {path: run/s}"), HasSubstr("begin it with /"));
  EXPECT_THAT(Wrong("socket: {path: /" + std::string(107, 'x') + "}"),
              HasSubstr("longer than the 107 bytes"));
  EXPECT_EQ(Wrong("socket: {path: /" + std::string(106, 'x') + "}"), "");
  EXPECT_THAT(Wrong("socket: {mode: 0777}"), HasSubstr("0660: the group too"));
  EXPECT_THAT(Wrong("socket: {group: g, mode: 0600}"), HasSubstr("leave one of the two out"));
  EXPECT_THAT(Wrong("socket: {mode: 0660}"), HasSubstr("give the group"));
  EXPECT_THAT(Wrong("socket: {group: 'a b'}"), HasSubstr("as id(1) prints it"));
  EXPECT_THAT(Wrong("listen: {address: '127.0.0.1:7771'}"), HasSubstr("missing key in listen"));
  for (const char* address : {"127.0.0.1", "localhost:1", ":7771", "::1:7771", "[127.0.0.1]:1",
                              "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "[::1]"}) {
    EXPECT_THAT(Wrong("listen: {token_file: /t, address: '" + std::string(address) + "'}"),
                HasSubstr("write it like 127.0.0.1:7771 or [::1]:7771"))
        << address;
  }
  EXPECT_EQ(Parsed("listen: {token_file: /t, address: '[::1]:7771'}")->listen_address, "::1");
}

TEST(DaemonConfig, RefusesTenantsThatCannotBeMeant) {
  EXPECT_THAT(Wrong("tenants: [{name: a}, {name: b}, {name: a}]"),
              HasSubstr("two tenants of one name: 'a'"));
  EXPECT_THAT(Wrong("tenants: [{name: A}]"), HasSubstr("not a name: 'A'"));
  EXPECT_THAT(Wrong("tenants: [{name: a, quota: {gpu_memory: 40}}]"), HasSubstr("like 40GiB"));
  EXPECT_NE(Wrong("tenants: [{name: a, quota: {sm_percent: 0}}]"), "");
  EXPECT_NE(Wrong("tenants: [{name: a, quota: {shares: 0}}]"), "");
  EXPECT_THAT(Wrong("tenants: [{name: a, qouta: {}}]"), HasSubstr("did you mean 'quota'?"));
  EXPECT_NE(Wrong("tenants: [{users: [a]}]"), "");
}

TEST(DaemonConfig, RefusesXidsAndVerdictsThatAreNone) {
  for (const char* xid : {"0", "1024", "x", "5-4", "5-", "-5", "+5"}) {
    EXPECT_THAT(Wrong("health: {xids: {'" + std::string(xid) + "': gpu}}"),
                HasSubstr("not an XID from 1 to 1023"))
        << xid;
  }
  EXPECT_THAT(Wrong("health: {xids: {79: gpus}}"), HasSubstr("did you mean 'gpu'?"));
}

}  // namespace
}  // namespace sublet
