#include "proxy/node_discovery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "http/http_server.h"

namespace sublet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using namespace std::chrono_literals;

ShareStatus Replica(const std::string& name, int port, ShareState state) {
  ShareStatus status;
  status.share.name = name;
  status.share.gpu_uuid = "GPU-1";
  status.replica = true;
  status.state = state;
  status.port = port;
  return status;
}

TEST(ReplicasOfNode, AreThoseThatServe) {
  NodeStatus node;
  node.shares = {Replica("chat/1", 8101, ShareState::kReady),
                 Replica("chat/0", 8100, ShareState::kRunning),
                 Replica("chat/2", 8102, ShareState::kStarting),
                 Replica("chat/3", 8103, ShareState::kBackingOff),
                 Replica("other/0", 9000, ShareState::kReady)};
  node.shares[0].share.sm_percent = 25;
  ShareStatus run = Replica("chat/9", 8109, ShareState::kReady);
  run.replica = false;
  node.shares.push_back(run);
  ShareStatus portless = Replica("chat/8", 1, ShareState::kReady);
  portless.port.reset();
  node.shares.push_back(portless);

  NodeDiscovery wanted;
  wanted.workloads = {"chat"};
  const std::vector<ReplicaSpec> replicas = ReplicasOfNode(node, wanted);
  ASSERT_THAT(replicas, SizeIs(2));
  EXPECT_EQ(replicas[0].name, "chat/0");
  EXPECT_EQ(replicas[0].url, "http://127.0.0.1:8100");
  EXPECT_EQ(replicas[0].share.gpu, "GPU-1");
  EXPECT_EQ(replicas[0].share.sm_percent, std::nullopt);
  EXPECT_EQ(replicas[1].share.sm_percent, 25);
  EXPECT_FALSE(replicas[0].kv_events);
  wanted.workloads.clear();
  EXPECT_THAT(ReplicasOfNode(node, wanted), SizeIs(3));
  EXPECT_THAT(ReplicasOfNode({}, wanted), IsEmpty());
}

TEST(ReplicasOfNode, HaveAMigInstanceToThemselves) {
  NodeStatus node;
  node.shares = {Replica("chat/0", 8100, ShareState::kReady)};
  node.shares[0].share.mig_uuid = "MIG-7";
  EXPECT_EQ(ReplicasOfNode(node, {}).at(0).share.gpu, "MIG-7");
}

TEST(ReplicasOfNode, AnnounceTheirCachesBesideTheirPorts) {
  NodeStatus node;
  node.shares = {Replica("chat/0", 8100, ShareState::kReady),
                 Replica("chat/1", 65000, ShareState::kReady)};
  NodeDiscovery wanted;
  wanted.kv_events_port_offset = 1000;
  const auto replicas = ReplicasOfNode(node, wanted);
  EXPECT_EQ(replicas.at(0).kv_events->endpoint, "tcp://127.0.0.1:9100");
  EXPECT_EQ(replicas.at(0).kv_events->replay_endpoint, "");
  EXPECT_FALSE(replicas.at(1).kv_events);  // 66000 is no port.
}

// A daemon on a UNIX socket that answers what the test wants.
class NodeWatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "node_watch.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    wanted_.socket = folder_ + "/sublet.sock";
    wanted_.interval_s = 0.01;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static std::string StatusOf(std::vector<ShareStatus> shares) {
    NodeStatus status;
    status.hostname = "node1";
    status.time = "2026-11-21T10:00:00Z";
    status.shares = std::move(shares);
    for (ShareStatus& share : status.shares) {
      share.share.id = "s1";
      share.share.tenant = "t";
    }
    return NodeStatusToJson(status).dump();
  }

  void Serve(std::vector<std::pair<int, std::string>> answers) {
    auto answer = [this, answers](HttpRequest, Responder& to) -> Task<void> {
      const auto& [status, body] = answers[std::min(asked_, answers.size() - 1)];
      ++asked_;
      if (enough_ && enough_()) asio::post(loop_, [this] { loop_.stop(); });
      co_await to.Send(status, kJsonType, body);
    };
    handler_ = answer;
    auto server = HttpServer::Open(loop_, {}, [this](HttpRequest request, Responder& to) {
      return handler_(std::move(request), to);
    });
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
    const Status listens = server_->AddUnixListener({.path = wanted_.socket, .mode = 0600});
    ASSERT_TRUE(listens) << listens.error().message;
  }

  void WatchUntil(std::function<bool()> enough) {
    enough_ = std::move(enough);
    NodeWatch watch(loop_, wanted_, [this](std::vector<ReplicaSpec> replicas) {
      std::vector<std::string> names;
      for (const ReplicaSpec& spec : replicas) names.push_back(spec.name);
      told_.push_back(names);
    });
    asio::cancellation_signal cancel;
    asio::co_spawn(loop_, watch.Run(), asio::bind_cancellation_slot(cancel.slot(), EndsTheProgram));
    asio::steady_timer limit(loop_, 5s);
    limit.async_wait([this](const boost::system::error_code& error) {
      if (!error) loop_.stop();
    });
    loop_.run();
    why_ = watch.state().why();
    limit.cancel();
    // On the loop: a cancellation from elsewhere is posted, and may come after its coroutine's end.
    asio::post(loop_, [&] {
      cancel.emit(asio::cancellation_type::terminal);
      server_.reset();
    });
    loop_.restart();
    loop_.run_for(1s);
  }

  asio::io_context loop_;
  std::string folder_;
  NodeDiscovery wanted_;
  HttpHandler handler_;
  std::unique_ptr<HttpServer> server_;
  std::size_t asked_ = 0;
  std::function<bool()> enough_;
  std::vector<std::vector<std::string>> told_;
  std::string why_;
};

TEST_F(NodeWatchTest, TellsWhatChanges) {
  const std::string one = StatusOf({Replica("chat/0", 8100, ShareState::kReady)});
  const std::string none = StatusOf({Replica("chat/0", 8100, ShareState::kEnding)});
  Serve({{200, one}, {200, one}, {200, one}, {200, none}});
  WatchUntil([this] { return asked_ >= 6; });
  EXPECT_THAT(told_, ElementsAre(ElementsAre("chat/0"), IsEmpty()));
  EXPECT_EQ(why_, "");
}

TEST_F(NodeWatchTest, KeepsItsListWhereTheDaemonFails) {
  const std::string one = StatusOf({Replica("chat/0", 8100, ShareState::kReady)});
  Serve({{200, one},
         {503, R"({"error":{"code":"unavailable","message":"starts"}})"},
         {200, "garbage"}});
  WatchUntil([this] { return asked_ >= 5; });
  EXPECT_THAT(told_, ElementsAre(ElementsAre("chat/0")));
  EXPECT_NE(why_, "");
}

TEST_F(NodeWatchTest, SaysThatNobodyIsThere) {
  asio::steady_timer soon(loop_, 100ms);
  soon.async_wait([this](const boost::system::error_code&) { loop_.stop(); });
  WatchUntil([] { return false; });
  EXPECT_THAT(told_, IsEmpty());
  EXPECT_THAT(why_, HasSubstr(wanted_.socket));
}

}  // namespace
}  // namespace sublet
