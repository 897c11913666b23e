#include "store/node_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "store/tests/sample_rows.h"

namespace sublet::store {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class NodeStoreTest : public ::testing::Test {
 protected:
  NodeStore Open() {
    auto store = NodeStore::Open(folder_.state());
    EXPECT_TRUE(store.has_value()) << store.error().message;
    return std::move(*store);
  }
  NodeRecord Reopened() { return *Open().LoadAll(); }

  ScratchFolder folder_;
};

std::vector<std::string> IdsOf(const std::vector<ShareRow>& rows) {
  std::vector<std::string> ids;
  for (const ShareRow& row : rows) ids.push_back(row.share.id);
  return ids;
}

TEST_F(NodeStoreTest, IsEmptyAtFirst) {
  const NodeRecord record = Reopened();
  EXPECT_EQ(TextOf(record), TextOf(NodeRecord()));
}

TEST_F(NodeStoreTest, GivesBackEveryRowAsItWasPut) {
  NodeRecord put;
  put.boot_id = "0c5d";
  put.node_name = "gpu-7";
  put.shares = {SampleShare(1), SampleShare(2)};
  put.shares[1].process.reset();
  put.shares[1].share.sm_percent.reset();
  put.shares[1].share.memory_limit.reset();
  put.shares[1].state = RowState::kCreating;
  put.domains = {SampleDomain("gpu0-ads"), SampleDomain("gpu0-search")};
  put.domains[1].daemon.reset();
  put.domains[1].limits_confirmed = false;
  put.instances = {SampleMigInstance("GPU-a", 0), SampleMigInstance("GPU-a", 4)};
  put.instances[1].instance_id.reset();
  put.mig_steps = {{.number = 1, .step = "{}", .done = true}, {.number = 2, .step = "[]"}};
  put.plan = PlanRow{.plan = "{\"text\":\"\u00e4'\\\"\"}", .directory = "/srv"};
  put.operation = SampleOperation("up-3");
  put.replicas = {{.id = "chat/0",
                   .restarts = 4,
                   .last_end = "exited with status 3",
                   .wanted = ReplicaWanted::kStopped}};
  {
    NodeStore store = Open();
    ASSERT_TRUE(store.SetBootId(put.boot_id) && store.SetNodeName(put.node_name));
    for (const ShareRow& row : put.shares) ASSERT_TRUE(store.PutShare(row));
    for (const DomainRow& row : put.domains) ASSERT_TRUE(store.PutDomain(row));
    for (const MigInstanceRow& row : put.instances) ASSERT_TRUE(store.PutMigInstance(row));
    for (const MigStepRow& row : put.mig_steps) ASSERT_TRUE(store.PutMigStep(row));
    for (const ReplicaRow& row : put.replicas) ASSERT_TRUE(store.PutReplica(row));
    ASSERT_TRUE(store.PutPlan(*put.plan) && store.PutOperation(*put.operation));
    EXPECT_EQ(TextOf(*store.LoadAll()), TextOf(put));
  }
  EXPECT_EQ(TextOf(Reopened()), TextOf(put));
}

TEST_F(NodeStoreTest, ReplacesTheRowOfAKeyAsAWhole) {
  NodeStore store = Open();
  ShareRow row = SampleShare(1);
  ASSERT_TRUE(store.PutShare(row));
  row.process.reset();
  row.log.clear();
  row.state = RowState::kRemoving;
  ASSERT_TRUE(store.PutShare(row));
  const NodeRecord record = *store.LoadAll();
  ASSERT_THAT(record.shares, SizeIs(1));
  EXPECT_EQ(TextOf(record.shares[0]), TextOf(row));
}

TEST_F(NodeStoreTest, RemovesEachKindOfRow) {
  NodeStore store = Open();
  ASSERT_TRUE(store.PutShare(SampleShare(1)) && store.PutDomain(SampleDomain("d")) &&
              store.PutMigInstance(SampleMigInstance("GPU-a", 0)) &&
              store.PutMigInstance(SampleMigInstance("GPU-a", 2)) &&
              store.PutMigStep({.number = 1, .step = "{}"}) && store.PutPlan({"{}", "/"}) &&
              store.PutOperation(SampleOperation("up-1")) && store.PutReplica({.id = "chat/0"}));
  ASSERT_TRUE(store.RemoveShare("s1") && store.RemoveDomain("d") &&
              store.RemoveMigInstance("GPU-a", 0) && store.ClearMigSteps() && store.RemovePlan() &&
              store.RemoveOperation() && store.RemoveReplica("chat/0"));
  NodeRecord left;
  left.instances = {SampleMigInstance("GPU-a", 2)};
  EXPECT_EQ(TextOf(*store.LoadAll()), TextOf(left));
}

TEST_F(NodeStoreTest, RemovesWhatIsNotThereWithoutAnError) {
  NodeStore store = Open();
  EXPECT_TRUE(store.RemoveShare("s1"));
  EXPECT_TRUE(store.RemovePlan());
  EXPECT_TRUE(store.RemoveMigInstance("GPU-a", 0));
}

TEST_F(NodeStoreTest, ListsSharesInTheOrderOfTheirNumbers) {
  NodeStore store = Open();
  for (const int number : {10, 9, 100, 1}) ASSERT_TRUE(store.PutShare(SampleShare(number)));
  EXPECT_THAT(IdsOf(store.LoadAll()->shares), ElementsAre("s1", "s9", "s10", "s100"));
}

TEST_F(NodeStoreTest, NeverGivesAShareIdTwice) {
  {
    NodeStore store = Open();
    EXPECT_EQ(*store.TakeShareId(), "s1");
    EXPECT_EQ(*store.TakeShareId(), "s2");
  }
  NodeStore store = Open();
  EXPECT_EQ(*store.TakeShareId(), "s3");
  ASSERT_TRUE(store.SkipShareIds(40));
  ASSERT_TRUE(store.SkipShareIds(7));
  EXPECT_EQ(*store.TakeShareId(), "s41");
}

TEST_F(NodeStoreTest, StoresNamesThatAreNotUtf8) {
  NodeStore store = Open();
  ShareRow row = SampleShare(1);
  row.share.name = "a\xff\x01 b";
  row.log = "/tmp/\xff.log";
  ASSERT_TRUE(store.PutShare(row));
  const NodeRecord record = *store.LoadAll();
  ASSERT_THAT(record.shares, SizeIs(1));
  EXPECT_EQ(record.shares[0].share.name, "a\ufffd\x01 b");
  EXPECT_EQ(record.shares[0].log, row.log);
}

TEST_F(NodeStoreTest, ATransactionTakesEffectAsAWhole) {
  NodeStore store = Open();
  const Status status = store.Transaction([&]() -> Status {
    ASSIGN_OR_RETURN(const std::string id, store.TakeShareId());
    EXPECT_EQ(id, "s1");
    RETURN_IF_ERROR(store.PutShare(SampleShare(1)));
    return store.PutReplica({.id = "chat/0"});
  });
  ASSERT_TRUE(status);
  const NodeRecord record = *store.LoadAll();
  EXPECT_THAT(record.shares, SizeIs(1));
  EXPECT_THAT(record.replicas, SizeIs(1));
}

TEST_F(NodeStoreTest, ATransactionThatFailsChangesNothing) {
  NodeStore store = Open();
  ASSERT_TRUE(store.PutShare(SampleShare(1)));
  const std::string before = TextOf(*store.LoadAll());
  const Status status = store.Transaction([&]() -> Status {
    RETURN_IF_ERROR(store.TakeShareId());
    RETURN_IF_ERROR(store.RemoveShare("s1"));
    RETURN_IF_ERROR(store.AppendEvent(SampleEvent("gone")));
    EXPECT_THAT(store.LoadAll()->shares, IsEmpty());
    return Fail(ErrorCode::kInfeasible, "no room");
  });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "no room");
  EXPECT_EQ(TextOf(*store.LoadAll()), before);
  EXPECT_EQ(*store.TakeShareId(), "s1");
}

TEST_F(NodeStoreTest, ATransactionThatThrowsChangesNothing) {
  NodeStore store = Open();
  EXPECT_THROW((void)store.Transaction([&]() -> Status {
    RETURN_IF_ERROR(store.PutShare(SampleShare(1)));
    throw std::runtime_error("no memory, say");
  }),
               std::runtime_error);
  EXPECT_THAT(store.LoadAll()->shares, IsEmpty());
  EXPECT_TRUE(store.PutShare(SampleShare(2)));
  EXPECT_THAT(IdsOf(store.LoadAll()->shares), ElementsAre("s2"));
}

TEST_F(NodeStoreTest, AFailureInAnInnerTransactionFailsTheOuterOne) {
  NodeStore store = Open();
  const Status status = store.Transaction([&]() -> Status {
    RETURN_IF_ERROR(store.PutShare(SampleShare(1)));
    const Status inner = store.Transaction([&]() -> Status {
      RETURN_IF_ERROR(store.PutShare(SampleShare(2)));
      return Fail(ErrorCode::kInfeasible, "no room");
    });
    EXPECT_FALSE(inner);
    EXPECT_FALSE(store.PutShare(SampleShare(3)));
    return {};
  });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "no room");
  EXPECT_THAT(store.LoadAll()->shares, IsEmpty());
}

TEST_F(NodeStoreTest, RefusesASecondOperationAndNamesTheFirst) {
  NodeStore store = Open();
  OperationRow first = SampleOperation("down-1");
  ASSERT_TRUE(store.PutOperation(first));
  first.direction = OperationDirection::kForward;
  ASSERT_TRUE(store.PutOperation(first));
  const Status second = store.PutOperation(SampleOperation("up-2"));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kConflict);
  EXPECT_THAT(second.error().message, HasSubstr("down-1"));
  EXPECT_EQ(store.LoadAll()->operation, first);
  ASSERT_TRUE(store.RemoveOperation());
  EXPECT_TRUE(store.PutOperation(SampleOperation("up-2")));
}

TEST_F(NodeStoreTest, NumbersEventsWithoutGaps) {
  {
    NodeStore store = Open();
    EXPECT_EQ(*store.AppendEvent(SampleEvent("one")), 1);
    EXPECT_EQ(*store.AppendEvent(SampleEvent("two")), 2);
  }
  NodeStore store = Open();
  EXPECT_EQ(*store.AppendEvent(SampleEvent("three")), 3);
  EXPECT_EQ(store.LoadAll()->last_event, 3);
  const auto events = *store.EventsAfter(1, 10);
  ASSERT_THAT(events, SizeIs(2));
  NodeEvent expected = SampleEvent("two");
  expected.sequence = 2;
  EXPECT_EQ(TextOf(events[0]), TextOf(expected));
  EXPECT_EQ(events[1].message, "three");
  EXPECT_THAT(*store.EventsAfter(0, 1), SizeIs(1));
  EXPECT_THAT(*store.EventsAfter(3, 10), IsEmpty());
}

TEST_F(NodeStoreTest, KeepsTheLastEvents) {
  NodeStore store = Open();
  const std::int64_t count = NodeStore::kEventsMax + 5;
  ASSERT_TRUE(store.Transaction([&]() -> Status {
    for (std::int64_t i = 0; i < count; ++i) {
      RETURN_IF_ERROR(store.AppendEvent(SampleEvent(std::to_string(i))));
    }
    return {};
  }));
  const auto events = *store.EventsAfter(0, 1u << 30);
  ASSERT_THAT(events, SizeIs(NodeStore::kEventsMax));
  EXPECT_EQ(events.front().sequence, 6);
  EXPECT_EQ(events.back().sequence, count);
}

TEST_F(NodeStoreTest, CutsALongEventBetweenTwoCharacters) {
  NodeStore store = Open();
  std::string text = "x";
  for (int i = 0; i < 3000; ++i) text += "\u00e4";
  ASSERT_TRUE(store.AppendEvent(SampleEvent(text)));
  const std::string message = store.EventsAfter(0, 1)->at(0).message;
  EXPECT_EQ(message, text.substr(0, 4095) + "...");
}

TEST_F(NodeStoreTest, IsClosedToOtherUsers) {
  const mode_t before = ::umask(0);
  {
    NodeStore store = Open();
    ASSERT_TRUE(store.PutShare(SampleShare(1)));
    const auto mode = [&](const std::string& name) {
      struct stat status {};
      EXPECT_EQ(::stat((folder_.state() + name).c_str(), &status), 0) << name;
      return status.st_mode & 0777;
    };
    EXPECT_EQ(mode(""), 0700u);
    EXPECT_EQ(mode("/node.db"), 0600u);
    EXPECT_EQ(mode("/node.db-wal"), 0600u);
    EXPECT_EQ(mode("/node.lock"), 0600u);
  }
  ::umask(before);
}

TEST_F(NodeStoreTest, MakesNothingWhereItIsNotToCreate) {
  const auto store = NodeStore::Open(folder_.state(), {.create = false});
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kNotFound);
  struct stat status {};
  EXPECT_NE(::stat(folder_.state().c_str(), &status), 0);
  EXPECT_EQ(NodeStore::Open(folder_.path(), {.create = false}).error().code, ErrorCode::kNotFound);
}

TEST_F(NodeStoreTest, FlushesWhatWasWritten) {
  NodeStore store = Open();
  ASSERT_TRUE(store.PutShare(SampleShare(1)));
  const auto copied = [&](const std::string& name) {
    // Without the log, so only what has reached the database.
    std::filesystem::create_directory(folder_.path() + name);
    std::filesystem::copy(folder_.database(), folder_.path() + name + "/node.db");
    std::filesystem::permissions(folder_.path() + name, std::filesystem::perms::owner_all);
    return NodeStore::Open(folder_.path() + name)->LoadAll()->shares;
  };
  EXPECT_THAT(copied("/before"), IsEmpty());
  ASSERT_TRUE(store.Flush());
  EXPECT_THAT(copied("/after"), SizeIs(1));
}

}  // namespace
}  // namespace sublet::store
