// Compares what the lab's kernels compute on the GPU that is here with the same in plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "measure/cuda_library.h"
#include "measure/transformer.h"
#include "measure/workload.h"

namespace sublet {
namespace {

// A GPU of its own for each test; none where there is no driver.
class KernelsOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    Result<CudaLibrary> cuda = CudaLibrary::Open("libcuda.so.1");
    if (!cuda) GTEST_SKIP() << "no GPU: " << cuda.error().message;
    cuda_.emplace(*std::move(cuda));
    Result<CudaContext> context = CudaContext::Make(*cuda_, {});
    ASSERT_TRUE(context.has_value()) << context.error().message;
    context_.emplace(*std::move(context));
  }

  std::optional<CudaLibrary> cuda_;
  std::optional<CudaContext> context_;
};

float RoundedToBf16(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

using Values = std::vector<float>;

constexpr std::size_t kTokens = Transformer::kTokens;
constexpr std::size_t kWidth = Transformer::kWidth;
constexpr std::size_t kWide = Transformer::kWide;

// from x weights^T
Values Multiplied(const Values& from, const Values& weights, std::size_t depth) {
  const std::size_t columns = weights.size() / depth;
  Values out(kTokens * columns);
  for (std::size_t row = 0; row < kTokens; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      float sum = 0;
      for (std::size_t k = 0; k < depth; ++k) {
        sum += from[row * depth + k] * weights[column * depth + k];
      }
      out[row * columns + column] = sum;
    }
  }
  return out;
}

void RoundAll(Values& values) {
  for (float& value : values) value = RoundedToBf16(value);
}

Values Normalised(const Values& state) {
  Values out(state.size());
  for (std::size_t row = 0; row < kTokens; ++row) {
    double sum = 0;
    double squares = 0;
    for (std::size_t i = 0; i < kWidth; ++i) sum += state[row * kWidth + i];
    const double mean = sum / kWidth;
    for (std::size_t i = 0; i < kWidth; ++i) {
      squares += std::pow(state[row * kWidth + i] - mean, 2);
    }
    for (std::size_t i = 0; i < kWidth; ++i) {
      out[row * kWidth + i] = RoundedToBf16(static_cast<float>((state[row * kWidth + i] - mean) /
                                                               std::sqrt(squares / kWidth + 1e-5)));
    }
  }
  return out;
}

Values Attended(const Values& qkv) {
  constexpr std::size_t kHead = 64;
  Values out(kTokens * kWidth);
  for (std::size_t head = 0; head < kWidth / kHead; ++head) {
    const auto at = [&](std::size_t token, std::size_t part, std::size_t i) {
      return qkv[token * 3 * kWidth + part * kWidth + head * kHead + i];
    };
    for (std::size_t query = 0; query < kTokens; ++query) {
      std::vector<double> scores(kTokens);
      double sum = 0;
      for (std::size_t key = 0; key < kTokens; ++key) {
        double score = 0;
        for (std::size_t i = 0; i < kHead; ++i) score += at(query, 0, i) * at(key, 1, i);
        scores[key] = std::exp(score / 8);
        sum += scores[key];
      }
      for (std::size_t i = 0; i < kHead; ++i) {
        double value = 0;
        for (std::size_t key = 0; key < kTokens; ++key) value += scores[key] * at(key, 2, i);
        out[query * kWidth + head * kHead + i] = RoundedToBf16(static_cast<float>(value / sum));
      }
    }
  }
  return out;
}

Values ForwardPass(const TransformerValues& given) {
  Values state = given.input;
  const auto add = [&](const Values& more) {
    for (std::size_t i = 0; i < state.size(); ++i) state[i] += more[i];
  };
  for (std::size_t layer = 0; layer < Transformer::kLayers; ++layer) {
    const Values* const weights = &given.weights[layer * 4];
    Values qkv = Multiplied(Normalised(state), weights[0], kWidth);
    RoundAll(qkv);
    add(Multiplied(Attended(qkv), weights[1], kWidth));
    Values wide = Multiplied(Normalised(state), weights[2], kWidth);
    for (float& x : wide) {
      x = 0.5F * x * (1 + std::tanh(0.7978845608F * (x + 0.044715F * x * x * x)));
    }
    RoundAll(wide);
    add(Multiplied(wide, weights[3], kWide));
  }
  return Normalised(state);
}

TEST_F(KernelsOnGpu, TransformerComputesAForwardPass) {
  if (!context_->device().AtLeast(8, 0)) GTEST_SKIP() << "needs compute capability 8.0";
  const Result<TransformerValues> values = RunTransformerOnce(*cuda_, context_->device());
  ASSERT_TRUE(values.has_value()) << values.error().message;
  const Values expected = ForwardPass(*values);
  double error = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    error = std::max(error, std::abs(double{expected[i]} - double{values->output[i]}));
  }
  // Values of size 1 with 8 bits, through six layers of sums in another order.
  EXPECT_LT(error, 0.1);
}

TEST_F(KernelsOnGpu, TransformerComputesTheSameForAPartOfTheGpu) {
  if (!context_->device().AtLeast(8, 0)) GTEST_SKIP() << "needs compute capability 8.0";
  CudaDevice part = context_->device();
  part.sm_count = 13;
  const Result<TransformerValues> whole = RunTransformerOnce(*cuda_, context_->device());
  const Result<TransformerValues> capped = RunTransformerOnce(*cuda_, part);
  ASSERT_TRUE(whole.has_value() && capped.has_value());
  double error = 0;
  for (std::size_t i = 0; i < whole->output.size(); ++i) {
    error = std::max(error, std::abs(double{whole->output[i]} - double{capped->output[i]}));
  }
  EXPECT_LT(error, 0.1);
}

TEST_F(KernelsOnGpu, EveryWorkloadRunsOnEveryStream) {
  for (const WorkloadFacts& facts : Workloads()) {
    if (facts.tensor_cores && !context_->device().AtLeast(8, 0)) continue;
    const auto work = LabWorkload::Make(*cuda_, context_->device(), facts.name, {.streams = 3});
    ASSERT_TRUE(work.has_value()) << facts.name << ": " << work.error().message;
    for (int stream = 0; stream < 3; ++stream) {
      const Status ran = (*work)->RunUnit(stream);
      EXPECT_TRUE(ran.has_value()) << facts.name << ": " << ran.error().message;
    }
  }
}

}  // namespace
}  // namespace sublet
