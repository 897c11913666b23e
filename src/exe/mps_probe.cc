// `sublet mps-probe`: the client that tries whether an MPS limit holds (mps/limit_probe.h). Only
// Sublet starts it.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/bytes.h"
#include "exe/program.h"
#include "exe/this_node.h"
#include "measure/cuda_library.h"
#include "measure/gpu_handles.h"
#include "mps/limit_probe.h"

namespace sublet {
namespace {

// The first piece asked for; what is refused is asked for by halves, down to kProbePiece.
constexpr Bytes kFirstPiece = 1_GiB;

// Allocates until the driver refuses, or `most` is reached.
Status AllocateToTheWall(const CudaLibrary& cuda, Bytes most, std::vector<GpuBuffer>& held,
                         ProbeSight& sight) {
  for (Bytes piece = kFirstPiece; piece >= kProbePiece;) {
    piece = std::min(piece, most - sight.granted);
    if (piece < kProbePiece) break;
    cuda::DevicePointer pointer = 0;
    const cuda::Return code =
        cuda.api().memory_alloc(&pointer, static_cast<std::size_t>(piece.count));
    if (code == cuda::kOutOfMemory) {
      sight.refused = true;
      piece = Bytes{piece.count / 2};
      continue;
    }
    RETURN_IF_ERROR(cuda.Check(code, "allocating"));
    held.emplace_back(pointer, cuda.api().memory_free);
    sight.granted += piece;
  }
  return {};
}

Result<int> Probe(Bytes most) {
  ASSIGN_OR_RETURN(const CudaLibrary cuda, CudaLibrary::Open(CudaPath("")));
  ASSIGN_OR_RETURN(const CudaContext context, CudaContext::Make(cuda, {.blocking_wait = true}));
  ProbeSight sight;
  sight.sm_count = context.device().sm_count;
  int mps = 0;
  if (cuda.api().device_attribute(&mps, cuda::kMpsEnabled, 0) == cuda::kSuccess) {
    sight.mps = mps != 0;
  }
  std::size_t free = 0;
  std::size_t total = 0;
  RETURN_IF_ERROR(cuda.Check(cuda.api().memory_info(&free, &total), "asking for free memory"));
  sight.free = {static_cast<std::int64_t>(free)};
  sight.total = {static_cast<std::int64_t>(total)};
  std::vector<GpuBuffer> held;
  RETURN_IF_ERROR(AllocateToTheWall(cuda, most, held, sight));
  held.clear();
  fmt::print("{}\n", ProbeSightToJson(sight).dump());
  std::fflush(stdout);
  // Until it has been looked for among the server's clients.
  char byte = 0;
  static_cast<void>(::read(STDIN_FILENO, &byte, 1) == 1);
  return 0;
}

}  // namespace

void AddMpsProbeVerb(Program& program) {
  auto most = std::make_shared<std::int64_t>(0);
  CLI::App* verb = program.app.add_subcommand(std::string(kProbeVerb), "");
  verb->group("");  // Not in the help: it is of no use outside an MPS domain.
  verb->add_option(std::string(kProbeMostFlag), *most)->check(CLI::NonNegativeNumber);
  verb->callback([&program, most] { program.chosen = [most] { return Probe({*most}); }; });
}

}  // namespace sublet
