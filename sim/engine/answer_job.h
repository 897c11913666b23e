// sim/engine/answer_job.h
//
// One client's answer while an engine makes it: the texts of its choices, where they stop, what has
// been sent, and what goes wrong on the way.
//
//   auto job = std::make_shared<AnswerJob>(exchange, request, head, fault);
//   job->Start(prompts * choices);
//   job->Take(choice, token, last);       // kStopped: the engine may forget this choice.
//   if (job->finished()) job->Finish(usage);
//
// A stop text isn't part of the answer. While the end of what has been said may be the beginning of
// a stop text, it is held back.
//
// Thread safety: the loop's thread.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine_http.h"
#include "engine/openai_answer.h"
#include "engine/sim_fault.h"

namespace sublet {

class AnswerJob : public std::enable_shared_from_this<AnswerJob> {
 public:
  AnswerJob(std::shared_ptr<EngineExchange> exchange, const OpenAiRequest& request, AnswerHead head,
            std::optional<SimFault> fault, boost::asio::io_context& loop);

  // Before the first token. `at_limit`: what a choice's end by its length is called.
  void Start(std::size_t choices, std::string_view at_limit);

  enum class Outcome { kGoesOn, kEnded, kStopped };
  // kEnded: that was the choice's last token. kStopped: so it is, by a stop text, though the engine
  // would go on.
  Outcome Take(std::size_t choice, TokenId token, bool last);
  bool finished() const { return open_ == 0; }
  std::string_view FinishReasonOf(std::size_t choice) const;
  // REQUIRES: finished().
  void Finish(const AnswerUsage& usage);
  // Of an embedding: the answer as it is.
  void FinishWith(std::string body);

  int output_tokens() const { return output_tokens_; }

 private:
  struct Choice {
    std::string text;
    std::size_t sent = 0;
    std::string_view finish_reason;  // Empty: it goes on.
  };

  bool FindStop(Choice& choice, std::size_t from) const;
  std::size_t SendableEnd(const Choice& choice) const;
  void Say(std::string events);
  bool GoWrong();
  void Later(std::string events, bool ends);
  void SayNext();

  const std::shared_ptr<EngineExchange> exchange_;
  const bool stream_;
  const std::vector<std::string> stops_;
  std::size_t longest_stop_ = 0;
  AnswerFormat format_;
  const std::optional<SimFault> fault_;

  std::vector<Choice> choices_;
  std::size_t open_ = 0;
  std::string_view at_limit_;
  bool begun_ = false;
  bool broken_ = false;  // A fault has ended it.
  int output_tokens_ = 0;

  // What "slow" holds back; an empty one ends the answer.
  struct Held {
    std::string events;
    bool ends = false;
  };
  boost::asio::steady_timer timer_;
  std::deque<Held> held_;
};

}  // namespace sublet
