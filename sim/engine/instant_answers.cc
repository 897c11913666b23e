#include "engine/instant_answers.h"

#include <fmt/format.h>

#include "engine/generated_text.h"
#include "engine/openai_answer.h"
#include "engine/tokenizer.h"
#include "http/http_message.h"

namespace sublet {
namespace {

constexpr std::uint64_t kStream = 1;  // Of the words; any will do.

std::string Chunked(const std::string& events) {
  std::string chunks;
  std::size_t at = 0;
  while (at < events.size()) {
    const std::size_t end = events.find("\n\n", at) + 2;
    chunks +=
        fmt::format("{:x}\r\n{}\r\n", end - at, std::string_view(events).substr(at, end - at));
    at = end;
  }
  return chunks + "0\r\n\r\n";
}

std::string Streamed(const AnswerHead& head, int tokens, const std::string& server_name) {
  AnswerFormat format(head);
  std::string events = format.Begin(1);
  for (int i = 0; i < tokens; ++i) {
    std::string word;
    AppendTokenText(GeneratedToken(kStream, i), word);
    events += i + 1 < tokens ? format.Delta(0, word) : format.ChoiceEnd(0, word, "stop");
  }
  events += format.End({.prompt_tokens = 1, .output_tokens = tokens});
  return fmt::format(
             "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
             "cache-control: no-cache\r\nx-sim-engine: {}\r\ntransfer-encoding: chunked\r\n\r\n",
             server_name) +
         Chunked(events);
}

std::string Whole(const AnswerHead& head, int tokens, const std::string& server_name) {
  std::string text;
  for (int i = 0; i < tokens; ++i) AppendTokenText(GeneratedToken(kStream, i), text);
  const AnswerUsage usage{.prompt_tokens = 1, .output_tokens = tokens};
  OpenAiRequest one{.kind = OpenAiKind::kEmbedding};
  one.prompts = {{1}};
  const std::string body = head.kind == OpenAiKind::kEmbedding
                               ? EmbeddingsJson(one, head.model, 1)
                               : AnswerFormat(head).Whole({{text, "stop"}}, usage);
  return fmt::format(
             "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncontent-length: {}\r\nx-sim-engine: {}\r\n"
             "\r\n",
             kJsonType, body.size(), server_name) +
         body;
}

}  // namespace

InstantAnswers::InstantAnswers(const std::string& model, int tokens,
                               const std::string& server_name) {
  for (const OpenAiKind kind : {OpenAiKind::kChat, OpenAiKind::kCompletion, OpenAiKind::kEmbedding,
                                OpenAiKind::kResponse}) {
    AnswerHead head{.kind = kind, .id = "instant", .model = model};
    OfKind& of_kind = kinds_[static_cast<std::size_t>(kind)];
    of_kind.whole = Whole(head, tokens, server_name);
    of_kind.streamed = Streamed(head, tokens, server_name);
    head.include_usage = true;
    of_kind.streamed_with_usage = Streamed(head, tokens, server_name);
  }
}

std::string_view InstantAnswers::Bytes(const OpenAiRequest& request) const {
  const OfKind& of_kind = kinds_[static_cast<std::size_t>(request.kind)];
  if (!request.stream || request.kind == OpenAiKind::kEmbedding) return of_kind.whole;
  return request.include_usage ? of_kind.streamed_with_usage : of_kind.streamed;
}

}  // namespace sublet
