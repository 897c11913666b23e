#include "base/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

namespace sublet {
namespace {

using ::testing::HasSubstr;

TEST(OwnProgramPath, IsTheProgramThatRuns) {
  const std::filesystem::path path = OwnProgramPath();
  EXPECT_TRUE(path.is_absolute());
  EXPECT_TRUE(std::filesystem::equivalent(path, "/proc/self/exe"));
}

class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "sublet-files-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ / name; }
  std::size_t FileCount() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::filesystem::path folder_;
};

TEST_F(FilesTest, WhatWasWrittenIsRead) {
  std::string content(300'000, 'x');  // More than one chunk of the reader.
  content[1000] = '\0';
  ASSERT_TRUE(WriteFileAtomically(Path("a"), content));
  EXPECT_EQ(*ReadFile(Path("a"), 1 << 20), content);
  ASSERT_TRUE(WriteFileAtomically(Path("a"), ""));
  EXPECT_EQ(*ReadFile(Path("a"), 1 << 20), "");
}

TEST_F(FilesTest, TheLimitIsTheLastSizeThatIsRead) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), std::string(100, 'x')));
  EXPECT_TRUE(ReadFile(Path("a"), 100));
  const Result<std::string> over = ReadFile(Path("a"), 99);
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(over.error().message, HasSubstr("more than 99 bytes"));
}

TEST_F(FilesTest, AnEndlessFileStopsAtTheLimit) {
  const Result<std::string> endless = ReadFile("/dev/zero", 1 << 20);
  ASSERT_FALSE(endless);
  EXPECT_EQ(endless.error().code, ErrorCode::kInvalid);
}

TEST_F(FilesTest, ReadingSaysWhichFileAndWhy) {
  const Result<std::string> absent = ReadFile(Path("absent"), 100);
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(absent.error().message, HasSubstr(Path("absent")));
  const Result<std::string> folder = ReadFile(folder_, 100);
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code, ErrorCode::kInvalid);
  EXPECT_THAT(folder.error().message, HasSubstr("it is a folder"));
}

TEST_F(FilesTest, WritingReplacesTheFileAndLeavesNothingElse) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "old"));
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "new"));
  EXPECT_EQ(*ReadFile(Path("a"), 100), "new");
  EXPECT_EQ(FileCount(), 1u);
}

TEST_F(FilesTest, TheModeIsTheOneAskedForWhateverTheUmask) {
  const mode_t before = ::umask(077);
  const bool written = WriteFileAtomically(Path("a"), "x").has_value() &&
                       WriteFileAtomically(Path("b"), "x", 0600).has_value();
  ::umask(before);
  ASSERT_TRUE(written);
  struct stat status {};
  ASSERT_EQ(::stat(Path("a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0644u);
  ASSERT_EQ(::stat(Path("b").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
}

TEST_F(FilesTest, AFailedWriteLeavesTheTargetAndNoLitter) {
  const Status no_folder = WriteFileAtomically(Path("absent/a"), "x");
  ASSERT_FALSE(no_folder);
  EXPECT_EQ(no_folder.error().code, ErrorCode::kNotFound);

  // The target is a folder with something in it, so the rename is refused.
  std::filesystem::create_directory(Path("target"));
  ASSERT_TRUE(WriteFileAtomically(Path("target/kept"), "kept"));
  EXPECT_FALSE(WriteFileAtomically(Path("target"), "x"));
  EXPECT_EQ(*ReadFile(Path("target/kept"), 100), "kept");
  EXPECT_EQ(FileCount(), 1u) << "the file written beside is gone again";
}

TEST_F(FilesTest, AFolderThatMayNotBeWrittenIsAPermissionError) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  std::filesystem::permissions(
      folder_, std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  const Status refused = WriteFileAtomically(Path("a"), "x");
  std::filesystem::permissions(folder_, std::filesystem::perms::owner_all);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kPermission);
}

// A reader that runs beside a writer sees one whole content or the other.
TEST_F(FilesTest, ALinkStaysALinkAndItsTargetIsReplaced) {
  ASSERT_TRUE(WriteFileAtomically(Path("target"), "old"));
  std::filesystem::create_symlink(Path("target"), Path("link"));
  ASSERT_TRUE(WriteFileAtomically(Path("link"), "new"));
  EXPECT_TRUE(std::filesystem::is_symlink(Path("link")));
  EXPECT_EQ(*ReadFile(Path("target"), 100), "new");
}

TEST_F(FilesTest, APipeIsWrittenToAndStaysAPipe) {
  ASSERT_EQ(::mkfifo(Path("pipe").c_str(), 0600), 0);
  std::string got;
  std::thread reader([&] { got = ReadFile(Path("pipe"), 100).value_or(""); });
  ASSERT_TRUE(WriteFileAtomically(Path("pipe"), "content"));
  reader.join();
  EXPECT_EQ(got, "content");
  EXPECT_TRUE(std::filesystem::is_fifo(Path("pipe")));
}

TEST_F(FilesTest, AReaderNeverSeesHalfAFile) {
  const std::string first(200'000, 'a');
  const std::string second(100'000, 'b');
  ASSERT_TRUE(WriteFileAtomically(Path("a"), first));
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; i < 50; ++i) {
      EXPECT_TRUE(WriteFileAtomically(Path("a"), i % 2 == 0 ? second : first));
    }
    done = true;
  });
  int reads = 0;
  while (!done || reads == 0) {
    const Result<std::string> content = ReadFile(Path("a"), 1 << 20);
    ASSERT_TRUE(content);
    EXPECT_TRUE(*content == first || *content == second) << content->size();
    ++reads;
  }
  writer.join();
}

TEST(FailFromErrnoTest, EachCauseHasItsCode) {
  const auto code = [](int error_number) { return FailFromErrno(error_number, "x").value().code; };
  EXPECT_EQ(code(ENOENT), ErrorCode::kNotFound);
  EXPECT_EQ(code(ENOTDIR), ErrorCode::kNotFound);
  EXPECT_EQ(code(EACCES), ErrorCode::kPermission);
  EXPECT_EQ(code(EPERM), ErrorCode::kPermission);
  EXPECT_EQ(code(EROFS), ErrorCode::kPermission);
  EXPECT_EQ(code(ENOSPC), ErrorCode::kIo);
  EXPECT_EQ(FailFromErrno(ENOENT, "reading a").value().message,
            "reading a: No such file or directory");
}

}  // namespace
}  // namespace sublet
