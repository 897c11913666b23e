#include "mps/private_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/child_process.h"
#include "mps/folder_users.h"

namespace sublet {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class PrivateFolderTest : public ::testing::Test {
 protected:
  PrivateFolderTest() { EXPECT_NE(::mkdtemp(parent_.data()), nullptr); }
  ~PrivateFolderTest() override { fs::remove_all(parent_); }

  std::string parent_ = ::testing::TempDir() + "sublet-folders-XXXXXX";
};

TEST_F(PrivateFolderTest, IsClosedToOthersAndGoesWithItsOwner) {
  std::string path;
  {
    auto folder = PrivateFolder::Make(parent_, "test-");
    ASSERT_TRUE(folder.has_value());
    path = folder->path();
    struct stat status {};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700u);
    std::ofstream(path + "/file") << "content";
    const PrivateFolder moved = std::move(*folder);
    folder->Remove();
    EXPECT_TRUE(fs::exists(path));
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST_F(PrivateFolderTest, LeavesThoseThatHaveAnOwner) {
  const auto first = PrivateFolder::Make(parent_, "test-");
  const auto second = PrivateFolder::Make(parent_, "test-");
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_TRUE(fs::exists(first->path()));
  EXPECT_NE(first->path(), second->path());
}

TEST_F(PrivateFolderTest, RemovesWhatAKilledOwnerLeft) {
  const pid_t owner = ::fork();
  ASSERT_GE(owner, 0);
  if (owner == 0) {
    const auto folder = PrivateFolder::Make(parent_, "test-");
    std::ofstream(folder->path() + "/file") << "content";
    ::kill(::getpid(), SIGKILL);
  }
  ::waitpid(owner, nullptr, 0);
  fs::create_directory(parent_ + "/other-folder");
  fs::create_directory_symlink("/usr", parent_ + "/test-link");
  ASSERT_EQ(std::distance(fs::directory_iterator(parent_), {}), 3);
  const auto folder = PrivateFolder::Make(parent_, "test-");
  ASSERT_TRUE(folder.has_value());
  // The left one is gone; what isn't ours by name, or is no folder, stays.
  EXPECT_EQ(std::distance(fs::directory_iterator(parent_), {}), 3);
  EXPECT_TRUE(fs::exists(parent_ + "/other-folder"));
  EXPECT_TRUE(fs::exists(parent_ + "/test-link"));
}

TEST_F(PrivateFolderTest, EndsWhoIsLeftInAFolderWithoutAnOwner) {
  const std::string left = parent_ + "/test-left";
  fs::create_directory(left);
  ChildOptions options{.argv = {"/bin/sleep", "60"}};
  options.environment.Set("CUDA_MPS_PIPE_DIRECTORY", left);
  auto user = ChildProcess::Start(options);
  ASSERT_TRUE(user.has_value());
  EXPECT_THAT(FolderUsers(left), ElementsAre(user->pid()));
  const auto folder = PrivateFolder::Make(parent_, "test-");
  EXPECT_FALSE(fs::exists(left));
  EXPECT_THAT(FolderUsers(left), IsEmpty());
  EXPECT_EQ(user->Wait(Deadline::In(10))->signal, SIGKILL);
}

TEST_F(PrivateFolderTest, TakesNobodyElseForAUser) {
  ChildOptions options{.argv = {"/bin/sleep", "60"}};
  options.environment.Set("CUDA_MPS_PIPE_DIRECTORY", parent_ + "/test-other");
  auto neighbour = ChildProcess::Start(options);
  ASSERT_TRUE(neighbour.has_value());
  EXPECT_THAT(FolderUsers(parent_ + "/test"), IsEmpty());
  EXPECT_TRUE(EndFolderUsers(parent_ + "/test", 0));
  EXPECT_FALSE(neighbour->Wait(Deadline::In(0)).has_value());
}

TEST_F(PrivateFolderTest, SaysWhereItCannotBeMade) {
  const auto folder = PrivateFolder::Make(parent_ + "/missing", "test-");
  ASSERT_FALSE(folder.has_value());
  EXPECT_EQ(folder.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace sublet
