#include "proxy/access_log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/files.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

AccessRecord Record() {
  AccessRecord record;
  record.status = 200;
  record.upstream_status = 200;
  record.method = "POST";
  record.path = "/v1/chat/completions";
  record.client = "10.0.0.1";
  record.request_id = "r1";
  record.kind = RequestKind::kChat;
  record.model = "llama";
  record.tenant = "shop";
  record.stream = true;
  record.replica = "chat/0";
  record.policy = "cost";
  record.reason = "holds 512 of 900 tokens; the least cost, 30 ms";
  record.tries = 1;
  record.bytes_in = 2000;
  record.bytes_out = 5000;
  record.prompt_tokens_expected = 900;
  record.cached_tokens_expected = 512;
  record.prompt_tokens = 880;
  record.total_ns = 1'234'567'890;
  record.first_token_ns = 45'678'000;
  return record;
}

class AccessLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "access_log.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string At(const std::string& name) const { return folder_ + "/" + name; }
  static std::string ContentOf(const std::string& path) {
    return ReadFile(path, std::size_t{16} << 20).value_or("");
  }

  std::string folder_;
};

TEST(AccessLine, IsOneObjectOfWhatWasDecided) {
  const std::string line = AccessLine(Record(), "2026-11-21T10:00:00.123Z", false);
  ASSERT_TRUE(line.ends_with("}\n"));
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["time"], "2026-11-21T10:00:00.123Z");
  EXPECT_EQ(json["status"], 200);
  EXPECT_EQ(json["outcome"], "served");
  EXPECT_EQ(json["replica"], "chat/0");
  EXPECT_EQ(json["reason"], "holds 512 of 900 tokens; the least cost, 30 ms");
  EXPECT_EQ(json["prompt_tokens"], 880);
  EXPECT_EQ(json["cached_tokens_expected"], 512);
  EXPECT_EQ(json["total_ms"], 1234.568);
  EXPECT_EQ(json["first_token_ms"], 45.678);
  EXPECT_EQ(json["stream"], true);
  for (const char* absent : {"error", "simulated", "cached_tokens", "first_byte_ms", "queued"}) {
    EXPECT_FALSE(json.contains(absent)) << absent;
  }
  EXPECT_TRUE(nlohmann::json::parse(AccessLine(Record(), "t", true))["simulated"]);
}

TEST(AccessLine, StaysOneLineOfJsonWhateverAClientSends) {
  for (const std::string& model :
       {std::string("a\"b\\c\nd\re\0f", 10), std::string("\x7f\x80\xff\xc0\xaf"),
        std::string("\xed\xa0\x80"), std::string("\xf5\x80\x80\x80"), std::string("caf\xc3\xa9"),
        std::string(5000, 'x'), std::string("\xe2\x82"), std::string(255, 'y') + "\xc3\xa9"}) {
    AccessRecord record = Record();
    record.model = model;
    const std::string line = AccessLine(record, "t", false);
    EXPECT_EQ(line.find('\n'), line.size() - 1);
    EXPECT_TRUE(nlohmann::json::accept(line)) << line;
    EXPECT_LT(line.size(), 2500u);
  }
  AccessRecord record = Record();
  record.model = "caf\xc3\xa9";
  EXPECT_EQ(nlohmann::json::parse(AccessLine(record, "t", false))["model"], "caf\xc3\xa9");
}

TEST_F(AccessLogTest, AppendsLinesOfManyThreads) {
  auto log = AccessLog::Open({.path = At("a.jsonl"), .lines_max = 100'000});
  ASSERT_TRUE(log) << log.error().message;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 500; ++k) (*log)->Write(Record(), "t", false);
    });
  }
  for (std::thread& thread : threads) thread.join();
  (*log)->Flush();
  const std::string content = ContentOf(At("a.jsonl"));
  EXPECT_EQ(std::count(content.begin(), content.end(), '\n'), 2000);
  EXPECT_EQ((*log)->dropped(), 0);
  struct stat info {};
  ASSERT_EQ(::stat(At("a.jsonl").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0007, 0u);
}

TEST_F(AccessLogTest, WritesWhatWaitsWhenItGoes) {
  {
    auto log = AccessLog::Open({.path = At("a.jsonl")});
    ASSERT_TRUE(log);
    for (int k = 0; k < 10; ++k) (*log)->Write(Record(), "t", false);
  }
  const std::string content = ContentOf(At("a.jsonl"));
  EXPECT_EQ(std::count(content.begin(), content.end(), '\n'), 10);
}

TEST_F(AccessLogTest, GoesOnInANewFileAfterRotation) {
  auto log = AccessLog::Open({.path = At("a.jsonl")});
  ASSERT_TRUE(log);
  (*log)->Write(Record(), "before", false);
  (*log)->Flush();
  std::filesystem::rename(At("a.jsonl"), At("a.jsonl.1"));
  ASSERT_TRUE((*log)->Reopen(At("a.jsonl")));
  (*log)->Flush();
  (*log)->Write(Record(), "after", false);
  (*log)->Flush();
  EXPECT_THAT(ContentOf(At("a.jsonl.1")), HasSubstr("before"));
  EXPECT_THAT(ContentOf(At("a.jsonl")), HasSubstr("after"));
  EXPECT_THAT(ContentOf(At("a.jsonl")), Not(HasSubstr("before")));
  EXPECT_FALSE((*log)->Reopen(At("none/a.jsonl")));
  (*log)->Write(Record(), "still", false);
  (*log)->Flush();
  EXPECT_THAT(ContentOf(At("a.jsonl")), HasSubstr("still"));
}

TEST_F(AccessLogTest, NeverWaitsForADiskAndCountsWhatItDrops) {
  // A pipe that nobody reads from takes 64 KiB, and then blocks its writer.
  ASSERT_EQ(::mkfifo(At("pipe").c_str(), 0600), 0);
  const int reader = ::open(At("pipe").c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  auto log = AccessLog::Open({.path = At("pipe"), .lines_max = 16});
  ASSERT_TRUE(log) << log.error().message;
  for (int k = 0; k < 5000; ++k) (*log)->Write(Record(), "t", false);
  EXPECT_GT((*log)->dropped(), 0);
  ::close(reader);  // The writer gets EPIPE.
}

TEST_F(AccessLogTest, SaysWhereItCannotWrite) {
  const auto log = AccessLog::Open({.path = At("none/a.jsonl")});
  ASSERT_FALSE(log);
  EXPECT_EQ(log.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(log.error().message, HasSubstr(At("none/a.jsonl")));
}

}  // namespace
}  // namespace sublet
