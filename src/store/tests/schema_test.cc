#include "store/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "store/database.h"
#include "store/node_store.h"
#include "store/table.h"
#include "store/tests/sample_rows.h"

namespace sublet::store {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class SchemaTest : public ::testing::Test {
 protected:
  SchemaTest() {
    NodeStore store = std::move(*NodeStore::Open(folder_.state()));
    EXPECT_TRUE(store.PutShare(SampleShare(1)));
  }
  void Execute(const std::vector<std::string>& statements) {
    Database database = std::move(*Database::Open(folder_.database()));
    for (const std::string& sql : statements) {
      const Status status = database.Execute(sql);
      ASSERT_TRUE(status) << status.error().message;
    }
  }
  Error OpenError() {
    auto store = NodeStore::Open(folder_.state());
    EXPECT_FALSE(store);
    return store ? Error() : store.error();
  }

  ScratchFolder folder_;
};

TEST_F(SchemaTest, RefusesWhatANewerVersionWrote) {
  Execute({"PRAGMA user_version = 7"});
  const Error error = OpenError();
  EXPECT_EQ(error.code, ErrorCode::kConflict);
  EXPECT_THAT(error.message, HasSubstr("written by version 7"));
  EXPECT_THAT(error.hint, HasSubstr("sublet daemon --rebuild"));
  Execute({"PRAGMA user_version = 1"});
  EXPECT_THAT(NodeStore::Open(folder_.state())->LoadAll()->shares, SizeIs(1));
}

TEST_F(SchemaTest, RefusesAnOlderVersionFromWhichNoMigrationLeads) {
  Execute({"PRAGMA user_version = 0"});
  EXPECT_EQ(OpenError().code, ErrorCode::kConflict);
}

TEST_F(SchemaTest, RefusesADatabaseOfAnotherProgram) {
  Execute({"PRAGMA application_id = 5"});
  const Error error = OpenError();
  EXPECT_EQ(error.code, ErrorCode::kInvalid);
  EXPECT_THAT(error.message, HasSubstr("it isn't a node's state"));
}

TEST_F(SchemaTest, RefusesTablesThatAreNotThoseOfTheVersion) {
  Execute({"ALTER TABLE replica RENAME COLUMN restarts TO starts"});
  EXPECT_THAT(OpenError().message, HasSubstr("its tables aren't those of its version"));
}

TEST_F(SchemaTest, RefusesADatabaseThatLacksATable) {
  Execute({"DROP TABLE event"});
  EXPECT_EQ(OpenError().code, ErrorCode::kInvalid);
}

// As it would be if versions -1 and 0 had had no events.
class MigrationTest : public SchemaTest {
 protected:
  MigrationTest() { Execute({"DROP TABLE event", "PRAGMA user_version = -1"}); }

  Status BringUp(std::vector<Migration> migrations) {
    Database database = std::move(*Database::Open(folder_.database()));
    return BringSchemaUp(database, migrations);
  }
  Migration Nothing(int from) {
    return {.from = from, .change = [](Database&) { return Status(); }};
  }
  Migration MakeEvents(int from) {
    return {.from = from, .change = [](Database& database) {
              return database.Execute(CreateStatement(kEventTable));
            }};
  }
};

TEST_F(MigrationTest, GoesThroughAllVersionsToThisOne) {
  const Status status = BringUp({MakeEvents(0), Nothing(-1)});
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_THAT(NodeStore::Open(folder_.state())->LoadAll()->shares, SizeIs(1));
}

TEST_F(MigrationTest, DoesNothingWhereOneOfThemFails) {
  const Migration fails = {.from = 0, .change = [](Database& database) -> Status {
                             RETURN_IF_ERROR(database.Execute("DROP TABLE share"));
                             return Fail(ErrorCode::kInvalid, "a row that makes no sense");
                           }};
  EXPECT_EQ(BringUp({Nothing(-1), fails}).error().message, "a row that makes no sense");
  ASSERT_TRUE(BringUp({Nothing(-1), MakeEvents(0)}));
  EXPECT_THAT(NodeStore::Open(folder_.state())->LoadAll()->shares, SizeIs(1));
}

TEST_F(MigrationTest, RefusesWhereOneIsMissingOnTheWay) {
  const Status status = BringUp({MakeEvents(-1)});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kConflict);
  EXPECT_THAT(status.error().message, HasSubstr("written by version -1"));
}

TEST_F(MigrationTest, NoticesWhenTheTablesAreStillOthers) {
  EXPECT_EQ(BringUp({Nothing(-1), Nothing(0)}).error().code, ErrorCode::kInvalid);
}

}  // namespace
}  // namespace sublet::store
