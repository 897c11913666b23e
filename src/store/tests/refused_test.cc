// A disk that is full, and directories that may not be used.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "store/node_store.h"
#include "store/tests/sample_rows.h"

namespace sublet::store {
namespace {

namespace fs = std::filesystem;

using ::testing::HasSubstr;

constexpr uid_t kNobody = 65534;

// In a child there is no gtest: what is wrong goes to standard error.
bool Expect(bool condition, const std::string& what) {
  if (!condition) std::cerr << "in the child: not so: " << what << std::endl;
  return condition;
}

bool SaysFull(const Error& error) {
  return Expect(error.code == ErrorCode::kIo, "the code is io: " + error.message) &&
         Expect(error.message.find("the disk is full, and nothing was changed") == 0,
                "the message says so: " + error.message) &&
         Expect(!error.hint.empty(), "there is a hint");
}

// Writes shares until one fails; then everything is as after the last one that didn't.
bool FillUp(NodeStore& store) {
  constexpr int kSharesMax = 100'000;
  std::string before = TextOf(*store.LoadAll());
  for (int i = 1; i < kSharesMax; ++i) {
    ShareRow row = SampleShare(i);
    row.log = std::string(20'000, 'x');
    const Status status = store.Transaction([&]() -> Status {
      RETURN_IF_ERROR(store.PutShare(row));
      return store.PutReplica({.id = "chat/0", .restarts = i});
    });
    const std::string after = TextOf(*store.LoadAll());
    if (!status) return SaysFull(status.error()) && Expect(after == before, "nothing has changed");
    if (!Expect(after != before, "the share is there")) return false;
    before = after;
  }
  return Expect(false, "the disk is full at some time");
}

// 0: as wanted. 77: this machine lets nobody mount, so it can't be tested.
constexpr int kNoMount = 77;

bool WriteFile(const char* path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  return file.good();
}

// Makes this process root in a world of its own, where it needs to be.
bool BecomeRoot() {
  const uid_t user = ::geteuid();
  const gid_t group = ::getegid();
  if (user == 0) return true;
  return ::unshare(CLONE_NEWUSER) == 0 && WriteFile("/proc/self/setgroups", "deny") &&
         WriteFile("/proc/self/uid_map", "0 " + std::to_string(user) + " 1") &&
         WriteFile("/proc/self/gid_map", "0 " + std::to_string(group) + " 1");
}

// A small file system of our own, which nobody else sees, and which goes with this process.
bool MountSmall(const std::string& path, const char* options) {
  return BecomeRoot() && ::unshare(CLONE_NEWNS) == 0 &&
         ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", path.c_str(), "tmpfs", 0, options) == 0;
}

void UseUpAllSpace(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  const std::string block(512, 'x');
  while (std::fwrite(block.data(), 1, block.size(), file) == block.size()) continue;
  std::fclose(file);
}

TEST(FullDisk, AWriteThatFindsNoRoomChangesNothing) {
  const ScratchFolder folder;
  EXPECT_EQ(InChild([&] {
              NodeStore store = std::move(*NodeStore::Open(folder.state()));
              ::signal(SIGXFSZ, SIG_IGN);
              const rlimit limit{.rlim_cur = 300'000, .rlim_max = 300'000};
              ::setrlimit(RLIMIT_FSIZE, &limit);
              return FillUp(store);
            }),
            0);
}

TEST(FullDisk, AnInnerWriteThatFailsFailsTheTransactionThatOverlooksIt) {
  const ScratchFolder folder;
  EXPECT_EQ(InChild([&] {
              NodeStore store = std::move(*NodeStore::Open(folder.state()));
              ::signal(SIGXFSZ, SIG_IGN);
              const rlimit limit{.rlim_cur = 100'000, .rlim_max = 100'000};
              ::setrlimit(RLIMIT_FSIZE, &limit);
              const Status status = store.Transaction([&]() -> Status {
                // More than the cache holds, so that it meets the wall before the end.
                (void)store.PutPlan({std::string(20'000'000, 'x'), "/"});
                (void)store.PutShare(SampleShare(1));
                return {};
              });
              return Expect(!status, "it fails") && SaysFull(status.error()) &&
                     Expect(store.LoadAll()->shares.empty(), "no share is there");
            }),
            0);
}

// What the node has to write when something ends, tried again once where there was no room.
Status WriteEnd(NodeStore& store, const std::string& share) {
  const auto end = [&]() -> Status {
    RETURN_IF_ERROR(store.AppendEvent(SampleEvent(share + " has ended")));
    return store.RemoveShare(share);
  };
  Status status = store.Transaction(end);
  return status ? status : store.Transaction(end);
}

TEST(FullDisk, WhatEndsCanBeWrittenWhileOthersHaveFilledIt) {
  const ScratchFolder folder;
  fs::create_directory(folder.state());
  const int status = InChild([&] {
    if (!MountSmall(folder.state(), "size=8m,mode=700")) ::_exit(kNoMount);
    NodeStore store = std::move(*NodeStore::Open(folder.state()));
    for (int i = 1; i <= 500; ++i) {
      if (!Expect(store.PutShare(SampleShare(i)).has_value(), "there is room")) return false;
    }
    UseUpAllSpace(folder.state() + "/others");
    for (int i = 1; i <= 500; ++i) {
      const Status ended = WriteEnd(store, SampleShare(i).share.id);
      if (!Expect(ended.has_value(),
                  "share " + std::to_string(i) + " ends: " + (ended ? "" : ended.error().message)))
        return false;
    }
    const NodeRecord record = *store.LoadAll();
    return Expect(record.shares.empty() && record.last_event == 500, "all is as it should be");
  });
  if (WEXITSTATUS(status) == kNoMount) GTEST_SKIP() << "no file system can be mounted here";
  EXPECT_EQ(status, 0);
}

TEST(FullDisk, WorksAgainOnceThereIsRoom) {
  const ScratchFolder folder;
  fs::create_directory(folder.state());
  const int status = InChild([&] {
    if (!MountSmall(folder.state(), "size=8m,mode=700")) ::_exit(kNoMount);
    std::ofstream(folder.state() + "/others") << std::string(2'000'000, 'x');
    { std::ofstream(folder.state() + "/node.lock"); }
    NodeStore store = std::move(*NodeStore::Open(folder.state()));
    if (!FillUp(store)) return false;
    fs::remove(folder.state() + "/others");
    return Expect(store.PutReplica({.id = "chat/1"}).has_value(), "a row can be put") &&
           Expect(store.Flush().has_value(), "it can be flushed");
  });
  if (WEXITSTATUS(status) == kNoMount) GTEST_SKIP() << "no file system can be mounted here";
  EXPECT_EQ(status, 0);
}

TEST(FullDisk, NoDatabaseIsMadeWhereThereIsNoRoomForIt) {
  const ScratchFolder folder;
  fs::create_directory(folder.state());
  const int status = InChild([&] {
    if (!MountSmall(folder.state(), "size=64k,mode=700")) ::_exit(kNoMount);
    { std::ofstream(folder.state() + "/node.lock"); }
    UseUpAllSpace(folder.state() + "/others");
    const auto refused = NodeStore::Open(folder.state());
    if (!Expect(!refused, "it is refused") || !SaysFull(refused.error())) return false;
    fs::remove(folder.state() + "/others");
    return Expect(!fs::exists(folder.database()), "there is no half of one");
  });
  if (WEXITSTATUS(status) == kNoMount) GTEST_SKIP() << "no file system can be mounted here";
  EXPECT_EQ(status, 0);
}

TEST(ReadOnly, AFileSystemThatTakesNoWritesIsRefused) {
  const ScratchFolder folder;
  ASSERT_TRUE(NodeStore::Open(folder.state()));
  const int status = InChild([&] {
    if (!MountSmall(folder.state(), "size=1m,mode=700")) ::_exit(kNoMount);
    if (::mount("none", folder.state().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0) {
      ::_exit(kNoMount);
    }
    const auto refused = NodeStore::Open(folder.state());
    return Expect(!refused && refused.error().code == ErrorCode::kPermission, "it is refused");
  });
  if (WEXITSTATUS(status) == kNoMount) GTEST_SKIP() << "no file system can be mounted here";
  EXPECT_EQ(status, 0);
}

TEST(ReadOnly, ADirectoryThatTakesNoFilesIsRefused) {
  const ScratchFolder folder;
  fs::create_directory(folder.state());
  fs::permissions(folder.path(), fs::perms::owner_all | fs::perms::others_exec);
  const int status = InChild([&] {
    // Root may write everywhere, so it becomes somebody else for this.
    if (::geteuid() == 0 && (::chown(folder.state().c_str(), kNobody, kNobody) != 0 ||
                             ::setresuid(kNobody, kNobody, kNobody) != 0)) {
      return false;
    }
    ::chmod(folder.state().c_str(), 0500);
    const auto refused = NodeStore::Open(folder.state());
    return Expect(!refused && refused.error().code == ErrorCode::kPermission, "it is refused");
  });
  EXPECT_EQ(status, 0);
}

TEST(Directory, ThatBelongsToAnotherUserIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make a directory for somebody else";
  const ScratchFolder folder;
  fs::create_directory(folder.state());
  ASSERT_EQ(::chown(folder.state().c_str(), kNobody, kNobody), 0);
  const auto refused = NodeStore::Open(folder.state());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kPermission);
  EXPECT_THAT(refused.error().message, HasSubstr("belongs to user 65534"));
}

TEST(Directory, ThatIsOpenToOthersIsClosedWhereItIsEmptyOrOurs) {
  const ScratchFolder folder;
  const auto mode = [&] { return fs::status(folder.state()).permissions(); };
  fs::create_directory(folder.state());
  fs::permissions(folder.state(), fs::perms(0755));
  ASSERT_TRUE(NodeStore::Open(folder.state()));
  EXPECT_EQ(mode(), fs::perms::owner_all);
  fs::permissions(folder.state(), fs::perms(0755));
  fs::permissions(folder.database(), fs::perms(0644));
  ASSERT_TRUE(NodeStore::Open(folder.state()));
  EXPECT_EQ(mode(), fs::perms::owner_all);
  EXPECT_EQ(fs::status(folder.database()).permissions(), fs::perms(0600));
}

TEST(Directory, ThatIsOpenToOthersAndHasOtherThingsInItIsRefusedAndLeftAsItIs) {
  const ScratchFolder folder;
  fs::create_directory(folder.state());
  fs::permissions(folder.state(), fs::perms(0755));
  std::ofstream(folder.state() + "/somebodys.txt") << "hello";
  const auto refused = NodeStore::Open(folder.state());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kPermission);
  EXPECT_THAT(refused.error().hint, HasSubstr("chmod 700"));
  EXPECT_EQ(fs::status(folder.state()).permissions(), fs::perms(0755));
}

TEST(Directory, IsMadeWithThoseAboveItForItsUserAlone) {
  const ScratchFolder folder;
  ASSERT_TRUE(NodeStore::Open(folder.path() + "/a/b/"));
  EXPECT_EQ(fs::status(folder.path() + "/a").permissions(), fs::perms::owner_all);
  EXPECT_EQ(fs::status(folder.path() + "/a/b").permissions(), fs::perms::owner_all);
}

TEST(Directory, ThatIsAFileIsRefused) {
  const ScratchFolder folder;
  std::ofstream(folder.state()) << "hello";
  EXPECT_FALSE(NodeStore::Open(folder.state()));
  EXPECT_FALSE(NodeStore::Open(""));
}

}  // namespace
}  // namespace sublet::store
