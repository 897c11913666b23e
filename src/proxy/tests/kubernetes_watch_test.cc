#include "proxy/kubernetes_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <filesystem>

#include "base/files.h"
#include "proxy/tests/scripted_server.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using namespace std::chrono_literals;

const std::string kData = SUBLET_SOURCE_DIR "/src/proxy/tests/data/kubernetes/";

std::string Recorded(const std::string& file) {
  return *ReadFile(kData + file, std::size_t{1} << 20);
}

KubernetesDiscovery Wanted() {
  KubernetesDiscovery wanted;
  wanted.name_space = "inference";
  wanted.service = "llama";
  wanted.port = "http";
  return wanted;
}

std::vector<std::string> UrlsOf(const std::vector<ReplicaSpec>& replicas) {
  std::vector<std::string> urls;
  for (const ReplicaSpec& spec : replicas) urls.push_back(spec.url);
  return urls;
}

EndpointSlices Listed() {
  EndpointSlices slices;
  EXPECT_TRUE(slices.TakePage(Recorded("list.json")));
  return slices;
}

std::vector<ReplicaSpec> ReplicasOf(const EndpointSlices& slices,
                                    const KubernetesDiscovery& wanted) {
  std::string why;
  return slices.Replicas(wanted, why);
}

TEST(EndpointSlices, AreTheReadyPodsOfAList) {
  const EndpointSlices slices = Listed();
  EXPECT_EQ(slices.version(), "84211");
  KubernetesDiscovery wanted = Wanted();
  wanted.kv_events = {.port = 5557, .replay_port = 5558, .topic = "kv@"};
  wanted.tenant = "shop";
  const std::vector<ReplicaSpec> replicas = ReplicasOf(slices, wanted);
  ASSERT_THAT(UrlsOf(replicas), ElementsAre("http://10.244.1.17:8000", "http://10.244.2.9:8000"));
  EXPECT_EQ(replicas[0].name, "llama-6d5f8c9b7d-4wq2z");
  EXPECT_EQ(replicas[0].tenant, "shop");
  EXPECT_EQ(replicas[0].source, "kubernetes");
  EXPECT_EQ(replicas[0].kv_events->endpoint, "tcp://10.244.1.17:5557");
  EXPECT_EQ(replicas[0].kv_events->replay_endpoint, "tcp://10.244.1.17:5558");
}

TEST(EndpointSlices, NeedAPortWhereThereAreTwo) {
  KubernetesDiscovery wanted = Wanted();
  std::string why;
  wanted.port = "";
  EXPECT_THAT(Listed().Replicas(wanted, why), IsEmpty());
  EXPECT_THAT(why, HasSubstr("llama-8xk2m has 2 ports"));
  wanted.port = "grpc";
  EXPECT_THAT(Listed().Replicas(wanted, why), IsEmpty());
  EXPECT_THAT(why, HasSubstr("no port 'grpc'"));
  wanted.port = "8080";
  EXPECT_THAT(UrlsOf(Listed().Replicas(wanted, why)),
              ElementsAre("http://10.244.1.17:8080", "http://10.244.2.9:8080"));
  EXPECT_EQ(why, "");
}

TEST(EndpointSlices, FollowAWatch) {
  EndpointSlices slices = Listed();
  const std::string events = Recorded("watch.ndjson");
  std::vector<WatchEvent> what;
  for (std::size_t at = 0; at < events.size();) {
    const std::size_t end = events.find('\n', at);
    const Result<WatchEvent> event = slices.TakeEvent(events.substr(at, end - at));
    ASSERT_TRUE(event) << event.error().message;
    what.push_back(*event);
    at = end + 1;
  }
  EXPECT_THAT(what, ElementsAre(WatchEvent::kChanged, WatchEvent::kBookmark, WatchEvent::kChanged));
  EXPECT_EQ(slices.version(), "84312");
  // The pod that ends is gone, the new one is there; one that has both families counts by IPv4.
  EXPECT_THAT(UrlsOf(ReplicasOf(slices, Wanted())),
              ElementsAre("http://10.244.2.9:8000", "http://10.244.2.12:8000",
                          "http://[fd00:10:244:3::4]:8000"));
  const auto gone = slices.TakeEvent(
      R"({"type":"DELETED","object":{"metadata":{"name":"llama-v6-zz8","resourceVersion":"9"}}})");
  EXPECT_EQ(*gone, WatchEvent::kChanged);
  EXPECT_THAT(ReplicasOf(slices, Wanted()), SizeIs(2));
}

TEST(EndpointSlices, KnowWhenTheirVersionIsGone) {
  EndpointSlices slices = Listed();
  const auto expired = slices.TakeEvent(
      R"({"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"x"}})");
  EXPECT_EQ(*expired, WatchEvent::kExpired);
  const auto other = slices.TakeEvent(R"({"type":"ERROR","object":{"code":500,"message":"etcd"}})");
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().message, HasSubstr("etcd"));
  EXPECT_THAT(ReplicasOf(slices, Wanted()), SizeIs(2));
}

TEST(EndpointSlices, AreReplacedOnlyByAWholeList) {
  EndpointSlices slices = Listed();
  ASSERT_TRUE(slices.TakePage(R"({"kind":"EndpointSliceList","items":[],
                                  "metadata":{"resourceVersion":"9","continue":"c1"}})"));
  EXPECT_EQ(slices.next_page(), "c1");
  EXPECT_THAT(ReplicasOf(slices, Wanted()), SizeIs(2));
  EXPECT_FALSE(slices.TakePage(R"({"kind":"Status","code":500})"));
  EXPECT_FALSE(slices.TakePage("garbage"));
  EXPECT_THAT(ReplicasOf(slices, Wanted()), SizeIs(2));
  EXPECT_EQ(slices.version(), "84211");
  ASSERT_TRUE(slices.TakePage(
      R"({"kind":"EndpointSliceList","metadata":{"resourceVersion":"9"},"items":[]})"));
  EXPECT_THAT(ReplicasOf(slices, Wanted()), IsEmpty());
}

TEST(EndpointSlices, PassOverWhatIsOdd) {
  EndpointSlices slices;
  ASSERT_TRUE(slices.TakePage(R"({"kind":"EndpointSliceList","metadata":{"resourceVersion":"1"},
    "items":[{"metadata":{"name":"s"},"ports":[{"port":"x"},{"port":70000},7,{"port":8000}],
    "endpoints":[7,{"addresses":[]},{"addresses":[7]},{"addresses":["10.0.0.1/x y"]},
                 {"addresses":["10.0.0.1"],"conditions":7}]}]})"));
  KubernetesDiscovery wanted = Wanted();
  wanted.port = "";
  EXPECT_THAT(UrlsOf(ReplicasOf(slices, wanted)), ElementsAre("http://10.0.0.1:8000"));
  for (const char* line : {"", "7", "{}", R"({"type":"ADDED"})", R"({"type":"ADDED","object":7})",
                           R"({"type":"NEWER","object":{"metadata":{"resourceVersion":"1"}}})"}) {
    EXPECT_FALSE(slices.TakeEvent(line)) << line;
  }
}

TEST(InCluster, TakesWhatThePodHas) {
  KubernetesDiscovery wanted;
  wanted.service = "llama";
  const auto found = InCluster(wanted, "10.0.0.1", "443", "inference\n");
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->api_server, "https://10.0.0.1:443");
  EXPECT_EQ(found->name_space, "inference");
  EXPECT_EQ(InCluster(wanted, "fd00::1", "", "x")->api_server, "https://[fd00::1]:443");
  EXPECT_EQ(InCluster(wanted, "", "", "x").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(InCluster(wanted, "10.0.0.1", "443", "").error().code, ErrorCode::kNotFound);
}

// Runs a watch against a scripted API server until `enough` lists have been told.
class KubernetesWatchTest : public ::testing::Test {
 protected:
  void Watch(const ScriptedServer& server, std::size_t enough) {
    KubernetesDiscovery wanted = Wanted();
    wanted.api_server = server.url();
    Watch(wanted, enough);
  }

  void Watch(const KubernetesDiscovery& wanted, std::size_t enough) {
    asio::io_context loop;
    KubernetesTimes times;
    times.answer_s = 2;
    times.silence_s = 2;
    times.pause_first_s = 0.01;
    times.pause_most_s = 0.02;
    asio::cancellation_signal cancel;
    asio::steady_timer limit(loop, 5s);
    KubernetesWatch watch(
        loop, wanted, 1,
        [&](std::vector<ReplicaSpec> replicas) {
          told_.push_back(UrlsOf(replicas));
          if (told_.size() == enough) {
            asio::post(loop, [&] { cancel.emit(asio::cancellation_type::terminal); });
            limit.cancel();
          }
        },
        times);
    limit.async_wait([&](const boost::system::error_code& error) {
      if (!error) cancel.emit(asio::cancellation_type::terminal);
    });
    asio::co_spawn(loop, watch.Run(), asio::bind_cancellation_slot(cancel.slot(), EndsTheProgram));
    loop.run();
    why_ = watch.state().why();
  }

  std::vector<std::vector<std::string>> told_;
  std::string why_;
};

TEST_F(KubernetesWatchTest, ListsThenWatchesFromThere) {
  ScriptedServer server([](const ScriptedRequest& request, ScriptedPeer& peer) {
    if (request.Target().find("watch=true") == std::string::npos) {
      return peer.Say(Answer(200, Recorded("list.json")));
    }
    peer.Say(ChunkedHead());
    const std::string events = Recorded("watch.ndjson");
    // Cut in the middle of a line, as the network does.
    peer.Say(Chunk(events.substr(0, 700)));
    peer.Say(Chunk(events.substr(700)));
    peer.Stay();
    return false;
  });
  Watch(server, 3);
  ASSERT_THAT(told_, SizeIs(3));
  EXPECT_THAT(told_[0], SizeIs(2));
  EXPECT_THAT(told_[1], ElementsAre("http://10.244.2.9:8000", "http://10.244.2.12:8000"));
  EXPECT_THAT(told_[2], SizeIs(3));
  const auto requests = server.requests();
  EXPECT_THAT(requests[0].Target(),
              HasSubstr("/apis/discovery.k8s.io/v1/namespaces/inference/endpointslices?"
                        "labelSelector=kubernetes.io%2Fservice-name%3Dllama"));
  EXPECT_THAT(requests[1].Target(), HasSubstr("resourceVersion=84211"));
  EXPECT_THAT(requests[1].Target(), HasSubstr("allowWatchBookmarks=true"));
  EXPECT_THAT(requests[0].head, Not(HasSubstr("Authorization")));  // Not in the clear.
}

TEST_F(KubernetesWatchTest, ListsAgainWhereTheVersionIsGone) {
  std::atomic<int> watches = 0;
  ScriptedServer server([&](const ScriptedRequest& request, ScriptedPeer& peer) {
    if (request.Target().find("watch=true") == std::string::npos) {
      return peer.Say(Answer(200, Recorded("list.json")));
    }
    if (watches++ == 0) return peer.Say(Answer(410, R"({"kind":"Status","code":410})"));
    return peer.Say(ChunkedHead() + Chunk("{\"type\":\"ERROR\",\"object\":{\"code\":410}}\n") +
                    Chunk(""));
  });
  Watch(server, 3);
  EXPECT_THAT(told_, SizeIs(3));
}

TEST_F(KubernetesWatchTest, GoesOnFromABookmark) {
  std::atomic<int> watches = 0;
  ScriptedServer server([&](const ScriptedRequest& request, ScriptedPeer& peer) {
    if (request.Target().find("watch=true") == std::string::npos) {
      return peer.Say(Answer(200, Recorded("list.json")));
    }
    const std::string events = Recorded("watch.ndjson");
    const std::size_t bookmark = events.find("{\"type\":\"BOOKMARK");
    const std::size_t after = events.find('\n', bookmark) + 1;
    if (watches++ == 0) {
      return peer.Say(ChunkedHead() + Chunk(events.substr(bookmark, after - bookmark)) + Chunk(""));
    }
    peer.Say(ChunkedHead() + Chunk(events.substr(after)));
    peer.Stay();
    return false;
  });
  Watch(server, 2);
  EXPECT_THAT(told_, SizeIs(2));
  EXPECT_THAT(server.requests()[2].Target(), HasSubstr("resourceVersion=84300"));
}

TEST_F(KubernetesWatchTest, KeepsItsListWhileTheServerIsAway) {
  std::atomic<int> lists = 0;
  ScriptedServer server([&](const ScriptedRequest& request, ScriptedPeer& peer) {
    if (request.Target().find("watch=true") != std::string::npos) {
      return peer.Say(Answer(403, R"({"message":"endpointslices is forbidden"})"));
    }
    if (lists++ == 0) return peer.Say(Answer(500, "etcd is down"));
    return peer.Say(Answer(200, Recorded("list.json")));
  });
  Watch(server, 1);
  ASSERT_THAT(told_, SizeIs(1));
  EXPECT_THAT(told_[0], SizeIs(2));
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST_F(KubernetesWatchTest, ReadsAListPageByPage) {
  ScriptedServer server([](const ScriptedRequest& request, ScriptedPeer& peer) {
    const std::string target = request.Target();
    if (target.find("watch=true") != std::string::npos) {
      peer.Stay();
      return false;
    }
    if (target.find("continue=next%2Fpage") != std::string::npos) {
      return peer.Say(Answer(200, Recorded("list.json")));
    }
    return peer.Say(Answer(200, R"({"kind":"EndpointSliceList","metadata":{"resourceVersion":"1",
      "continue":"next/page"},"items":[{"metadata":{"name":"first"},
      "ports":[{"name":"http","port":1}],"endpoints":[{"addresses":["10.0.0.1"]}]}]})"));
  });
  Watch(server, 1);
  ASSERT_THAT(told_, SizeIs(1));
  EXPECT_THAT(told_[0], SizeIs(3));
}

}  // namespace
}  // namespace sublet
