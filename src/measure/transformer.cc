#include "measure/transformer.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "embedded/measure_kernels.h"

namespace sublet {
namespace {

constexpr int kTokens = Transformer::kTokens;
constexpr int kWidth = Transformer::kWidth;
constexpr int kWide = Transformer::kWide;

constexpr unsigned kTileThreads = 128;
// Three stages of a 64 x 64 slice of the values and one of the weights, of 2 bytes each.
constexpr unsigned kTileShared = 3 * 2 * 64 * 64 * 2;
constexpr unsigned kAttentionShared = 3 * 64 * 64 * 2;

// A matrix of a layer: `rows` outputs of `columns` inputs each.
struct Matrix {
  int rows = 0;
  int columns = 0;
  constexpr std::size_t count() const { return static_cast<std::size_t>(rows) * columns; }
};
constexpr std::array<Matrix, 4> kMatrices{
    {{3 * kWidth, kWidth}, {kWidth, kWidth}, {kWide, kWidth}, {kWidth, kWide}}};
enum MatrixIndex : std::size_t { kQkv, kOut, kUp, kDown };

constexpr std::size_t kLayerCount =
    kMatrices[0].count() + kMatrices[1].count() + kMatrices[2].count() + kMatrices[3].count();

// Where the matrix begins among the weights, in bytes.
cuda::DevicePointer WeightsOffset(int layer, MatrixIndex which) {
  std::size_t at = static_cast<std::size_t>(layer) * kLayerCount;
  for (std::size_t i = 0; i < which; ++i) at += kMatrices[i].count();
  return at * 2;
}

// The values between the kernels, in bytes from the start of a lane's buffer.
constexpr std::size_t kInputAt = 0;                                  // bf16, 64 x 768
constexpr std::size_t kStateAt = kInputAt + kTokens * kWidth * 2;    // fp32, 64 x 768
constexpr std::size_t kNormalAt = kStateAt + kTokens * kWidth * 4;   // bf16, 64 x 768
constexpr std::size_t kQkvAt = kNormalAt + kTokens * kWidth * 2;     // bf16, 64 x 2304
constexpr std::size_t kMixedAt = kQkvAt + kTokens * kWidth * 3 * 2;  // bf16, 64 x 768
constexpr std::size_t kWideAt = kMixedAt + kTokens * kWidth * 2;     // bf16, 64 x 3072
constexpr std::size_t kLaneBytes = kWideAt + kTokens * kWide * 2;

static_assert(kLayerCount * Transformer::kLayers * 2 <=
              static_cast<std::size_t>(Transformer::kMemory.count));
static_assert(kLaneBytes <= static_cast<std::size_t>(Transformer::kMemoryPerStream.count));

// Into how many parts the sum over `depth` is cut, so that the SMs have a block each where that is
// possible: the most that divides it into slices of 64.
unsigned PartsFor(int depth, int sm_count) {
  unsigned best = 1;
  for (const unsigned parts : {2U, 3U, 4U, 6U, 8U}) {
    const bool even = depth / 64 % static_cast<int>(parts) == 0;
    if (even && static_cast<int>(parts) * kWidth / 64 <= sm_count) best = parts;
  }
  return best;
}

float FromBf16(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

}  // namespace

Status Transformer::Prepare(int streams) {
  ASSIGN_OR_RETURN(module_, LoadGpuModule(cuda_, embedded::tensor_ptx));
  // Wide tiles make 36 and 48 blocks of the two large projections, narrow ones twice as many.
  tile_ = device_.sm_count >= 2 * kWide / 64 ? 32 : 64;
  RETURN_IF_ERROR(FindKernels());
  ASSIGN_OR_RETURN(weights_, MakeGpuBuffer(cuda_, kMemory));
  for (int i = 0; i < streams; ++i) {
    Lane lane;
    ASSIGN_OR_RETURN(lane.stream, MakeGpuStream(cuda_));
    ASSIGN_OR_RETURN(lane.values, MakeGpuBuffer(cuda_, kMemoryPerStream));
    lanes_.push_back(std::move(lane));
  }
  RETURN_IF_ERROR(FillWeights());
  for (Lane& lane : lanes_) RETURN_IF_ERROR(Record(lane));
  return {};
}

Status Transformer::FindKernels() {
  const auto find = [&](const char* name, cuda::Function& out) -> Status {
    ASSIGN_OR_RETURN(out, FindKernel(cuda_, module_, name));
    return {};
  };
  RETURN_IF_ERROR(find("sublet_embed", kernels_.embed));
  RETURN_IF_ERROR(find("sublet_layer_norm", kernels_.normalise));
  RETURN_IF_ERROR(find("sublet_attention", kernels_.attend));
  RETURN_IF_ERROR(find("sublet_project_add", kernels_.project_add));
  const bool narrow = tile_ == 32;
  RETURN_IF_ERROR(find(narrow ? "sublet_project_32" : "sublet_project_64", kernels_.project));
  return find(narrow ? "sublet_project_gelu_32" : "sublet_project_gelu_64", kernels_.project_gelu);
}

// Weights as small as training leaves them, so that the values stay of one size through the layers.
Status Transformer::FillWeights() {
  cuda::Function fill = nullptr;
  ASSIGN_OR_RETURN(fill, FindKernel(cuda_, module_, "sublet_fill"));
  const auto run = [&](cuda::DevicePointer data, unsigned long long count, unsigned seed,
                       float scale) {
    std::array<void*, 4> parameters{&data, &count, &seed, &scale};
    return Start(fill, 1024, 1, 256, 0, lanes_[0], parameters.data());
  };
  for (int layer = 0; layer < kLayers; ++layer) {
    for (std::size_t i = 0; i < kMatrices.size(); ++i) {
      const float scale = std::sqrt(1.0F / static_cast<float>(kMatrices[i].columns));
      const unsigned seed = static_cast<unsigned>(layer) * 4 + static_cast<unsigned>(i) + 1;
      RETURN_IF_ERROR(run(weights_.get() + WeightsOffset(layer, static_cast<MatrixIndex>(i)),
                          kMatrices[i].count(), seed, scale));
    }
  }
  for (const Lane& lane : lanes_) {
    RETURN_IF_ERROR(run(lane.values.get() + kInputAt, kTokens * kWidth, 99, 1.0F));
  }
  return Wait(0);
}

Status Transformer::Start(cuda::Function kernel, unsigned x, unsigned z, unsigned threads,
                          unsigned shared, const Lane& lane, void** parameters) const {
  return cuda_.Check(cuda_.api().launch(kernel, x, 1, z, threads, 1, 1, shared, lane.stream.get(),
                                        parameters, nullptr),
                     "launching a kernel");
}

Status Transformer::Project(const Lane& lane, cuda::Function kernel, cuda::DevicePointer from,
                            cuda::DevicePointer weights, cuda::DevicePointer to, int columns,
                            int depth) const {
  std::array<void*, 5> parameters{&from, &weights, &to, &columns, &depth};
  return Start(kernel, static_cast<unsigned>(columns / tile_), 1, kTileThreads, kTileShared, lane,
               parameters.data());
}

Status Transformer::ProjectAdd(const Lane& lane, cuda::DevicePointer from,
                               cuda::DevicePointer weights, int depth) const {
  cuda::DevicePointer to = lane.values.get() + kStateAt;
  int columns = kWidth;
  std::array<void*, 5> parameters{&from, &weights, &to, &columns, &depth};
  return Start(kernels_.project_add, kWidth / 64, PartsFor(depth, device_.sm_count), kTileThreads,
               kTileShared, lane, parameters.data());
}

Status Transformer::Normalise(const Lane& lane) const {
  cuda::DevicePointer from = lane.values.get() + kStateAt;
  cuda::DevicePointer to = lane.values.get() + kNormalAt;
  std::array<void*, 2> parameters{&from, &to};
  constexpr unsigned kRowsOfBlock = 4;  // A warp a row.
  return Start(kernels_.normalise, kTokens / kRowsOfBlock, 1, kRowsOfBlock * 32, 0, lane,
               parameters.data());
}

Status Transformer::RecordLayer(const Lane& lane, int layer) const {
  const auto weights = [&](MatrixIndex which) {
    return weights_.get() + WeightsOffset(layer, which);
  };
  const cuda::DevicePointer values = lane.values.get();
  RETURN_IF_ERROR(Normalise(lane));
  RETURN_IF_ERROR(Project(lane, kernels_.project, values + kNormalAt, weights(kQkv),
                          values + kQkvAt, 3 * kWidth, kWidth));
  cuda::DevicePointer qkv = values + kQkvAt;
  cuda::DevicePointer mixed = values + kMixedAt;
  std::array<void*, 2> parameters{&qkv, &mixed};
  RETURN_IF_ERROR(
      Start(kernels_.attend, kHeads, 1, kTileThreads, kAttentionShared, lane, parameters.data()));
  RETURN_IF_ERROR(ProjectAdd(lane, mixed, weights(kOut), kWidth));
  RETURN_IF_ERROR(Normalise(lane));
  RETURN_IF_ERROR(Project(lane, kernels_.project_gelu, values + kNormalAt, weights(kUp),
                          values + kWideAt, kWide, kWidth));
  return ProjectAdd(lane, values + kWideAt, weights(kDown), kWide);
}

Status Transformer::Record(Lane& lane) const {
  const cuda::Api& api = cuda_.api();
  RETURN_IF_ERROR(cuda_.Check(api.capture_begin(lane.stream.get(), cuda::kCaptureThreadLocal),
                              "starting to record a graph"));
  const auto kernels = [&]() -> Status {
    cuda::DevicePointer from = lane.values.get() + kInputAt;
    cuda::DevicePointer to = lane.values.get() + kStateAt;
    unsigned count = kTokens * kWidth;
    std::array<void*, 3> parameters{&from, &to, &count};
    RETURN_IF_ERROR(Start(kernels_.embed, count / 256, 1, 256, 0, lane, parameters.data()));
    for (int layer = 0; layer < kLayers; ++layer) RETURN_IF_ERROR(RecordLayer(lane, layer));
    return Normalise(lane);
  };
  const Status recorded = kernels();
  cuda::Graph graph = nullptr;
  const Status ended = cuda_.Check(api.capture_end(lane.stream.get(), &graph), "recording a graph");
  RETURN_IF_ERROR(recorded);
  RETURN_IF_ERROR(ended);
  const Owned<cuda::Graph> plan(graph, api.graph_destroy);
  cuda::GraphExec ready = nullptr;
  RETURN_IF_ERROR(cuda_.Check(api.graph_instantiate(&ready, plan.get(), 0), "preparing a graph"));
  lane.graph = GpuGraph(ready, api.graph_exec_destroy);
  return {};
}

Status Transformer::Launch(int stream) {
  const Lane& lane = lanes_[static_cast<std::size_t>(stream)];
  return cuda_.Check(cuda_.api().graph_launch(lane.graph.get(), lane.stream.get()),
                     "launching a graph");
}

Status Transformer::Wait(int stream) {
  const Lane& lane = lanes_[static_cast<std::size_t>(stream)];
  return cuda_.Check(cuda_.api().stream_synchronize(lane.stream.get()), "waiting for the gpu");
}

Result<TransformerValues> Transformer::Values(int stream) {
  const Lane& lane = lanes_[static_cast<std::size_t>(stream)];
  const auto read = [&](cuda::DevicePointer from, std::size_t count) -> Result<std::vector<float>> {
    std::vector<std::uint16_t> bits(count);
    RETURN_IF_ERROR(
        cuda_.Check(cuda_.api().copy_from_device(bits.data(), from, count * 2, lane.stream.get()),
                    "copying from the gpu"));
    RETURN_IF_ERROR(Wait(stream));
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = FromBf16(bits[i]);
    return values;
  };
  TransformerValues out;
  ASSIGN_OR_RETURN(out.input, read(lane.values.get() + kInputAt, kTokens * kWidth));
  for (int layer = 0; layer < kLayers; ++layer) {
    for (std::size_t i = 0; i < kMatrices.size(); ++i) {
      const auto which = static_cast<MatrixIndex>(i);
      ASSIGN_OR_RETURN(std::vector<float> weights,
                       read(weights_.get() + WeightsOffset(layer, which), kMatrices[i].count()));
      out.weights.push_back(std::move(weights));
    }
  }
  ASSIGN_OR_RETURN(out.output, read(lane.values.get() + kNormalAt, kTokens * kWidth));
  return out;
}

Result<TransformerValues> RunTransformerOnce(const CudaLibrary& cuda, const CudaDevice& device) {
  Transformer transformer(cuda, device);
  RETURN_IF_ERROR(transformer.Prepare(1));
  RETURN_IF_ERROR(transformer.RunUnit(0));
  return transformer.Values(0);
}

}  // namespace sublet
