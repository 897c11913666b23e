#include "measure/profile_ready.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>
#include <thread>

#include "base/file_descriptor.h"

namespace sublet {
namespace {

bool Passes(const std::string& text) {
  const Result<ReadyCheck> check = ReadyCheck::Parse(text);
  EXPECT_TRUE(check) << text;
  return check && check->Passes();
}

// A server on a port that the kernel chose, which answers one request and goes.
class OneAnswer {
 public:
  explicit OneAnswer(std::string answer) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(socket_.get(), any, size), 0);
    EXPECT_EQ(::listen(socket_.get(), 1), 0);
    ::getsockname(socket_.get(), any, &size);
    port_ = ::ntohs(address.sin_port);
    server_ = std::thread([this, answer = std::move(answer)] {
      const FileDescriptor client(::accept(socket_.get(), nullptr, nullptr));
      char request[1024] = {};
      const ssize_t got = ::recv(client.get(), request, sizeof request - 1, 0);
      if (got > 0) asked_ = request;
      ::send(client.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    });
  }
  ~OneAnswer() { Join(); }

  void Join() {
    if (server_.joinable()) server_.join();
  }
  std::string Place() const { return "127.0.0.1:" + std::to_string(port_); }
  const std::string& asked() const { return asked_; }

 private:
  FileDescriptor socket_;
  int port_ = 0;
  std::string asked_;
  std::thread server_;
};

TEST(ReadyCheck, AsksForThePageAndBelievesItsStatus) {
  OneAnswer good("HTTP/1.1 200 OK\r\n\r\n");
  EXPECT_TRUE(Passes("http://" + good.Place() + "/health"));
  good.Join();
  EXPECT_TRUE(good.asked().starts_with("GET /health HTTP/1.0\r\n")) << good.asked();
  const OneAnswer loading("HTTP/1.1 503 Service Unavailable\r\n\r\n");
  EXPECT_FALSE(Passes("http://" + loading.Place()));
  const OneAnswer other("220 mail.example ready\r\n");
  EXPECT_FALSE(Passes("http://" + other.Place()));
}

TEST(ReadyCheck, TakesAConnectionForAnAnswerWhereThatIsAsked) {
  const OneAnswer server("");
  EXPECT_TRUE(Passes("tcp:" + server.Place()));
}

TEST(ReadyCheck, FailsWhereNobodyListens) {
  std::string place;
  {
    const OneAnswer gone("");
    place = gone.Place();
    EXPECT_TRUE(Passes("tcp:" + place));
  }
  EXPECT_FALSE(Passes("tcp:" + place));
  EXPECT_FALSE(Passes("http://" + place + "/"));
}

TEST(ReadyCheck, RunsACommand) {
  EXPECT_TRUE(Passes("test 1 -lt 2"));
  EXPECT_FALSE(Passes("exit 3"));
}

TEST(ReadyCheck, RefusesWhatIsNoPlace) {
  for (const char* text :
       {"", "https://localhost/health", "tcp:localhost", "tcp::80", "tcp:localhost:0",
        "tcp:localhost:65536", "http://localhost:x/", "http:///health"}) {
    const Result<ReadyCheck> check = ReadyCheck::Parse(text);
    ASSERT_FALSE(check) << text;
    EXPECT_EQ(check.error().code, ErrorCode::kUsage) << text;
  }
  EXPECT_TRUE(ReadyCheck::Parse("tcp:[::1]:8000"));
}

}  // namespace
}  // namespace sublet
