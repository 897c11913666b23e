#include "model/launch.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/document.h"
#include "model/fleet.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

Result<Fleet> FleetOf(const std::string& first, const std::string& second = "") {
  std::string text = "version: sublet.fleet/v1\nname: shop\nworkloads:\n";
  text += fmt::format("  - {{name: chat, replicas: 3, memory: 2GiB, {}}}\n", first);
  if (!second.empty()) text += fmt::format("  - {{name: embed, memory: 1GiB, {}}}\n", second);
  return ParseFleet(text, "fleet.yaml");
}

std::string Wrong(const std::string& first, const std::string& second = "") {
  const Result<Fleet> fleet = FleetOf(first, second);
  return fleet ? "" : fleet.error().message + " (" + fleet.error().hint + ")";
}

TEST(Launch, ReadsWhatAFleetSays) {
  const Result<Fleet> fleet = FleetOf(
      "port: 8100, ready: {http: /health, period_s: 1.5, timeout_s: 300}, restart: on-failure, "
      "stop_timeout_s: 30");
  ASSERT_TRUE(fleet) << fleet.error().message;
  const Workload& chat = fleet->workloads[0];
  EXPECT_EQ(chat.port, 8100);
  ASSERT_TRUE(chat.ready);
  EXPECT_EQ(chat.ready->http, "/health");
  EXPECT_EQ(chat.ready->period_s, 1.5);
  EXPECT_EQ(chat.ready->timeout_s, 300);
  EXPECT_EQ(chat.restart, RestartPolicy::kOnFailure);
  EXPECT_EQ(chat.stop_timeout_s, 30);
}

TEST(Launch, IsRestartedAndHasNoProbeUnlessItIsSaid) {
  const Result<Fleet> fleet = FleetOf("priority: 0");
  ASSERT_TRUE(fleet) << fleet.error().message;
  const Workload& chat = fleet->workloads[0];
  EXPECT_FALSE(chat.port || chat.ready || chat.stop_timeout_s);
  EXPECT_EQ(chat.restart, RestartPolicy::kAlways);
}

TEST(Launch, TakesOneProbeOfThree) {
  EXPECT_EQ(Wrong("port: 1, ready: {tcp: true}"), "");
  EXPECT_EQ(Wrong("ready: {command: [test, -e, /tmp/ready]}"), "");
  EXPECT_THAT(Wrong("ready: {}"), HasSubstr("give one of http: /path, tcp: true and command"));
  EXPECT_THAT(Wrong("ready: {tcp: false}"), HasSubstr("readiness needs a probe"));
  EXPECT_THAT(Wrong("port: 1, ready: {tcp: true, http: /}"), HasSubstr("one probe, not several"));
  EXPECT_THAT(Wrong("ready: {tcp: true}"),
              HasSubstr("a readiness probe by tcp needs the workload's port"));
  EXPECT_THAT(Wrong("ready: {http: /}"), HasSubstr("give port: 8000"));
  EXPECT_THAT(Wrong("port: 1, ready: {http: health}"),
              HasSubstr("not a path of a URL: 'health' (write it like /health"));
  EXPECT_THAT(Wrong("port: 1, ready: {http: '/a b'}"), HasSubstr("not a path of a URL"));
  EXPECT_THAT(Wrong("port: 1, ready: {htpp: /}"), HasSubstr("did you mean 'http'?"));
}

TEST(Launch, RefusesNumbersThatCannotBeMeant) {
  EXPECT_NE(Wrong("port: 0"), "");
  EXPECT_NE(Wrong("port: 65536"), "");
  EXPECT_EQ(Wrong("port: 65533"), "");
  EXPECT_THAT(Wrong("port: 65534"),
              HasSubstr("the last of 3 replicas would have a port above 65535: 65536"));
  EXPECT_NE(Wrong("stop_timeout_s: -1"), "");
  EXPECT_NE(Wrong("ready: {command: [a], period_s: 0}"), "");
  EXPECT_NE(Wrong("ready: {command: [a], timeout_s: 1e9}"), "");
  EXPECT_THAT(Wrong("restart: sometimes"), HasSubstr("always"));
  EXPECT_THAT(Wrong("port: 8000, env: {PORT: 9000}"), HasSubstr("leave one of the two out"));
}

TEST(Launch, WorkloadsKeepOffEachOthersPorts) {
  EXPECT_EQ(Wrong("port: 8100", "port: 8103"), "");
  EXPECT_EQ(Wrong("port: 8100", "port: 8099"), "");
  for (const char* inside : {"port: 8100", "port: 8102", "port: 8099, replicas: 2",
                             "port: 8099, replicas: 5", "port: 8101, replicas: 9"}) {
    EXPECT_THAT(Wrong("port: 8100", inside),
                HasSubstr("overlap those of workload 'chat': 8100 to 8102"))
        << inside;
  }
}

TEST(Launch, GivesEachReplicaItsPort) {
  EXPECT_EQ(PortOfReplica(8100, "chat/0"), 8100);
  EXPECT_EQ(PortOfReplica(8100, "team/chat/12"), 8112);
  EXPECT_EQ(PortOfReplica(65535, "chat/1"), std::nullopt);
  for (const char* id : {"chat", "chat/", "chat/-1", "chat/1x", "chat/99999999999"}) {
    EXPECT_EQ(PortOfReplica(8100, id), std::nullopt) << id;
  }
  EXPECT_EQ(PortOfReplica(std::nullopt, "chat/0"), std::nullopt);
}

TEST(Launch, ProbesReadBackAsTheyWereWritten) {
  Readiness http;
  http.http = "/ready?now=1";
  Readiness tcp;
  tcp.tcp = true;
  tcp.period_s = 2;
  Readiness command;
  command.command = {"sh", "-c", "test -e \"$HOME/ready\""};
  command.timeout_s = 7;
  for (const Readiness& ready : {http, tcp, command}) {
    const std::string text = ReadinessToJson(ready).dump();
    const Result<Readiness> read = ParseAs(text, "ready", ReadReadiness);
    ASSERT_TRUE(read) << text << read.error().message;
    EXPECT_EQ(*read, ready) << text;
  }
  for (const auto& [word, policy] : RestartPolicyWords())
    EXPECT_EQ(RestartPolicyName(policy), word);
}

}  // namespace
}  // namespace sublet
