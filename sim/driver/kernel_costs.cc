#include "kernel_costs.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace sublet::sim {
namespace {

// ---- what holds for every kernel ----------------------------------------------------------------

// The SM clock of an H200 under load, in cycles a nanosecond. Other boards differ by at most a
// quarter, which a catalogue doesn't say.
constexpr double kCyclesPerNs = 1.98;
constexpr double kFmaCycles = 4;  // Of a dependent multiply-add, since Volta.
constexpr double kLanesPerSm = 128;
constexpr unsigned kThreadsPerSm = 2048;
constexpr unsigned kBlocksPerSm = 32;
constexpr unsigned kSharedPerSm = 227 << 10;

// Fitted on an H200 (1056 blocks of multiply-adds): what a loop reaches of the arithmetic rate when
// the card never runs dry (2,608 kernels a second of several clients), and of that when alone,
// because the SMs don't end together (2,391).
constexpr double kArithmeticReach = 0.97;
constexpr double kFillReach = 0.932;
// Fitted likewise (512 MiB read and written): 7,566 and 6,823 passes a second.
constexpr double kBandwidthReach = 0.844;
constexpr double kStreamReach = 0.955;
// One SM can draw about twice its even part of an H200's bandwidth.
constexpr double kSmBandwidthFactor = 2;

// ---- the lab's kernels --------------------------------------------------------------------------

// Warp-level multiplies from shared memory; the data sheet's rate needs instructions that these
// kernels don't use.
constexpr double kTensorReach = 0.55;

// The transformer's kernels, fitted to 4,244 forward passes a second alone and 25,600 of many
// clients under SM caps: a projection's block takes a start and a time for each slice of 64 along
// the sum; normalising and attending take a fixed time.
constexpr double kProjectStartNs = 1550;
constexpr double kProjectSliceNs = 420;
constexpr double kNormaliseNs = 2600;
constexpr double kAttendNs = 4500;
constexpr double kTransformerSmShare = 0.908;
// Fitted to 10,790 forward passes a second of forty clients without SM caps. That the caps help so
// much is measured; that blocks of several clients on one SM disturb each other is our reading.
constexpr double kTransformerCrowd = 0.3;

// ---- everybody else's ---------------------------------------------------------------------------

// A kernel of which only the grid is known: a short one, half of whose time an SM is waiting.
constexpr double kUnknownBlockNs = 5000;
constexpr double kUnknownSmShare = 0.5;

enum class Family { kSpin, kStream, kScale, kPoke, kGemm, kProject, kNormalise, kAttend, kPlain };

struct Known {
  std::string_view name;
  Family family;
  std::vector<int> layout;
};

const std::vector<Known>& Table() {
  static const auto* const kTable = new std::vector<Known>{
      {"sublet_spin", Family::kSpin, {8, 4}},
      {"sublet_stream", Family::kStream, {8, 8}},
      {"sublet_scale", Family::kScale, {8, 8, 4}},
      {"sublet_poke", Family::kPoke, {8}},
      {"sublet_gemm", Family::kGemm, {8, 8, 8, 4, 4}},
      {"sublet_project_64", Family::kProject, {8, 8, 8, 4, 4}},
      {"sublet_project_32", Family::kProject, {8, 8, 8, 4, 4}},
      {"sublet_project_gelu_64", Family::kProject, {8, 8, 8, 4, 4}},
      {"sublet_project_gelu_32", Family::kProject, {8, 8, 8, 4, 4}},
      {"sublet_project_add", Family::kProject, {8, 8, 8, 4, 4}},
      {"sublet_layer_norm", Family::kNormalise, {8, 8}},
      {"sublet_embed", Family::kNormalise, {8, 8, 4}},
      {"sublet_attention", Family::kAttend, {8, 8}},
      {"sublet_fill", Family::kPlain, {8, 8, 4, 4}},
  };
  return *kTable;
}

const Known* Find(std::string_view name) {
  const auto it = std::ranges::find(Table(), name, &Known::name);
  return it == Table().end() ? nullptr : &*it;
}

int BlocksPerSm(const KernelLaunch& launch) {
  unsigned fit = std::min(kBlocksPerSm, kThreadsPerSm / std::clamp(launch.threads, 1U, 1024U));
  if (launch.shared_bytes > 0) fit = std::min(fit, kSharedPerSm / launch.shared_bytes);
  return static_cast<int>(std::max(fit, 1U));
}

// `count` dependent multiply-adds of every thread.
void CostOfChain(double count, double threads, KernelCost& cost) {
  cost.block_ns = count * kFmaCycles / kCyclesPerNs;
  cost.block_sm_ns = threads * count / (kLanesPerSm * kArithmeticReach * kCyclesPerNs);
}

// Memory traffic, spread evenly over the blocks.
void CostOfTraffic(double bytes, const CardFacts& card, KernelCost& cost) {
  const double sm_rate = kSmBandwidthFactor * card.bytes_per_ns * kBandwidthReach / card.sm_count;
  cost.bytes = bytes;
  const double sm_ns = bytes / sm_rate / cost.blocks;
  cost.block_sm_ns += sm_ns;
  cost.block_ns = std::max(cost.block_ns, sm_ns);
}

void CostOfProjection(const KernelLaunch& launch, double depth, KernelCost& cost) {
  const double parts = launch.name == "sublet_project_add" ? launch.blocks_z : 1;
  const double slices = depth / 64 / std::max(parts, 1.0);
  cost.block_ns = kProjectStartNs + kProjectSliceNs * slices;
}

}  // namespace

CardFacts FactsOf(const Board* board, int sm_count) {
  constexpr double kH200Sms = 132;
  constexpr double kH200Bandwidth = 4800;
  constexpr double kH200Tflops = 989;
  CardFacts facts;
  facts.sm_count = std::max(sm_count, 1);
  const double part = board == nullptr || board->sm_count == 0
                          ? facts.sm_count / kH200Sms
                          : static_cast<double>(facts.sm_count) / board->sm_count;
  const bool known = board != nullptr && board->memory_bandwidth_gbps > 0;
  facts.bytes_per_ns = part * (known ? board->memory_bandwidth_gbps : kH200Bandwidth);
  const bool rated = board != nullptr && board->dense_bf16_tflops > 0;
  const double tflops = part * (rated ? board->dense_bf16_tflops : kH200Tflops);
  facts.tensor_flop_per_sm_ns = tflops / facts.sm_count;  // 10^12 / s is 10^3 / ns.
  return facts;
}

std::vector<int> LayoutOf(std::string_view kernel) {
  const Known* const known = Find(kernel);
  return known == nullptr ? std::vector<int>() : known->layout;
}

KernelCost CostOf(const KernelLaunch& launch, const CardFacts& card) {
  KernelCost cost;
  cost.blocks = std::max(1.0, static_cast<double>(launch.blocks));
  cost.blocks_per_sm = BlocksPerSm(launch);
  cost.block_ns = kUnknownBlockNs;
  cost.block_sm_ns = kUnknownBlockNs * kUnknownSmShare / cost.blocks_per_sm;
  const Known* const known = Find(launch.name);
  if (known == nullptr || launch.arguments.size() != known->layout.size()) return cost;
  const auto argument = [&](std::size_t i) { return static_cast<double>(launch.arguments[i]); };
  const double threads = launch.threads;
  switch (known->family) {
    case Family::kSpin:
      CostOfChain(argument(1), threads, cost);
      break;
    case Family::kStream:
      cost.block_ns = cost.block_sm_ns = 0;
      CostOfTraffic(argument(1) * 16 * 2, card, cost);
      break;
    case Family::kScale:
      CostOfChain(argument(2) * std::max(1.0, argument(1) / (cost.blocks * threads)), threads,
                  cost);
      cost.bytes = argument(1) * 4 * 2;
      break;
    case Family::kPoke:
      cost.illegal = true;
      break;
    case Family::kGemm: {
      constexpr double kTile = 128;
      const double flop = 2 * kTile * kTile * argument(4);
      cost.block_sm_ns = flop / (1000 * card.tensor_flop_per_sm_ns * kTensorReach);
      cost.block_ns = 2 * cost.block_sm_ns;  // Two blocks on an SM hide each other's waiting.
      break;
    }
    case Family::kProject:
      CostOfProjection(launch, argument(4), cost);
      break;
    case Family::kNormalise:
      cost.block_ns = kNormaliseNs;
      cost.block_sm_ns = kNormaliseNs / cost.blocks_per_sm;
      break;
    case Family::kAttend:
      cost.block_ns = kAttendNs;
      break;
    case Family::kPlain:
      cost.block_ns = cost.block_sm_ns = 0;
      CostOfTraffic(argument(1) * 2, card, cost);
      break;
  }
  if (known->family == Family::kProject || known->family == Family::kAttend) {
    cost.block_sm_ns = cost.block_ns * kTransformerSmShare;
    cost.crowd = kTransformerCrowd;
  }
  return cost;
}

CardWork WorkOf(const KernelCost& cost, const CardFacts& card, int sm_count) {
  const double sms = std::clamp(sm_count, 1, card.sm_count);
  CardWork work;
  work.sm_ns = cost.blocks * cost.block_sm_ns;
  work.bytes = cost.bytes;
  work.crowd = cost.crowd;
  const double latency = cost.block_ns * std::ceil(cost.blocks / (cost.blocks_per_sm * sms));
  // With fewer blocks than SMs each has one for itself, and nobody waits for an end that is late.
  const double fill = cost.blocks > sms ? kFillReach : 1;
  const double arithmetic = work.sm_ns / (std::min(sms, cost.blocks) * fill);
  const double traffic = cost.bytes / (card.bytes_per_ns * kBandwidthReach * kStreamReach);
  work.full_ns = std::max({1.0, latency, arithmetic, traffic});
  return work;
}

double ReachableBandwidth(const CardFacts& card) {
  return card.bytes_per_ns * kBandwidthReach;
}

CardWork Sequence(const std::vector<CardWork>& works, double gap_ns) {
  CardWork sum;
  double crowded = 0;
  for (const CardWork& work : works) {
    sum.full_ns += work.full_ns + gap_ns;
    sum.sm_ns += work.sm_ns;
    sum.bytes += work.bytes;
    crowded += work.crowd * work.sm_ns;
  }
  if (sum.sm_ns > 0) sum.crowd = crowded / sum.sm_ns;
  return sum;
}

}  // namespace sublet::sim
