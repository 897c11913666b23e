#include "kube/folder_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <vector>

namespace sublet {
namespace {

namespace fs = std::filesystem;

class FolderWatchTest : public ::testing::Test {
 protected:
  FolderWatchTest() {
    EXPECT_NE(::mkdtemp(folder_.data()), nullptr);
    watch_ = std::make_shared<FolderWatch>(loop_, [this](const FolderChange& change) {
      changes_.push_back(change);
      loop_.stop();
    });
    EXPECT_TRUE(watch_->Start().has_value());
  }
  ~FolderWatchTest() override {
    watch_->Stop();
    watch_.reset();
    loop_.restart();
    loop_.run_for(std::chrono::seconds(5));  // Its coroutines end.
    fs::remove_all(folder_);
  }

  // Runs the loop until a change is as it should be; false after ten seconds.
  bool Await(const std::function<bool(const FolderChange&)>& is) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    std::size_t seen = 0;
    while (std::chrono::steady_clock::now() < until) {
      for (; seen < changes_.size(); ++seen) {
        if (is(changes_[seen])) return true;
      }
      loop_.restart();
      loop_.run_until(until);
    }
    return false;
  }

  std::string folder_ = "/tmp/sublet-test-XXXXXX";
  asio::io_context loop_;
  std::vector<FolderChange> changes_;
  std::shared_ptr<FolderWatch> watch_;
};

TEST_F(FolderWatchTest, TellsWhatComesChangesAndGoes) {
  watch_->Watch(folder_);
  std::ofstream(folder_ + "/kubelet.sock") << "x";
  EXPECT_TRUE(Await([&](const FolderChange& one) {
    return one.folder == folder_ && one.name == "kubelet.sock" && !one.is_gone;
  }));
  changes_.clear();
  fs::rename(folder_ + "/kubelet.sock", folder_ + "/config.yaml");
  EXPECT_TRUE(
      Await([](const FolderChange& one) { return one.name == "kubelet.sock" && one.is_gone; }));
  EXPECT_TRUE(
      Await([](const FolderChange& one) { return one.name == "config.yaml" && !one.is_gone; }));
  changes_.clear();
  fs::remove(folder_ + "/config.yaml");
  EXPECT_TRUE(
      Await([](const FolderChange& one) { return one.name == "config.yaml" && one.is_gone; }));
}

TEST_F(FolderWatchTest, FindsAFolderOnceItIsThereAndAgain) {
  const std::string later = folder_ + "/later";
  watch_->Watch(later);
  fs::create_directory(later);
  const auto is_found = [&](const FolderChange& one) {
    return one.folder == later && one.name.empty() && !one.is_gone;
  };
  EXPECT_TRUE(Await(is_found));
  changes_.clear();
  fs::remove(later);
  EXPECT_TRUE(Await([&](const FolderChange& one) { return one.folder == later && one.is_gone; }));
  changes_.clear();
  fs::create_directory(later);
  EXPECT_TRUE(Await(is_found));
  changes_.clear();
  std::ofstream(later + "/file") << "x";
  EXPECT_TRUE(Await([](const FolderChange& one) { return one.name == "file"; }));
}

}  // namespace
}  // namespace sublet
