// What reading a request's body costs, hashing included.
#include <benchmark/benchmark.h>

#include <string>

#include "base/check.h"
#include "kvcache/request_prefix.h"

namespace sublet {
namespace {

// Prose with a line break each 80 letters, as prompts have it.
std::string Prose(std::size_t bytes) {
  std::string text;
  for (std::size_t line = 0; text.size() < bytes; ++line) {
    text += "The replica that holds this prefix answers first, whoever asks, line ";
    text += std::to_string(line) + "\\n";
  }
  return text.substr(0, bytes - bytes % 4);
}

std::string ChatBody(std::size_t bytes) {
  constexpr int kTurns = 8;
  std::string body = R"({"model":"llama-3-8b","stream":true,"max_tokens":256,"messages":[)";
  for (int turn = 0; turn < kTurns; ++turn) {
    if (turn > 0) body += ',';
    body += turn % 2 == 0 ? R"({"role":"user","content":")" : R"({"role":"assistant","content":")";
    std::string text = Prose(bytes / kTurns);
    if (text.ends_with('\\')) text.pop_back();
    body += text + "\"}";
  }
  return body + "]}";
}

std::string TokenBody(std::size_t bytes) {
  std::string body = R"({"model":"llama-3-8b","prompt":[1)";
  for (unsigned i = 0; body.size() < bytes; ++i) {
    body += ',' + std::to_string(i * 2654435761u % 128000);
  }
  return body + "]}";
}

void Scan(benchmark::State& state, RequestKind kind, std::string body) {
  body.reserve(body.size() + kScanPadding);
  RequestScanner scanner;
  CHECK(scanner.Scan(kind, body)->known);
  for (auto _ : state) {
    auto prefix = scanner.Scan(kind, body);
    benchmark::DoNotOptimize(prefix);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * body.size()));
}

void BM_ScanChat(benchmark::State& state) {
  Scan(state, RequestKind::kChat, ChatBody(static_cast<std::size_t>(state.range(0))));
}
BENCHMARK(BM_ScanChat)->Arg(200)->Arg(2 << 10)->Arg(16 << 10)->Arg(1 << 20)->Arg(16 << 20);

void BM_ScanTokenIds(benchmark::State& state) {
  Scan(state, RequestKind::kCompletion, TokenBody(static_cast<std::size_t>(state.range(0))));
}
BENCHMARK(BM_ScanTokenIds)->Arg(16 << 10)->Arg(1 << 20);

}  // namespace
}  // namespace sublet

BENCHMARK_MAIN();
