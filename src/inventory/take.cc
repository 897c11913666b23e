#include "inventory/take.h"

#include <fmt/format.h>

#include <future>
#include <memory>
#include <thread>
#include <utility>

#include "inventory/environment.h"
#include "inventory/nvml_source.h"
#include "model/board.h"

namespace sublet {
namespace {

Result<Inventory> Take(const TakeOptions& options, const Environment& environment) {
  ASSIGN_OR_RETURN(const NvmlLibrary nvml, NvmlLibrary::Open(options.nvml_path));
  const BoardCatalogue& boards = BuiltInBoards();
  Inventory node;
  node.host = ReadHost({}, environment);
  RETURN_IF_ERROR(ReadNvml(nvml, boards, "/sys", node));
  if (options.mps_daemons) node.mps_daemons = FindMpsDaemons({}, node.host);
  node.modes = CheckModes(node, boards);
  return node;
}

}  // namespace

Result<Inventory> TakeInventory(const TakeOptions& options, const Environment& environment) {
  std::promise<Result<Inventory>> promise;
  std::future<Result<Inventory>> answer = promise.get_future();
  std::thread worker([options, environment, promise = std::move(promise)]() mutable {
    promise.set_value(Take(options, environment));
  });
  if (answer.wait_for(options.patience) == std::future_status::ready) {
    worker.join();
    return answer.get();
  }
  worker.detach();
  return Fail(ErrorCode::kUnavailable,
              fmt::format("the driver did not answer within {} s",
                          std::chrono::duration<double>(options.patience).count()),
              "a call into it hangs: see the kernel's log for NVRM and Xid lines");
}

}  // namespace sublet
