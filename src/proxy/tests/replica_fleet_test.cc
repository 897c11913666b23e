#include "proxy/replica_fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "kvcache/request_prefix.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::int64_t kSecond = 1'000'000'000;

class ReplicaFleetTest : public ::testing::Test {
 protected:
  ReplicaFleetTest() : router_(*Router::Make({.policy = "round-robin"}, caches_)) {
    FleetHooks hooks;
    hooks.added = [this](ReplicaSlot, const ReplicaSpec& spec) {
      said_.push_back("+" + spec.name);
    };
    hooks.removed = [this](ReplicaSlot, const ReplicaSpec& spec) {
      said_.push_back("-" + spec.name);
    };
    fleet_ = std::make_unique<ReplicaFleet>(*router_, hooks, 10);
  }

  static ReplicaSpec Spec(const std::string& name) {
    ReplicaSpec spec;
    spec.name = name;
    spec.url = "http://" + name + ":80";
    spec.models = {"llama"};
    return spec;
  }
  std::vector<std::string> Names(std::int64_t now_ns = kSecond) const {
    std::vector<std::string> names;
    for (const ReplicaStatus& status : router_->Replicas(now_ns)) {
      names.push_back(status.spec.name + (status.draining ? " drains" : ""));
    }
    return names;
  }
  // A request that is under way at the replica of that name.
  Lease Busy(const std::string& name, std::int64_t now_ns) {
    router_->OnHealth(*router_->SlotOf(name), ReplicaHealth::kHealthy, "", now_ns);
    static const RequestPrefix prefix;
    Result<Lease> lease = router_->Choose({.prefix = &prefix, .pinned = name}, now_ns);
    EXPECT_TRUE(lease) << lease.error().message;
    return std::move(*lease);
  }

  FleetCache caches_;
  std::unique_ptr<Router> router_;
  std::vector<std::string> said_;
  std::unique_ptr<ReplicaFleet> fleet_;
};

TEST_F(ReplicaFleetTest, BringsTheRouterToWhatIsTold) {
  fleet_->Tell(kFromConfig, {Spec("a"), Spec("b")}, 0);
  EXPECT_THAT(Names(), ElementsAre("a", "b"));
  fleet_->Tell(kFromConfig, {Spec("b"), Spec("c")}, 0);
  fleet_->Tick(0);
  EXPECT_THAT(Names(), ElementsAre("b", "c"));
  EXPECT_THAT(said_, ElementsAre("+a", "+b", "+c", "-a"));
  EXPECT_EQ(fleet_->CountOf(kFromConfig), 2u);
}

TEST_F(ReplicaFleetTest, WaitsForTheLastRequestOfOneThatGoes) {
  fleet_->Tell(kFromConfig, {Spec("a")}, 0);
  std::optional<Lease> lease(Busy("a", 0));
  fleet_->Tell(kFromConfig, {}, 0);
  fleet_->Tick(kSecond);
  EXPECT_THAT(Names(), ElementsAre("a drains"));
  EXPECT_TRUE(fleet_->draining());
  lease->Finish({}, kSecond);
  fleet_->Tick(2 * kSecond);
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(ReplicaFleetTest, WaitsNoLongerThanTheDrain) {
  fleet_->Tell(kFromConfig, {Spec("a")}, 0);
  const Lease lease = Busy("a", 0);
  fleet_->Tell(kFromConfig, {}, 0);
  fleet_->Tick(9 * kSecond);
  EXPECT_THAT(Names(), ElementsAre("a drains"));
  fleet_->Tick(11 * kSecond);
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(ReplicaFleetTest, TakesOneThatComesBackForANewOne) {
  fleet_->Tell(kFromConfig, {Spec("a")}, 0);
  const Lease lease = Busy("a", 0);
  fleet_->Tell(kFromConfig, {}, 0);
  fleet_->Tell(kFromConfig, {Spec("a")}, kSecond);
  EXPECT_THAT(Names(), ElementsAre("a"));
  EXPECT_EQ(router_->Replicas(kSecond).at(0).in_flight, 0);
  EXPECT_THAT(said_, ElementsAre("+a", "-a", "+a"));
  EXPECT_FALSE(fleet_->draining());
}

TEST_F(ReplicaFleetTest, UpdatesInPlaceWhatIsTheSameEngine) {
  fleet_->Tell(kFromConfig, {Spec("a")}, 0);
  ReplicaSpec slower = Spec("a");
  slower.share.sm_percent = 25;
  fleet_->Tell(kFromConfig, {slower}, 0);
  EXPECT_EQ(router_->Replicas(0).at(0).spec.share.sm_percent, 25);
  EXPECT_THAT(said_, ElementsAre("+a"));
  ReplicaSpec elsewhere = slower;
  elsewhere.url = "http://other:80";
  fleet_->Tell(kFromConfig, {elsewhere}, 0);
  EXPECT_THAT(said_, ElementsAre("+a", "-a", "+a"));
}

TEST_F(ReplicaFleetTest, AddsAndRemovesByTheApi) {
  fleet_->Tell(kFromConfig, {Spec("a")}, 0);
  ASSERT_TRUE(fleet_->Add(Spec("b"), 0));
  EXPECT_THAT(Names(), ElementsAre("a", "b"));
  EXPECT_EQ(fleet_->Add(Spec("b"), 0).error().code, ErrorCode::kConflict);
  ReplicaSpec same_url = Spec("c");
  same_url.url = Spec("a").url;
  EXPECT_THAT(fleet_->Add(same_url, 0).error().message, HasSubstr("a of config has this URL"));
  EXPECT_EQ(fleet_->Remove("a", 0).error().code, ErrorCode::kConflict);
  EXPECT_EQ(fleet_->Remove("x", 0).error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(fleet_->Remove("http://b", 0));  // The same URL, written otherwise.
  fleet_->Tick(0);
  EXPECT_THAT(Names(), ElementsAre("a"));
}

TEST_F(ReplicaFleetTest, KeepsWhatWasAddedWhenTheConfigurationChanges) {
  ASSERT_TRUE(fleet_->Add(Spec("b"), 0));
  fleet_->Tell(kFromConfig, {Spec("a")}, 0);
  fleet_->Tell(kFromConfig, {}, 0);
  fleet_->Tick(0);
  EXPECT_THAT(Names(), ElementsAre("b"));
  // The configuration goes before; what it leaves, the API has again.
  ReplicaSpec other = Spec("b");
  other.url = "http://elsewhere:80";
  fleet_->Tell(kFromConfig, {other}, 0);
  EXPECT_EQ(router_->Replicas(0).at(0).spec.source, "config");
  ASSERT_EQ(fleet_->refused().size(), 1u);
  fleet_->Tell(kFromConfig, {}, 0);
  EXPECT_EQ(router_->Replicas(0).at(0).spec.source, "api");
  EXPECT_THAT(fleet_->refused(), IsEmpty());
}

TEST_F(ReplicaFleetTest, AddsAndRemovesAThousand) {
  std::vector<ReplicaSpec> specs;
  for (int i = 0; i < 1000; ++i) specs.push_back(Spec("r" + std::to_string(i)));
  for (int round = 0; round < 3; ++round) {
    fleet_->Tell(kFromKubernetes, specs, round * kSecond);
    EXPECT_EQ(router_->Replicas(0).size(), 1000u);
    fleet_->Tell(kFromKubernetes, {}, round * kSecond);
    fleet_->Tick(round * kSecond);
    EXPECT_THAT(Names(), IsEmpty());
  }
}

}  // namespace
}  // namespace sublet
