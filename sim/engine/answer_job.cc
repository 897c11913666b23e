#include "engine/answer_job.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "engine/tokenizer.h"
#include "http/http_message.h"

namespace sublet {
namespace {

constexpr std::string_view kEventStreamType = "text/event-stream; charset=utf-8";
// Not a chunk's size, not JSON, not UTF-8.
constexpr std::string_view kGarbage = "\x01\xff\xfe no chunk \r\n{]\xc0\r\n";

}  // namespace

AnswerJob::AnswerJob(std::shared_ptr<EngineExchange> exchange, const OpenAiRequest& request,
                     AnswerHead head, std::optional<SimFault> fault, boost::asio::io_context& loop)
    : exchange_(std::move(exchange)),
      stream_(request.stream && request.kind != OpenAiKind::kEmbedding),
      stops_(request.stop),
      format_(std::move(head)),
      fault_(fault),
      timer_(loop) {
  for (const std::string& stop : stops_) longest_stop_ = std::max(longest_stop_, stop.size());
}

void AnswerJob::Start(std::size_t choices, std::string_view at_limit) {
  choices_.resize(choices);
  open_ = choices;
  at_limit_ = at_limit;
  if (stream_) exchange_->Begin(kEventStreamType);
}

std::string_view AnswerJob::FinishReasonOf(std::size_t choice) const {
  return choices_[choice].finish_reason;
}

// ---- tokens ------------------------------------------------------------------------------------

AnswerJob::Outcome AnswerJob::Take(std::size_t index, TokenId token, bool last) {
  Choice& choice = choices_[index];
  CHECK(choice.finish_reason.empty());
  const std::size_t before = choice.text.size();
  CHECK(AppendTokenText(token, choice.text));
  ++output_tokens_;
  const bool stopped = FindStop(choice, before);
  if (stopped || last) {
    choice.finish_reason = stopped ? "stop" : at_limit_;
    --open_;
  }
  if (stream_) {
    std::string events = begun_ ? "" : format_.Begin(static_cast<int>(choices_.size()));
    begun_ = true;
    const std::size_t end = SendableEnd(choice);
    const auto fresh = std::string_view(choice.text).substr(choice.sent, end - choice.sent);
    choice.sent = end;
    const int number = static_cast<int>(index);
    events += choice.finish_reason.empty() ? format_.Delta(number, fresh)
                                           : format_.ChoiceEnd(number, fresh, choice.finish_reason);
    Say(std::move(events));
  }
  if (stopped && !last) return Outcome::kStopped;
  return last ? Outcome::kEnded : Outcome::kGoesOn;
}

// Cuts the text before the first stop in it. `from`: what is before has been looked at.
bool AnswerJob::FindStop(Choice& choice, std::size_t from) const {
  if (stops_.empty()) return false;
  const std::size_t look_from = from - std::min(from, longest_stop_ - 1);
  std::size_t at = std::string::npos;
  for (const std::string& stop : stops_) at = std::min(at, choice.text.find(stop, look_from));
  if (at == std::string::npos) return false;
  choice.text.resize(at);
  return true;
}

std::size_t AnswerJob::SendableEnd(const Choice& choice) const {
  if (stops_.empty() || !choice.finish_reason.empty()) return choice.text.size();
  const std::size_t held = std::min(choice.text.size() - choice.sent, longest_stop_ - 1);
  return choice.text.size() - held;
}

// ---- the client --------------------------------------------------------------------------------

void AnswerJob::Say(std::string events) {
  if (broken_ || events.empty()) return;
  if (fault_ && fault_->what == SimFault::What::kSlow) return Later(std::move(events), false);
  exchange_->Write(events);
  // After so many tokens, whoever's they are.
  if (fault_ && output_tokens_ >= fault_->after) broken_ = GoWrong();
}

bool AnswerJob::GoWrong() {
  switch (fault_->what) {
    case SimFault::What::kHang:
      return true;
    case SimFault::What::kReset:
      exchange_->Reset();
      return true;
    case SimFault::What::kClose:
      exchange_->Truncate();
      return true;
    case SimFault::What::kGarbage:
      exchange_->WriteGarbage(kGarbage);
      return true;
    default:
      return false;
  }
}

void AnswerJob::Finish(const AnswerUsage& usage) {
  CHECK(finished());
  if (stream_) {
    if (broken_) return;
    std::string events = format_.End(usage);
    if (fault_ && fault_->what == SimFault::What::kSlow) return Later(std::move(events), true);
    exchange_->Write(events);
    exchange_->End();
    return;
  }
  std::vector<AnswerChoice> choices;
  for (const Choice& choice : choices_) {
    choices.push_back({choice.text, std::string(choice.finish_reason)});
  }
  FinishWith(format_.Whole(choices, usage));
}

void AnswerJob::FinishWith(std::string body) {
  if (fault_ && fault_->what == SimFault::What::kSlow) return Later(std::move(body), true);
  // An answer that isn't streamed goes wrong as a whole.
  if (fault_ && GoWrong()) return;
  exchange_->Answer(200, kJsonType, body);
}

// ---- slowly ------------------------------------------------------------------------------------

void AnswerJob::Later(std::string events, bool ends) {
  held_.push_back({std::move(events), ends});
  if (held_.size() == 1) SayNext();
}

void AnswerJob::SayNext() {
  timer_.expires_after(std::chrono::milliseconds(fault_->ms));
  timer_.async_wait([self = shared_from_this()](const boost::system::error_code&) {
    const Held held = std::move(self->held_.front());
    self->held_.pop_front();
    if (!self->stream_) return self->exchange_->Answer(200, kJsonType, held.events);
    self->exchange_->Write(held.events);
    if (held.ends) return self->exchange_->End();
    if (!self->held_.empty()) self->SayNext();
  });
}

}  // namespace sublet
