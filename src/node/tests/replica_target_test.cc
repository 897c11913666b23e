#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "node/plan_diff.h"

namespace sublet {
namespace {

ReplicaTarget Sample() {
  ReplicaTarget target;
  target.id = "chat/3";
  target.share.id = "s17";
  target.share.name = "chat/3";
  target.share.tenant = "shop";
  target.share.mode = SharingMode::kMps;
  target.share.gpu_uuid = "GPU-1";
  target.share.memory = 10_GiB;
  target.share.memory_limit = 9_GiB;
  target.share.sm_percent = 25;
  target.share.domain = "gpu0-shop";
  target.command = {"python3", "server.py", "--name", "a b"};
  target.directory = "/srv/shop";
  target.env = {{"MODEL", "x"}, {"EMPTY", ""}};
  target.port = 8103;
  target.readiness.emplace();
  target.readiness->http = "/health";
  target.restart = RestartPolicy::kOnFailure;
  target.stop_timeout_s = 3.5;
  return target;
}

TEST(ReplicaTargetTest, IsReadAsItWasWritten) {
  ReplicaTarget target = Sample();
  MigSeat seat;
  seat.profile = "1g.10gb";
  seat.profile_id = 19;
  seat.start = 2;
  seat.size = 1;
  target.seat = seat;
  const auto read = ParseReplicaTarget(ReplicaTargetToJson(target).dump(), "test");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_TRUE(read->RunsAs(target));
  EXPECT_EQ(read->share.id, "s17");
  EXPECT_EQ(ReplicaTargetToJson(*read), ReplicaTargetToJson(target));
}

TEST(ReplicaTargetTest, WhatMayBeAbsentStaysAbsent) {
  ReplicaTarget target = Sample();
  target.port.reset();
  target.readiness.reset();
  target.share.memory_limit.reset();
  const auto read = ParseReplicaTarget(ReplicaTargetToJson(target).dump(), "test");
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_FALSE(read->port);
  EXPECT_FALSE(read->readiness);
  EXPECT_FALSE(read->seat);
  EXPECT_FALSE(read->share.memory_limit);
}

TEST(ReplicaTargetTest, AnythingElseIsRefused) {
  EXPECT_FALSE(ParseReplicaTarget("{}", "test"));
  EXPECT_FALSE(ParseReplicaTarget("", "test"));
  auto json = ReplicaTargetToJson(Sample());
  json["more"] = 1;
  EXPECT_FALSE(ParseReplicaTarget(json.dump(), "test"));
  json = ReplicaTargetToJson(Sample());
  json["env"] = {"A=b"};
  EXPECT_FALSE(ParseReplicaTarget(json.dump(), "test"));
}

}  // namespace
}  // namespace sublet
