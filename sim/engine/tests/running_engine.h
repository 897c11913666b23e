// sim/engine/tests/running_engine.h
//
// An engine's server on a loop with a thread of its own, and a client that waits.
//
//   RunningEngine engine({.engine = {.model = "demo"}});
//   engine.Start();
//   WireClient client(engine.port());
//   client.Post("/v1/completions", R"({"prompt":"Hi"})").body
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/engine_server.h"

namespace sublet {

// Fast, but not so fast that everything falls into one step.
inline EngineServerOptions QuickEngine() {
  EngineServerOptions options;
  options.engine = {.kv_blocks = 1000,
                    .block_tokens = 4,
                    .prefill_tokens_per_second = 1e6,
                    .step_overhead_ms = 0.2,
                    .decode_ms_a_sequence = 0.01};
  options.answer_tokens = 8;
  return options;
}

class RunningEngine {
 public:
  explicit RunningEngine(const EngineServerOptions& options,
                         std::unique_ptr<KvEventSink> sink = nullptr)
      : runner_(loop_, 1) {
    auto opened = EngineServer::Open(loop_, runner_, options, nullptr, std::move(sink));
    EXPECT_TRUE(opened) << opened.error().message;
    server_ = std::move(*opened);
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~RunningEngine() {
    OnLoop([this] { server_.reset(); });
    guard_.reset();
    thread_.join();
  }

  int port() const { return server_->port(); }
  // On the loop's thread, and waits for it.
  template <typename Work>
  std::invoke_result_t<Work> OnLoop(Work work) {
    std::packaged_task<std::invoke_result_t<Work>()> task(std::move(work));
    auto done = task.get_future();
    boost::asio::post(loop_, [&task] { task(); });
    return done.get();
  }
  EngineCounters Counters() {
    return OnLoop([this] { return server_->engine().counters(); });
  }
  std::int64_t BlocksUsed() {
    return OnLoop([this] { return server_->engine().blocks_used(); });
  }
  // Until no request runs or waits: that of a client that left is noticed a moment later.
  void WaitUntilIdle() {
    while (OnLoop([this] { return server_->engine().running() + server_->engine().waiting(); })) {
      std::this_thread::yield();
    }
  }

 private:
  boost::asio::io_context loop_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard_{
      loop_.get_executor()};
  EngineRunner runner_;
  std::unique_ptr<EngineServer> server_;
  std::thread thread_;
};

struct WireAnswer {
  int status = 0;  // 0: none came.
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string error;  // What broke it off; empty: nothing.

  std::string Header(const std::string& name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }
};

class WireClient {
 public:
  explicit WireClient(int port) : socket_(loop_) {
    const boost::asio::ip::tcp::endpoint where(boost::asio::ip::address_v4::loopback(),
                                               static_cast<std::uint16_t>(port));
    socket_.connect(where);
  }

  WireAnswer Get(const std::string& path) { return Ask("GET", path, "", ""); }
  WireAnswer Post(const std::string& path, const std::string& body,
                  const std::string& headers = "") {
    return Ask("POST", path, body, headers);
  }
  WireAnswer Ask(const std::string& method, const std::string& path, const std::string& body,
                 const std::string& headers) {
    Say(method + " " + path + " HTTP/1.1\r\nHost: x\r\n" + headers +
        "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    return Hear();
  }

  void Say(const std::string& bytes) { boost::asio::write(socket_, boost::asio::buffer(bytes)); }
  WireAnswer Hear() {
    namespace http = boost::beast::http;
    http::response_parser<http::string_body> parser;
    parser.body_limit(64u << 20);
    boost::system::error_code error;
    http::read(socket_, buffer_, parser, error);
    WireAnswer answer;
    if (parser.is_header_done()) {
      answer.status = static_cast<int>(parser.get().result_int());
      for (const auto& field : parser.get()) {
        answer.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
      }
    }
    answer.body = parser.get().body();
    if (error) answer.error = error.message();
    return answer;
  }
  // Some of what comes, up to `text`; all of it where it never does.
  std::string HearUntil(const std::string& text) {
    std::string heard;
    boost::system::error_code error;
    while (heard.find(text) == std::string::npos && !error) {
      char bytes[4096];
      const std::size_t count = socket_.read_some(boost::asio::buffer(bytes), error);
      heard.append(bytes, count);
    }
    return heard;
  }
  void Close() { socket_.close(); }

 private:
  boost::asio::io_context loop_;
  boost::asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
};

}  // namespace sublet
