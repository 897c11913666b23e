#include "proxy/file_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <filesystem>

#include "base/files.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

class FileWatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "file_watch.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    Result<std::unique_ptr<FileWatch>> watch = FileWatch::Open(loop_);
    ASSERT_TRUE(watch) << watch.error().message;
    watch_ = std::move(*watch);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string At(const std::string& name) const { return folder_ + "/" + name; }

  // Whether a change is told within the time in which one would be.
  bool Told(std::chrono::milliseconds within = 2000ms) {
    bool told = false;
    const auto wait = [](FileWatch& watch, bool& out, asio::io_context& loop) -> Task<void> {
      out = co_await watch.Changed();
      loop.stop();
    };
    asio::co_spawn(loop_, wait(*watch_, told, loop_), EndsTheProgram);
    asio::steady_timer limit(loop_, within);
    limit.async_wait([this](const boost::system::error_code& error) {
      if (!error) loop_.stop();
    });
    loop_.restart();
    loop_.run();
    return told;
  }

  asio::io_context loop_;
  std::string folder_;
  std::unique_ptr<FileWatch> watch_;
};

TEST_F(FileWatchTest, TellsWhenTheFileIsReplaced) {
  EXPECT_THAT(watch_->Follow({At("route.yaml")}), IsEmpty());
  ASSERT_TRUE(WriteFileAtomically(At("route.yaml"), "a"));
  EXPECT_TRUE(Told());
}

TEST_F(FileWatchTest, TellsWhenKubernetesSwapsItsLink) {
  std::filesystem::create_directory(At("..1"));
  std::filesystem::create_directory(At("..2"));
  std::filesystem::create_directory_symlink("..1", At("..data"));
  ASSERT_TRUE(WriteFileAtomically(At("..1/route.yaml"), "a"));
  std::filesystem::create_symlink("..data/route.yaml", At("route.yaml"));
  watch_->Follow({At("route.yaml")});
  std::filesystem::create_directory_symlink("..2", At("..data_tmp"));
  std::filesystem::rename(At("..data_tmp"), At("..data"));
  EXPECT_TRUE(Told());
}

TEST_F(FileWatchTest, IsSilentAboutOtherFiles) {
  watch_->Follow({At("route.yaml")});
  ASSERT_TRUE(WriteFileAtomically(At("other.yaml"), "a"));
  EXPECT_FALSE(Told(100ms));
}

TEST_F(FileWatchTest, NamesFoldersThatAreNotThere) {
  EXPECT_THAT(watch_->Follow({At("none/keys.yaml"), At("route.yaml")}), ElementsAre(At("none")));
  ASSERT_TRUE(WriteFileAtomically(At("route.yaml"), "a"));
  EXPECT_TRUE(Told());
}

}  // namespace
}  // namespace sublet
