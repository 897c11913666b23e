#include "bench/share_holders.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/clock.h"
#include "http/http_client.h"

namespace sublet::bench {
namespace {

constexpr double kAnswerSeconds = 60;  // The first of a domain waits for an MPS server.

struct Pipe {
  Pipe() {
    std::array<int, 2> fds{};
    CHECK(::pipe2(fds.data(), O_CLOEXEC) == 0);
    out = FileDescriptor(fds[0]);
    in = FileDescriptor(fds[1]);
  }
  FileDescriptor out;
  FileDescriptor in;
};

double MicrosecondsSince(std::int64_t begin_ns) {
  return static_cast<double>(MonotonicNanoseconds() - begin_ns) * 1e-3;
}

// In the child.
Asked Ask(const std::string& socket, const std::string& body) {
  Asked asked;
  const std::int64_t begin = MonotonicNanoseconds();
  auto client = HttpClient::ConnectUnix(socket, kAnswerSeconds);
  asked.connect_us = MicrosecondsSince(begin);
  if (!client) {
    fmt::print(stderr, "{}\n", client.error().message);
    ::_exit(1);
  }
  const std::int64_t sent = MonotonicNanoseconds();
  const auto answer = client->Send(
      {.method = "POST", .target = "/v1/shares", .body = body, .timeout_s = kAnswerSeconds});
  asked.grant_us = MicrosecondsSince(sent);
  if (!answer) {
    fmt::print(stderr, "{}\n", answer.error().message);
    ::_exit(1);
  }
  return asked;
}

// A child that asks, tells by the pipe, and then waits for the end of `leash`, if there is one.
Asked Fork(const NodeUnderTest& node, const ShareRequest& request, int leash, int leash_hand) {
  const std::string body = ShareRequestToJson(request).dump();
  Pipe pipe;
  const pid_t pid = ::fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    ::close(leash_hand);
    const Asked asked = Ask(node.socket(), body);
    if (::write(pipe.in.get(), &asked, sizeof asked) != sizeof asked) ::_exit(1);
    char byte = 0;
    if (leash >= 0) static_cast<void>(::read(leash, &byte, 1) == 0);
    ::_exit(0);
  }
  pipe.in.Close();
  Asked asked;
  CHECK(::read(pipe.out.get(), &asked, sizeof asked) == sizeof asked);
  asked.pid = pid;
  return asked;
}

}  // namespace

Asked AskAndEnd(const NodeUnderTest& node, const ShareRequest& request) {
  const Asked asked = Fork(node, request, -1, -1);
  CHECK(::waitpid(asked.pid, nullptr, 0) == asked.pid);
  return asked;
}

ShareHolders::ShareHolders(const NodeUnderTest& node) : node_(node) {
  Pipe pipe;
  leash_ = std::move(pipe.out);
  leash_hand_ = std::move(pipe.in);
}

ShareHolders::~ShareHolders() {
  leash_hand_.Close();
  for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
}

pid_t ShareHolders::Add(const ShareRequest& request) {
  pids_.push_back(Fork(node_, request, leash_.get(), leash_hand_.get()).pid);
  return pids_.back();
}

}  // namespace sublet::bench
