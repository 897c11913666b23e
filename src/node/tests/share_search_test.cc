#include "node/share_search.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <string>
#include <vector>

#include "base/child_process.h"
#include "base/clock.h"
#include "base/process_handle.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

class ShareSearchTest : public ::testing::Test {
 protected:
  ~ShareSearchTest() override { pool_.join(); }

  ChildProcess Sleeper(const std::string& share) {
    ChildOptions options{.argv = {"/bin/sleep", "60"}};
    options.environment.Set("SUBLET_SHARE", share).Set("SUBLET_STATE", state_);
    return ChildProcess::Start(options).value();
  }
  void Run(Task<void> task) {
    asio::co_spawn(loop_, std::move(task), EndsTheProgram);
    loop_.run();
    loop_.restart();
  }
  Task<void> FindInto(std::shared_ptr<const ShareProcesses>& found) {
    found = co_await search_->Find();
  }

  asio::io_context loop_;
  asio::thread_pool pool_{2};
  // Of no other test.
  const std::string state_ = fmt::format("/search/{}-{}", ::getpid(), MonotonicNanoseconds());
  const std::shared_ptr<ShareSearch> search_ = std::make_shared<ShareSearch>(loop_, pool_, state_);
};

TEST_F(ShareSearchTest, FindsEachSharesProcesses) {
  const ChildProcess one = Sleeper("s1");
  const ChildProcess two = Sleeper("s2");
  const ChildProcess more = Sleeper("s2");
  std::shared_ptr<const ShareProcesses> found;
  Run(FindInto(found));
  EXPECT_THAT(*found,
              UnorderedElementsAre(Pair("s1", ElementsAre(one.pid())),
                                   Pair("s2", UnorderedElementsAre(two.pid(), more.pid()))));
}

TEST_F(ShareSearchTest, ServesAllWhoAskAtOnceByOneLook) {
  const ChildProcess one = Sleeper("s1");
  std::vector<std::shared_ptr<const ShareProcesses>> found(100);
  for (auto& each : found) asio::co_spawn(loop_, FindInto(each), EndsTheProgram);
  loop_.run();
  for (const auto& each : found) EXPECT_EQ(each, found.front());
}

// What began before the question may have passed the process already.
TEST_F(ShareSearchTest, LooksAnewForWhoAsksLater) {
  std::shared_ptr<const ShareProcesses> before;
  std::shared_ptr<const ShareProcesses> after;
  asio::co_spawn(loop_, FindInto(before), EndsTheProgram);
  loop_.poll();  // The look is under way, or over already, which stops a loop.
  loop_.restart();
  const ChildProcess one = Sleeper("s1");
  asio::co_spawn(loop_, FindInto(after), EndsTheProgram);
  loop_.run();
  EXPECT_NE(before, after);
  EXPECT_THAT(*after, ElementsAre(Pair("s1", ElementsAre(one.pid()))));
}

TEST_F(ShareSearchTest, FindsNobodyOfAnotherNode) {
  ChildOptions options{.argv = {"/bin/sleep", "60"}};
  options.environment.Set("SUBLET_SHARE", "s1").Set("SUBLET_STATE", state_ + "-other");
  const ChildProcess other = ChildProcess::Start(options).value();
  std::shared_ptr<const ShareProcesses> found;
  Run(FindInto(found));
  EXPECT_THAT(*found, IsEmpty());
}

}  // namespace
}  // namespace sublet
