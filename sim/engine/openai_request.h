// sim/engine/openai_request.h
//
// A request of the OpenAI API, as far as an engine without a model needs it: its prompts as tokens,
// and how the answer is wanted.
//
//   OpenAiReader reader;
//   ASSIGN_OR_RETURN(const OpenAiRequest request, reader.Read(OpenAiKind::kChat, body));
//   request.prompts.front()   // The chat, rendered and tokenized.
//
// A chat is rendered as chat templates do: a special token for each message's role, its text, and
// one for its end; tools stand in front, as JSON; at the end stands the assistant's token. So the
// tokens of a conversation are the beginning of those of its next turn. An image is kImageTokens
// tokens that its URL's hash names.
//
// Fields that are unknown are passed over, as engines do.
//
// Thread safety: pure; a reader has buffers and belongs to one thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kvcache/block_hash.h"

namespace sublet {

enum class OpenAiKind { kChat, kCompletion, kEmbedding, kResponse };

struct OpenAiRequest {
  OpenAiKind kind = OpenAiKind::kChat;
  std::string model = {};  // Empty: none was named.
  std::vector<std::vector<TokenId>> prompts = {};
  int choices = 1;  // For each prompt.
  std::optional<int> output_tokens_max = {};
  bool ignore_eos = false;
  std::vector<std::string> stop = {};
  std::string salt = {};  // vLLM's cache_salt.
  bool stream = false;
  bool include_usage = false;
  bool base64 = false;  // Of embeddings.
  int dimensions = 16;  // The same.
};

class OpenAiReader {
 public:
  OpenAiReader();
  ~OpenAiReader();

  // Fails with kInvalid; the message is for the client.
  Result<OpenAiRequest> Read(OpenAiKind kind, const std::string& body);
  // Only model, stream and include_usage: for an engine that answers without looking.
  Result<OpenAiRequest> Skim(OpenAiKind kind, const std::string& body);
  // Of POST /tokenize: "messages" or "prompt"; of POST /detokenize: "tokens".
  Result<std::vector<TokenId>> ReadTokenize(const std::string& body);
  Result<std::vector<TokenId>> ReadDetokenize(const std::string& body);

  static constexpr int kImageTokens = 64;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sublet
