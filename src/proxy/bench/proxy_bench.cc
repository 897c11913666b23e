// The parts of the data plane that touch no socket: what a request costs before and after the
// kernel.

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "proxy/answer_scan.h"
#include "proxy/api_key_ring.h"
#include "proxy/head_writer.h"
#include "proxy/message_head.h"

namespace sublet::internal {
namespace {

constexpr std::string_view kRequestHead =
    "POST /v1/chat/completions HTTP/1.1\r\nHost: router.example:8080\r\nAccept: "
    "application/json\r\n"
    "Content-Type: application/json\r\nUser-Agent: OpenAI/JS 4.77.0\r\nX-Stainless-Lang: js\r\n"
    "X-Stainless-Package-Version: 4.77.0\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\n"
    "X-Stainless-Runtime: node\r\nAuthorization: Bearer sk-0123456789abcdef\r\n"
    "Content-Length: 2048\r\nConnection: keep-alive\r\n\r\n";

void BM_ReadRequestHead(benchmark::State& state) {
  MessageReader<true> reader;
  for (auto _ : state) {
    HeadEnd end;
    benchmark::DoNotOptimize(end.At(kRequestHead, 32768, 100));
    benchmark::DoNotOptimize(reader.ReadHead(kRequestHead).has_value());
  }
}
BENCHMARK(BM_ReadRequestHead);

void BM_WriteRequestHead(benchmark::State& state) {
  const ReplicaUrl url = ParseReplicaUrl("http://10.0.0.7:8000").value();
  MessageReader<true> reader;
  if (!reader.ReadHead(kRequestHead)) state.SkipWithError("not a head");
  std::string out;
  for (auto _ : state) {
    out.clear();
    WriteRequestHead(reader.head(), {.url = &url, .body_bytes = 2048, .request_id = "0123"}, out);
    benchmark::DoNotOptimize(out.data());
  }
}
BENCHMARK(BM_WriteRequestHead);

void BM_FindKey(benchmark::State& state) {
  std::vector<ApiKey> keys;
  for (int i = 0; i < 1000; ++i) keys.push_back(MakeApiKey("sk-" + std::to_string(i), "t"));
  const ApiKeyRing ring(keys);
  for (auto _ : state) benchmark::DoNotOptimize(ring.Find("Bearer sk-500"));
}
BENCHMARK(BM_FindKey);

// One event, as an engine sends it for each token.
void BM_ScanEvent(benchmark::State& state) {
  const std::string event =
      "data: "
      "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":"
      "1733000000,\"model\":\"meta-llama/"
      "Llama-3.1-8B-Instruct\",\"choices\":[{\"index\":0,\"delta\":"
      "{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
  AnswerScan scan;
  scan.Begin(RequestKind::kChat, true);
  for (auto _ : state) scan.Take(event);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(event.size()));
}
BENCHMARK(BM_ScanEvent);

void BM_FindUsage(benchmark::State& state) {
  const std::string text =
      std::string(2000, 'x') +
      "\"usage\":{\"prompt_tokens\":1024,\"total_tokens\":1100,\"completion_tokens\":76,"
      "\"prompt_tokens_details\":{\"cached_tokens\":512}},\"kv_transfer_params\":null}";
  for (auto _ : state) benchmark::DoNotOptimize(FindUsageIn(text));
}
BENCHMARK(BM_FindUsage);

}  // namespace
}  // namespace sublet::internal

BENCHMARK_MAIN();
