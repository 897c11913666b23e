// Any bytes as the body of any request: nothing crashes, and what is read can be computed on.

#include <cstdint>
#include <string>

#include "base/check.h"
#include "engine/openai_request.h"
#include "engine/sim_fault.h"
#include "engine/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace sublet;
  static OpenAiReader reader;
  const std::string body(reinterpret_cast<const char*>(data), size);
  for (const OpenAiKind kind : {OpenAiKind::kChat, OpenAiKind::kCompletion, OpenAiKind::kEmbedding,
                                OpenAiKind::kResponse}) {
    const auto request = reader.Read(kind, body);
    if (!request) continue;
    CHECK(!request->prompts.empty() && request->choices > 0);
    for (const auto& prompt : request->prompts) CHECK(!prompt.empty());
  }
  static_cast<void>(reader.ReadTokenize(body));
  if (const auto tokens = reader.ReadDetokenize(body)) static_cast<void>(Detokenize(*tokens));
  static_cast<void>(ParseSimFault(body));
  CHECK(Detokenize(Tokenize(body)) == body);
  return 0;
}
