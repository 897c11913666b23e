#include "proxy/node_discovery.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/cancellation_state.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <chrono>
#include <optional>

#include "base/clock.h"
#include "proxy/fetch.h"

namespace sublet {
namespace {

constexpr int kPortMax = 65535;
constexpr double kTimeoutS = 5;

std::string WorkloadOf(const std::string& replica) {
  return replica.substr(0, replica.rfind('/'));
}

bool IsServing(ShareState state) {
  return state == ShareState::kReady || state == ShareState::kRunning;
}

std::string EndpointAt(int port, int offset) {
  const int at = port + offset;
  return offset != 0 && at > 0 && at <= kPortMax ? fmt::format("tcp://127.0.0.1:{}", at) : "";
}

ReplicaSpec SpecOf(const ShareStatus& status, const NodeDiscovery& wanted) {
  const Share& share = status.share;
  ReplicaSpec spec;
  spec.name = share.name;
  spec.url = fmt::format("http://127.0.0.1:{}", *status.port);
  spec.source = "node";
  // A MIG instance has SMs of its own: who is on another one doesn't slow it.
  spec.share.gpu = share.mig_uuid.empty() ? share.gpu_uuid : share.mig_uuid;
  if (share.sm_percent) spec.share.sm_percent = *share.sm_percent;
  const std::string events = EndpointAt(*status.port, wanted.kv_events_port_offset);
  if (!events.empty()) {
    spec.kv_events =
        KvEventSource{.endpoint = events,
                      .replay_endpoint = EndpointAt(*status.port, wanted.kv_replay_port_offset),
                      .topic = {},
                      .ranks = 1};
  }
  return spec;
}

}  // namespace

std::vector<ReplicaSpec> ReplicasOfNode(const NodeStatus& status, const NodeDiscovery& wanted) {
  std::vector<ReplicaSpec> replicas;
  const auto& workloads = wanted.workloads;
  for (const ShareStatus& share : status.shares) {
    if (!share.replica || !share.port || !IsServing(share.state)) continue;
    const bool asked =
        workloads.empty() || std::find(workloads.begin(), workloads.end(),
                                       WorkloadOf(share.share.name)) != workloads.end();
    if (asked) replicas.push_back(SpecOf(share, wanted));
  }
  std::sort(replicas.begin(), replicas.end(),
            [](const ReplicaSpec& a, const ReplicaSpec& b) { return a.name < b.name; });
  return replicas;
}

Task<void> NodeWatch::Run() {
  FetchConnection daemon(loop_, FetchTarget::OfSocket(wanted_.socket));
  FetchRequest request;
  request.target = "/v1/status";
  request.timeout_s = kTimeoutS;
  request.bytes_max = 64u << 20;
  asio::steady_timer timer(loop_);
  std::optional<std::vector<ReplicaSpec>> last;
  for (;;) {
    const Result<FetchResponse> answer = co_await daemon.Send(request);
    const asio::cancellation_state asked = co_await asio::this_coro::cancellation_state;
    if (asked.cancelled() != asio::cancellation_type::none) co_return;
    Result<NodeStatus> status = Fail(ErrorCode::kUnavailable, "");
    if (!answer) {
      status = tl::unexpected<Error>(answer.error());
    } else if (answer->status != 200) {
      status = Fail(ErrorCode::kUnavailable,
                    fmt::format("the daemon answers {}: {}", answer->status, wanted_.socket));
    } else {
      status = ParseNodeStatus(answer->body, wanted_.socket);
    }
    if (status) {
      if (state_.Heard(MonotonicNanoseconds()))
        spdlog::info("hears the node's daemon at {}", wanted_.socket);
      std::vector<ReplicaSpec> now = ReplicasOfNode(*status, wanted_);
      if (last != now) on_replicas_(now);
      last = std::move(now);
    } else if (state_.Away(status.error().message)) {
      spdlog::warn("doesn't hear the node's daemon, its replicas stay as they were: {}",
                   status.error().message);
    }
    timer.expires_after(
        std::chrono::nanoseconds(static_cast<std::int64_t>(wanted_.interval_s * 1e9)));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

}  // namespace sublet
