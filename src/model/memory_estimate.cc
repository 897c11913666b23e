#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "model/fleet.h"

namespace sublet {
namespace {

// Tokens that an engine computes at once while it reads prompts in chunks: vLLM's default on GPUs
// of 70 GiB and more; smaller GPUs get fewer.
constexpr double kBatchTokensMax = 8192;

// Values alive at the peak of a forward pass, in units of tokens * hidden_size. A gated MLP of 3.5
// times the hidden size keeps its input, residual, both halves and their product (12.5); attention,
// the sampler's logits and the allocator's rounding make up the rest. Fitted to what vLLM reported
// after its profiling run: 20.2 for Llama-3-8B (1.26 GiB at 8,192 tokens), 21.5 for Qwen2.5-1.5B
// (2.02 GiB at 32,768).
constexpr double kActivationFactor = 22;

// Where only the size is known: a fifth of the weights, the usual allowance for inference.
constexpr double kActivationPart = 0.2;

// A scale of 8 bits for each 32 values, and of 8 bits for each 16.
constexpr double kMxfp4Bits = 4 + 8.0 / 32;
constexpr double kNvfp4Bits = 4 + 8.0 / 16;
// A 16-bit scale and a 4-bit zero point for each 128 values.
constexpr double kInt4Bits = 4 + 20.0 / 128;

double BytesOf(std::string_view dtype) {
  for (const ModelDtype& known : ModelDtypes()) {
    if (known.name == dtype) return known.bits / 8;
  }
  CHECK(false);
}

bool ComputesIn32Bits(std::string_view dtype) {
  return dtype == "fp32" || dtype == "tf32";
}

Bytes RoundedUpToMib(double bytes) {
  constexpr double kBytesMax = static_cast<double>(std::int64_t{1} << 59);  // Sums can't overflow.
  return Bytes::FromMib(static_cast<std::int64_t>(std::ceil(std::min(bytes, kBytesMax) / 1048576)));
}

}  // namespace

const std::vector<ModelDtype>& ModelDtypes() {
  static const std::vector<ModelDtype> kDtypes{{"fp32", 32},
                                               {"tf32", 32},
                                               {"bf16", 16},
                                               {"fp16", 16},
                                               {"fp8", 8},
                                               {"int8", 8},
                                               {"fp4", kNvfp4Bits},
                                               {"nvfp4", kNvfp4Bits},
                                               {"mxfp4", kMxfp4Bits},
                                               {"int4", kInt4Bits}};
  return kDtypes;
}

ModelShape Completed(ModelShape model) {
  if (model.kv_heads == 0) model.kv_heads = model.heads;
  if (model.head_dim == 0 && model.heads > 0) model.head_dim = model.hidden_size / model.heads;
  if (model.hidden_size == 0) {
    const std::int64_t hidden = std::int64_t{model.heads} * model.head_dim;
    model.hidden_size = static_cast<int>(std::min<std::int64_t>(hidden, INT32_MAX));
  }
  if (model.kv_dtype.empty()) {
    model.kv_dtype = ComputesIn32Bits(model.dtype)                    ? "fp32"
                     : model.dtype == "fp16" || model.dtype == "bf16" ? model.dtype
                                                                      : "bf16";
  }
  return model;
}

MemoryEstimate EstimateMemory(const ModelShape& shape) {
  const ModelShape model = Completed(shape);
  const double weights = model.parameters * BytesOf(model.dtype);
  const double sequences_tokens = 1.0 * model.context_tokens * model.concurrency;
  const double kv_cache = 2.0 * model.layers * model.kv_heads * model.head_dim *
                          BytesOf(model.kv_dtype) * sequences_tokens;
  // Without a KV cache nothing remembers a chunk, so the whole input is one batch.
  const double batch_tokens =
      model.layers > 0 ? std::min(sequences_tokens, kBatchTokensMax) : sequences_tokens;
  const double value_bytes = ComputesIn32Bits(model.dtype) ? 4 : 2;
  double activations = kActivationFactor * batch_tokens * model.hidden_size * value_bytes;
  if (activations == 0) activations = kActivationPart * weights;
  return {.weights = RoundedUpToMib(weights),
          .kv_cache = RoundedUpToMib(kv_cache),
          .activations = RoundedUpToMib(activations)};
}

}  // namespace sublet
