// proxy/exchange.h
//
// One request and its answer: read, decide, try, pass on, tell.
//
//   std::unique_ptr<Exchange> exchange = loop.TakeExchange();
//   const ExchangeEnd end = co_await exchange->Run(client);
//
// The steps stand in files of their own, in the order in which a request meets them:
//
//   exchange_request.cc   reads the head and the body, asks for the key
//   exchange.cc           what is ours is answered; the loop over replicas; what is told at the end
//   exchange_choice.cc    which replica, and the wait for one
//   exchange_try.cc       a connection, the request over it, the head of the answer
//   exchange_relay.cc     the answer to the client, piece by piece
//
// The object and its buffers are used again by the next request of any client of the loop.
//
// Thread safety: the loop's thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/access_record.h"
#include "proxy/admission_gate.h"
#include "proxy/answer_scan.h"
#include "proxy/client_connection.h"
#include "proxy/head_writer.h"
#include "proxy/input_buffer.h"
#include "proxy/message_head.h"
#include "proxy/openai_error.h"
#include "proxy/output_parts.h"
#include "proxy/proxy_loop.h"
#include "proxy/upstream_pool.h"

namespace sublet::internal {

// What the connection is good for afterwards.
enum class ExchangeEnd {
  kReusable,
  kClose,
  kLinger,  // Close, but let the client read first: it may still be sending.
  kReset,   // Close so that nobody takes what was sent for the whole.
};

// What an answer with this status says about its replica.
Outcome OutcomeOf(int status);

class Exchange : private TransportSink {
 public:
  explicit Exchange(ProxyLoop& loop);
  ~Exchange() override;

  InputBuffer& input() { return input_; }
  LoopTask<ExchangeEnd> Run(ClientConnection& client);
  // Forgets the request, keeps the memory that an ordinary one needs.
  void Reset();

 private:
  // How a step went. After kRefused, refusal_ says what the client is told.
  enum class Step { kOk, kRefused, kGone };
  enum class TryEnd {
    kAnswered,  // The head is here, and a first byte of the body where one must be waited for.
    kFailed,    // failure_ says why.
    kStale,     // A connection of the pool had been closed: nothing is lost.
    kGone,      // The client.
  };
  enum class More { kData, kEnd, kFailed, kSilent, kGone };

  struct Refusal {
    RequestOutcome outcome = RequestOutcome::kMalformed;
    OpenAiError error;
    bool close = false;     // What follows on the connection can't be trusted, or read.
    int retry_after_s = 0;  // 0: not told.
  };

  // exchange_request.cc
  LoopTask<Step> ReadRequestHead();
  Step CheckRequest();
  Step CheckKey();
  // 429 where the key has asked for too much; `unread`: the body is still to come.
  Step ChargeKey(KeyRate* rate, double amount, bool unread);
  void NoteFields();
  void NoteField(const HeadField& field);
  LoopTask<Step> ReadBody();
  LoopTask<Step> ReadCountedBody(std::uint64_t length);
  LoopTask<Step> ReadChunkedBody(std::size_t bytes_max);
  LoopTask<bool> PermitBody();
  Step BodyMissing();
  Step ChargeBody(std::size_t bytes);
  void ReleaseBody();

  // exchange.cc
  LoopTask<ExchangeEnd> Serve();
  LoopTask<void> AskControl();
  LoopTask<ExchangeEnd> Forward();
  LoopTask<ExchangeEnd> Refuse();
  LoopTask<ExchangeEnd> AnswerOurselves(int status, std::string_view content_type,
                                        std::string_view headers, std::string_view body);
  Step ScanBody();
  Step RefuseWith(RequestOutcome outcome, int status, std::string_view code, std::string message,
                  bool close = false);
  bool Repeatable() const;
  std::string ShownFailure() const;
  bool MayRetry(std::int64_t now_ns);
  bool WorthAnother();
  void RefuseFailed();
  void Tell();

  // exchange_choice.cc
  LoopTask<Step> Choose();
  LoopTask<Step> WaitForTurn();
  Step ChooseNow(std::int64_t now_ns, bool& full);
  void EndLease(Outcome outcome);

  // exchange_try.cc
  LoopTask<TryEnd> Try(bool fresh);
  LoopTask<TryEnd> Connect();
  LoopTask<TryEnd> Resolve();
  LoopTask<TryEnd> ConnectTo(asio::ip::tcp::endpoint address);
  LoopTask<TryEnd> SendRequest();
  LoopTask<TryEnd> ReadAnswerHead();
  LoopTask<TryEnd> HoldForBody();
  LoopTask<More> ReadAnswer();
  std::optional<More> ReadAnswerNow();
  void LimitTry(double seconds);
  TryEnd Failed(std::string_view why);
  TryEnd Lost(std::string_view why);
  TryEnd Silent(std::string_view what);
  void DropUpstream();
  void OnTransport(bool readable) override;  // The replica's connection.

  // exchange_relay.cc
  LoopTask<ExchangeEnd> Relay();
  LoopTask<ExchangeEnd> Break(std::string why);
  void BeginAnswer();
  void TakePieces();
  void FinishUpstream();

  bool Gone() const { return client_->gone(); }
  std::int64_t SinceStart(std::int64_t now_ns) const { return now_ns - started_ns_; }
  std::string_view request_id() const { return request_id_; }

  ProxyLoop& loop_;
  ClientConnection* client_ = nullptr;
  std::shared_ptr<const ProxySettings> settings_;  // As they were when the request began.
  InputBuffer input_;                              // From the client.
  AccessRecord record_;
  std::int64_t started_ns_ = 0;
  Refusal refusal_;

  // The request.
  HeadEnd head_end_;
  std::string head_text_;
  MessageReader<true> request_;
  bool head_read_ = false;  // request_ is of this request.
  std::string_view path_;   // Of the target, without the query.
  std::string_view query_;
  std::string_view authorization_;
  std::string_view session_;
  std::string_view pinned_;
  std::string_view tenant_;
  std::string_view accept_;
  std::array<char, 32> made_id_;
  std::string_view request_id_;
  bool explain_ = false;
  bool expects_continue_ = false;
  std::optional<std::int64_t> deadline_ns_;
  PathAccess access_ = PathAccess::kReplicas;
  const ApiKey* key_ = nullptr;  // Of settings_; null: none was asked for.
  std::string body_;
  std::size_t charged_ = 0;  // Of ProxyShared::bodies_bytes.
  RequestPrefix prefix_;
  std::optional<ControlAnswer> control_answer_;

  // The choice.
  std::optional<Lease> lease_;  // Of the last choice; ended or not.
  bool lease_open_ = false;
  std::vector<ReplicaSlot> tried_;
  bool retried_answer_ = false;  // One answer was thrown away for a better one already.
  std::string failure_;          // Of the last try.
  int failure_status_ = 502;

  // The replica's side.
  std::shared_ptr<UpstreamEndpoint> endpoint_;
  std::unique_ptr<Transport> upstream_;
  bool upstream_may_read_ = false;
  bool request_begun_ = false;  // A byte of it has gone out; to the replica of this try,
  bool request_sent_ = false;   // and all of it.
  std::string upstream_head_;
  InputBuffer answer_;
  std::size_t answer_room_ = 0;
  HeadEnd answer_end_;
  std::string answer_head_text_;
  MessageReader<false> answer_reader_;
  bool answer_began_ = false;  // A byte of it has come.

  // The answer.
  std::vector<std::string_view> pieces_;
  OutputParts parts_;
  std::string client_head_;
  std::string decision_json_;
  std::string replica_name_;
  std::array<char, 20> chunk_head_;
  BodyFraming client_framing_ = BodyFraming::kNone;
  AnswerScan scan_;
};

}  // namespace sublet::internal
