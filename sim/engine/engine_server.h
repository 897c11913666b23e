// sim/engine/engine_server.h
//
// An OpenAI-compatible server with a simulated engine behind it, in real time on an event loop.
//
//   boost::asio::io_context loop;
//   EngineRunner runner(loop, /*time_scale=*/1);
//   ASSIGN_OR_RETURN(auto server, EngineServer::Open(loop, runner, {.engine = {.model = "demo"}}));
//   server->port()
//   loop.run();
//
// It answers
//
//   POST /v1/chat/completions /v1/completions /v1/responses /v1/embeddings
//   POST /tokenize /detokenize /reset_prefix_cache    as vLLM's server has them
//   GET  /v1/models /health /metrics /load /version
//   POST, DELETE /sim/fault    (engine/sim_fault.h)
//   GET  /sim/state            what the engine holds and has done, as JSON
//
// Each answer has the server's name in its header x-sim-engine, which is how a test sees where a
// router sent it. An answer of an engine without a model ends by itself after `answer_tokens`
// tokens ("stop"), unless max_tokens is less ("length") or ignore_eos is set. A client that goes
// away has its request cancelled.
//
// With `instant` nothing is computed or waited for: each request is answered with the same
// `answer_tokens` tokens, which were made into bytes beforehand. That is what stands behind a proxy
// whose own cost is to be seen.
//
// KV events go to a KvEventSink: engine/kv_event_feed.h has the one that speaks ZMQ.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/engine_runner.h"
#include "engine/sim_fault.h"

namespace sublet {

// Where an engine's events go.
class KvEventSink {
 public:
  virtual ~KvEventSink() = default;
  virtual void Publish(const KvEventBatch& batch) = 0;
  // A batch that is numbered, and kept for replay, but not sent.
  virtual void Lose(const KvEventBatch& batch) = 0;
  // Forgets all and numbers from 0 again.
  virtual void Restart() = 0;
};

struct EngineServerOptions {
  std::string address = "127.0.0.1";
  int port = 0;      // 0: any free one.
  std::string name;  // Empty: the model's.
  EngineOptions engine = {};
  std::vector<std::string> loras = {};  // Models of their own, by adapter.
  int answer_tokens = 64;
  // Prompt and output together; absent: what the cache has room for, at most.
  std::optional<std::int64_t> context_tokens_max = {};
  bool instant = false;
};

class EngineServer {
 public:
  // `runner` must outlive the server; engines of one `gpu` share a runner. Fails with kConflict
  // where the port is taken.
  static Result<std::unique_ptr<EngineServer>> Open(boost::asio::io_context& loop,
                                                    EngineRunner& runner,
                                                    const EngineServerOptions& options,
                                                    std::shared_ptr<SharedGpu> gpu = nullptr,
                                                    std::unique_ptr<KvEventSink> sink = nullptr);
  ~EngineServer();
  EngineServer(const EngineServer&) = delete;
  EngineServer& operator=(const EngineServer&) = delete;

  int port() const;
  const Engine& engine() const;
  // As POST /sim/fault does.
  void Arm(const SimFault& fault);

 private:
  class Impl;
  explicit EngineServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
