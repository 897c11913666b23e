#include "kube/metrics_endpoint.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "http/http_message.h"

namespace sublet {
namespace {

constexpr std::string_view kMetricsType = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace

Result<TcpListenerOptions> ParseMetricsAddress(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  TcpListenerOptions options;
  // What names an address means it, and nothing here is a secret to the cluster.
  options.open_to_all = true;
  options.beyond_this_machine = true;
  options.port = -1;
  if (colon != std::string::npos) {
    options.address = text.substr(0, colon);
    const char* const end = text.data() + text.size();
    const auto [read, error] = std::from_chars(text.data() + colon + 1, end, options.port);
    if (error != std::errc() || read != end) options.port = -1;
  }
  if (options.port < 0 || options.port > 65535) {
    return Fail(ErrorCode::kUsage, fmt::format("not an address and a port: {}", text),
                "127.0.0.1:9400 for this machine, :9400 for everyone");
  }
  std::string& address = options.address;
  if (address.starts_with('[') && address.ends_with(']')) {
    address = address.substr(1, address.size() - 2);
  }
  if (address.empty()) address = "0.0.0.0";
  return options;
}

Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Open(
    asio::io_context& loop, asio::thread_pool& threads, const MetricsEndpointOptions& options,
    Source source) {
  ASSIGN_OR_RETURN(const TcpListenerOptions listener, ParseMetricsAddress(options.address));
  auto watch = std::make_shared<PodWatch>(loop, threads, options.meter);
  std::unique_ptr<MetricsEndpoint> page(new MetricsEndpoint(std::move(watch), std::move(source)));
  const auto answer = [at = page.get()](HttpRequest request, Responder& responder) {
    return at->Answer(std::move(request), responder);
  };
  // Prometheus and a probe; nobody sends anything.
  const HttpServerOptions bounds{.body_bytes_max = 1024, .connections_max = 32, .write_s = 30};
  ASSIGN_OR_RETURN(page->server_, HttpServer::Open(loop, bounds, answer));
  ASSIGN_OR_RETURN(page->port_, page->server_->AddTcpListener(listener));
  return page;
}

Task<void> MetricsEndpoint::Answer(HttpRequest request, Responder& responder) {
  if (request.method != "GET" || (request.path != "/metrics" && request.path != "/healthz")) {
    const std::string message = fmt::format("there is no {} {}", request.method, request.path);
    co_await responder.Refuse(ErrorCode::kNotFound, message, "GET /metrics or /healthz");
    co_return;
  }
  if (request.path == "/healthz") {
    std::string why = source_.sickness();
    const int status = why.empty() ? 200 : 503;
    std::string body = why.empty() ? "ok\n" : why + "\n";
    co_await responder.Send(status, kTextType, std::move(body));
    co_return;
  }
  const std::shared_ptr<const PodSight> sight = co_await watch_->Look();
  const double age_s = sight ? SecondsSince(sight->at) : 0;
  std::string text = KubeMetricsText(source_.state(), sight.get(), age_s, watch_->late());
  co_await responder.Send(200, kMetricsType, std::move(text));
}

}  // namespace sublet
