#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/fault_table.h"
#include "engine/sim_fault.h"
#include "engine/tests/running_engine.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kStream = R"({"prompt":"x","stream":true})";
constexpr const char* kPlain = R"({"prompt":"x"})";

std::size_t CountOf(const std::string& text, const std::string& what) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) {
    ++count;
  }
  return count;
}

TEST(SimFault, IsReadFromText) {
  const SimFault fault = *ParseSimFault(" reset ; after=3;times=0\n");
  EXPECT_EQ(fault.what, SimFault::What::kReset);
  EXPECT_EQ(fault.after, 3);
  EXPECT_EQ(fault.times, 0);
  for (const char* bad : {"", "explode", "reset;after", "reset;after=", "reset;after=-1",
                          "reset;after=1x", "reset;sometimes=1", "status;code=200"}) {
    EXPECT_EQ(ParseSimFault(bad).error().code, ErrorCode::kInvalid) << bad;
  }
}

TEST(FaultTable, GivesEachAsOftenAsItWasTold) {
  FaultTable faults;
  faults.Arm({.what = SimFault::What::kReset, .times = 2});
  faults.Arm({.what = SimFault::What::kHang, .times = 0});
  using What = SimFault::What;
  std::vector<What> taken;
  for (int i = 0; i < 4; ++i) taken.push_back((*faults.Take(""))->what);
  EXPECT_THAT(taken, ElementsAre(What::kReset, What::kReset, What::kHang, What::kHang));
  EXPECT_EQ((*faults.Take("close"))->what, What::kClose);
  EXPECT_FALSE(faults.Take("restart"));
  faults.Clear();
  EXPECT_EQ(*faults.Take(""), std::nullopt);
  faults.Arm({.what = What::kEventsDrop});
  EXPECT_TRUE(faults.LosesBatch());
  EXPECT_FALSE(faults.LosesBatch());
}

class EngineFaultTest : public ::testing::Test {
 protected:
  WireAnswer Ask(const std::string& fault, const char* body) {
    return WireClient(engine_.port())
        .Post("/v1/completions", body, "x-sim-fault: " + fault + "\r\n");
  }

  RunningEngine engine_{QuickEngine()};
};

TEST_F(EngineFaultTest, AnswersWithAStatus) {
  const WireAnswer answer = Ask("status;code=503;retry=7", kPlain);
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.Header("retry-after"), "7");
  EXPECT_EQ(nlohmann::json::parse(answer.body)["error"]["code"], 503);
  EXPECT_EQ(Ask("status;code=99", kPlain).status, 400);
}

TEST_F(EngineFaultTest, ResetsBeforeAndAmidAnAnswer) {
  EXPECT_EQ(Ask("reset", kPlain).error, "Connection reset by peer");
  EXPECT_EQ(Ask("reset;after=3", kStream).error, "Connection reset by peer");
  EXPECT_EQ(Ask("reset;after=3", kPlain).status, 0);
  engine_.WaitUntilIdle();
  EXPECT_EQ(engine_.BlocksUsed(), 0);
}

TEST_F(EngineFaultTest, ClosesAmidAnAnswer) {
  EXPECT_EQ(Ask("close", kPlain).error, "end of stream");
  const WireAnswer cut = Ask("close;after=3", kStream);
  EXPECT_EQ(cut.status, 200);
  EXPECT_EQ(CountOf(cut.body, "data: "), 3u);
  EXPECT_EQ(cut.error, "partial message");
}

TEST_F(EngineFaultTest, SendsGarbage) {
  EXPECT_EQ(Ask("garbage", kPlain).status, 0);
  const WireAnswer amid = Ask("garbage;after=2", kStream);
  EXPECT_EQ(CountOf(amid.body, "data: "), 2u);
  EXPECT_EQ(amid.error, "bad chunk");
}

TEST_F(EngineFaultTest, HangsUntilTheClientLeaves) {
  WireClient client(engine_.port());
  const std::string body = kStream;
  client.Say(fmt::format(
      "POST /v1/completions HTTP/1.1\r\nx-sim-fault: hang;after=2\r\nContent-Length: {}\r\n\r\n{}",
      body.size(), body));
  std::string heard = client.HearUntil("data: ");
  if (CountOf(heard, "data: ") < 2) heard += client.HearUntil("data: ");
  EXPECT_EQ(CountOf(heard, "data: "), 2u);
  // Others are served meanwhile, and the engine has done its work.
  EXPECT_EQ(Ask("", kPlain).status, 200);
  engine_.WaitUntilIdle();
}

TEST_F(EngineFaultTest, IsSlow) {
  const auto begin = std::chrono::steady_clock::now();
  const WireAnswer answer = Ask("slow;ms=10", kStream);
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(answer.error, "");
  EXPECT_THAT(answer.body, HasSubstr("[DONE]"));
  EXPECT_GE(took, std::chrono::milliseconds(90));
  EXPECT_THAT(Ask("slow;ms=1", kPlain).body, HasSubstr("usage"));
}

TEST_F(EngineFaultTest, IsToldOverHttp) {
  WireClient admin(engine_.port());
  EXPECT_EQ(admin.Post("/sim/fault", "nonsense").status, 400);
  EXPECT_EQ(admin.Post("/sim/fault", "status;code=500;times=2").status, 200);
  EXPECT_EQ(Ask("", kPlain).status, 500);
  EXPECT_EQ(Ask("", kPlain).status, 500);
  EXPECT_EQ(Ask("", kPlain).status, 200);
  admin.Post("/sim/fault", "status;code=500;times=0");
  EXPECT_EQ(Ask("", kPlain).status, 500);
  EXPECT_EQ(admin.Ask("DELETE", "/sim/fault", "", "").status, 200);
  EXPECT_EQ(Ask("", kPlain).status, 200);
}

// What a sink is told, in letters.
class RecordingSink : public KvEventSink {
 public:
  explicit RecordingSink(std::string& log) : log_(log) {}
  void Publish(const KvEventBatch& batch) override { log_ += batch.events.empty() ? "?" : "p"; }
  void Lose(const KvEventBatch&) override { log_ += "l"; }
  void Restart() override { log_ += "R"; }

 private:
  std::string& log_;
};

TEST(EngineFault, LosesEventsAndRestarts) {
  std::string log;
  EngineServerOptions options = QuickEngine();
  options.answer_tokens = 1;
  RunningEngine engine(options, std::make_unique<RecordingSink>(log));
  WireClient client(engine.port());
  const auto ask = [&](int number) {
    client.Post("/v1/completions", fmt::format(R"({{"prompt":"{0} {0} {0} {0}"}})", number));
  };
  ask(1);
  client.Post("/sim/fault", "events-drop");
  ask(2);
  ask(3);
  client.Post("/sim/fault", "events-stop");
  ask(4);
  client.Ask("DELETE", "/sim/fault", "", "");
  ask(5);
  client.Post("/sim/fault", "restart");
  EXPECT_EQ(client.Hear().error, "Connection reset by peer");
  EXPECT_EQ(engine.OnLoop([&] { return log; }), "plppR");
  EXPECT_EQ(engine.Counters().finished, 0);
  EXPECT_EQ(WireClient(engine.port()).Post("/v1/completions", kPlain).status, 200);
}

}  // namespace
}  // namespace sublet
