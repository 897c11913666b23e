#include "exe/simulated_engines.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "engine/engine_runner.h"
#include "engine/engine_server.h"
#include "engine/kv_event_feed.h"

namespace sublet {
namespace {

class EngineThread : public SimulatedEngines {
 public:
  EngineThread() : thread_([this] { loop_.run(); }) {}
  ~EngineThread() override {
    boost::asio::post(loop_, [this] {
      engines_.clear();
      work_.reset();
      loop_.stop();
    });
    thread_.join();
  }

  Result<std::vector<ReplicaSpec>> Run(const std::vector<RouteReplica>& replicas) override {
    std::promise<Result<std::vector<ReplicaSpec>>> promise;
    boost::asio::post(loop_, [&] { promise.set_value(RunThem(replicas)); });
    return promise.get_future().get();
  }

 private:
  struct Running {
    RouteReplica asked;
    ReplicaSpec found;
    std::unique_ptr<EngineServer> server;
  };

  // On the thread.
  Result<std::vector<ReplicaSpec>> RunThem(const std::vector<RouteReplica>& replicas) {
    std::vector<ReplicaSpec> specs;
    std::set<std::string> names;
    for (const RouteReplica& replica : replicas) {
      const std::string& name = replica.spec.name;
      names.insert(name);
      auto at = engines_.find(name);
      if (at == engines_.end() || at->second.asked != replica) {
        ASSIGN_OR_RETURN(Running running, Start(replica));
        at = engines_.insert_or_assign(name, std::move(running)).first;
      }
      specs.push_back(at->second.found);
    }
    std::erase_if(engines_, [&](const auto& entry) { return !names.contains(entry.first); });
    return specs;
  }

  std::shared_ptr<SharedGpu> GpuOf(const std::string& name) {
    if (name.empty()) return nullptr;
    std::shared_ptr<SharedGpu> gpu = gpus_[name].lock();
    if (gpu == nullptr) gpus_[name] = gpu = std::make_shared<SharedGpu>();
    return gpu;
  }

  Result<Running> Start(const RouteReplica& replica) {
    const SimulatedEngine& asked = *replica.simulate;
    Running running;
    running.asked = replica;
    running.found = replica.spec;
    EngineServerOptions options;
    options.name = replica.spec.name;
    options.engine.model = replica.spec.models.at(0);
    options.loras = {replica.spec.models.begin() + 1, replica.spec.models.end()};
    options.engine.kv_blocks = asked.kv_blocks;
    options.engine.block_tokens = asked.kv_block_tokens;
    options.engine.prefill_tokens_per_second = asked.prefill_tokens_per_second;
    // A step that decodes one sequence takes what was asked; each further one a little more.
    options.engine.step_overhead_ms =
        std::max(0.0, asked.decode_step_ms - options.engine.decode_ms_a_sequence);
    options.engine.kv_events = asked.kv_events;
    options.engine.share.sm_percent = replica.spec.share.sm_percent;
    std::unique_ptr<KvEventFeed> feed;
    if (asked.kv_events) {
      KvEventFeedOptions events;
      events.replay_port = 0;
      ASSIGN_OR_RETURN(feed, KvEventFeed::Open(loop_, events));
      KvEventSource source;
      source.endpoint = feed->endpoint();
      source.replay_endpoint = feed->replay_endpoint();
      running.found.kv_events = std::move(source);
    }
    ASSIGN_OR_RETURN(running.server,
                     EngineServer::Open(loop_, runner_, options, GpuOf(replica.spec.share.gpu),
                                        std::move(feed)));
    running.found.url = fmt::format("http://127.0.0.1:{}", running.server->port());
    return running;
  }

  boost::asio::io_context loop_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
      loop_.get_executor()};
  EngineRunner runner_{loop_, 1.0};
  std::map<std::string, std::weak_ptr<SharedGpu>> gpus_;
  std::map<std::string, Running> engines_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<SimulatedEngines> MakeSimulatedEngines() {
  return std::make_unique<EngineThread>();
}

}  // namespace sublet
