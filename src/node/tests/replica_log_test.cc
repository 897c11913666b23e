#include "node/replica_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file_descriptor.h"

namespace sublet {
namespace {

constexpr std::uint64_t kSmall = 100;

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class ReplicaLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = (std::filesystem::temp_directory_path() / "log-XXXXXX").string();
    ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // As a replica does, by a descriptor that stays.
  void Print(const std::string& text) {
    if (!out_.valid()) {
      out_ = FileDescriptor(
          ::open((folder_ + "/s1.log").c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
    }
    ASSERT_EQ(::write(out_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  std::string folder_;
  FileDescriptor out_;
};

TEST_F(ReplicaLogTest, IsEmptyBeforeAnythingWasPrinted) {
  ReplicaLog log(folder_, "s1");
  EXPECT_EQ(log.path(), folder_ + "/s1.log");
  EXPECT_EQ(log.Tail(10).value().text, "");
  EXPECT_EQ(log.ReadFrom({}).value().text, "");
  EXPECT_FALSE(log.RotateIfLarge().value());
}

TEST_F(ReplicaLogTest, GivesItsLastLines) {
  const ReplicaLog log(folder_, "s1");
  Print("one\ntwo\n\nfour\n");
  EXPECT_EQ(log.Tail(0).value().text, "");
  EXPECT_EQ(log.Tail(1).value().text, "four\n");
  EXPECT_EQ(log.Tail(2).value().text, "\nfour\n");
  EXPECT_EQ(log.Tail(3).value().text, "two\n\nfour\n");
  EXPECT_EQ(log.Tail(4).value().text, "one\ntwo\n\nfour\n");
  EXPECT_EQ(log.Tail(99).value().text, "one\ntwo\n\nfour\n");
  Print("begun");
  EXPECT_EQ(log.Tail(1).value().text, "begun");
  EXPECT_EQ(log.Tail(2).value().text, "four\nbegun");
}

TEST_F(ReplicaLogTest, LeavesASmallOneAlone) {
  ReplicaLog log(folder_, "s1", kSmall);
  Print(std::string(kSmall, 'x'));
  EXPECT_FALSE(log.RotateIfLarge().value());
  Print("y");
  EXPECT_TRUE(log.RotateIfLarge().value());
  EXPECT_FALSE(log.RotateIfLarge().value());
}

TEST_F(ReplicaLogTest, KeepsTwoOldFilesAndTheirReaders) {
  ReplicaLog log(folder_, "s1", kSmall);
  for (const char c : {'a', 'b', 'c', 'd'}) {
    Print(std::string(kSmall, c) + "\n");
    ASSERT_TRUE(log.RotateIfLarge().value());
  }
  Print("e\n");
  EXPECT_EQ(ReadText(log.path()), "e\n");
  EXPECT_EQ(ReadText(log.path() + ".1"), std::string(kSmall, 'd') + "\n");
  EXPECT_EQ(ReadText(log.path() + ".2"), std::string(kSmall, 'c') + "\n");
  EXPECT_FALSE(std::filesystem::exists(log.path() + ".3"));
  EXPECT_FALSE(std::filesystem::exists(log.path() + ".new"));
  struct stat status {};
  ASSERT_EQ(::stat((log.path() + ".1").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST_F(ReplicaLogTest, KeepsTheOwnerOfWhatItCopies) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root gives files away";
  ReplicaLog log(folder_, "s1", kSmall);
  Print(std::string(kSmall + 1, 'a'));
  ASSERT_EQ(::chown(log.path().c_str(), 65534, 65534), 0);
  ASSERT_TRUE(log.RotateIfLarge().value());
  struct stat status {};
  ASSERT_EQ(::stat((log.path() + ".1").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 65534u);
}

TEST_F(ReplicaLogTest, TakesLinesFromTheFileBeforeWhereTheNewOneHasTooFew) {
  ReplicaLog log(folder_, "s1", 10);
  Print("one\ntwo\nthree\nfo");
  ASSERT_TRUE(log.RotateIfLarge().value());
  Print("ur\nfive\n");
  EXPECT_EQ(log.Tail(1).value().text, "five\n");
  EXPECT_EQ(log.Tail(2).value().text, "four\nfive\n");  // Cut within a line, and whole again.
  EXPECT_EQ(log.Tail(3).value().text, "three\nfour\nfive\n");
}

TEST_F(ReplicaLogTest, IsFollowedThroughARotation) {
  ReplicaLog log(folder_, "s1", kSmall);
  Print("one\n");
  LogText text = log.Tail(10).value();
  EXPECT_EQ(text.text, "one\n");
  EXPECT_EQ(log.ReadFrom(text.next).value().text, "");
  Print("two\n" + std::string(kSmall, 'x') + "\n");
  ASSERT_TRUE(log.RotateIfLarge().value());
  Print("three\n");
  text = log.ReadFrom(text.next).value();
  EXPECT_EQ(text.text, "two\n" + std::string(kSmall, 'x') + "\n");
  text = log.ReadFrom(text.next).value();
  EXPECT_EQ(text.text, "three\n");
  EXPECT_EQ(log.ReadFrom(text.next).value().text, "");
}

TEST_F(ReplicaLogTest, IsFollowedFromWithinWhatStaysBehind) {
  ReplicaLog log(folder_, "s1", 4096);
  Print(std::string(4096, 'x') + "\none\n");
  const LogText text = log.ReadFrom({}).value();
  Print("two\n");
  ASSERT_TRUE(log.RotateIfLarge().value());
  Print("three\n");
  std::string rest;
  LogText more = log.ReadFrom(text.next).value();
  for (; !more.text.empty(); more = log.ReadFrom(more.next).value()) rest += more.text;
  EXPECT_EQ(rest, "two\nthree\n");
  EXPECT_EQ(log.Tail(4).value().text, std::string(4096, 'x') + "\none\ntwo\nthree\n");
}

TEST_F(ReplicaLogTest, GoesOnWithWhatIsThereAfterTwoRotations) {
  ReplicaLog log(folder_, "s1", kSmall);
  const LogPosition begin = log.Tail(0).value().next;
  for (int i = 0; i < 2; ++i) {
    Print(std::string(kSmall + 1, 'x'));
    ASSERT_TRUE(log.RotateIfLarge().value());
  }
  Print("new\n");
  EXPECT_EQ(log.ReadFrom(begin).value().text, "new\n");
}

TEST_F(ReplicaLogTest, IsFollowedThroughACutBySomebodyElse) {
  const ReplicaLog log(folder_, "s1");
  Print("a long line\n");
  const LogText text = log.ReadFrom({}).value();
  ASSERT_EQ(::truncate(log.path().c_str(), 0), 0);
  Print("new\n");
  EXPECT_EQ(log.ReadFrom(text.next).value().text, "new\n");
}

TEST_F(ReplicaLogTest, IsReadInParts) {
  const ReplicaLog log(folder_, "s1");
  const std::string much(1'000'000, 'x');
  Print(much);
  std::string all;
  LogText text;
  do {
    text = log.ReadFrom(text.next).value();
    EXPECT_LE(text.text.size(), 256u << 10);
    all += text.text;
  } while (!text.text.empty());
  EXPECT_EQ(all, much);
}

TEST_F(ReplicaLogTest, CopiesOnlyTheEndOfAnOvergrownOne) {
  ReplicaLog log(folder_, "s1", kSmall);
  Print(std::string(1000, 'x') + std::string(kSmall * kLogOvergrown, 'y'));
  ASSERT_TRUE(log.RotateIfLarge().value());
  EXPECT_TRUE(ReadText(log.path() + ".1") == std::string(kSmall * kLogOvergrown, 'y'));
  EXPECT_EQ(ReadText(log.path()), "");
}

TEST_F(ReplicaLogTest, LosesNothingWhereItCannotCopyUnlessItIsOvergrown) {
  ReplicaLog log(folder_, "s1", kSmall);
  Print(std::string(kSmall + 1, 'x'));
  // What can't be removed like a file, also by root.
  std::filesystem::create_directories(log.path() + ".new/x");
  const auto failed = log.RotateIfLarge();
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(ReadText(log.path()).size(), kSmall + 1);
  Print(std::string(kSmall * kLogOvergrown, 'y'));
  EXPECT_TRUE(log.RotateIfLarge().value());
  EXPECT_EQ(ReadText(log.path()), "");
}

TEST_F(ReplicaLogTest, FollowsNoLink) {
  const std::string target = folder_ + "/target";
  std::ofstream(target) << std::string(2 * kSmall, 'x');
  std::filesystem::create_symlink(target, folder_ + "/s1.log");
  ReplicaLog log(folder_, "s1", kSmall);
  EXPECT_FALSE(log.RotateIfLarge().has_value());
  EXPECT_FALSE(log.Tail(1).has_value());
  EXPECT_EQ(ReadText(target).size(), 2 * kSmall);
}

TEST_F(ReplicaLogTest, LeavesNoFileWhenRemoved) {
  ReplicaLog log(folder_, "s1", kSmall);
  for (int i = 0; i < 3; ++i) {
    Print(std::string(kSmall + 1, 'x'));
    ASSERT_TRUE(log.RotateIfLarge().value());
  }
  log.Remove();
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

// What a follower saw of numbered lines, while their log was rotated.
struct Followed {
  int rotations = 0;
  long lines = 0;
  int gaps = 0;
  bool in_order = true;
};

constexpr std::size_t kLineBytes = 8;  // "1234567\n"

Followed Count(const std::string& lines) {
  Followed followed;
  long expected = 0;
  for (std::size_t at = 0; at + kLineBytes <= lines.size(); at += kLineBytes) {
    const long number = std::stol(lines.substr(at, kLineBytes));
    if (number < expected || lines[at + kLineBytes - 1] != '\n') followed.in_order = false;
    if (number > expected) ++followed.gaps;
    expected = number + 1;
    ++followed.lines;
  }
  return followed;
}

// A process does nothing but print into the log, and its log is rotated twenty times.
Followed FollowPrinter(const std::string& folder) {
  constexpr std::uint64_t kBytesMax = 64 << 10;
  ReplicaLog log(folder, "s1", kBytesMax);
  const FileDescriptor out(
      ::open(log.path().c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  const pid_t printer = ::fork();
  if (printer == 0) {
    for (int i = 0; i < 10'000'000; ++i) {
      const std::string line = fmt::format("{:07}\n", i);
      if (::write(out.get(), line.data(), line.size()) != ssize_t{kLineBytes}) ::_exit(1);
    }
    ::_exit(0);
  }
  std::string all;
  LogText text;
  int rotations = 0;
  const Deadline deadline = Deadline::In(60);
  while (rotations < 20 && !deadline.Passed()) {
    text = log.ReadFrom(text.next).value();
    all += text.text;
    // Not twice without a look between: then the follower would miss a whole file.
    if (text.next.rotations == static_cast<std::uint64_t>(rotations) &&
        log.RotateIfLarge().value()) {
      ++rotations;
    }
  }
  ::kill(printer, SIGKILL);
  ::waitpid(printer, nullptr, 0);
  Followed followed = Count(all);
  followed.rotations = rotations;
  return followed;
}

// Whether files of the folder can be shortened at their beginning.
bool TakesBlocksOff(const std::string& folder) {
  const std::string path = folder + "/probe";
  std::ofstream(path) << std::string(3 * 4096, 'x');
  const FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  const bool can = ::fallocate(file.get(), FALLOC_FL_COLLAPSE_RANGE, 0, 4096) == 0;
  ::unlink(path.c_str());
  return can;
}

TEST_F(ReplicaLogTest, LosesNothingWhileAProcessPrints) {
  if (!TakesBlocksOff(folder_)) GTEST_SKIP() << "needs ext4 or XFS";
  const Followed followed = FollowPrinter(folder_);
  ASSERT_EQ(followed.rotations, 20);
  EXPECT_TRUE(followed.in_order);
  EXPECT_EQ(followed.gaps, 0);
  EXPECT_GT(followed.lines, 20 * (64 << 10) / static_cast<long>(kLineBytes) / 2);
}

// Each rotation may leave a gap there, and nothing may be missing elsewhere.
TEST_F(ReplicaLogTest, LosesOnlyWhatIsPrintedBeforeTheCutWhereBlocksCannotBeTakenOff) {
  std::string folder = "/dev/shm/log-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) GTEST_SKIP() << "needs a writable /dev/shm";
  const bool takes_off = TakesBlocksOff(folder);
  const Followed followed = takes_off ? Followed{} : FollowPrinter(folder);
  std::filesystem::remove_all(folder);
  if (takes_off) GTEST_SKIP() << "/dev/shm is no tmpfs";
  ASSERT_EQ(followed.rotations, 20);
  EXPECT_TRUE(followed.in_order);
  EXPECT_LE(followed.gaps, followed.rotations);
  EXPECT_GT(followed.lines, 20 * (64 << 10) / static_cast<long>(kLineBytes) / 2);
}

}  // namespace
}  // namespace sublet
