#include "node/readiness.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/file_descriptor.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

FileDescriptor Listen(int& port) {
  FileDescriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(socket.get(), 8), 0);
  socklen_t size = sizeof address;
  EXPECT_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  port = ntohs(address.sin_port);
  return socket;
}

// Answers one request with these bytes, and keeps the connection open until it goes.
class Server {
 public:
  explicit Server(std::string answer) : listener_(Listen(port_)), answer_(std::move(answer)) {
    thread_ = std::thread([this] { Serve(); });
  }
  ~Server() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  int port() const { return port_; }
  std::string Request() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    while (!served_) std::this_thread::yield();
    return request_;
  }

 private:
  void Serve() {
    const FileDescriptor connection(::accept(listener_.get(), nullptr, nullptr));
    char byte = 0;
    while (connection.valid() && request_.find("\r\n\r\n") == std::string::npos &&
           ::recv(connection.get(), &byte, 1, 0) == 1) {
      request_ += byte;
    }
    static_cast<void>(::send(connection.get(), answer_.data(), answer_.size(), MSG_NOSIGNAL));
    served_ = true;
    // The client's end, or ours.
    pollfd closed{connection.get(), POLLIN, 0};
    if (connection.valid()) ::poll(&closed, 1, 10'000);
  }

  int port_ = 0;
  FileDescriptor listener_;
  const std::string answer_;
  std::string request_;
  std::atomic<bool> served_ = false;
  std::thread thread_;
};

Status Get(const std::string& answer, double limit_s = 10) {
  Server server(answer);
  Readiness readiness;
  readiness.http = "/health?full=1";
  ReadinessPlace place;
  place.port = server.port();
  place.limit_s = limit_s;
  const Status ready = ProbeOnce(readiness, place);
  EXPECT_THAT(server.Request(), StartsWith("GET /health?full=1 HTTP/1.1\r\n"));
  return ready;
}

Status RunProbe(const std::string& script, ReadinessPlace place = {}) {
  Readiness readiness;
  readiness.command = {"/bin/sh", "-c", script};
  return ProbeOnce(readiness, place);
}

TEST(ProbeOnce, TakesSuccessAndRedirectionForReady) {
  for (const char* answer :
       {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.0 204 No Content\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n",
        // A page without an end.
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"}) {
    const Status ready = Get(answer);
    EXPECT_TRUE(ready.has_value()) << answer << ready.error().message;
  }
}

TEST(ProbeOnce, SaysWithWhichStatusItIsNotReady) {
  const Status ready = Get("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
  ASSERT_FALSE(ready.has_value());
  EXPECT_EQ(ready.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(ready.error().message, HasSubstr("status 503"));
  EXPECT_THAT(ready.error().message, StartsWith("GET /health?full=1 on port "));
  EXPECT_FALSE(Get("HTTP/1.1 404 Not Found\r\n\r\n").has_value());
  EXPECT_FALSE(Get("HTTP/1.1 103 Early Hints\r\n\r\n").has_value());
}

TEST(ProbeOnce, TakesNothingElseForAnAnswer) {
  EXPECT_THAT(Get("SSH-2.0-OpenSSH_9.2\r\n").error().message, HasSubstr("isn't HTTP"));
  EXPECT_THAT(Get("HTTP/1.1 xyz\r\n\r\n").error().message, HasSubstr("isn't HTTP"));
}

TEST(ProbeOnce, WaitsNoLongerThanItsLimit) {
  const Deadline deadline = Deadline::In(5);
  const Status ready = Get("", 0.05);
  ASSERT_FALSE(ready.has_value());
  EXPECT_THAT(ready.error().message, HasSubstr("no answer in time"));
  EXPECT_FALSE(deadline.Passed());
}

TEST(ProbeOnce, ConnectsWhereSomebodyListens) {
  ReadinessPlace place;
  Readiness readiness;
  readiness.tcp = true;
  FileDescriptor listener = Listen(place.port);
  EXPECT_TRUE(ProbeOnce(readiness, place).has_value());
  listener.Close();
  const Status ready = ProbeOnce(readiness, place);
  ASSERT_FALSE(ready.has_value());
  EXPECT_EQ(ready.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(ready.error().message, HasSubstr("refused"));
}

TEST(ProbeOnce, RefusesWhatItCannotAsk) {
  Readiness readiness;
  readiness.http = "/a b";
  EXPECT_EQ(ProbeOnce(readiness, {}).error().code, ErrorCode::kInvalid);
  ReadinessPlace place;
  place.port = 1;
  EXPECT_EQ(ProbeOnce(readiness, place).error().code, ErrorCode::kInvalid);
}

TEST(ProbeOnce, RunsACommandAsTheReplicaWouldRun) {
  ReadinessPlace place;
  place.environment = {{"PROBE_TEST", "yes"}};
  place.directory = "/usr";
  EXPECT_TRUE(RunProbe("[ $PROBE_TEST = yes ] && [ $(pwd) = /usr ]", place).has_value());
  if (::geteuid() != 0) return;
  place.user = UserIds{65534, 65534};
  EXPECT_TRUE(RunProbe("[ $(id -u) = 65534 ]", place).has_value());
}

TEST(ProbeOnce, GivesACommandsLastWordsAsTheReason) {
  const Status ready = RunProbe("echo first >&2; echo no model yet >&2; exit 3");
  ASSERT_FALSE(ready.has_value());
  EXPECT_EQ(ready.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(ready.error().message, "/bin/sh exited with status 3: no model yet");
}

TEST(ProbeOnce, EndsACommandThatTakesTooLong) {
  ReadinessPlace place;
  place.limit_s = 0.05;
  const Deadline deadline = Deadline::In(5);
  EXPECT_EQ(RunProbe("sleep 60", place).error().code, ErrorCode::kUnavailable);
  EXPECT_FALSE(deadline.Passed());
}

TEST(ProbeOnce, SaysThatACommandDoesNotExist) {
  Readiness readiness;
  readiness.command = {"no-such-program-anywhere"};
  EXPECT_EQ(ProbeOnce(readiness, {}).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace sublet
