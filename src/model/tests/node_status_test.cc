#include "model/node_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sublet {
namespace {

using ::testing::HasSubstr;

ShareStatus FullShareStatus() {
  ShareStatus status;
  status.share.id = "s17";
  status.share.name = "chat/0";
  status.share.tenant = "search";
  status.share.mode = SharingMode::kMps;
  status.share.gpu_uuid = "GPU-1";
  status.share.memory = 10_GiB;
  status.share.domain = "gpu0-search";
  status.replica = true;
  status.state = ShareState::kBackingOff;
  status.why = "it ended 3 times within a minute; next try in 4 s";
  status.pid = 4711;
  status.user = "alice";
  status.since = "2026-11-21T10:00:00Z";
  status.uptime_s = 12.5;
  status.restarts = 3;
  status.last_end = "was killed by signal 9 (Killed)";
  status.memory_used = 9_GiB;
  status.sm_used_percent = 17.5;
  status.log = "/var/lib/sublet/logs/chat-0.log";
  status.port = 8100;
  return status;
}

NodeStatus FullStatus() {
  NodeStatus status;
  status.hostname = "node1";
  status.time = "2026-11-21T10:00:12Z";
  status.simulated = true;
  status.plan = "shop";
  status.operation = "up shop: starting chat/3";
  GpuStatus gpu;
  gpu.uuid = "GPU-1";
  gpu.index = 0;
  gpu.product = "NVIDIA H200";
  gpu.memory = 141_GiB;
  gpu.memory_used = 10_GiB;
  gpu.memory_booked = 12_GiB;
  gpu.mig = true;
  gpu.healthy = false;
  gpu.why = "XID 79 (fallen off the bus)";
  gpu.utilisation_percent = 35;
  gpu.foreign = {{4712, "python3", 1_GiB}, {4713, "", {}}};
  status.gpus.push_back(gpu);
  DomainStatus domain;
  domain.domain.name = "gpu0-search";
  domain.domain.tenant = "search";
  domain.domain.gpu_uuid = "GPU-1";
  domain.state = DomainState::kFaulted;
  domain.why = "client 4711 made an illegal access";
  domain.pid = 300;
  domain.pipe_directory = "/run/sublet/mps/gpu0-search";
  domain.clients = 2;
  domain.restarts = 1;
  domain.sm_used_percent = 42;
  domain.limits_confirmed = true;
  status.domains.push_back(domain);
  status.shares.push_back(FullShareStatus());
  return status;
}

TEST(NodeStatus, ReadsBackWhatItWrote) {
  const std::string text = NodeStatusToJson(FullStatus()).dump();
  const Result<NodeStatus> read = ParseNodeStatus(text, "status");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(NodeStatusToJson(*read).dump(), text);
  ASSERT_EQ(read->shares.size(), 1u);
  EXPECT_EQ(read->shares[0].state, ShareState::kBackingOff);
  EXPECT_EQ(read->shares[0].pid, 4711);
  EXPECT_EQ(read->shares[0].memory_used, 9_GiB);
  ASSERT_EQ(read->domains.size(), 1u);
  EXPECT_EQ(read->domains[0].state, DomainState::kFaulted);
  EXPECT_EQ(read->domains[0].sm_used_percent, 42);
  EXPECT_TRUE(read->domains[0].limits_confirmed);
  ASSERT_EQ(read->gpus.size(), 1u);
  EXPECT_EQ(read->gpus[0].foreign[0].memory, 1_GiB);
  EXPECT_FALSE(read->gpus[0].foreign[1].memory);
}

TEST(NodeStatus, LeavesOutWhatIsNotKnown) {
  NodeStatus status = FullStatus();
  const Share share = status.shares[0].share;
  status.shares[0] = ShareStatus{};
  status.shares[0].share = share;
  status.gpus[0].utilisation_percent.reset();
  status.plan.clear();
  const auto json = NodeStatusToJson(status);
  EXPECT_FALSE(json.contains("plan"));
  EXPECT_FALSE(json["gpus"][0].contains("utilisation_percent"));
  for (const char* key : {"pid", "uptime_s", "memory_used_mib", "sm_used_percent", "log", "why",
                          "since", "last_end", "user", "port"}) {
    EXPECT_FALSE(json["shares"][0].contains(key)) << key;
  }
  EXPECT_TRUE(ParseNodeStatus(json.dump(), "status"));
}

TEST(NodeStatus, KnowsEveryStateByItsWord) {
  for (const auto& [word, state] : ShareStateWords()) {
    NodeStatus status = FullStatus();
    status.shares[0].state = state;
    const Result<NodeStatus> read = ParseNodeStatus(NodeStatusToJson(status).dump(), "status");
    ASSERT_TRUE(read) << word;
    EXPECT_EQ(read->shares[0].state, state);
    EXPECT_EQ(ShareStateName(state), word);
  }
  EXPECT_EQ(ShareStateWords().size(), 7u);
  for (const auto& [word, state] : DomainStateWords()) EXPECT_EQ(DomainStateName(state), word);
  EXPECT_EQ(DomainStateWords().size(), 5u);
}

TEST(NodeStatus, OfAnotherVersionIsRefusedByName) {
  auto json = NodeStatusToJson(FullStatus());
  json["version"] = "sublet.status/v2";
  const Result<NodeStatus> read = ParseNodeStatus(json.dump(), "the daemon's answer");
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(read.error().message, HasSubstr("the daemon's answer:1:"));
  EXPECT_THAT(read.error().message, HasSubstr("sublet.status/v2"));
}

TEST(NodeStatus, IsRefusedWithAKeyMoreOrANumberThatCannotBe) {
  const auto full = NodeStatusToJson(FullStatus());
  auto more = full;
  more["shares"][0]["colour"] = "red";
  EXPECT_FALSE(ParseNodeStatus(more.dump(), "status"));
  auto percent = full;
  percent["shares"][0]["sm_used_percent"] = 117;
  EXPECT_FALSE(ParseNodeStatus(percent.dump(), "status"));
  auto pid = full;
  pid["domains"][0]["pid"] = 0;
  EXPECT_FALSE(ParseNodeStatus(pid.dump(), "status"));
}

TEST(NodeEvent, ReadsBackWhatItWrote) {
  const NodeEvent event{.sequence = 41,
                        .time = "2026-11-21T10:00:12.345Z",
                        .subject_kind = "replica",
                        .subject = "chat/0",
                        .what = "ended",
                        .message = "chat/0 was killed by signal 9 (Killed) after 12.5 s"};
  const std::string text = NodeEventToJson(event).dump();
  const Result<NodeEvent> read = ParseNodeEvent(text, "event");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(NodeEventToJson(*read).dump(), text);
  EXPECT_EQ(read->sequence, 41);
  EXPECT_EQ(read->subject_kind, "replica");
  EXPECT_FALSE(ParseNodeEvent(R"({"sequence": -1})", "event"));
}

}  // namespace
}  // namespace sublet
