// Databases whose bytes aren't what was written.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <string>

#include "store/database.h"
#include "store/node_store.h"
#include "store/table.h"
#include "store/tests/sample_rows.h"

namespace sublet::store {
namespace {

namespace fs = std::filesystem;

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void WriteAll(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

// Not compared by a matcher, as that would print all of it.
bool IsRefusal(const std::string& text) {
  return text.starts_with("invalid: ") || text.starts_with("conflict: ");
}

class DamagedTest : public ::testing::Test {
 protected:
  // Some of everything, over a few dozen pages.
  void Fill() {
    NodeStore store = std::move(*NodeStore::Open(folder_.state()));
    for (int i = 1; i <= 60; ++i) ASSERT_TRUE(store.PutShare(SampleShare(i)));
    for (int i = 1; i <= 10; ++i) ASSERT_TRUE(store.RemoveShare(fmt::format("s{}", 5 * i)));
    for (int i = 0; i < 200; ++i) ASSERT_TRUE(store.AppendEvent(SampleEvent("granted")));
    ASSERT_TRUE(store.PutDomain(SampleDomain("gpu0-search")));
    ASSERT_TRUE(store.PutPlan({std::string(30'000, '{'), "/srv"}));
    ASSERT_TRUE(store.PutOperation(SampleOperation("up-1")) && store.SetBootId("0c5d") &&
                store.TakeShareId());
  }
  // The database without the space behind it into which it may grow.
  std::string Content() {
    std::string content = ReadAll(folder_.database());
    std::uint32_t pages = 0;  // By the file's header, big-endian.
    for (int i = 28; i < 32; ++i) pages = pages << 8 | static_cast<unsigned char>(content[i]);
    content.resize(std::size_t{pages} * 4096);
    return content;
  }
  std::string Text() { return TextOfStore(folder_.state()); }
  // Writes that must not crash either, whatever they answer.
  void WriteSome() {
    auto store = NodeStore::Open(folder_.state());
    if (!store) return;
    (void)store->TakeShareId();
    (void)store->PutShare(SampleShare(7));
    (void)store->RemoveShare("s8");
    (void)store->AppendEvent(SampleEvent("granted"));
    (void)store->Flush();
  }

  ScratchFolder folder_;
};

TEST_F(DamagedTest, AnEmptyFileIsNotTakenForANewDatabase) {
  Fill();
  WriteAll(folder_.database(), "");
  EXPECT_THAT(Text(), StartsWith("invalid: "));
  WriteAll(folder_.database(),
           "this is a text, and a long one, so that it fills the header of "
           "a database, which has a hundred bytes; and then some more");
  EXPECT_THAT(Text(), StartsWith("invalid: "));
}

TEST_F(DamagedTest, TheHintSaysWhatToDoAndWhereTheOldOneGoes) {
  Fill();
  const std::string damaged = "SQLite format 3" + std::string(5000, 'x');
  for (int number = 1; number <= 2; ++number) {
    WriteAll(folder_.database(), damaged);
    const auto store = NodeStore::Open(folder_.state());
    ASSERT_FALSE(store);
    EXPECT_EQ(store.error().code, ErrorCode::kInvalid);
    const std::string kept = fmt::format("{}.damaged-{}", folder_.database(), number);
    EXPECT_THAT(store.error().hint, HasSubstr("sublet daemon --rebuild"));
    EXPECT_THAT(store.error().hint, HasSubstr(kept));
    EXPECT_EQ(*NodeStore::SetAside(folder_.state()), kept);
    EXPECT_EQ(ReadAll(kept), damaged);
    EXPECT_TRUE(NodeStore::Open(folder_.state()));
  }
}

TEST_F(DamagedTest, SetsTheLogAsideToo) {
  Fill();
  WriteAll(folder_.database() + "-wal", "a log");
  const std::string kept = *NodeStore::SetAside(folder_.state());
  EXPECT_EQ(ReadAll(kept + "-wal"), "a log");
  EXPECT_FALSE(fs::exists(folder_.database() + "-wal"));
  EXPECT_EQ(NodeStore::SetAside(folder_.state()).error().code, ErrorCode::kNotFound);
}

TEST_F(DamagedTest, ALogWithoutItsDatabaseIsNotPutUnderANewOne) {
  Fill();
  WriteAll(folder_.database() + "-wal", "a log");
  fs::remove(folder_.database());
  const auto store = NodeStore::Open(folder_.state());
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kInvalid);
  EXPECT_TRUE(NodeStore::SetAside(folder_.state()));
  EXPECT_TRUE(NodeStore::Open(folder_.state()));
}

TEST_F(DamagedTest, ARowThatSomebodyElseChangedIsRefused) {
  Fill();
  {
    Database database = std::move(*Database::Open(folder_.database()));
    ASSERT_TRUE(database.Execute("UPDATE share SET pid = 1 WHERE id = 's7'"));
  }
  EXPECT_THAT(Text(), HasSubstr("table share, row 's7'"));
}

TEST_F(DamagedTest, ARowThatOnlyAnotherProgramCouldWriteIsRefused) {
  Fill();
  {
    Database database = std::move(*Database::Open(folder_.database()));
    ASSERT_TRUE(PutRow(database, kReplicaTable, {"chat/0", std::int64_t{1}, "", "sleeping"}));
  }
  EXPECT_THAT(Text(), AllOf(StartsWith("invalid: "), HasSubstr("table replica")));
}

// A few bytes changed anywhere in the file: it must be refused, or opened with every row right.
TEST_F(DamagedTest, ChangedBytesAreRefusedOrDoNotMatter) {
  Fill();
  const std::string right = Text();
  ASSERT_THAT(right, StartsWith("ok\n"));
  const std::string whole = Content();
  std::mt19937 random(20261121);
  int refused = 0;
  constexpr int kCases = 800;
  for (int i = 0; i < kCases; ++i) {
    std::string damaged = whole;
    // Every other case in the headers of the pages, where most harm is done.
    const std::size_t page = 4096 * (random() % (whole.size() / 4096));
    const std::size_t at = page + random() % (i % 2 == 0 ? 4096 : 112);
    const std::size_t length = 1 + (i % 4 == 0 ? random() % 64 : 0);
    for (std::size_t j = at; j < std::min(at + length, whole.size()); ++j) {
      damaged[j] = static_cast<char>(random());
    }
    WriteAll(folder_.database(), damaged);
    const std::string text = Text();
    EXPECT_TRUE(text == right || IsRefusal(text)) << length << " bytes at " << at;
    if (text != right) ++refused;
    WriteSome();
    fs::remove(folder_.database() + "-wal");
    fs::remove(folder_.database() + "-journal");
  }
  EXPECT_GT(refused, kCases / 2);
}

TEST_F(DamagedTest, ATruncatedFileIsRefusedUnlessOnlyFreeSpaceIsGone) {
  Fill();
  const std::string right = Text();
  const std::string whole = Content();
  for (std::size_t size = 1; size < whole.size(); size += 1531) {
    WriteAll(folder_.database(), whole.substr(0, size));
    const std::string text = Text();
    EXPECT_TRUE(IsRefusal(text) || (text == right && size > whole.size() - 3 * 4096)) << size;
    fs::remove(folder_.database() + "-wal");
  }
}

// What a log has lost can't be seen, as a power cut leaves one that looks the same. But what is
// left must be the state after one of the writes, whole.
TEST_F(DamagedTest, AChangedLogLeavesAStateThatWasThere) {
  std::set<std::string> states;
  {
    const std::string copy = folder_.path() + "/copy";
    NodeStore store = std::move(*NodeStore::Open(copy));
    const auto remember = [&] { states.insert(TextOf(*store.LoadAll())); };
    remember();
    for (int i = 1; i <= 20; ++i) {
      ASSERT_TRUE(store.PutShare(SampleShare(i)));
      remember();
    }
  }
  ASSERT_TRUE(NodeStore::Open(folder_.state()));
  const std::string start = ReadAll(folder_.database());
  ASSERT_TRUE(WIFSIGNALED(InChild([&] {
    NodeStore store = std::move(*NodeStore::Open(folder_.state()));
    for (int i = 1; i <= 20; ++i) {
      if (!store.PutShare(SampleShare(i))) return false;
    }
    ::raise(SIGKILL);
    return true;
  })));
  const std::string log = ReadAll(folder_.database() + "-wal");
  ASSERT_GT(log.size(), 20u * 4096);
  std::mt19937 random(20261121);
  std::set<std::string> seen;
  for (int i = 0; i < 200; ++i) {
    std::string damaged = log;
    damaged[random() % log.size()] = static_cast<char>(random());
    if (i % 3 == 0) damaged.resize(random() % log.size());
    WriteAll(folder_.database(), start);
    WriteAll(folder_.database() + "-wal", damaged);
    NodeStore store = std::move(*NodeStore::Open(folder_.state()));
    seen.insert(TextOf(*store.LoadAll()));
  }
  EXPECT_TRUE(std::includes(states.begin(), states.end(), seen.begin(), seen.end()));
  EXPECT_GT(seen.size(), 5u);
}

}  // namespace
}  // namespace sublet::store
