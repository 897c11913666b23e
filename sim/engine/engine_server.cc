#include "engine/engine_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

#include "engine/answer_job.h"
#include "engine/engine_http.h"
#include "engine/engine_metrics.h"
#include "engine/fault_table.h"
#include "engine/instant_answers.h"
#include "engine/openai_answer.h"
#include "engine/openai_request.h"
#include "engine/tokenizer.h"
#include "http/http_message.h"

namespace sublet {
namespace {

using ExchangePtr = std::shared_ptr<EngineExchange>;

constexpr std::string_view kVersion = "0.11.0";  // Of the vLLM whose manners these are.

std::int64_t SecondsSince1970() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

double PreciseSecondsSince1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string_view IdPrefix(OpenAiKind kind) {
  switch (kind) {
    case OpenAiKind::kChat:
      return "chatcmpl";
    case OpenAiKind::kResponse:
      return "resp";
    case OpenAiKind::kCompletion:
    case OpenAiKind::kEmbedding:
      break;
  }
  return "cmpl";
}

std::optional<OpenAiKind> KindOfPath(std::string_view path) {
  if (path == "/v1/chat/completions") return OpenAiKind::kChat;
  if (path == "/v1/completions") return OpenAiKind::kCompletion;
  if (path == "/v1/responses") return OpenAiKind::kResponse;
  if (path == "/v1/embeddings") return OpenAiKind::kEmbedding;
  return std::nullopt;
}

void RefuseExchange(EngineExchange& exchange, int status, std::string_view message,
                    std::string_view param = {}) {
  exchange.Answer(status, kJsonType, OpenAiError(status, message, param));
}

}  // namespace

class EngineServer::Impl {
 public:
  Impl(boost::asio::io_context& loop, EngineRunner& runner, const EngineServerOptions& options,
       std::shared_ptr<SharedGpu> gpu, std::unique_ptr<KvEventSink> sink)
      : loop_(loop),
        runner_(runner),
        options_(options),
        gpu_(gpu ? std::move(gpu) : std::make_shared<SharedGpu>()),
        sink_(std::move(sink)),
        instant_(options.engine.model, options.answer_tokens, options.name) {
    MakeEngine();
  }
  ~Impl() {
    runner_.Remove(*engine_);
    *alive_ = false;
  }

  Status Listen() {
    ASSIGN_OR_RETURN(http_, EngineHttp::Open(loop_, options_.address, options_.port, options_.name,
                                             [this](const ExchangePtr& e) { Handle(e); }));
    return {};
  }

  int port() const { return http_->port(); }
  const Engine& engine() const { return *engine_; }
  void Arm(const SimFault& fault);

 private:
  // A client's request, with all the sequences that are computed for it.
  struct Job {
    std::shared_ptr<AnswerJob> answer;
    std::vector<EngineRequestId> ids;
    OpenAiKind kind = OpenAiKind::kChat;
    std::string embeddings;  // The answer, where that is what is asked for.
    std::int64_t arrival_ns = 0;
    std::size_t open = 0;
    AnswerUsage usage;
  };
  using JobPtr = std::shared_ptr<Job>;
  struct Place {
    JobPtr job;
    std::size_t choice = 0;
    std::int64_t last_ns = 0;  // Of its last token.
  };

  void MakeEngine();
  void Handle(const ExchangePtr& exchange);
  void HandlePost(const ExchangePtr& exchange, std::string_view path);
  void HandleGet(EngineExchange& exchange, std::string_view path);
  void HandleFault(EngineExchange& exchange);
  void HandleTokens(EngineExchange& exchange, std::string_view path);
  void HandleReset(EngineExchange& exchange);
  void HandleAsk(const ExchangePtr& exchange, OpenAiKind kind);
  void AnswerAtOnce(EngineExchange& exchange, OpenAiKind kind);
  bool FaultBefore(EngineExchange& exchange, const SimFault& fault);

  struct Length {
    int tokens = 1;
    std::string_view reason = "stop";
  };
  Result<Length> LengthOf(const OpenAiRequest& request) const;
  Status SubmitAll(OpenAiRequest& request, const std::string& lora, int tokens, const JobPtr& job);
  bool Serves(const std::string& model) const;

  void OnStep(const EngineStep& step);
  void OnToken(const EngineStep::Token& token, std::int64_t at_ns);
  void EndChoice(const JobPtr& job, std::size_t choice, std::int64_t at_ns);
  void CancelJob(const JobPtr& job);
  void PublishEvents(const std::vector<KvEvent>& events);
  void Restart();
  double ClientSeconds(std::int64_t engine_ns) const {
    return static_cast<double>(engine_ns) / 1e9 / runner_.time_scale();
  }
  std::int64_t context_tokens_max() const;
  std::string ModelsJson() const;
  std::string StateJson() const;

  boost::asio::io_context& loop_;
  EngineRunner& runner_;
  const EngineServerOptions options_;
  const std::shared_ptr<SharedGpu> gpu_;
  const std::unique_ptr<KvEventSink> sink_;
  const InstantAnswers instant_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::unique_ptr<Engine> engine_;
  EngineMeters metrics_;
  FaultTable faults_;
  OpenAiReader reader_;
  std::unordered_map<EngineRequestId, Place> places_;
  std::uint64_t last_answer_ = 0;
  // Last, so that connections end while the rest is still there.
  std::unique_ptr<EngineHttp> http_;
};

void EngineServer::Impl::MakeEngine() {
  engine_ = std::make_unique<Engine>(options_.engine, gpu_);
  runner_.Add(*engine_, [this](const EngineStep& step) { OnStep(step); });
}

std::int64_t EngineServer::Impl::context_tokens_max() const {
  const std::int64_t room = options_.engine.kv_blocks * options_.engine.block_tokens;
  return std::min(options_.context_tokens_max.value_or(room), room);
}

// ---- requests ----------------------------------------------------------------------------------

void EngineServer::Impl::Handle(const ExchangePtr& exchange) {
  const std::string_view path = exchange->path();
  const std::string_view method = exchange->method();
  if (method == "POST") return HandlePost(exchange, path);
  if (method == "GET") return HandleGet(*exchange, path);
  if (method == "DELETE" && path == "/sim/fault") {
    faults_.Clear();
    return exchange->Answer(200, kJsonType, "{}");
  }
  RefuseExchange(*exchange, 405, fmt::format("no such method here: {}", method));
}

void EngineServer::Impl::HandlePost(const ExchangePtr& exchange, std::string_view path) {
  if (const auto kind = KindOfPath(path)) {
    if (options_.instant) return AnswerAtOnce(*exchange, *kind);
    return HandleAsk(exchange, *kind);
  }
  if (path == "/tokenize" || path == "/detokenize") return HandleTokens(*exchange, path);
  if (path == "/reset_prefix_cache") return HandleReset(*exchange);
  if (path == "/sim/fault") return HandleFault(*exchange);
  RefuseExchange(*exchange, 404, fmt::format("Not Found: {}", path));
}

void EngineServer::Impl::HandleGet(EngineExchange& exchange, std::string_view path) {
  if (path == "/health" || path == "/ping") return exchange.Answer(200, kTextType, "");
  if (path == "/metrics") {
    return exchange.Answer(200, kPrometheusType, metrics_.Text(*engine_, options_.engine.model));
  }
  if (path == "/v1/models") return exchange.Answer(200, kJsonType, ModelsJson());
  if (path == "/load") {
    return exchange.Answer(
        200, kJsonType,
        fmt::format(R"({{"server_load":{}}})", engine_->running() + engine_->waiting()));
  }
  if (path == "/version") {
    return exchange.Answer(200, kJsonType, fmt::format(R"({{"version":"{}"}})", kVersion));
  }
  if (path == "/sim/state") return exchange.Answer(200, kJsonType, StateJson());
  RefuseExchange(exchange, 404, fmt::format("Not Found: {}", path));
}

void EngineServer::Impl::HandleFault(EngineExchange& exchange) {
  const Result<SimFault> fault = ParseSimFault(exchange.body());
  if (!fault) {
    return RefuseExchange(exchange, 400, fault.error().message + ": " + fault.error().hint);
  }
  exchange.Answer(200, kJsonType, "{}");
  Arm(*fault);
}

void EngineServer::Impl::HandleTokens(EngineExchange& exchange, std::string_view path) {
  const bool tokenize = path == "/tokenize";
  const Result<std::vector<TokenId>> tokens =
      tokenize ? reader_.ReadTokenize(exchange.body()) : reader_.ReadDetokenize(exchange.body());
  if (!tokens) return RefuseExchange(exchange, 400, tokens.error().message);
  if (tokenize) {
    return exchange.Answer(
        200, kJsonType,
        fmt::format(R"({{"count":{},"max_model_len":{},"tokens":[{}],"token_strs":null}})",
                    tokens->size(), context_tokens_max(), fmt::join(*tokens, ",")));
  }
  const std::optional<std::string> text = Detokenize(*tokens);
  if (!text) return RefuseExchange(exchange, 400, "not a token of this model", "tokens");
  exchange.Answer(200, kJsonType, fmt::format(R"({{"prompt":{}}})", JsonString(*text)));
}

void EngineServer::Impl::HandleReset(EngineExchange& exchange) {
  const Status reset = engine_->ResetPrefixCache();
  if (!reset) return RefuseExchange(exchange, 409, reset.error().message);
  PublishEvents(engine_->TakeEvents());
  exchange.Answer(200, kTextType, "");
}

void EngineServer::Impl::AnswerAtOnce(EngineExchange& exchange, OpenAiKind kind) {
  const Result<OpenAiRequest> request = reader_.Skim(kind, exchange.body());
  if (!request) return RefuseExchange(exchange, 400, request.error().message);
  exchange.AnswerRaw(instant_.Bytes(*request));
}

bool EngineServer::Impl::Serves(const std::string& model) const {
  return model.empty() || model == options_.engine.model ||
         std::count(options_.loras.begin(), options_.loras.end(), model) > 0;
}

void EngineServer::Impl::HandleAsk(const ExchangePtr& exchange, OpenAiKind kind) {
  Result<std::optional<SimFault>> fault = faults_.Take(exchange->Header("x-sim-fault"));
  if (!fault) return RefuseExchange(*exchange, 400, fault.error().message);
  if (*fault && FaultBefore(*exchange, **fault)) return;
  Result<OpenAiRequest> request = reader_.Read(kind, exchange->body());
  if (!request) return RefuseExchange(*exchange, 400, request.error().message);
  if (!Serves(request->model)) {
    return RefuseExchange(*exchange, 404,
                          fmt::format("The model `{}` does not exist.", request->model), "model");
  }
  const Result<Length> length = LengthOf(*request);
  if (!length) return RefuseExchange(*exchange, 400, length.error().message);

  auto job = std::make_shared<Job>();
  job->kind = kind;
  job->arrival_ns = runner_.now_ns();
  const std::string model = request->model.empty() ? options_.engine.model : request->model;
  const std::string lora = model == options_.engine.model ? "" : model;
  AnswerHead head{.kind = kind,
                  .id = fmt::format("{}-{:016x}", IdPrefix(kind), ++last_answer_),
                  .model = model,
                  .created_s = SecondsSince1970(),
                  .include_usage = request->include_usage};
  job->answer = std::make_shared<AnswerJob>(exchange, *request, std::move(head), *fault, loop_);
  for (const auto& prompt : request->prompts) {
    job->usage.prompt_tokens += static_cast<std::int64_t>(prompt.size());
  }
  if (kind == OpenAiKind::kEmbedding) {
    job->embeddings = EmbeddingsJson(*request, model, job->usage.prompt_tokens);
  }
  const Status submitted = SubmitAll(*request, lora, length->tokens, job);
  if (!submitted) {
    CancelJob(job);
    return RefuseExchange(*exchange, 400, submitted.error().message);
  }
  job->open = job->ids.size();
  exchange->OnGone([this, job] { CancelJob(job); });
  job->answer->Start(job->ids.size(), length->reason);
  runner_.Kick();
}

// How long each answer gets: its own length, or what it may have.
Result<EngineServer::Impl::Length> EngineServer::Impl::LengthOf(
    const OpenAiRequest& request) const {
  if (request.kind == OpenAiKind::kEmbedding) return Length{};
  std::size_t longest = 0;
  for (const auto& prompt : request.prompts) longest = std::max(longest, prompt.size());
  const auto prompt_tokens = static_cast<std::int64_t>(longest);
  const std::int64_t room = context_tokens_max() - prompt_tokens;
  if (room < request.output_tokens_max.value_or(1)) {
    return Fail(
        ErrorCode::kInvalid,
        fmt::format("This model's maximum context length is {} tokens. However, you "
                    "requested {} tokens ({} in the messages, {} in the completion). Please "
                    "reduce the length of the messages or completion.",
                    context_tokens_max(), prompt_tokens + request.output_tokens_max.value_or(1),
                    prompt_tokens, request.output_tokens_max.value_or(1)));
  }
  const int most =
      static_cast<int>(std::min<std::int64_t>(request.output_tokens_max.value_or(1 << 30), room));
  if (request.ignore_eos && request.output_tokens_max) return Length{most, "length"};
  if (most < options_.answer_tokens) return Length{most, "length"};
  return Length{options_.answer_tokens, "stop"};
}

Status EngineServer::Impl::SubmitAll(OpenAiRequest& request, const std::string& lora, int tokens,
                                     const JobPtr& job) {
  for (std::vector<TokenId>& prompt : request.prompts) {
    for (int variant = 0; variant < request.choices; ++variant) {
      const bool last = variant + 1 == request.choices;
      EngineRequest one{.prompt = last ? std::move(prompt) : prompt,
                        .output_tokens = tokens,
                        .lora = lora,
                        .salt = request.salt,
                        .variant = variant};
      ASSIGN_OR_RETURN(const EngineRequestId id, engine_->Submit(std::move(one), job->arrival_ns));
      places_[id] = {job, job->ids.size(), 0};
      job->ids.push_back(id);
    }
  }
  return {};
}

// ---- answers -----------------------------------------------------------------------------------

void EngineServer::Impl::OnStep(const EngineStep& step) {
  PublishEvents(step.events);
  for (const EngineStep::Token& token : step.tokens) OnToken(token, step.end_ns);
}

void EngineServer::Impl::OnToken(const EngineStep::Token& token, std::int64_t at_ns) {
  const auto found = places_.find(token.id);
  if (found == places_.end()) return;  // Cancelled by a token before this one.
  const JobPtr job = found->second.job;
  const std::size_t choice = found->second.choice;
  if (token.first) {
    job->usage.cached_tokens += engine_->AdmissionOf(token.id)->cached_tokens;
    metrics_.OnFirstToken(ClientSeconds(at_ns - job->arrival_ns));
  } else {
    metrics_.OnToken(ClientSeconds(at_ns - found->second.last_ns));
  }
  found->second.last_ns = at_ns;
  if (job->kind == OpenAiKind::kEmbedding) {
    places_.erase(found);
    if (--job->open == 0) job->answer->FinishWith(std::move(job->embeddings));
    return;
  }
  const AnswerJob::Outcome outcome = job->answer->Take(choice, token.token, token.last);
  if (outcome == AnswerJob::Outcome::kGoesOn) return;
  if (outcome == AnswerJob::Outcome::kStopped) engine_->Cancel(token.id);
  // It may be gone already, with a client that was lost by writing to it.
  if (places_.erase(token.id) > 0) EndChoice(job, choice, at_ns);
}

void EngineServer::Impl::EndChoice(const JobPtr& job, std::size_t choice, std::int64_t at_ns) {
  metrics_.OnFinished(ClientSeconds(at_ns - job->arrival_ns), job->answer->FinishReasonOf(choice));
  if (!job->answer->finished()) return;
  job->usage.output_tokens = job->answer->output_tokens();
  job->answer->Finish(job->usage);
}

void EngineServer::Impl::CancelJob(const JobPtr& job) {
  for (const EngineRequestId id : job->ids) {
    if (places_.erase(id) == 0) continue;
    engine_->Cancel(id);
    metrics_.OnFinished(ClientSeconds(runner_.now_ns() - job->arrival_ns), "abort");
  }
}

void EngineServer::Impl::PublishEvents(const std::vector<KvEvent>& events) {
  if (!sink_ || events.empty() || faults_.events_stopped()) return;
  KvEventBatch batch;
  batch.time_s = PreciseSecondsSince1970();
  batch.events = events;
  if (faults_.LosesBatch()) return sink_->Lose(batch);
  sink_->Publish(batch);
}

// ---- going wrong -------------------------------------------------------------------------------

void EngineServer::Impl::Arm(const SimFault& fault) {
  if (fault.what != SimFault::What::kRestart) return faults_.Arm(fault);
  // Not now: who asks may do so while a step is being handed out.
  boost::asio::post(loop_, [this, alive = alive_] {
    if (*alive) Restart();
  });
}

void EngineServer::Impl::Restart() {
  http_->ResetAll();
  places_.clear();
  runner_.Remove(*engine_);
  engine_.reset();
  metrics_ = EngineMeters();
  MakeEngine();
  if (sink_) sink_->Restart();
  runner_.Kick();
}

// True where the request is dealt with by going wrong.
bool EngineServer::Impl::FaultBefore(EngineExchange& exchange, const SimFault& fault) {
  if (fault.what == SimFault::What::kStatus) {
    const std::string retry =
        fault.retry_s > 0 ? fmt::format("retry-after: {}\r\n", fault.retry_s) : "";
    exchange.Answer(fault.code, kJsonType, OpenAiError(fault.code, "as told by /sim/fault"), retry);
    return true;
  }
  if (fault.after > 0) return false;
  switch (fault.what) {
    case SimFault::What::kHang:
      return true;
    case SimFault::What::kReset:
      exchange.Reset();
      return true;
    case SimFault::What::kClose:
      exchange.Truncate();
      return true;
    case SimFault::What::kGarbage:
      exchange.WriteGarbage("\x16\x03\x01 this is no HTTP \xff\xfe\r\n\r\n");
      return true;
    default:
      return false;
  }
}

// ---- what is told ------------------------------------------------------------------------------

std::string EngineServer::Impl::ModelsJson() const {
  const std::string root = JsonString(options_.engine.model);
  const auto model = [&](std::string_view id, std::string_view parent) {
    return fmt::format(
        R"({{"id":{},"object":"model","created":{},"owned_by":"sublet","root":{},"parent":{},)"
        R"("max_model_len":{}}})",
        JsonString(id), SecondsSince1970(), root, parent, context_tokens_max());
  };
  std::string list = model(options_.engine.model, "null");
  for (const std::string& lora : options_.loras) list += "," + model(lora, root);
  return fmt::format(R"({{"object":"list","data":[{}]}})", list);
}

std::string EngineServer::Impl::StateJson() const {
  const EngineCounters& c = engine_->counters();
  return fmt::format(
      R"({{"running":{},"waiting":{},"blocks":{},"blocks_used":{},"blocks_cached":{},)"
      R"("block_tokens":{},"prompt_tokens":{},"cached_tokens":{},"computed_tokens":{},)"
      R"("output_tokens":{},"preemptions":{},"finished":{},"cancelled":{},"steps":{},)"
      R"("busy_s":{:.6f}}})",
      engine_->running(), engine_->waiting(), options_.engine.kv_blocks, engine_->blocks_used(),
      engine_->blocks_cached(), options_.engine.block_tokens, c.prompt_tokens, c.cached_tokens,
      c.computed_tokens, c.output_tokens, c.preemptions, c.finished, c.cancelled, c.steps,
      static_cast<double>(c.busy_ns) / 1e9);
}

// ---- the outside -------------------------------------------------------------------------------

Result<std::unique_ptr<EngineServer>> EngineServer::Open(boost::asio::io_context& loop,
                                                         EngineRunner& runner,
                                                         const EngineServerOptions& options,
                                                         std::shared_ptr<SharedGpu> gpu,
                                                         std::unique_ptr<KvEventSink> sink) {
  EngineServerOptions named = options;
  if (named.name.empty()) named.name = named.engine.model;
  auto impl = std::make_unique<Impl>(loop, runner, named, std::move(gpu), std::move(sink));
  RETURN_IF_ERROR(impl->Listen());
  return std::unique_ptr<EngineServer>(new EngineServer(std::move(impl)));
}

EngineServer::EngineServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
EngineServer::~EngineServer() = default;

int EngineServer::port() const {
  return impl_->port();
}
const Engine& EngineServer::engine() const {
  return impl_->engine();
}
void EngineServer::Arm(const SimFault& fault) {
  impl_->Arm(fault);
}

}  // namespace sublet
