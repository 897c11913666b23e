// The subscriber against vLLM's publisher on pyzmq and msgpack, in a process of its own.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <optional>
#include <string>

#include "base/child_process.h"
#include "kv_subscriber_rig.h"

namespace sublet {
namespace {

constexpr char kPython[] = "/usr/bin/python3";

// Python with its modules, or nothing.
bool HasPython() {
  const Result<CommandOutcome> outcome =
      RunCommand({.argv = {kPython, "-c", "import zmq, msgpack"}}, "", {.timeout_s = 30});
  return outcome && outcome->end.Succeeded();
}

class VllmPublisher {
 public:
  static std::optional<VllmPublisher> Start(const std::string& endpoint,
                                            const std::string& replay_endpoint, int ring) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return std::nullopt;
    VllmPublisher publisher;
    publisher.control_ = FileDescriptor(pair[0]);
    const FileDescriptor theirs(pair[1]);
    ChildOptions options{.argv = {kPython, SUBLET_SOURCE_DIR "/src/kvcache/tests/vllm_publisher.py",
                                  endpoint, replay_endpoint, std::to_string(ring)}};
    options.descriptors.push_back({.ours = theirs.get(), .theirs = 3});
    Result<ChildProcess> child = ChildProcess::Start(options);
    if (!child) return std::nullopt;
    publisher.child_ = std::move(*child);
    const std::string places = publisher.Line();
    const std::size_t space = places.find(' ');
    if (space == std::string::npos) return std::nullopt;
    publisher.source_ = {.endpoint = places.substr(0, space),
                         .replay_endpoint = places.substr(space + 1),
                         .topic = {}};
    return publisher;
  }

  const KvEventSource& source() const { return source_; }
  void Tell(const std::string& what) {
    const std::string line = what + "\n";
    ASSERT_EQ(::write(control_.get(), line.data(), line.size()), static_cast<ssize_t>(line.size()));
    ASSERT_EQ(Line(), "ok");
  }

 private:
  std::string Line() {
    std::string line;
    char c = 0;
    while (::read(control_.get(), &c, 1) == 1 && c != '\n') line += c;
    return line;
  }

  FileDescriptor control_;
  std::optional<ChildProcess> child_;
  KvEventSource source_;
};

constexpr EngineHash kFirstHash = 1000;  // vllm_publisher.py's.

class KvSubscriberVllm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasPython()) GTEST_SKIP() << "no python3 with zmq and msgpack";
    Start("tcp://127.0.0.1:*", "tcp://127.0.0.1:*");
  }
  void Start(const std::string& endpoint, const std::string& replay_endpoint, int ring = 10'000) {
    vllm_.reset();
    vllm_ = VllmPublisher::Start(endpoint, replay_endpoint, ring);
    ASSERT_TRUE(vllm_.has_value());
  }

  std::optional<VllmPublisher> vllm_;
  SubscriberRig rig_;
};

TEST_F(KvSubscriberVllm, IsJoinedLateAndFollowed) {
  vllm_->Tell("publish 2500");
  ASSERT_TRUE(rig_.subscriber.Set(kTestSlot, vllm_->source()).has_value());
  ASSERT_TRUE(rig_.IsExact(2500));
  vllm_->Tell("publish 30");
  ASSERT_TRUE(rig_.IsExact(2530));
  rig_.ExpectHashes(kFirstHash, 2530);
}

TEST_F(KvSubscriberVllm, GapsAndGarbageAreRecovered) {
  ASSERT_TRUE(rig_.subscriber.Set(kTestSlot, vllm_->source()).has_value());
  vllm_->Tell("publish 10");
  ASSERT_TRUE(rig_.IsExact(10));
  vllm_->Tell("lose 5");
  vllm_->Tell("publish 5");
  ASSERT_TRUE(rig_.IsExact(20));
  rig_.ExpectHashes(kFirstHash, 20);
  vllm_->Tell("garbage");
  vllm_->Tell("publish 1");
  ASSERT_TRUE(rig_.Knows(CacheKnowledge::kApprox, 21));
  vllm_->Tell("clear");
  vllm_->Tell("publish 2");
  ASSERT_TRUE(rig_.IsExact(2));
}

TEST_F(KvSubscriberVllm, KilledAndStartedAgainItIsANewEngine) {
  vllm_->Tell("publish 10");
  ASSERT_TRUE(rig_.subscriber.Set(kTestSlot, vllm_->source()).has_value());
  ASSERT_TRUE(rig_.IsExact(10));
  const KvEventSource source = vllm_->source();
  vllm_.reset();
  ASSERT_TRUE(rig_.Until([&] { return rig_.Knowledge() != CacheKnowledge::kExact; }));
  Start(source.endpoint, source.replay_endpoint);
  vllm_->Tell("publish 10");  // As many as before, and other ones.
  ASSERT_TRUE(rig_.Until([&] { return rig_.restarts == 1; }));
  ASSERT_TRUE(rig_.IsExact(10));
  rig_.ExpectHashes(kFirstHash, 10);
}

}  // namespace
}  // namespace sublet
