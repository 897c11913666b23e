// sim/engine/instant_answers.h
//
// Answers made beforehand, for an engine that takes no time.
//
//   const InstantAnswers answers("demo", 16, "upstream-1");
//   exchange->AnswerRaw(answers.Bytes(request));
//
// A streamed one has each of its events in a chunk of its own, and is written in one piece.
//
// Thread safety: immutable.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "engine/openai_request.h"

namespace sublet {

class InstantAnswers {
 public:
  InstantAnswers(const std::string& model, int tokens, const std::string& server_name);
  // Of the kind and manner that is asked for; the header included.
  std::string_view Bytes(const OpenAiRequest& request) const;

 private:
  struct OfKind {
    std::string whole;
    std::string streamed;
    std::string streamed_with_usage;
  };
  std::array<OfKind, 4> kinds_;  // By OpenAiKind.
};

}  // namespace sublet
