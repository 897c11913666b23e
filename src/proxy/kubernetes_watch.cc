#include "proxy/kubernetes_watch.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/cancellation_state.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/clock.h"
#include "base/files.h"
#include "http/http_client.h"

namespace sublet {
namespace {

constexpr std::size_t kTokenBytesMax = 64u << 10;
constexpr std::size_t kPageBytesMax = 64u << 20;  // 500 slices of 100 endpoints have some 20 MiB.
constexpr int kGone = 410;

FetchTarget TargetOf(const KubernetesDiscovery& wanted) {
  Result<HttpUrl> url = ParseHttpUrl(wanted.api_server);
  // The reader of the file and InCluster() have made sure of it.
  if (!url) return FetchTarget::At({});
  return FetchTarget::At(std::move(*url), {.ca_file = wanted.ca_file, .verify = true});
}

std::string Trimmed(std::string text) {
  text.erase(text.find_last_not_of(" \n\r\t") + 1);
  return text;
}

// Kubernetes says why in a Status object.
tl::unexpected<Error> RefusedWith(const FetchResponse& answer) {
  const auto json = nlohmann::json::parse(answer.body, nullptr, false);
  const bool said = json.is_object() && json.contains("message") && json["message"].is_string();
  const std::string message = said ? json["message"].get<std::string>() : "";
  const char* hint = answer.status == 403
                         ? "the service account needs list and watch of endpointslices"
                     : answer.status == 401 ? "the token isn't taken"
                                            : "";
  return Fail(answer.status == 401 || answer.status == 403 ? ErrorCode::kPermission
                                                           : ErrorCode::kUnavailable,
              fmt::format("Kubernetes' API answers {}: {}", answer.status, message.substr(0, 200)),
              hint);
}

}  // namespace

Result<KubernetesDiscovery> InCluster(KubernetesDiscovery wanted, std::string_view service_host,
                                      std::string_view service_port, std::string_view name_space) {
  if (wanted.api_server.empty()) {
    if (service_host.empty()) {
      return Fail(ErrorCode::kNotFound,
                  "no Kubernetes API server is known: KUBERNETES_SERVICE_HOST",
                  "this is no pod: set discovery.kubernetes.api_server, token_file and ca_file");
    }
    const bool address6 = service_host.find(':') != std::string_view::npos;
    const std::string host =
        address6 ? fmt::format("[{}]", service_host) : std::string(service_host);
    wanted.api_server =
        fmt::format("https://{}:{}", host, service_port.empty() ? "443" : service_port);
  }
  RETURN_IF_ERROR(ParseHttpUrl(wanted.api_server));
  if (wanted.name_space.empty()) wanted.name_space = Trimmed(std::string(name_space));
  if (wanted.name_space.empty()) {
    return Fail(ErrorCode::kNotFound, "no Kubernetes namespace is known",
                "this is no pod: set discovery.kubernetes.namespace");
  }
  return wanted;
}

KubernetesWatch::KubernetesWatch(asio::io_context& loop, KubernetesDiscovery wanted,
                                 std::uint64_t seed, OnReplicas on_replicas, KubernetesTimes times)
    : loop_(loop),
      wanted_(std::move(wanted)),
      on_replicas_(std::move(on_replicas)),
      times_(times),
      random_(static_cast<std::minstd_rand::result_type>(seed)),
      server_(loop, TargetOf(wanted_)) {}

Result<FetchRequest> KubernetesWatch::Request(std::string query) const {
  const std::string selector =
      wanted_.selector.empty() ? "kubernetes.io/service-name=" + wanted_.service : wanted_.selector;
  FetchRequest request;
  request.target = fmt::format(
      "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?"
      "labelSelector={}{}",
      wanted_.name_space, EncodeComponent(selector), query);
  request.timeout_s = times_.answer_s;
  request.bytes_max = kPageBytesMax;
  request.headers.emplace_back("Accept", "application/json");
  if (wanted_.api_server.starts_with("https://")) {
    ASSIGN_OR_RETURN(const std::string token, ReadFile(wanted_.token_file, kTokenBytesMax));
    request.headers.emplace_back("Authorization", "Bearer " + Trimmed(token));
  }
  return request;
}

void KubernetesWatch::Tell() {
  std::string left_out;
  std::vector<ReplicaSpec> replicas = slices_.Replicas(wanted_, left_out);
  if (!left_out.empty() && left_out != left_out_) {
    spdlog::warn("endpoints of Kubernetes are left out: {}", left_out);
  }
  left_out_ = std::move(left_out);
  on_replicas_(std::move(replicas));
}

Task<Status> KubernetesWatch::List() {
  slices_.ForgetPages();
  do {
    std::string query = "&limit=500";
    if (!slices_.next_page().empty()) query += "&continue=" + EncodeComponent(slices_.next_page());
    const Result<FetchRequest> request = Request(std::move(query));
    if (!request) co_return tl::unexpected<Error>(request.error());
    const Result<FetchResponse> answer = co_await server_.Send(*request);
    if (!answer) co_return tl::unexpected<Error>(answer.error());
    if (answer->status != 200) co_return RefusedWith(*answer);
    const Status taken = slices_.TakePage(answer->body);
    if (!taken) co_return tl::unexpected<Error>(taken.error());
  } while (!slices_.next_page().empty());
  expired_ = false;
  if (state_.Heard(MonotonicNanoseconds())) {
    spdlog::info("hears Kubernetes at {}: {} EndpointSlices", wanted_.api_server, slices_.size());
  }
  Tell();
  co_return Status();
}

Task<Status> KubernetesWatch::WatchOnce() {
  Result<FetchRequest> request = Request(
      fmt::format("&watch=true&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}",
                  static_cast<int>(times_.watch_s), EncodeComponent(slices_.version())));
  if (!request) co_return tl::unexpected<Error>(request.error());
  request->timeout_s = times_.silence_s;
  Status outcome;
  std::function<bool(std::string_view)> on_line = [this, &outcome](std::string_view line) {
    if (line.empty()) return true;
    const Result<WatchEvent> event = slices_.TakeEvent(line);
    if (!event) {
      outcome = tl::unexpected<Error>(event.error());
      // What comes after an event that wasn't understood can't be trusted: list again.
      expired_ = true;
      return false;
    }
    state_.Heard(MonotonicNanoseconds());
    if (*event == WatchEvent::kExpired) expired_ = true;
    if (*event == WatchEvent::kChanged) Tell();
    return !expired_;
  };
  const Result<FetchResponse> answer = co_await server_.Stream(*request, std::move(on_line));
  if (!outcome) co_return outcome;
  if (!answer) co_return tl::unexpected<Error>(answer.error());
  if (answer->status == kGone) {
    expired_ = true;
  } else if (answer->status != 200) {
    co_return RefusedWith(*answer);
  }
  co_return Status();
}

Task<void> KubernetesWatch::Run() {
  RetryPause pause(times_.pause_first_s, times_.pause_most_s);
  asio::steady_timer timer(loop_);
  for (;;) {
    const bool listing = expired_;
    const std::int64_t began_ns = MonotonicNanoseconds();
    Status status;
    if (listing) {
      status = co_await List();
    } else {
      status = co_await WatchOnce();
    }
    const asio::cancellation_state asked = co_await asio::this_coro::cancellation_state;
    if (asked.cancelled() != asio::cancellation_type::none) co_return;
    if (!status && state_.Away(status.error().message)) {
      spdlog::warn("doesn't hear Kubernetes, its replicas stay as they were: {}",
                   status.error().message);
    }
    // A list is followed by its watch at once. A watch that ends as soon as it began isn't: such a
    // server, or one whose lists are always too old, would be asked without a pause.
    const double took_s = static_cast<double>(MonotonicNanoseconds() - began_ns) / 1e9;
    const bool lasted = !listing && took_s >= times_.pause_first_s;
    if (status && lasted) pause.Reset();
    if (status && (lasted || listing)) continue;
    const double chance = std::uniform_real_distribution<double>(0, 1)(random_);
    const auto wait = static_cast<std::int64_t>(pause.Next(chance) * 1e9);
    timer.expires_after(std::chrono::nanoseconds(wait));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

}  // namespace sublet
