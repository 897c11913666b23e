// kube/metrics_endpoint.h
//
// The plugin's page for Prometheus, and one that says that it lives.
//
//   ASSIGN_OR_RETURN(auto page, MetricsEndpoint::Open(loop, threads, options, state));
//   page->port()
//
//   GET /metrics    text/plain; version=0.0.4. Within seconds, whatever kubelet and the driver do.
//   GET /healthz    200 "ok" while the loop runs and no call into the driver hangs, else 503.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "http/event_loop.h"
#include "http/http_server.h"
#include "kube/kube_metrics.h"
#include "kube/pod_meter.h"

namespace sublet {

struct MetricsEndpointOptions {
  std::string address;  // "127.0.0.1:9400", "0.0.0.0:9400", "[::]:9400", ":9400"; port 0: any free.
  PodMeterOptions meter;
};

// Where to listen; port and numeric address. Fails with kUsage.
Result<TcpListenerOptions> ParseMetricsAddress(const std::string& text);

class MetricsEndpoint {
 public:
  // What the plugin knows, and why it doesn't live: empty where it does.
  struct Source {
    std::function<PluginState()> state;
    std::function<std::string()> sickness;
  };
  // Fails with kUsage for an address that is none, with kConflict where the port is taken.
  static Result<std::unique_ptr<MetricsEndpoint>> Open(asio::io_context& loop,
                                                       asio::thread_pool& threads,
                                                       const MetricsEndpointOptions& options,
                                                       Source source);
  int port() const { return port_; }

 private:
  MetricsEndpoint(std::shared_ptr<PodWatch> watch, Source source)
      : watch_(std::move(watch)), source_(std::move(source)) {}
  Task<void> Answer(HttpRequest request, Responder& responder);

  const std::shared_ptr<PodWatch> watch_;
  const Source source_;
  std::unique_ptr<HttpServer> server_;
  int port_ = 0;
};

}  // namespace sublet
