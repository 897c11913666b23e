#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "proxy/fetch.h"
#include "proxy/proxy_server.h"
#include "proxy/tests/test_certificate.h"

namespace sublet {
namespace {

using ::testing::HasSubstr;

// A server that speaks TLS with a certificate of its own making: our data plane.
class FetchTlsTest : public ::testing::Test {
 protected:
  FetchTlsTest() : router_(*Router::Make({}, caches_)) {
    ProxyOptions options;
    options.tls = certificate_.files();
    ProxyHooks hooks;
    hooks.router = router_.get();
    hooks.access = [](std::string_view, std::string_view) { return PathAccess::kOpen; };
    hooks.control = [](ControlRequest request) -> Task<ControlAnswer> {
      ControlAnswer answer;
      answer.body = request.path;
      co_return answer;
    };
    server_ = *ProxyServer::Open(options, hooks);
    port_ = *server_->Listen("127.0.0.1", 0);
    EXPECT_TRUE(server_->Start());
  }

  Result<FetchResponse> Sent(const std::string& host, const FetchTls& tls, int times = 1) const {
    asio::io_context loop;
    const HttpUrl url{.tls = true, .host = host, .port = port_, .path = {}};
    FetchConnection connection(loop, FetchTarget::At(url, tls));
    Result<FetchResponse> response = Fail(ErrorCode::kInternal, "never ended");
    const auto keep = [](FetchConnection& to, int count, Result<FetchResponse>& out) -> Task<void> {
      FetchRequest request;
      request.target = "/alive";
      for (int i = 0; i < count; ++i) out = co_await to.Send(request);
    };
    asio::co_spawn(loop, keep(connection, times, response), EndsTheProgram);
    loop.run();
    return response;
  }

  const TestCertificate certificate_;
  FleetCache caches_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<ProxyServer> server_;
  int port_ = 0;
};

TEST_F(FetchTlsTest, BelievesTheAuthorityThatItIsTold) {
  const FetchTls tls{.ca_file = certificate_.files().certificate_chain, .verify = true};
  const auto response = Sent("localhost", tls, 3);
  ASSERT_TRUE(response) << response.error().message;
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->body, "/alive");
  EXPECT_EQ(server_->Counters().connections_accepted, 1);
}

TEST_F(FetchTlsTest, BelievesNobodyElse) {
  const auto response = Sent("localhost", {});
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(response.error().message, HasSubstr("certificate verify failed"));
}

TEST_F(FetchTlsTest, BelievesWhoeverAnswersWhereItIsToldTo) {
  EXPECT_TRUE(Sent("localhost", {.ca_file = {}, .verify = false}));
}

TEST_F(FetchTlsTest, SaysWhichAuthoritiesItCannotRead) {
  const auto response = Sent("localhost", {.ca_file = "/nonexistent/ca.pem", .verify = true});
  ASSERT_FALSE(response);
  EXPECT_THAT(response.error().message, HasSubstr("/nonexistent/ca.pem"));
}

}  // namespace
}  // namespace sublet
