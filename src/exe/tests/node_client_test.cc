#include "exe/node_client.h"

#include <gmock/gmock.h>

#include "exe/start_daemon.h"

namespace sublet {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

TEST(NodeClient, ReadsAShareWithItsEnvironmentInOrder) {
  const Result<GrantedShare> granted = ParseGrantedShare(
      R"({"share":{"id":"s1","name":"sh","tenant":"default","mode":"mps","gpu_uuid":"GPU-1",
          "memory_mib":100,"domain":"gpu0-default","enforcement":[],"reason":"it fits"},
          "environment":{"Z":"1","CUDA_MPS_PINNED_DEVICE_MEM_LIMIT":null,"A":""},
          "log":"/state/logs/s1.log"})",
      "answer");
  ASSERT_TRUE(granted) << granted.error().message;
  EXPECT_EQ(granted->share.id, "s1");
  EXPECT_EQ(granted->log, "/state/logs/s1.log");
  EXPECT_THAT(granted->environment,
              ElementsAre(Pair("Z", std::optional<std::string>("1")),
                          Pair("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", std::nullopt),
                          Pair("A", std::optional<std::string>(""))));
}

TEST(NodeClient, RefusesAnAnswerThatIsNoShare) {
  for (const char* text : {"", "[]", "{}", R"({"share":{},"environment":[]})",
                           R"({"share":{"id":"s1"},"environment":{}})"}) {
    EXPECT_FALSE(ParseGrantedShare(text, "answer")) << text;
  }
}

TEST(NodeClient, AnEnvironmentOfAnythingButTextIsRefused) {
  const Result<GrantedShare> granted =
      ParseGrantedShare(R"({"share":{},"environment":{"A":1}})", "answer");
  ASSERT_FALSE(granted);
}

TEST(NodeClient, ReadsALineOfAnOperation) {
  const auto step =
      ParseOperationLine(R"({"step":"replica chat/0","state":"failed","message":"it ended"})");
  ASSERT_TRUE(step && *step);
  EXPECT_EQ((*step)->step, "replica chat/0");
  EXPECT_EQ((*step)->state, "failed");
  EXPECT_EQ((*step)->message, "it ended");
}

TEST(NodeClient, ALineSaysThatAllIsDone) {
  const auto step = ParseOperationLine(R"({"done":true})");
  ASSERT_TRUE(step);
  EXPECT_FALSE(*step);
}

TEST(NodeClient, ALinesErrorComesOutAsItWentIn) {
  const auto step =
      ParseOperationLine(R"({"error":{"code":"infeasible","message":"no room","hint":"buy one"}})");
  ASSERT_FALSE(step);
  EXPECT_EQ(step.error().code, ErrorCode::kInfeasible);
  EXPECT_EQ(step.error().message, "no room");
  EXPECT_EQ(step.error().hint, "buy one");
}

TEST(NodeClient, ALineOfSomethingElseIsAnError) {
  EXPECT_FALSE(ParseOperationLine("<html>"));
}

TEST(StartDaemon, SaysWhatTheDaemonsErrorWas) {
  const Error why = WhyDaemonEnded({.status = 5},
                                   "2026-11-21T10:00:00 info begins\n"
                                   "sublet: no NVIDIA driver\n"
                                   "  hint: install one\n");
  EXPECT_EQ(why.code, ErrorCode::kUnavailable);
  EXPECT_EQ(why.message, "the node daemon didn't start: no NVIDIA driver");
  EXPECT_EQ(why.hint, "install one");
}

TEST(StartDaemon, KeepsTheCodeThatTheDaemonEndedWith) {
  EXPECT_EQ(WhyDaemonEnded({.status = 7}, "sublet: in use\n").code, ErrorCode::kConflict);
  EXPECT_EQ(WhyDaemonEnded({.status = 70}, "").code, ErrorCode::kInternal);
  EXPECT_EQ(WhyDaemonEnded({.status = 99}, "").code, ErrorCode::kUnavailable);
}

TEST(StartDaemon, SaysTheLastLineOfADaemonThatCrashed) {
  const Error why = WhyDaemonEnded({.signal = 11}, "one\ntwo\n");
  EXPECT_THAT(why.message, HasSubstr("was killed by signal 11"));
  EXPECT_THAT(why.message, HasSubstr("two"));
}

TEST(StartDaemon, SaysHowADaemonEndedThatSaidNothing) {
  const Error why = WhyDaemonEnded({.status = 3}, "");
  EXPECT_EQ(why.code, ErrorCode::kInvalid);
  EXPECT_THAT(why.message, HasSubstr("exited with status 3"));
  EXPECT_THAT(why.hint, IsEmpty());
}

}  // namespace
}  // namespace sublet
