#include "node/bell.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class BellTest : public ::testing::Test {
 protected:
  // Runs a coroutine to its end, with all that it waits for.
  void Run(Task<void> task) {
    asio::co_spawn(loop_, std::move(task), EndsTheProgram);
    loop_.run();
    loop_.restart();
  }

  Task<void> Note(Bell& bell, std::string what, Moment until) {
    co_await bell.Wait(until);
    notes_.push_back(std::move(what));
  }

  Task<void> NoteNext(Broadcast& broadcast, std::string what) {
    co_await broadcast.Next();
    notes_.push_back(std::move(what));
  }

  asio::io_context loop_{1};
  std::vector<std::string> notes_;
};

TEST_F(BellTest, WaitsUntilItsTime) {
  Bell bell(loop_);
  const Moment until = MomentIn(0.02);
  Run(Note(bell, "time", until));
  EXPECT_THAT(notes_, ElementsAre("time"));
  EXPECT_GE(Clock(), until);
}

TEST_F(BellTest, ARingEndsAWaitWithoutTime) {
  Bell bell(loop_);
  asio::post(loop_, [&] { bell.Ring(); });
  Run(Note(bell, "rung", kNever));
  EXPECT_THAT(notes_, ElementsAre("rung"));
}

TEST_F(BellTest, ARingBeforeTheWaitIsNotLost) {
  Bell bell(loop_);
  bell.Ring();
  Run(Note(bell, "rung", kNever));
  EXPECT_THAT(notes_, ElementsAre("rung"));
}

TEST_F(BellTest, OneRingEndsOneWait) {
  Bell bell(loop_);
  bell.Ring();
  Run(Note(bell, "first", kNever));
  Run(Note(bell, "second", MomentIn(0.01)));
  EXPECT_THAT(notes_, ElementsAre("first", "second"));
}

TEST_F(BellTest, ABroadcastWakesEverybodyWhoWaits) {
  Broadcast broadcast(loop_);
  asio::co_spawn(loop_, NoteNext(broadcast, "a"), EndsTheProgram);
  asio::co_spawn(loop_, NoteNext(broadcast, "b"), EndsTheProgram);
  loop_.poll();
  EXPECT_THAT(notes_, IsEmpty());
  broadcast.Announce();
  loop_.run();
  EXPECT_THAT(notes_, ::testing::UnorderedElementsAre("a", "b"));
}

TEST_F(BellTest, ABroadcastIsNotKeptForWhoComesLater) {
  Broadcast broadcast(loop_);
  broadcast.Announce();
  asio::co_spawn(loop_, NoteNext(broadcast, "late"), EndsTheProgram);
  loop_.poll();
  EXPECT_THAT(notes_, IsEmpty());
  broadcast.Announce();
  loop_.run();
  EXPECT_THAT(notes_, ElementsAre("late"));
}

Task<Status> After(asio::io_context& loop, double seconds, Status status, int& done) {
  Bell pause(loop);
  co_await pause.Wait(MomentIn(seconds));
  ++done;
  co_return status;
}

Task<void> Gather(asio::io_context& loop, std::vector<Task<Status>> tasks, Status& into) {
  into = co_await AllOf(loop, std::move(tasks));
}

TEST_F(BellTest, AllOfWaitsForEveryTaskAndTellsTheFirstFailure) {
  int done = 0;
  const Status early = Fail(ErrorCode::kIo, "early");
  const Status late = Fail(ErrorCode::kConflict, "late");
  std::vector<Task<Status>> tasks;
  tasks.push_back(After(loop_, 0.03, late, done));
  tasks.push_back(After(loop_, 0.0, early, done));
  tasks.push_back(After(loop_, 0.01, Status{}, done));
  Status result;
  Run(Gather(loop_, std::move(tasks), result));
  EXPECT_EQ(done, 3);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message, "early");
}

TEST_F(BellTest, AllOfNothingSucceedsAtOnce) {
  Status result = Fail(ErrorCode::kIo, "not asked");
  Run(Gather(loop_, {}, result));
  EXPECT_TRUE(result);
}

}  // namespace
}  // namespace sublet
