#include "exe/demo_load.h"

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string_view>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "http/event_loop.h"

namespace sublet {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using nlohmann::json;

constexpr std::array<std::string_view, 40> kWords = {
    "about",  "again",  "answer",  "before",  "between", "bread",  "build",  "carry",
    "close",  "cold",   "copper",  "corner",  "early",   "engine", "every",  "field",
    "follow", "garden", "glass",   "harbour", "heavy",   "island", "ladder", "letter",
    "light",  "market", "morning", "number",  "often",   "paper",  "quiet",  "river",
    "salt",   "seven",  "silver",  "stone",   "under",   "water",  "wind",   "winter"};

using Random = std::mt19937_64;

std::string Words(Random& random, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += kWords[random() % kWords.size()];
    text += i + 1 < count ? " " : ".";
  }
  return text;
}

// What one turn brought.
struct Turn {
  std::optional<double> ttft_ms;
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;
  std::string replica;
  std::string answer;
  std::string error;
};

// Takes the events of an answer as its bytes come.
class EventReader {
 public:
  EventReader(Turn& turn, std::int64_t began_ns) : turn_(turn), began_ns_(began_ns) {}

  void Take(std::string_view bytes) {
    kept_ += bytes;
    std::size_t end = 0;
    while ((end = kept_.find("\n\n")) != std::string::npos) {
      OnEvent(std::string_view(kept_).substr(0, end));
      kept_.erase(0, end + 2);
    }
  }

 private:
  void OnEvent(std::string_view event) {
    constexpr std::string_view kData = "data: ";
    if (!event.starts_with(kData)) return;
    const json frame = json::parse(event.substr(kData.size()), nullptr, false);
    if (!frame.is_object()) return;  // "[DONE]"
    if (frame.contains("error")) turn_.error = frame["error"].dump();
    for (const json& choice : frame.value("choices", json::array())) {
      const std::string piece = choice.value("/delta/content"_json_pointer, "");
      if (piece.empty()) continue;
      turn_.answer += piece;
      if (!turn_.ttft_ms) {
        turn_.ttft_ms = static_cast<double>(MonotonicNanoseconds() - began_ns_) / 1e6;
      }
    }
    if (const json usage = frame.value("usage", json()); usage.is_object()) {
      turn_.prompt_tokens = usage.value("prompt_tokens", 0);
      turn_.cached_tokens = usage.value("/prompt_tokens_details/cached_tokens"_json_pointer, 0);
    }
  }

  Turn& turn_;
  std::int64_t began_ns_;
  std::string kept_;
};

}  // namespace

class DemoLoad::Impl {
 public:
  Impl(int port, std::string model, const LoadOptions& options)
      : port_(port), model_(std::move(model)), options_(options) {}

  ~Impl() { Stop(); }

  void Start() {
    for (int place = 0; place < options_.conversations; ++place) {
      asio::co_spawn(loop_, Converse(place), asio::detached);
    }
    thread_ = std::thread([this] { loop_.run(); });
  }

  void Stop() {
    loop_.stop();
    if (thread_.joinable()) thread_.join();
  }

  LoadTally Look() const {
    const std::lock_guard lock(mutex_);
    return tally_;
  }

 private:
  // One conversation after the other, in one place.
  Task<void> Converse(int place) {
    for (std::uint64_t number = 0;; ++number) {
      Random random(options_.seed * 1'000'003 + static_cast<std::uint64_t>(place) * 7919 + number);
      json messages = json::array();
      messages.push_back({{"role", "system"}, {"content", Words(random, options_.context_words)}});
      // The first ones are met in the midst, so that not all end together.
      const int turns =
          number == 0 ? 1 + place * options_.turns / options_.conversations : options_.turns;
      for (int i = 0; i < turns; ++i) {
        co_await Think(random);
        messages.push_back({{"role", "user"}, {"content", Words(random, options_.turn_words)}});
        Turn turn = co_await Ask(messages.dump());
        Count(turn);
        messages.push_back({{"role", "assistant"}, {"content", turn.answer}});
      }
    }
  }

  Task<void> Think(Random& random) {
    std::exponential_distribution<double> pause(1 / options_.think_s);
    asio::steady_timer timer(loop_);
    timer.expires_after(std::chrono::nanoseconds(static_cast<std::int64_t>(pause(random) * 1e9)));
    co_await timer.async_wait(asio::use_awaitable);
  }

  Task<Turn> Ask(std::string messages) {
    Turn turn;
    try {
      co_await Exchange(messages, turn);
    } catch (const boost::system::system_error& error) {
      turn.error = error.what();
    }
    if (turn.error.empty() && !turn.ttft_ms) turn.error = "an answer without content";
    co_return turn;
  }

  Task<void> Exchange(const std::string& messages, Turn& turn) {
    const std::int64_t began_ns = MonotonicNanoseconds();
    tcp::socket socket(loop_);
    const tcp::endpoint router(asio::ip::address_v4::loopback(), static_cast<std::uint16_t>(port_));
    co_await socket.async_connect(router, asio::use_awaitable);
    http::request<http::string_body> request(http::verb::post, "/v1/chat/completions", 11);
    request.set(http::field::host, "localhost");
    request.set(http::field::content_type, "application/json");
    request.body() = R"({"model":")" + model_ + R"(","stream":true,"max_tokens":)" +
                     std::to_string(options_.answer_tokens) +
                     R"(,"stream_options":{"include_usage":true},"messages":)" + messages + "}";
    request.prepare_payload();
    co_await http::async_write(socket, request, asio::use_awaitable);
    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    co_await http::async_read_header(socket, buffer, parser, asio::use_awaitable);
    turn.replica = std::string(parser.get()["x-sublet-replica"]);
    if (parser.get().result() != http::status::ok) {
      turn.error = std::to_string(parser.get().result_int()) + " from the router";
      co_return;
    }
    EventReader reader(turn, began_ns);
    std::array<char, 16384> piece{};
    while (!parser.is_done()) {
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      boost::system::error_code error;
      co_await http::async_read_some(socket, buffer, parser,
                                     asio::redirect_error(asio::use_awaitable, error));
      if (error && error != http::error::need_buffer) throw boost::system::system_error(error);
      reader.Take({piece.data(), piece.size() - parser.get().body().size});
    }
  }

  void Count(const Turn& turn) {
    const std::lock_guard lock(mutex_);
    if (!turn.error.empty()) {
      ++tally_.failed;
      tally_.last_error = turn.error;
      return;
    }
    ++tally_.served;
    tally_.ttft_ms.push_back(*turn.ttft_ms);
    LoadTally::Replica& replica = tally_.replicas[turn.replica];
    ++replica.requests;
    tally_.prompt_tokens += turn.prompt_tokens;
    replica.prompt_tokens += turn.prompt_tokens;
    tally_.cached_tokens += turn.cached_tokens;
    replica.cached_tokens += turn.cached_tokens;
  }

  const int port_;
  const std::string model_;
  const LoadOptions options_;
  asio::io_context loop_{1};
  std::thread thread_;
  mutable std::mutex mutex_;
  LoadTally tally_;
};

DemoLoad::DemoLoad(int port, std::string model, const LoadOptions& options)
    : impl_(std::make_unique<Impl>(port, std::move(model), options)) {}
DemoLoad::~DemoLoad() = default;
void DemoLoad::Start() {
  impl_->Start();
}
void DemoLoad::Stop() {
  impl_->Stop();
}
LoadTally DemoLoad::Look() const {
  return impl_->Look();
}

}  // namespace sublet
