// Lines as driver 580 wrote them on an H200, and a log that grows, shrinks and is replaced.

#include "mps/log_reader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace sublet {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct Row {
  const char* line;
  MpsEventKind kind;
  int pid;
  int writer;
};

TEST(MpsLog, TellsWhatHappenedToWhom) {
  using Kind = MpsEventKind;
  const Row rows[] = {
      {"[2026-11-21 09:53:07.047 Control   667] NEW SERVER 679: Ready", Kind::kServerStarted, 679,
       667},
      {"[2026-11-21 09:53:07.047 Control   571] Server 571 exited with status 0",
       Kind::kServerExited, 571, 571},
      {"[2026-11-21 09:53:07.047 Server   679] Client {PID: 676, Context ID: 0} connected",
       Kind::kClientConnected, 676, 679},
      {"[2026-11-21 09:53:07.047 Server   679] Client {PID: 676, Context ID: 1} connected",
       Kind::kOther, 0, 679},
      {"[2026-11-21 09:53:07.047 Server 34571] Client process 581 disconnected",
       Kind::kClientExited, 581, 34571},
      {"[2026-11-21 09:53:07.047 Server   571] MPS server requesting client {PID: 609, Context "
       "ID: 1} to exit",
       Kind::kClientTerminated, 609, 571},
      {"[2026-11-21 09:53:07.047 Server   710] Failed to accept client {PID: 784, Context ID: 0} "
       "with status 807",
       Kind::kClientRefused, 784, 710},
      {"[2026-11-21 09:53:07.047 Server  2639] Failed to accept new client. Maximum number of "
       "clients (48) reached.",
       Kind::kClientRefused, 0, 2639},
      {"[2026-11-21 09:53:07.047 Server   710] Client {PID: 701, Context: 1} encountered a fatal "
       "GPU error.",
       Kind::kOther, 0, 710},
      {"[2026-11-21 09:53:07.047 Server   710] Server is handling a fatal GPU error.", Kind::kFault,
       0, 710},
      {"[2026-11-21 09:53:07.047 Server   710] Client {PID: 703, Context ID: 1} on device 0 to be "
       "torn down",
       Kind::kClientLost, 703, 710},
      {"[2026-11-21 09:53:07.047 Server   710] Client {PID: 703, Context ID: 1} on the "
       "error-trigging process 701 to be torn down",
       Kind::kOther, 0, 710},
  };
  for (const Row& row : rows) {
    const MpsEvent event = ParseMpsLine(row.line);
    EXPECT_EQ(event.kind, row.kind) << row.line;
    EXPECT_EQ(event.pid, row.pid) << row.line;
    EXPECT_EQ(event.writer, row.writer) << row.line;
  }
  EXPECT_EQ(ParseMpsLine(rows[1].line).text, "Server 571 exited with status 0");
}

TEST(MpsLog, TakesNothingFromNoise) {
  for (const char* line :
       {"", "[", "] ", "[]", "[2026] x", "no time at all",
        "[2026-11-21 09:53:07.047 Control   507] User did not send valid credentials",
        "[2026-11-21 09:53:07.047 Control   507] Cmd:terminate_client 571 609",
        "[2026-11-21 09:53:07.047 Server   507] Received new client request for {PID: -1333654781, "
        "Context ID: 0}",
        "[2026-11-21 09:53:07.047 Server   571] Client {PID: 581, Context ID: 1} exiting. Number "
        "of active client contexts is 0.",
        "Client process x disconnected", "Client {PID: 99999999999999, Context ID: 0} con"}) {
    EXPECT_EQ(ParseMpsLine(line).kind, MpsEventKind::kOther) << line;
  }
}

class LogTailTest : public ::testing::Test {
 protected:
  LogTailTest() { EXPECT_NE(::mkdtemp(folder_.data()), nullptr); }
  ~LogTailTest() override { fs::remove_all(folder_); }

  void Append(const std::string& text) const { std::ofstream(path_, std::ios::app) << text; }
  static std::string Gone(int pid) {
    return "[2026-11-21 09:53:07.047 Server   571] Client process " + std::to_string(pid) +
           " disconnected\n";
  }
  static std::vector<int> Pids(LogTail& tail) {
    std::vector<int> pids;
    for (const MpsEvent& event : tail.Read()) pids.push_back(event.pid);
    return pids;
  }

  std::string folder_ = ::testing::TempDir() + "sublet-log-XXXXXX";
  std::string path_ = "";

  void SetUp() override { path_ = folder_ + "/control.log"; }
};

TEST_F(LogTailTest, TellsEachLineOnce) {
  LogTail tail(path_, ::geteuid(), LogTail::From::kBegin);
  EXPECT_THAT(Pids(tail), IsEmpty()) << "there is no file";
  Append(Gone(1) + Gone(2));
  EXPECT_THAT(Pids(tail), ElementsAre(1, 2));
  EXPECT_THAT(Pids(tail), IsEmpty());
  Append(Gone(3).substr(0, 60));
  EXPECT_THAT(Pids(tail), IsEmpty()) << "half a line";
  Append(Gone(3).substr(60));
  EXPECT_THAT(Pids(tail), ElementsAre(3));
}

TEST_F(LogTailTest, BeginsAtTheEndWhereThatIsAskedFor) {
  Append(Gone(1));
  LogTail tail(path_, ::geteuid(), LogTail::From::kEnd);
  Append(Gone(2));
  EXPECT_THAT(Pids(tail), ElementsAre(2)) << "what came between the two calls isn't lost";
}

TEST_F(LogTailTest, BeginsAnewWithAnotherOrAShorterFile) {
  LogTail tail(path_, ::geteuid(), LogTail::From::kBegin);
  Append(Gone(1) + Gone(2));
  EXPECT_THAT(Pids(tail), ElementsAre(1, 2));
  fs::resize_file(path_, 0);
  Append(Gone(3));
  EXPECT_THAT(Pids(tail), ElementsAre(3));
  fs::rename(path_, path_ + ".1");
  Append(Gone(4) + Gone(5) + Gone(6));
  EXPECT_THAT(Pids(tail), ElementsAre(4, 5, 6));
}

TEST_F(LogTailTest, ReadsNeitherLinksNorPipesNorOthersFiles) {
  std::ofstream(folder_ + "/other") << Gone(1);
  fs::create_symlink(folder_ + "/other", path_);
  LogTail link(path_, ::geteuid(), LogTail::From::kBegin);
  EXPECT_THAT(Pids(link), IsEmpty());
  fs::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  LogTail pipe(path_, ::geteuid(), LogTail::From::kBegin);
  EXPECT_THAT(Pids(pipe), IsEmpty());
  fs::remove(path_);
  Append(Gone(2));
  LogTail others(path_, ::geteuid() + 1, LogTail::From::kBegin);
  EXPECT_THAT(Pids(others), IsEmpty());
}

TEST_F(LogTailTest, SurvivesALineWithoutEndAndAFlood) {
  LogTail tail(path_, ::geteuid(), LogTail::From::kBegin);
  for (int i = 0; i < 20; ++i) {
    Append(std::string(100'000, 'x'));
    EXPECT_THAT(Pids(tail), IsEmpty());
  }
  Append("\n" + Gone(1));
  EXPECT_THAT(Pids(tail), ElementsAre(1));
  Append(Gone(2) + std::string(3 << 20, '\n') + Gone(3));
  EXPECT_THAT(Pids(tail), ElementsAre(3)) << "only the last of a flood";
}

TEST_F(LogTailTest, GivesBackTheRoomOfWhatWasRead) {
  LogTail tail(path_, ::geteuid(), LogTail::From::kBegin);
  for (int i = 0; i < 40; ++i) {
    Append(std::string(100'000, '\n'));
    Pids(tail);
  }
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 4'000'000);
  const int file = ::open(path_.c_str(), O_RDWR);
  const bool can = ::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
  ::close(file);
  if (!can) GTEST_SKIP() << "this file system keeps what it has";
  EXPECT_LT(status.st_blocks * 512, 2'000'000);
  Append(Gone(1));
  EXPECT_THAT(Pids(tail), ElementsAre(1));
}

}  // namespace
}  // namespace sublet
