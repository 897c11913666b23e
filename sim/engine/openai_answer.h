// sim/engine/openai_answer.h
//
// What an OpenAI-compatible engine answers, as JSON and as server-sent events.
//
//   AnswerFormat format({.kind = OpenAiKind::kChat, .id = "chatcmpl-1", .model = "demo"});
//   exchange->Write(format.Begin(1) + format.Delta(0, "Hello"));
//   exchange->Write(format.ChoiceEnd(0, "stop") + format.End(usage));
//
// Not streamed: format.Whole(choices, usage). The shapes are those of vLLM's server, whose errors
// are an object "error" with message, type, param and code.
//
// Thread safety: its owner's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/openai_request.h"

namespace sublet {

struct AnswerUsage {
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;
  std::int64_t output_tokens = 0;
};

struct AnswerChoice {
  std::string text;
  std::string finish_reason;  // "stop", "length"
};

struct AnswerHead {
  OpenAiKind kind = OpenAiKind::kChat;
  std::string id = {};
  std::string model = {};
  std::int64_t created_s = 0;  // Since 1970.
  bool include_usage = false;  // In a stream, as stream_options says.
};

class AnswerFormat {
 public:
  explicit AnswerFormat(AnswerHead head) : head_(std::move(head)) {}
  const AnswerHead& head() const { return head_; }

  // The parts of a stream, as events.
  std::string Begin(int choices);
  std::string Delta(int choice, std::string_view text);
  std::string ChoiceEnd(int choice, std::string_view text, std::string_view finish_reason);
  std::string End(const AnswerUsage& usage);

  // All at once.
  std::string Whole(const std::vector<AnswerChoice>& choices, const AnswerUsage& usage) const;

 private:
  std::string Chunk(int choice, std::string_view delta, std::string_view finish_reason) const;
  std::string Event(std::string_view type, std::string_view fields);
  std::string ResponseObject(std::string_view status, std::string_view text,
                             const AnswerUsage* usage) const;

  const AnswerHead head_;
  std::string text_;  // So far, of a streamed response: its last events repeat it.
  std::string finish_reason_;
  int sequence_ = 0;
};

// `text` between quotes, as JSON has it. It must be UTF-8.
void AppendJsonString(std::string_view text, std::string& out);
std::string JsonString(std::string_view text);

std::string OpenAiError(int status, std::string_view message, std::string_view param = {});

// Numbers that are the text's own: the same for the same tokens.
std::string EmbeddingsJson(const OpenAiRequest& request, std::string_view model,
                           std::int64_t prompt_tokens);

}  // namespace sublet
