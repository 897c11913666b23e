#include "kube/api_watch.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <nlohmann/json.hpp>
#include <string>

#include "base/file_descriptor.h"
#include "kube/api_json.h"
#include "kube/tests/scripted_api.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const ApiWatchTarget kNode{.path = "/api/v1/nodes", .name = "gpu-1"};
// Pauses that a test doesn't notice.
const ApiPatience kQuick{.first_s = 0.001, .most_s = 0.002};

std::string NodeJson(int version, const std::string& value) {
  return fmt::format(
      R"({{"metadata":{{"name":"gpu-1","resourceVersion":"{}","labels":{{"x":"{}"}}}}}})", version,
      value);
}

std::string Event(const std::string& type, int version, const std::string& value) {
  return fmt::format("{{\"type\":\"{}\",\"object\":{}}}\n", type, NodeJson(version, value));
}

ApiAnswer List(int version, const std::string& items) {
  return {.parts = {fmt::format(R"({{"metadata":{{"resourceVersion":"{}"}},"items":[{}]}})",
                                version, items)}};
}

ApiAnswer Lines(std::vector<std::string> parts, ApiAnswer::End end = ApiAnswer::End::kHold) {
  return {.parts = std::move(parts), .end = end};
}

bool IsWatch(const ApiCall& call) {
  return call.target.find("watch=1") != std::string::npos;
}

std::string LabelOf(const std::optional<ApiChange>& change) {
  if (!change) return "nothing";
  return change->deleted ? "deleted" : TextAt(change->object, {"metadata", "labels", "x"});
}

class WatchUnderTest {
 public:
  explicit WatchUnderTest(ScriptedApi::Script script, ApiLimits limits = {})
      : server_(std::move(script)), watch_(ApiTransport(server_.Place(), limits), kNode, kQuick) {}

  // What comes next, whatever problems there are to tell before.
  std::string Next(double patience_s = 10) {
    while (true) {
      const std::optional<ApiChange> change = watch_.Next(Deadline::In(patience_s), -1);
      std::optional<Error> problem = change ? std::nullopt : watch_.TakeProblem();
      if (!problem) return LabelOf(change);
      problems_.push_back(*std::move(problem));
    }
  }
  const std::vector<Error>& problems() const { return problems_; }
  ApiWatch& watch() { return watch_; }
  ScriptedApi& server() { return server_; }

 private:
  ScriptedApi server_;
  ApiWatch watch_;
  std::vector<Error> problems_;
};

TEST(ApiWatch, ListsThenFollows) {
  WatchUnderTest test([](const ApiCall& call) {
    if (!IsWatch(call)) return List(5, NodeJson(3, "a"));
    return Lines({Event("MODIFIED", 6, "b") + Event("MODIFIED", 7, "c"), Event("DELETED", 8, "")});
  });
  EXPECT_EQ(test.Next(), "a");
  EXPECT_EQ(test.Next(), "b");
  EXPECT_EQ(test.Next(), "c");
  EXPECT_EQ(test.Next(), "deleted");
  EXPECT_EQ(test.Next(0), "nothing");
  const auto calls = test.server().Calls();
  ASSERT_THAT(calls, SizeIs(2));
  EXPECT_EQ(calls[0].target, "/api/v1/nodes?fieldSelector=metadata.name%3Dgpu-1");
  EXPECT_EQ(calls[1].target,
            "/api/v1/nodes?fieldSelector=metadata.name%3Dgpu-1&watch=1&allowWatchBookmarks=true"
            "&resourceVersion=5&timeoutSeconds=300");
  EXPECT_FALSE(test.watch().TakeProblem());
}

TEST(ApiWatch, ANodeThatIsntThereIsDeleted) {
  WatchUnderTest test([](const ApiCall& call) {
    return IsWatch(call) ? Lines({Event("ADDED", 6, "new")}) : List(5, "");
  });
  EXPECT_EQ(test.Next(), "deleted");
  EXPECT_EQ(test.Next(), "new");
}

TEST(ApiWatch, ResumesWhereTheServerEndedItAndBookmarksMoveThatOn) {
  int watches = 0;
  WatchUnderTest test([&watches](const ApiCall& call) {
    if (!IsWatch(call)) return List(5, NodeJson(3, "a"));
    if (++watches == 1) {
      return Lines({Event("MODIFIED", 6, "b"),
                    R"({"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}})"
                    "\n"},
                   ApiAnswer::End::kProper);
    }
    return Lines({Event("MODIFIED", 10, "c")});
  });
  EXPECT_EQ(test.Next(), "a");
  EXPECT_EQ(test.Next(), "b");
  EXPECT_EQ(test.Next(), "c");
  EXPECT_THAT(test.server().Calls()[2].target, HasSubstr("resourceVersion=9&"));
}

TEST(ApiWatch, HalfALineIsNotALine) {
  int watches = 0;
  WatchUnderTest test([&watches](const ApiCall& call) {
    if (!IsWatch(call)) return List(5, NodeJson(3, "a"));
    if (++watches == 1) {
      const std::string line = Event("MODIFIED", 7, "c");
      return Lines({Event("MODIFIED", 6, "b"), line.substr(0, line.size() / 2)},
                   ApiAnswer::End::kCut);
    }
    const std::string line = Event("MODIFIED", 7, "c");
    return Lines({line.substr(0, 9), line.substr(9)});
  });
  EXPECT_EQ(test.Next(), "a");
  EXPECT_EQ(test.Next(), "b");
  EXPECT_EQ(test.Next(), "c");
  EXPECT_THAT(test.server().Calls()[2].target, HasSubstr("resourceVersion=6&"));
}

TEST(ApiWatch, ListsAgainWhereTheVersionIsGone) {
  for (const bool as_event : {false, true}) {
    int lists = 0;
    WatchUnderTest test([&lists, as_event](const ApiCall& call) {
      if (!IsWatch(call)) {
        ++lists;
        return List(lists * 10, NodeJson(3, lists == 1 ? "a" : "b"));
      }
      if (lists > 1) return Lines({Event("MODIFIED", 21, "c")});
      const std::string gone = R"({"kind":"Status","code":410,"message":"too old"})";
      if (as_event) return Lines({"{\"type\":\"ERROR\",\"object\":" + gone + "}\n"});
      return ApiAnswer{.status = 410, .parts = {gone}};
    });
    EXPECT_EQ(test.Next(), "a");
    EXPECT_EQ(test.Next(), "b");
    EXPECT_EQ(test.Next(), "c");
    EXPECT_THAT(test.problems(), IsEmpty());
  }
}

// The server is well again, so nothing of the outage before it counts.
TEST(ApiWatch, AVersionThatIsGoneAfterAnOutageIsNotWaitedFor) {
  int calls = 0;
  ScriptedApi server([&calls](const ApiCall& call) {
    ++calls;
    if (calls == 1) return List(10, NodeJson(3, "a"));
    if (calls < 8) return ApiAnswer{.status = 503, .parts = {""}};
    if (calls == 8) return ApiAnswer{.status = 410, .parts = {"{}"}};
    return IsWatch(call) ? Lines({}) : List(20, NodeJson(15, "b"));
  });
  ApiWatch watch(ApiTransport(server.Place(), {}), kNode, kQuick);
  std::vector<std::string> seen;
  while (calls < 9) {
    if (const auto change = watch.Next(Deadline::In(10), -1)) seen.push_back(LabelOf(change));
  }
  EXPECT_THAT(seen, ElementsAre("a", "b"));
  EXPECT_EQ(watch.failures(), 0);
}

TEST(ApiWatch, OutlivesAnOutageAndTellsOfItOnce) {
  int calls = 0;
  WatchUnderTest test([&calls](const ApiCall& call) {
    if (++calls < 6) return ApiAnswer{.status = 503, .parts = {"<html>"}};
    return IsWatch(call) ? Lines({}) : List(5, NodeJson(3, "a"));
  });
  EXPECT_EQ(test.Next(), "a");
  ASSERT_THAT(test.problems(), SizeIs(1));
  EXPECT_EQ(test.problems()[0].code, ErrorCode::kUnavailable);
  EXPECT_THAT(test.problems()[0].message, HasSubstr("503"));
  EXPECT_EQ(calls, 6);
}

TEST(ApiWatch, ARefusalIsTriedAgainAndSaysWhatIsMissing) {
  int calls = 0;
  WatchUnderTest test([&calls](const ApiCall& call) {
    if (IsWatch(call) && ++calls < 3) {
      return ApiAnswer{.status = 403, .parts = {R"({"message":"cannot watch nodes"})"}};
    }
    return IsWatch(call) ? Lines({Event("MODIFIED", 6, "b")}) : List(5, NodeJson(3, "a"));
  });
  EXPECT_EQ(test.Next(), "a");
  EXPECT_EQ(test.Next(), "b");
  ASSERT_THAT(test.problems(), SizeIs(1));
  EXPECT_THAT(test.problems()[0].message, HasSubstr("cannot watch nodes"));
}

TEST(ApiWatch, GarbageEndsTheStreamAndNotTheWatch) {
  int watches = 0;
  WatchUnderTest test([&watches](const ApiCall& call) {
    if (!IsWatch(call)) return List(5, NodeJson(3, "a"));
    if (++watches == 1) return Lines({"\x01\x02 no json\n"});
    if (watches == 2) return Lines({std::string(5000, '[') + "\n"});
    if (watches == 3) return Lines({"{\"type\":\"MODIFIED\",\"object\":[]}\n"});
    return Lines({Event("MODIFIED", 6, "b")});
  });
  EXPECT_EQ(test.Next(), "a");
  EXPECT_EQ(test.Next(), "b");
  EXPECT_EQ(watches, 4);
}

TEST(ApiWatch, ALineHasALimit) {
  int watches = 0;
  WatchUnderTest test(
      [&watches](const ApiCall& call) {
        if (!IsWatch(call)) return List(5, NodeJson(3, "a"));
        if (++watches == 1) return Lines({std::string(5000, 'x')});
        return Lines({Event("MODIFIED", 6, "b")});
      },
      {.bytes_max = 1000});
  EXPECT_EQ(test.Next(), "a");
  EXPECT_EQ(test.Next(), "b");
}

TEST(ApiWatch, OthersObjectsAreNone) {
  WatchUnderTest test([](const ApiCall& call) {
    const std::string other = R"({"metadata":{"name":"gpu-2","resourceVersion":"4"}})";
    if (!IsWatch(call)) return List(5, other + "," + NodeJson(3, "a"));
    return Lines({"{\"type\":\"MODIFIED\",\"object\":" + other + "}\n", Event("MODIFIED", 6, "b")});
  });
  EXPECT_EQ(test.Next(), "a");
  EXPECT_EQ(test.Next(), "b");
}

TEST(ApiWatch, IsWokenByItsDescriptor) {
  const FileDescriptor wake(::eventfd(1, EFD_CLOEXEC));
  ScriptedApi server(
      [](const ApiCall& call) { return IsWatch(call) ? Lines({}) : List(5, NodeJson(3, "a")); });
  ApiWatch watch(ApiTransport(server.Place(), {}), kNode, kQuick);
  EXPECT_EQ(LabelOf(watch.Next(Deadline::Never(), -1)), "a");
  EXPECT_EQ(LabelOf(watch.Next(Deadline::Never(), wake.get())), "nothing");
}

TEST(ApiWatch, GoesOverTlsWithTheNewToken) {
  int watches = 0;
  ScriptedApi* self = nullptr;
  ScriptedApi server(
      [&](const ApiCall& call) {
        if (!IsWatch(call)) return List(5, NodeJson(3, "a"));
        if (++watches == 1) {
          self->Write("token", "new");
          return ApiAnswer{.status = 401, .parts = {"{}"}};
        }
        return Lines({Event("MODIFIED", 6, call.authorization == "Bearer new" ? "new" : "old")});
      },
      ApiSecurity::kTls);
  self = &server;
  ApiPlace place = server.Place();
  place.token_file = server.Write("token", "old");
  ApiWatch watch(ApiTransport(place, {}), kNode, kQuick);
  EXPECT_EQ(LabelOf(watch.Next(Deadline::In(10), -1)), "a");
  EXPECT_EQ(LabelOf(watch.Next(Deadline::In(10), -1)), "new");
}

}  // namespace
}  // namespace sublet
