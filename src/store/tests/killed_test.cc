// A process that is killed while it writes, and two that want one directory.

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>

#include "base/check.h"
#include "base/file_descriptor.h"
#include "store/node_store.h"
#include "store/tests/sample_rows.h"

namespace sublet::store {
namespace {

namespace fs = std::filesystem;

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Three rows that always change together: a share more, a restart more, an event more.
Status WriteRound(NodeStore& store, int number) {
  return store.Transaction([&]() -> Status {
    RETURN_IF_ERROR(store.PutShare(SampleShare(number)));
    RETURN_IF_ERROR(store.PutReplica({.id = "chat/0", .restarts = number}));
    RETURN_IF_ERROR(store.AppendEvent(SampleEvent("restarted")));
    return {};
  });
}

// A child process that works until it is killed, and tells each step that it has done by a byte.
class Victim {
 public:
  // `step` is given 0, 1, 2, ...; the child ends where it returns false.
  explicit Victim(const std::function<bool(int)>& step) {
    int ends[2];
    CHECK(::pipe2(ends, O_CLOEXEC) == 0);
    steps_ = FileDescriptor(ends[0]);
    FileDescriptor report(ends[1]);
    pid_ = ::fork();
    CHECK(pid_ >= 0);
    if (pid_ > 0) return;
    for (int i = 0; step(i) && ::write(report.get(), "x", 1) == 1; ++i) continue;
    ::_exit(1);
  }
  // Waits for so many steps, kills the child, and returns how many it has done by then.
  int KillAfter(int wanted) {
    int done = 0;
    while (done < wanted && ReadOne()) ++done;
    ::kill(pid_, SIGKILL);
    while (ReadOne()) ++done;
    int status = 0;
    CHECK(::waitpid(pid_, &status, 0) == pid_);
    EXPECT_TRUE(WIFSIGNALED(status)) << "it ended by itself after " << done << " steps";
    return done;
  }

 private:
  bool ReadOne() {
    char byte = 0;
    return ::read(steps_.get(), &byte, 1) == 1;
  }
  FileDescriptor steps_;
  pid_t pid_ = -1;
};

TEST(Killed, InTheMiddleOfWritingLeavesWholeTransactions) {
  const ScratchFolder folder;
  int before = 0;
  for (int kill = 0; kill < 20; ++kill) {
    std::optional<NodeStore> open;  // In the child only.
    Victim victim([&](int step) {
      if (!open) open = std::move(*NodeStore::Open(folder.state()));
      return WriteRound(*open, before + step + 1).has_value();
    });
    const int done = victim.KillAfter(1 + 7 * kill);
    NodeStore store = std::move(*NodeStore::Open(folder.state()));
    const NodeRecord record = *store.LoadAll();
    const int rounds = static_cast<int>(record.shares.size());
    EXPECT_GE(rounds, before + done);
    EXPECT_LE(rounds, before + done + 1);
    ASSERT_THAT(record.replicas, SizeIs(1));
    EXPECT_EQ(record.replicas[0].restarts, rounds);
    EXPECT_EQ(record.last_event, rounds);
    before = rounds;
  }
}

TEST(Killed, BetweenTwoWritesOfATransactionLeavesNeither) {
  const ScratchFolder folder;
  {
    NodeStore store = std::move(*NodeStore::Open(folder.state()));
    ASSERT_TRUE(WriteRound(store, 1));
  }
  const int status = InChild([&] {
    NodeStore store = std::move(*NodeStore::Open(folder.state()));
    if (!WriteRound(store, 2)) return false;
    return store
        .Transaction([&]() -> Status {
          RETURN_IF_ERROR(store.PutShare(SampleShare(3)));
          ::raise(SIGKILL);
          return {};
        })
        .has_value();
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  NodeStore store = std::move(*NodeStore::Open(folder.state()));
  EXPECT_THAT(store.LoadAll()->shares, SizeIs(2));
  EXPECT_TRUE(WriteRound(store, 3));
}

TEST(Killed, AfterAWriteHasReturnedKeepsIt) {
  const ScratchFolder folder;
  const int status = InChild([&] {
    NodeStore store = std::move(*NodeStore::Open(folder.state()));
    if (!store.PutShare(SampleShare(1))) return false;
    ::raise(SIGKILL);
    return true;
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_THAT(NodeStore::Open(folder.state())->LoadAll()->shares, SizeIs(1));
}

TEST(Killed, WhileItMakesADatabaseLeavesNoneOrAWholeOne) {
  const ScratchFolder folder;
  for (int kill = 0; kill < 15; ++kill) {
    Victim victim([&](int) {
      const auto aside = NodeStore::SetAside(folder.state());
      if (!aside && aside.error().code != ErrorCode::kNotFound) return false;
      return NodeStore::Open(folder.state()).has_value();
    });
    victim.KillAfter(1 + kill % 3);
    auto store = NodeStore::Open(folder.state());
    if (!store) {  // Between the database and its log: told, and mended by the same means.
      EXPECT_THAT(store.error().message, HasSubstr("its log is there"));
      ASSERT_TRUE(NodeStore::SetAside(folder.state()));
      store = NodeStore::Open(folder.state());
    }
    ASSERT_TRUE(store) << store.error().message;
    EXPECT_THAT(store->LoadAll()->shares, IsEmpty());
  }
}

TEST(Killed, HalfADraftOfAnEarlierProcessIsNoHindrance) {
  const ScratchFolder folder;
  fs::create_directory(folder.state());
  fs::permissions(folder.state(), fs::perms::owner_all);
  for (const char* name : {"/node.lock", "/node.db.new", "/node.db.new-journal"}) {
    std::ofstream(folder.state() + name) << "what a killed process left";
  }
  const auto store = NodeStore::Open(folder.state());
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_FALSE(fs::exists(folder.database() + ".new"));
}

TEST(TwoProcesses, TheSecondIsRefusedAndToldTheFirst) {
  const ScratchFolder folder;
  NodeStore first = std::move(*NodeStore::Open(folder.state()));
  const std::string wanted = fmt::format("process {} has the state directory", ::getpid());
  const auto is_refused = [&](const Error& error) {
    return error.code == ErrorCode::kConflict && error.message.starts_with(wanted);
  };
  EXPECT_TRUE(is_refused(NodeStore::Open(folder.state()).error()));
  EXPECT_EQ(InChild([&] { return is_refused(NodeStore::Open(folder.state()).error()); }), 0);
  EXPECT_EQ(InChild([&] { return is_refused(NodeStore::SetAside(folder.state()).error()); }), 0);
  EXPECT_TRUE(first.PutShare(SampleShare(1)));
}

TEST(TwoProcesses, TheSecondGetsItOnceTheFirstHasGone) {
  const ScratchFolder folder;
  { const NodeStore first = std::move(*NodeStore::Open(folder.state())); }
  EXPECT_TRUE(NodeStore::Open(folder.state()));
  EXPECT_TRUE(WIFSIGNALED(InChild([&] {
    const auto killed = NodeStore::Open(folder.state());
    ::raise(SIGKILL);
    return killed.has_value();
  })));
  EXPECT_TRUE(NodeStore::Open(folder.state()));
}

}  // namespace
}  // namespace sublet::store
